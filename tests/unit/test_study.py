"""The smoke profile's Table 1 from training to rows: killed once on the way, finished, run again, recomputed."""

import functools
import shutil
import sys
import types
from dataclasses import replace

import pytest
import torch

from speechbook.study import experiments, making, plans, reproduction, steps, store, study, table_files
from speechbook.study import rows as rows_module
from speechbook.study.experiment import Experiment
from speechmerge import corpora, machine, packages
from speechmerge.errors import StudyError
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.evaluation.predictions import read_predictions
from speechmerge.finetuning import training
from speechmerge.merging import measuring
from speechmerge.speech import pooled_clips
from speechmerge.whisper import models

LANGUAGES = ["es", "it"]
TIMES = {"seconds", "merge_seconds", "library", "hardware", "date"}


class Killed(BaseException):
    """Stands for a kill: nothing in the library catches it."""


SPOKEN = ("Finetuned", "", "asr", "es", 0)  # transcripts of one system in one language


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHMERGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SPEECHMERGE_RESULTS", str(tmp_path_factory.mktemp("results")))
        known = experiments.profiles()
        plain = {"smoke": known["smoke"].model_copy(update={"of": {}})}  # one seed; test_measures has the protocol's
        patch.setattr(experiments, "profiles", lambda: known | plain)
        yield


@pytest.fixture(scope="module")
def plan(folders):
    """Table 1, killed in its third decoding, then run to its end; the plan keeps what was done in each run."""
    made = experiments.plan("table1", "smoke")
    decode, executed, decodings = Decoder.decode, [], []

    def kill_third(self, *args, **kwargs):
        decodings.append(self)
        if len(decodings) == 3:
            raise Killed
        return decode(self, *args, **kwargs)

    original = study.execute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "execute", lambda batch, known: (executed.append(batch), original(batch, known)))
        with patch.context() as killing:
            killing.setattr(Decoder, "decode", kill_third)
            with pytest.raises(Killed):
                study.run(made)
        made.before, made.killed_at = executed[:-1], executed[-1]
        executed.clear()
        made.rows = study.run(made)
        made.after = list(executed)
    return made


def everything():
    folder = store.results_folder("smoke")
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows():
    return store.rows("smoke", "table1")


def differing(before, after):
    return [pair for pair in reproduction.changes(before, after) if pair[2]]


def untimed(value):
    """A row without times and stamps, at any depth."""
    return {k: untimed(v) if isinstance(v, dict) else v for k, v in value.items() if k not in TIMES}


def test_a_merge_decoded_before_leaves_nothing_in_the_base(folders):
    base = models.base_model("smoke")
    settings, weights = Decoding(precision="fp32"), dict(models.load_model(base).state_dict())
    making.decoder(base, settings, own=False).use({name: 2 * w for name, w in weights.items()})
    found = making.decoder(base, settings, own=True).model.state_dict()
    assert all(torch.equal(found[name], w) for name, w in weights.items())


def test_a_killed_run_goes_on_where_it_was(plan):
    assert plan.before and plan.after[0] == plan.killed_at
    assert [step.name for batch in plan.before + plan.after for step in batch] == list(plan.steps)
    assert plan.pending() == []
    names = {path.name for step in plan.steps.values() for path in step.folder.parent.iterdir()}
    assert names == {step.folder.name for step in plan.steps.values()}  # nothing half-written, nothing else


def test_every_system_and_language_has_a_row_with_exactly_the_required_fields(plan):
    table = rows()
    expected = {(e.system, x) for e in plan.experiment.systems for x in (*LANGUAGES, "pooled", "macro")}
    assert set(zip(table["system"], table["language"], strict=True)) == expected and len(table) == len(expected)
    found = store.measured("smoke", "table1")
    assert {tuple(row) for row in found} == {store.ROW_FIELDS}
    filled = set(store.ROW_FIELDS) - {"bleu", "chrf", "signature", "corpus_fingerprint"}
    assert all(row[field] is not None for row in found for field in filled)
    assert all(row["ci_low"] <= row["wer"] <= row["ci_high"] for row in found)


def test_rows_say_what_was_chosen_on_dev(plan):
    table = rows().set_index(["system", "language"])
    assert table.loc[("Pretrained", "es"), "params"] == {} and table.loc[("Pretrained", "es"), "training"] == {}
    grid = plan.settings.grids
    assert table.loc[("Task Arithmetic", "es"), "params"]["scaling"] in grid["scaling"]
    lors = table.loc[("LoRS-Merging", "pooled"), "params"]
    assert (
        lors["density"] == [*grid["density"]] * 2 and lors["rank_ratio"] == [*grid["rank_ratio"]] * 2
    )  # one per expert
    trainings = table.loc[("Finetuned", "it"), "training"]
    assert set(trainings) == {"choose es asr", "choose it asr"}
    assert trainings["choose it asr"]["learning_rate"] in plan.settings.learning_rates


def test_pooled_and_macro_rows_follow_from_the_languages(plan):
    table = rows()
    for _, block in table.groupby("system"):
        block = block.set_index("language")
        own, pooled = block.loc[LANGUAGES], block.loc["pooled"]
        edits = own[["substitutions", "deletions", "insertions"]].sum()
        assert edits.sum() / own["n_reference_words"].sum() == pytest.approx(pooled["wer"])
        assert pooled["n_utterances"] == own["n_utterances"].sum()
        assert block.loc["macro", "wer"] == pytest.approx(own["wer"].mean())


def test_choices_are_the_lowest_on_dev_and_the_first_of_equals(plan):
    chosen = store.statistics("smoke", "table1.chosen").set_index("step")["tried"]
    table = rows().set_index(["system", "language"])
    scaling = min(chosen["tune Task Arithmetic es+it asr scaling"], key=lambda tried: tried["error"])["scaling"]
    assert table.loc[("Task Arithmetic", "pooled"), "params"] == {"scaling": scaling}
    rate = min(chosen["choose es asr"], key=lambda tried: tried["dev_loss"])["learning_rate"]
    assert table.loc[("Finetuned", "es"), "training"]["choose es asr"]["learning_rate"] == rate


def test_kept_predictions_give_the_rows_again_without_a_model(plan, monkeypatch):
    monkeypatch.setattr(study, "execute", lambda *_: pytest.fail("a step was run"))
    committed = {store.identity(row): row for row in store.measured("smoke", "table1")}
    again = rows_module.rescored(plan)
    assert len(again) == len(committed) > 0
    assert all(row == committed[store.identity(row)] for row in again)


def test_predictions_that_are_not_the_rows_are_noticed(plan):
    said = {clip.id: clip.text for clip in pooled_clips(["tones"], "es")}
    before = store.predictions("smoke", "table1")
    perfect = [replace(p, text=said[p.id]) for p in before[SPOKEN]]
    store.keep_predictions("smoke", "table1", {SPOKEN: perfect})
    changed = differing(store.measured("smoke", "table1"), rows_module.rescored(plan))
    store.keep_predictions("smoke", "table1", before)
    assert {row["language"] for _, row, _ in changed} == {"es", "pooled", "macro"}


def test_predictions_hold_no_references(plan):
    references = {clip.text for clip in pooled_clips(["tones"], "es")}
    found = store.predictions("smoke", "table1")[SPOKEN]
    assert len(found) == plan.settings.test_clips and not references & {p.text for p in found}


def test_paired_comparisons_and_choices_are_written(plan):
    paired = store.statistics("smoke", "table1.paired")
    systems = [entry.system for entry in plan.experiment.systems]
    expected = {(s, a) for a in plan.experiment.against for s in systems if s != a}
    assert set(zip(paired["system"], paired["against"], strict=True)) == expected
    wer = rows().query("language == 'pooled'").set_index("system")["wer"]
    for row in paired.itertuples():
        assert row.difference == pytest.approx(wer[row.system] - wer[row.against])
    chosen = store.statistics("smoke", "table1.chosen")
    assert set(chosen["kind"]) == {"tune", "choose"}
    assert all(len(tried) >= 1 for tried in chosen["tried"])


def test_a_second_run_does_nothing_and_changes_nothing(plan, monkeypatch):
    before = everything()
    monkeypatch.setattr(machine, "stamp", lambda: {"library": "9.9", "hardware": "another", "date": "2099-01-01"})
    monkeypatch.setattr(study, "execute", lambda *_: pytest.fail("a finished step was run again"))
    study.run(experiments.plan("table1", "smoke"))
    assert everything() == before


def test_recomputing_gives_the_same_rows_but_for_times(plan):
    before = [untimed(row) for _, row in rows().iterrows()]
    paired = store.statistics("smoke", "table1.paired").drop(columns=["library", "hardware", "date"])
    path = store.table_path("smoke", "table1.paired")
    kept = [row for row in table_files.read(path) if "Weight Averaging" not in (row["system"], row["against"])]
    table_files.write(path, kept)
    narrowed = plans.narrowed(experiments.plan("table1", "smoke"), ["Weight Averaging"])
    study.forget(narrowed)
    assert len(narrowed.pending()) == len(narrowed.steps)
    again = study.run(narrowed)
    assert again and differing(plan.rows, again) == []
    assert [untimed(row) for _, row in rows().iterrows()] == before
    # one system is compared with others by their committed predictions
    assert store.statistics("smoke", "table1.paired").drop(columns=["library", "hardware", "date"]).equals(paired)


def test_a_table_measured_a_system_at_a_time_is_the_same(plan, tmp_path, monkeypatch):
    before = [untimed(row) for _, row in rows().iterrows()]
    paired = store.statistics("smoke", "table1.paired").drop(columns=["library", "hardware", "date"])
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path))
    for system in reversed(dict.fromkeys(system.system for system in plan.systems)):
        study.run(plans.narrowed(experiments.plan("table1", "smoke"), [system]))
    assert [untimed(row) for _, row in rows().iterrows()] == before
    assert store.statistics("smoke", "table1.paired").drop(columns=["library", "hardware", "date"]).equals(paired)


def test_steps_of_the_same_work_are_done_once(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))
    step = next(s for s in plan.steps.values() if s.kind == "decode" and "Pretrained" in s.name)
    again = replace(step, name=f"{step.name} by another name")
    study.execute([step, again], plan.steps)
    assert len(read_predictions(again.folder / steps.HYPOTHESES)) == plan.settings.test_clips


def test_task_vectors_are_of_the_experts_that_table1_trained(plan):
    described = experiments.plan("task_vectors", "smoke")
    assert [step.kind for step in described.pending()] == ["describe"]
    assert study.run(described) == []
    table = store.statistics("smoke", "task_vectors")
    assert len(table) > 10 and {"hardware", "library", "date"} <= set(table.columns)
    assert {language for language in LANGUAGES} <= set(table.astype(str).to_numpy().ravel())


def test_deleted_models_are_trained_again_only_if_something_is_made_of_them(plan, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    shutil.copytree(packages.cache_folder(), cache)
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(cache))
    shutil.rmtree(next(step.folder.parent for step in plan.steps.values() if step.kind == "train"))
    assert plan.pending() == []
    [system] = [system for system in plan.systems if system.system == "Finetuned"]
    decode = plan.steps[next(step for cell, step in system.decodes.items() if cell.name == "it")]
    shutil.rmtree(decode.folder)
    training_again, *others = plan.pending()
    choice = plan.steps[decode.needs[0]]
    assert others == [decode] and training_again.key == plans.result(choice.folder)["expert"]
    assert plans.reads(decode, plans.chosen(plan.steps)) == [choice.name, training_again.name]
    study.run(plan)
    assert plan.pending() == [] and not all(step.done for step in plan.steps.values())


def test_forgetting_takes_interrupted_trainings_too(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))
    step = next(step for step in plan.steps.values() if step.kind == "train")
    training.state_folder(step.folder).mkdir(parents=True)
    study.forget(plan)
    assert list(step.folder.parent.iterdir()) == []


def test_dev_caps_keep_all_corpora(monkeypatch):
    counts = {"a": 30, "b": 10}
    load = lambda name, *_, **__: [types.SimpleNamespace(id=f"{name}{i}") for i in range(counts[name])]  # noqa: E731
    monkeypatch.setattr(corpora, "load", load)
    clips = pooled_clips(["a", "b"], "es", "asr", "dev", 8)
    assert [clip.id for clip in clips] == ["a0", "a5", "a10", "a15", "a20", "a25", "b0", "b5"]
    assert len(pooled_clips(["a", "b"], "es", "asr", "dev", 100)) == 40


def test_ray_gets_every_step_after_those_it_needs(plan, tmp_path, monkeypatch):
    """A stand-in for Ray without a cluster, which runs a task when its result is asked for, the last one first."""
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))  # nothing is done there
    started, submitted, executed, most = [], [], [], []

    def init(address=None, **_):
        if address:
            raise ConnectionError("no cluster")
        started.append("here")

    def remote(**_):
        def submit(function, batch, *others):
            submitted.append(batch)
            return lambda: function(batch, *others)

        return lambda function: types.SimpleNamespace(remote=functools.partial(submit, function))

    def wait(refs):
        most.append(len(refs))
        return refs[-1:], refs[:-1]

    def execute(batch, known):
        assert all(need in executed for step in batch for need in step.needs)
        executed.extend(step.name for step in batch)

    ray = types.ModuleType("ray")
    ray.init, ray.remote, ray.wait, ray.get, ray.put = init, remote, wait, lambda ref: ref(), lambda found: found
    ray.cluster_resources = lambda: {"CPU": 3.0}
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(study, "collect", lambda plan: None)
    monkeypatch.setattr(study, "execute", execute)
    study.run(plan, executor="ray")
    assert sorted(executed) == sorted(plan.steps) and started == ["here"] and max(most) == 3
    chains = study._chains(list(plan.steps.values()))
    assert max(chains[step.name] for step in submitted[0]) == max(chains.values())


def test_the_longest_chain_of_steps_comes_first(plan):
    short, long = plans.Step("short", "train", {}, seconds=3.0), plans.Step("long", "train", {}, seconds=2.0)
    after = plans.Step("after", "train", {}, ("long", "done before"), seconds=2.0)
    assert study._chains([short, long, after]) == {"short": 3.0, "long": 4.0, "after": 2.0}


def test_steps_that_decode_one_model_are_done_together(plan):
    batches = list(study._batches(list(plan.steps.values())))
    assert [step for batch in batches for step in batch] == list(plan.steps.values())
    together = [batch for batch in batches if len(batch) > 1]
    assert together and all(len({str(step.spec["model"]) for step in batch}) == 1 for batch in together)
    assert all({step.kind for step in batch} == {"decode"} for batch in together)


def test_a_row_that_changed_is_found(plan):
    worse = [row | {"wer": row["wer"] + 0.1} if row["system"] == "Finetuned" else row for row in plan.rows]
    found = differing(plan.rows, worse)
    assert len(found) == 4 and all(b["wer"] == a["wer"] + 0.1 for a, b, _ in found)
    assert [points for *_, points in found] == pytest.approx([10.0] * 4)
    assert differing([], worse) == []


def measured_again(results, **changed):
    """The committed rows in another folder, measured elsewhere; ``changed`` is added to the averages' fields."""
    shutil.copytree(store.results_folder("smoke"), results / "smoke")
    elsewhere = {"library": "9.9", "hardware": "another", "date": "2099-01-01"}
    rows = [row | elsewhere for row in store.measured("smoke", "table1", results)]
    rows = [row | {f: row[f] + more for f, more in changed.items() if row["domain"] == "all"} for row in rows]
    table_files.write(store.table_path("smoke", "table1.rows", results), rows)
    return results


def test_a_study_measured_again_is_compared_row_by_row_and_word_by_word(plan, tmp_path):
    results = measured_again(tmp_path)
    path = store.table_path("smoke", "table1.predictions", results)
    first, *others = table_files.read(path)
    table_files.write(path, [first | {"text": first["text"] + " more"}, *others])
    found = reproduction.compared("smoke", "table1", results)
    assert found["rows"] == len(plan.rows) and found["counts"] and found["within"]
    assert found["largest"] == found["average"] == 0 and found["same"] == found["transcripts"] - 1 > 20
    assert (found["hardware"], found["committed_on"]) == ("another", machine.hardware())


@pytest.mark.parametrize(("points", "within"), [(0.9, True), (1.1, False), (-1.1, False)])
def test_averages_may_differ_by_the_tolerance(plan, tmp_path, points, within):
    found = reproduction.compared("smoke", "table1", measured_again(tmp_path, wer=points / 100))
    assert found["average"] == pytest.approx(abs(points)) and found["largest"] == 0 and found["counts"]
    assert found["within"] == within


def test_other_speech_is_no_reproduction(plan, tmp_path):
    found = reproduction.compared("smoke", "table1", measured_again(tmp_path, n_utterances=1))
    assert not found["counts"] and not found["within"] and found["average"] == 0


def test_results_without_rows_cannot_be_compared(plan, tmp_path):
    with pytest.raises(StudyError, match="holds no row of experiment 'table1' and profile 'smoke'"):
        reproduction.compared("smoke", "table1", tmp_path)


def test_translation_rows_hold_bleu(tmp_path, monkeypatch):
    """Both tasks of a table from training to rows: averages of BLEU are means, choices take both tasks into account."""
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path))
    systems = [{"system": "A", "train": "language"}, {"system": "B", "method": "task_arithmetic", "tune": ["scaling"]}]
    table = {"experiment": "both", "kind": "systems", "languages": "set1", "tasks": ["asr", "st"], "systems": systems}
    table |= {"against": ["A"], "title": "Both tasks"}
    monkeypatch.setattr(experiments, "experiments", lambda: {"both": Experiment.model_validate(table)})
    study.run(experiments.plan("both", "smoke"))
    found = store.rows("smoke", "both")
    assert len(found) == 2 * (2 * 2 + 2 + 1)
    for _, block in found[found["task"] == "st"].groupby("system"):
        block = block.set_index("language")
        assert block.loc["macro", "bleu"] == pytest.approx(block.loc[LANGUAGES, "bleu"].mean())
        assert block["wer"].isna().all() and block["signature"].str.startswith("nrefs:1").all()
        assert ((block["ci_low"] <= block["ci_high"]) & (block["ci_high"] <= 100)).all()
    [tried] = store.statistics("smoke", "both.chosen").query("kind == 'tune'")["tried"]
    assert all(t["error"] == pytest.approx((t["wer"] + 1 - t["bleu"]) / 2) for t in tried)
    assert set(store.statistics("smoke", "both.paired")["task"]) == {"asr", "st"}


def test_a_method_with_data_hears_each_experts_own_dev_speech(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path))
    systems = [{"system": "RegMean", "method": "regmean"}, {"system": "Average", "method": "weight_average"}]
    table = {"experiment": "data", "kind": "systems", "languages": "set1", "tasks": ["asr"], "systems": systems}
    monkeypatch.setattr(experiments, "experiments", lambda: {"data": Experiment.model_validate(table)})
    made, heard = experiments.plan("data", "smoke"), []
    collect = measuring.calibration.collect
    monkeypatch.setattr(
        measuring.calibration,
        "collect",
        lambda kind, expert, windows: heard.append(windows) or collect(kind, expert, windows),
    )
    study.run(made)
    assert [{clip.language for w in own for clip in w.clips} for own in heard] == [{"es"}, {"it"}]
    assert {clip.split for own in heard for w in own for clip in w.clips} == {"dev"}
    assert len(store.rows("smoke", "data")) == 2 * 4


LISTENING = [
    {"system": "Task Arithmetic", "method": "task_arithmetic", "tune": "scaling"},
    {"system": "SE", "method": "task_arithmetic", "tuned_as": "Task Arithmetic", "dynamic": {"system": "se_merging"}},
    {"system": "Routing", "method": "task_arithmetic", "dynamic": {"system": "routing", "signal": "speech"}},
    {"system": "Masks", "method": "emr", "dynamic": {"system": "predicted_task"}},
    {"system": "Guided", "method": "task_arithmetic", "dynamic": {"system": "guided"}},
    {"system": "RegMean", "method": "regmean", "hears": "train"},
]


def test_models_that_listen_are_rows_of_a_table_and_statistics_hear_all_of_train(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path))
    table = {"experiment": "heard", "kind": "systems", "languages": "set1", "tasks": ["asr"], "systems": LISTENING}
    monkeypatch.setattr(experiments, "experiments", lambda: {"heard": Experiment.model_validate(table)})
    made, heard = experiments.plan("heard", "smoke"), []
    [lam] = [step.needs for name, step in made.steps.items() if name.startswith("decode SE es")]
    assert [need for need in lam if need.startswith("tune Task Arithmetic")]
    collect = measuring.calibration.collect
    monkeypatch.setattr(
        measuring.calibration,
        "collect",
        lambda kind, expert, windows: heard.append(windows) or collect(kind, expert, windows),
    )
    study.run(made)
    assert [{c.split for w in own for c in w.clips} for own in heard] == [{"train"}, {"train"}]
    assert [sum(len(w.clips) for w in own) for own in heard] == [40, 40]  # all there are
    rows = store.rows("smoke", "heard")
    assert set(rows["system"]) == {entry["system"] for entry in LISTENING}
    methods = dict(zip(rows["system"], rows["method"], strict=True))
    assert methods["SE"] == "se_merging" and methods["Masks"] == "predicted_task" and methods["RegMean"] == "regmean"
