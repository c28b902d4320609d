"""A tuning from beginning to end on tones and the smoke base: what it writes, that it resumes, repeats, and keeps."""

import json
import math
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from cli_calls import Caller, two_experts
from safetensors.torch import save_file

from speechmerge import corpora
from speechmerge.corpora import Clip
from speechmerge.errors import MethodError, SpeechMergeError, TrainingError
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.finetuning.training_recipe import Source
from speechmerge.merging import precision, recipe
from speechmerge.merging.merge import open_merge
from speechmerge.tuning import choosing, lab, plan, rival, speech, worries
from speechmerge.tuning.request import Request
from speechmerge.tuning.search import ALL, Trial
from speechmerge.tuning.tune import tune
from speechmerge.tuning.updates import Candidate
from speechmerge.whisper import models

METHODS = ("task_arithmetic", "ties")


@pytest.fixture(scope="module", autouse=True)
def _few_clips():
    """Tones have twelve clips of each split; and greedy transcripts of an untrained model are long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech, "FEWEST", 4)
        patch.setattr(sys.modules[tune.__module__], "Decoding", lambda: Decoding(tokens_per_second=0.01))
        yield


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return two_experts(tmp_path_factory.mktemp("experts"))


def request_of(experts, **changes):
    sources = [(Source("tones", language),) for language in ("es", "it")]
    given = tuple((str(folder), own) for folder, own in zip(experts, sources, strict=True))
    settings = {"base": "smoke", "minutes": None, "evaluations": 9.0, "clips": 4, "methods": METHODS, "finalists": 2}
    return Request(experts=given, **settings | changes)


@pytest.fixture(scope="module")
def tuned(experts, tmp_path_factory):
    place = tmp_path_factory.mktemp("tuned") / "out"
    said = []
    return place, tune(request_of(experts), place, tell=said.append), said


def test_everything_is_written_and_nothing_else_is_left(tuned):
    place, numbers, said = tuned
    written = ["model", "recipe.yaml", "report.html", "report.json", "tried.jsonl"]
    assert sorted(path.name for path in place.iterdir()) == written
    assert [p.name for p in place.parent.iterdir()] == ["out"]
    models.load_model(place / "model")
    assert json.loads((place / "report.json").read_text()) == numbers
    assert re.search(r"takes about [\d.]+ GB of memory", said[0]) and "es 4+4, it 4+4" in said[1]


def test_the_numbers_are_of_all_systems_and_clips(tuned):
    _, numbers, _ = tuned
    assert [one["choose"] for one in numbers["speech"]] == [4, 4] == [one["report"] for one in numbers["speech"]]
    systems = ["base", "expert e1", "expert e2", "average", "chosen merge"]
    assert list(dict.fromkeys(row["system"] for row in numbers["rows"])) == systems
    assert all(row["clips"] == 4 and row["low"] <= row["error"] <= row["high"] for row in numbers["rows"])
    assert {trial["method"] for trial in numbers["tried"]} == {*METHODS, "weight_average"}
    assert numbers["budget"]["used"] <= 9 and numbers["budget"]["cut"] is False
    assert {row["against"] for row in numbers["paired"]} == {"base", "average", "own expert"}
    assert any("4 clips choose and 4 report" in line for line in numbers["worries"]["speech"])


def test_scores_are_losses_beside_those_of_the_experts_on_their_own_speech(tuned):
    _, numbers, _ = tuned
    for trial in numbers["tried"]:
        each = [x / r for x, r in zip(trial["losses"], numbers["references"], strict=True)]
        assert trial["score"] == pytest.approx(sum(each) / 2)
    best = min(row["error"] for row in numbers["heard"])
    assert numbers["heard"][0]["error"] == best == numbers["chosen"]["error"]


def test_the_page_is_whole_and_needs_nothing_else(tuned):
    place, numbers, _ = tuned
    page = (place / "report.html").read_text()
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    for title in ("What to worry about", "The trade-off", "What was tried", "Once more"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == page.count("</svg>") >= 3
    assert f"--evaluations {numbers['budget']['evaluations']} --clips 4 --finalists 2" in page
    assert "@media print" in page and "prefers-color-scheme: dark" in page and "nan" not in page.lower().split()


def test_the_recipe_repeats_the_model_bit_for_bit(tuned, tmp_path):
    place, numbers, _ = tuned
    written = yaml.safe_load((place / "recipe.yaml").read_text())
    assert written["merge_method"] == numbers["chosen"]["method"] and written["base_model"] == "smoke"
    found = recipe.read(place / "recipe.yaml")
    found.run(tmp_path / "again", resolve=lambda name: models.base_model(name), progress=False)
    one, two = ((folder / "model.safetensors").read_bytes() for folder in (place / "model", tmp_path / "again"))
    assert one == two


def test_the_same_seed_gives_the_same_answer_and_a_killed_tuning_goes_on_to_it(tuned, experts, tmp_path, monkeypatch):
    place, numbers, _ = tuned
    measured, ask = [], lab.Lab.ask

    def killed(self, *args):
        if len(self.trials) == 5:
            raise KeyboardInterrupt
        return ask(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(lab.Lab, "ask", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(request_of(experts), tmp_path / "out")
    work = tmp_path / ".out.tuning"
    assert work.is_dir() and not (tmp_path / "out").exists()
    with (work / "tried.jsonl").open("a") as stream:
        stream.write('{"key": "try ti')  # as a kill leaves it
    losses = lab.Ear.losses
    monkeypatch.setattr(lab.Ear, "losses", lambda self, *args: measured.append(args) or losses(self, *args))
    again = tune(request_of(experts), tmp_path / "out")
    assert len(measured) == len(numbers["tried"]) - 5  # what was measured before is not measured again
    timeless = [{k: v for k, v in told.items() if k not in ("seconds",)} for told in (numbers, again)]
    assert timeless[0] == timeless[1] and not work.exists()
    files = [(folder / "model" / "model.safetensors").read_bytes() for folder in (place, tmp_path / "out")]
    assert files[0] == files[1]


def test_unfinished_work_of_another_tuning_is_not_taken_up(experts, tmp_path, monkeypatch):
    monkeypatch.setattr(lab.Lab, "refer", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tune(request_of(experts), tmp_path / "out")
    for change, words in (({"seed": 1}, "settings"), ({"methods": ("ties",)}, "settings, methods")):
        with pytest.raises(SpeechMergeError, match=rf"holds an interrupted tuning that differs in {words};"):
            tune(request_of(experts, **change), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        tune(request_of(experts, seed=1), tmp_path / "out", overwrite=True)


def test_a_clock_that_runs_ahead_cuts_the_search_where_as_many_evaluations_would(experts, tmp_path, monkeypatch):
    check = lab.Lab._check_time

    def slow(self):
        self.deadline = -math.inf if len(self.trials) >= 6 else math.inf
        check(self)

    with monkeypatch.context() as patch:
        patch.setattr(lab.Lab, "_check_time", slow)
        cut = tune(request_of(experts), tmp_path / "cut")
    assert cut["budget"]["cut"] and cut["budget"]["used"] < 9
    same = tune(request_of(experts, evaluations=cut["budget"]["used"]), tmp_path / "same")
    assert same["tried"] == cut["tried"] and same["chosen"] == cut["chosen"]
    assert any("--evaluations" in line for line in cut["worries"]["choice"])


def test_where_time_runs_short_fewer_merges_are_decoded_and_it_is_said(experts, tmp_path, monkeypatch):
    monkeypatch.setattr(lab.Lab, "late", lambda self, what, needed: bool(self.journal.add(f"late {what}", late=True)))
    numbers = tune(request_of(experts, evaluations=4.0), tmp_path / "out")
    assert numbers["budget"]["finalists"] == 1 and len(numbers["heard"]) == 2
    own = {(row["system"], row["speech"]) for row in numbers["rows"] if row["system"].startswith("expert")}
    assert own == {("expert e1", "es"), ("expert e2", "it")}
    assert any("decoded before the choice (1) are fewer than planned" in line for line in numbers["worries"]["choice"])
    assert "–</td>" in (tmp_path / "out" / "report.html").read_text()


class MadeUpLab:
    """Two kinds of speech, the second must be kept; errors follow from λ: the first gains, the second loses by it."""

    def __init__(self, scores):
        self.speeches = [
            speech.Speech(n, (n,), (n,), "es", "asr", t, (), (), "halves") for n, t in (("a", 0), ("b", None))
        ]
        self.references, self.decoded = [1.0, 1.0], []
        ties = Candidate.of("ties")
        self.trials = [
            Trial(ties, scaling, ALL, (2 - scaling, 1 + scaling), score) for scaling, score in scores.items()
        ]

    def late(self, what, needed):
        return False

    def errors(self, system, part="choose"):
        self.decoded.append(system.name)
        return [self.errors_of(system, number) for number in (0, 1)]

    def errors_of(self, system, number, part="choose"):
        scaling = 0.9 if system.name == "average" else system.merge[1] if system.merge else 0.0
        return (0.5 - 0.3 * scaling, 0.2 + 0.1 * scaling)[number]


SCORES = {0.1: 1.5, 0.25: 1.4, 0.5: 1.3, 0.8: 1.2, 1.0: 1.1, 1.3: 1.05}


@pytest.mark.parametrize(
    ("allowed", "scaling", "kept"),
    [
        ({}, 1.3, True),  # the least error of those decoded
        ({1: 0.1}, 1.0, True),  # loses 10 points at most
        ({1: 0.06}, 0.5, True),  # none of the first decoded does; halfway along the front one does
        ({1: 0.001}, 0.1, False),  # none there is: the closest
    ],
)
def test_what_must_be_kept_decides(allowed, scaling, kept):
    made_up = MadeUpLab(SCORES)
    choice = choosing.choose(made_up, allowed, 2, plan.Plan(9, True, 0.0, 0.0))
    assert choice.chosen.system.merge[1] == scaling and choice.kept is kept
    assert len(made_up.decoded) == len(set(made_up.decoded)) == len(choice.heard) <= 3 + choosing.WALK
    assert choosing.ranked(choice)[0] is choice.chosen


def test_the_command_says_what_came_out(experts, tmp_path, monkeypatch, capsys):
    words = ("--expert", experts[0], "tones:es", "--expert", experts[1], "tones:it")
    options = ("--base", "smoke", "--evaluations", "2", "--clips", "4", "--methods", "task_arithmetic")
    code, out, err = Caller(monkeypatch, capsys)("tune", tmp_path / "out", *words, *options)
    assert code == 0, err
    assert re.search(r"^chosen merge +[\d.]+% \[[\d.]+%, [\d.]+%\]$", out, re.M)
    assert f"{tmp_path / 'out' / 'report.html'}: " in out and "to worry about" in out


def test_an_adapter_is_an_expert_and_translations_are_kept(experts, tmp_path):
    name, generator = "model.encoder.layers.0.self_attn.q_proj", torch.Generator().manual_seed(7)
    lora = tmp_path / "lora"
    lora.mkdir()
    pair = {"A": 0.1 * torch.randn(2, 64, generator=generator), "B": torch.randn(64, 2, generator=generator)}
    tensors = {f"base_model.model.{name}.lora_{part}.weight": values for part, values in pair.items()}
    save_file(tensors, lora / "adapter_model.safetensors")
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    asked = request_of([experts[0], lora], also=((Source("tones", "es", "st"),),), evaluations=2.0, methods=("ties",))
    numbers = tune(asked, tmp_path / "out")
    assert [one["name"] for one in numbers["speech"]] == ["es", "it", "es st"]
    translated = [row for row in numbers["rows"] if row["speech"] == "es st"]
    assert all(row["error"] == pytest.approx(1 - row["chrf"], abs=1e-6) for row in translated)
    assert {row["group"] for row in numbers["means"]} == {"all", "experts", "kept"}
    assert "1 − chrF" in (tmp_path / "out" / "report.html").read_text()
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["models"][1]["model"] == str(lora)


def test_what_experts_change_is_described_and_worried_about():
    base = {"model.encoder.layers.0.fc1.weight": torch.full((2, 2), 10.0)}
    changes = ([[3.0, 0], [0, 0]], [[-1.0, 0], [0, 0]])
    experts = [{name: w + torch.tensor(change) for name, w in base.items()} for change in changes]
    about = worries.described(open_merge("task_arithmetic", base, experts), ["a", "b"])
    assert about["relative"] == pytest.approx({"a": 0.15, "b": 0.05}) and about["conflict"] == pytest.approx(0.5)
    [[a, b, cosine]] = about["cosines"]
    assert (a, b) == ("a", "b") and cosine == pytest.approx(-1)


def test_halves_are_parted_by_text_and_named(make_clip, monkeypatch):
    clips = [make_clip(f"c{i}", f"texto {i % 20}", split="train") for i in range(40)]
    monkeypatch.setattr(speech, "read", lambda source: speech.Read(clips, ["too long", "too long"], False))
    [one] = speech.load([[Source("mine", "es")]], [])
    texts = [{clip.text for clip in part} for part in (one.choose, one.report)]
    assert one.parted == "halves" and not texts[0] & texts[1] and sum(one.sizes()) == 40
    assert one.dropped == (("too long", 2),) and not one.training


def test_speech_of_ones_own_is_read_from_its_folder_with_what_is_left_out(make_clip, tmp_path):
    lines = ["file_name,text"]
    for number in range(24):
        clip = make_clip(f"clip{number:02d}", f"texto número {number}", seconds=1.5 + number / 50)
        (tmp_path / f"clip{number:02d}.flac").write_bytes(clip.flac)
        lines.append(f"clip{number:02d}.flac,{clip.text if number else ''}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    [one] = speech.load([[Source(str(tmp_path), "es")]], [])
    assert one.parted == "halves" and sum(one.sizes()) == 23 and min(one.sizes()) >= 4
    assert sum(count for _, count in one.dropped) == 1 and one.name == "es"


def test_a_smaller_draw_lies_within_a_larger_one():
    clips: list[Clip] = corpora.load("tones", "es", "train")
    few, more = (speech.draw(clips, most, 3) for most in (5, 9))
    assert set(few) < set(more) and [c.id for c in more] == sorted(c.id for c in more)
    assert speech.draw(clips, 9, 4) != more


def test_minutes_become_evaluations_and_clips_once(experts, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_pace", lambda decoder, speeches: 0.05)
    monkeypatch.setattr(plan, "WRITING", 0.0)
    timed = request_of(experts, minutes=1.0, evaluations=None, clips=6, methods=("task_arithmetic",))
    with monkeypatch.context() as patch:
        patch.setattr(lab.Lab, "grant", lambda self, *granted: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tune(timed, tmp_path / "out")
    planned = json.loads((tmp_path / ".out.tuning" / "plan.json").read_text())
    assert planned["clips"] == 6 and planned["crossed"] and planned["evaluations"] > 1
    assert 0 < planned["reserve"] <= 30
    monkeypatch.setattr(plan, "_pace", lambda decoder, speeches: 1e9)  # is not asked again
    numbers = tune(timed, tmp_path / "out")
    assert numbers["budget"]["evaluations"] == planned["evaluations"] and numbers["budget"]["clips"] == 6


def test_more_minutes_give_more_clips_and_time_for_experts_on_the_speech_of_others(make_clip):
    clips = tuple(make_clip(f"c{i}", f"t {i}") for i in range(100))
    of = ("es", "asr")
    heard = [speech.Speech(n, (n,), (n,), *of, i, clips, clips, "halves") for i, n in enumerate("abc")]
    given = tuple((name, (Source(name, "es"),)) for name in "abc")
    found = [plan._timed(Request("smoke", given, minutes=minutes), heard, 0.1) for minutes in (3.0, 6.0, 12.0)]
    assert [one.clips for one in found] == [37, 60, 100]
    assert [one.crossed for one in found] == [False, True, True]
    for one, minutes in zip(found, (3.0, 6.0, 12.0), strict=True):
        assert one.reserve - plan.WRITING <= plan.DECODING * 60 * minutes
    few = plan._timed(Request("smoke", given, minutes=3.0, clips=2), heard, 0.1)  # fewer than a plan would choose
    assert few.clips == 2
    with pytest.raises(MethodError, match="too little to decode even 2 clips of each speech"):
        plan._timed(Request("smoke", given, minutes=0.01, clips=2), heard, 0.1)


def test_what_rounding_left_is_said_of_an_expert_by_its_own_name():
    about = {"relative": {"ES-Tuned": 0.002}, "cosines": []}
    merge = SimpleNamespace(inputs=SimpleNamespace(rounding=[precision.Remaining("expert", "float16", 1e-4, 2e-3)]))
    hall = SimpleNamespace(names=["ES-Tuned"], experts=["ES-Tuned"], speeches=[])
    [said] = worries.of_models(about, merge, hall)
    assert said.startswith("The expert ES-Tuned is rounded to float16")


def test_the_rival_is_trained_on_all_training_speech_and_heard_beside_the_merge(experts, tmp_path, monkeypatch):
    monkeypatch.setattr(rival, "EPOCHS", 1)
    numbers = tune(request_of(experts, joint=True, evaluations=2.0, methods=("ties",)), tmp_path / "out")
    assert {row["system"] for row in numbers["rows"]} >= {"joint training", "chosen merge"}
    assert "joint training" in {row["against"] for row in numbers["paired"]}
    assert "joint training" in (tmp_path / "out" / "report.html").read_text()


def test_the_rival_never_trains_on_what_chooses_or_reports(make_clip, monkeypatch):
    clips = [make_clip(f"c{i}", f"t {i}", seconds=1 + i / 50, split="train") for i in range(30)]
    own = Source("mine", "es")
    heard = speech.Speech("es", ("mine",), ("mine",), "es", "asr", 0, tuple(clips[:15]), tuple(clips[15:]), "halves")
    monkeypatch.setattr(rival, "read", lambda source: speech.Read(clips, [], False))
    given = Request("smoke", (("a", (own,)), ("b", (Source("tones", "it"),))), joint=True)
    with pytest.raises(TrainingError, match="mine:es:asr names no training split beside its dev and test"):
        rival.trained(given, None, [heard])
    monkeypatch.setattr(rival.corpora, "load", lambda *where: clips)
    with pytest.raises(TrainingError, match="clip 'c0' of mine:es:asr is also in es, which chooses or reports"):
        rival.trained(replace(given, train=(own,)), None, [heard])
