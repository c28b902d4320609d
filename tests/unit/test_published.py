"""Statistics that are published with an expert, and speech given to a merge: from the command line."""

import json
import shutil

import pytest
import torch
import yaml
from cli_calls import Caller, two_experts
from safetensors.torch import load_file, save_file

from speechmerge import corpora, speech
from speechmerge.errors import CheckpointError, MethodError
from speechmerge.finetuning.training_recipe import Source
from speechmerge.merging import calibration, methods, published
from speechmerge.whisper import models
from speechmerge.whisper.checkpoints import fingerprint

LANGUAGES = ("es", "it")
SPEECH = ("--speech", "tones:es", "--speech", "tones:it")


@pytest.fixture
def run(monkeypatch, capsys):
    return Caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return two_experts(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module")
def folders(experts, tmp_path_factory):
    """Fishers and Grams of both experts, published."""
    place = tmp_path_factory.mktemp("published")
    for kind in ("fishers", "grams"):
        for expert, language in zip(experts, LANGUAGES, strict=True):
            source = Source("tones", language)
            published.collect(kind, expert, [source], place / f"{kind}-{language}", windows=3, progress=False)
    return {kind: [place / f"{kind}-{language}" for language in LANGUAGES] for kind in ("fishers", "grams")}


def weights(folder):
    return load_file(folder / "model.safetensors")


def options(name, folders):
    return [word for folder in folders for word in (name, folder)]


def test_the_command_writes_what_the_call_does_with_a_card_and_a_record(run, experts, folders, tmp_path):
    for word, kind in (("fisher", "fishers"), ("grams", "grams")):
        words = ("statistics", experts[0], tmp_path / kind, "--kind", word, "--speech", "tones:es", "--windows", "3")
        code, out, _ = run(*words)
        assert code == 0 and out.startswith(f"{tmp_path / kind}: {kind} of e1 on ")
        first, second = (calibration.Statistics(folder) for folder in (tmp_path / kind, folders[kind][0]))
        assert first.record == second.record and all(torch.equal(first[name], second[name]) for name in first)
        assert first.record["expert"] == fingerprint(experts[0]) and first.record["speech"] == ["tones:es:asr"]
        assert first.record["expert_name"] == "e1" and first.record["library"].startswith("speechmerge ")
        card = (tmp_path / kind / "README.md").read_text()
        assert "It holds no recording and no text" in card and fingerprint(experts[0]) in card
        assert f"speechmerge merge {'fisher' if kind == 'fishers' else 'regmean'} MERGED e1" in card
    names = {path.name for path in (tmp_path / "grams").iterdir()}
    assert {"README.md", "statistics.json", "model.safetensors.index.json"} <= names
    assert not [name for name in names if name.endswith((".flac", ".wav"))]


@pytest.mark.parametrize(("method", "kind"), [("fisher", "fishers"), ("regmean", "grams")])
def test_published_statistics_merge_as_the_speech_they_came_from(run, experts, folders, tmp_path, method, kind):
    words = ("merge", method, tmp_path / "heard", *experts, "--base", "smoke", *SPEECH, "--windows", "3")
    assert run(*words)[0] == 0
    words = ("merge", method, tmp_path / "read", *experts, "--base", "smoke", *options("--statistics", folders[kind]))
    code, out, _ = run(*words)
    assert (code, out) == (0, f"{tmp_path / 'read'}: {method} of 2 experts\n")
    one, two = weights(tmp_path / "heard"), weights(tmp_path / "read")
    assert all(torch.equal(one[name], two[name]) for name in one)
    record = json.loads((tmp_path / "read" / "merge_recipe.json").read_text())["data"]["statistics"]
    assert [own["expert_name"] for own in record] == ["e1", "e2"] and record[1]["speech"] == ["tones:it:asr"]
    heard = json.loads((tmp_path / "heard" / "merge_recipe.json").read_text())["data"]
    assert heard == {"speech": [["tones:es:asr"], ["tones:it:asr"]], "split": "train", "seed": 0, "windows": 3}
    assert "tones:it:asr" in (tmp_path / "heard" / "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("regmean_pp", ()),
        ("learned_average", ("--set", "steps=2")),
        ("greedy_soup", ("--clips", "1")),
        ("adamerging", ("--set", "steps=2", "--set", "groups=model")),
        ("evo_merging", ("--set", "denoising=5", "--set", "evaluations=5", "--set", "population=4")),
    ],
)
def test_methods_that_need_data_run_from_the_command_line(run, experts, tmp_path, method, settings):
    more = () if method == "greedy_soup" else ("--windows", "1")
    words = ("merge", method, tmp_path / "merged", *experts, "--base", "smoke", *SPEECH, *settings, *more)
    code, out, _ = run(*words)
    assert code == 0 and out.startswith(f"{tmp_path / 'merged'}: {method} of 2 experts")
    record = json.loads((tmp_path / "merged" / "merge_recipe.json").read_text())
    measured = methods.find(method).measure
    assert record["data"]["split"] == ("dev" if measured else "train")
    if measured:
        [found] = record["recipe"]["parameters"]["weights"]
        assert out.endswith(f", weights learnt: {found[0]:.3f}, {found[1]:.3f}\n")
    if method == "greedy_soup":
        assert record["data"]["clips"] == 2


def test_what_is_too_long_is_refused_with_what_helps(run, experts, folders, tmp_path):
    words = ("merge", "regmean", tmp_path / "merged", *experts, "--base", "smoke")
    words += tuple(options("--statistics", folders["grams"]))
    code, _, err = run(*words, "--max-growth", "0.01")
    told = " ".join(err.split())
    assert code == 1 and "expected under 0.01" in told and "other parameters, for example ridge=1e-4, or raise" in told
    assert run(*words, "--max-growth", "1e9", "--set", "ridge=1e-4")[0] == 0
    assert "max_growth: 1000000000.0" in (tmp_path / "merged" / "README.md").read_text()


def test_an_adapter_hears_speech_as_the_model_it_makes(run, experts, tmp_path):
    name = "model.encoder.layers.0.self_attn.q_proj"
    rows, columns = weights(experts[0])[f"{name}.weight"].shape
    lora = tmp_path / "lora"
    lora.mkdir()
    generator = torch.Generator().manual_seed(7)
    a, b = 0.01 * torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
    tensors = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(tensors, lora / "adapter_model.safetensors")
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    words = ("statistics", lora, tmp_path / "s", "--kind", "grams", "--speech", "tones:es", "--windows", "1")
    code, _, err = run(*words)
    assert code == 2 and "is a LoRA adapter; name its base model with --base." in " ".join(err.split())
    assert run(*words, "--base", "smoke")[0] == 0
    assert json.loads((tmp_path / "s" / "statistics.json").read_text())["expert_name"] == "lora"
    words = ("merge", "regmean", tmp_path / "merged", lora, "--base", "smoke", "--statistics", tmp_path / "s")
    assert run(*words)[0] == 0
    start = weights(models.base_model("smoke"))[f"{name}.weight"]
    assert torch.allclose(weights(tmp_path / "merged")[f"{name}.weight"], start + b @ a, atol=1e-5)


def test_a_recipe_names_speech_or_statistics_with_its_models(run, experts, folders, tmp_path):
    def write(method, **entries):
        listed = [
            {"model": str(expert)} | {key: values[i] for key, values in entries.items() if values[i] is not None}
            for i, expert in enumerate(experts)
        ]
        whole = {"merge_method": method, "base_model": "smoke", "models": listed}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(whole))
        return tmp_path / "recipe.yaml"

    file = write("fisher", statistics=[str(folder) for folder in folders["fishers"]])
    code, out, _ = run("check", file)
    assert code == 0 and f"with {folders['fishers'][1]}" in " ".join(out.split())
    assert run("merge", file, tmp_path / "one")[0] == 0
    file = write("fisher", speech=["tones:es", ["tones:it"]])
    assert run("merge", file, tmp_path / "two", "--windows", "3")[0] == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    for content, message in (
        ({"speech": ["tones:es", None]}, "has speech and"),
        ({"speech": [3, 3]}, "speech is 3; expected WHERE:LANGUAGE, or a list of them."),
        ({"statistics": [["a"], ["b"]]}, "statistics is ['a']; expected a folder"),
        ({"speach": ["tones:es", "tones:it"]}, "has no field 'speach'. Did you mean 'speech'?"),
        ({"speech": ["tones:es", "tones"]}, "'tones' is not"),
    ):
        code, _, err = run("check", write("fisher", **content))
        assert code == 1 and message in " ".join(err.split())
    file = write("fisher", speech=["tones:es", "tones:it"])
    code, _, err = run("merge", file, tmp_path / "three", *SPEECH)
    assert code == 2 and "the recipe names its own speech" in " ".join(err.split())
    assert not (tmp_path / "three").exists()


MERGES = [
    (["regmean"], "regmean needs more than the models: the Gram matrix of the inputs of each linear map"),
    (["regmean"], "or what `speechmerge statistics` collected from it, --statistics FOLDER."),
    (["learned_average"], "learned_average measures merged models on dev speech. Give it, --speech WHERE:LANGUAGE"),
    (["adamerging"], "adamerging measures merged models on unlabelled speech. Give it, --speech WHERE:LANGUAGE"),
    (
        ["adamerging", "--speech", "tones:es", "--clips", "1"],
        "adamerging learns weights from unlabelled speech, of which there is one clip; weights that fit one clip",
    ),
    (["evo_merging", *SPEECH, "--set", "denoising=3"], "a budget of 3 evaluations is too small for the start and one"),
    (["ties", *SPEECH], "ties merges from the models alone, but speech are given"),
    (["regmean", "--speech", "tones:es"], "once for each expert, in their order: 2 experts, 1 given"),
    (["regmean", "--speech", "tones:es", "--speech", "tones"], "'tones' is not"),
    (["regmean", "--speech", "tones:es", "--speech", "tone:it"], "There is no corpus 'tone'"),
    (["regmean", "--speech", "tones:es", "--speech", "tones:fr"], "has no language 'fr'"),
    (["ties", "--windows", "3"], "--windows tell how speech is heard, but there is none; give --speech too."),
    (["fisher", "--statistics", "nowhere", "--statistics", "nowhere"], "nowhere/statistics.json"),
    (["learned_average", "--statistics", "x", "--statistics", "x"], "measures merged models, so statistics of single"),
    (["regmean_pp", "--statistics", "x", "--statistics", "x"], "collects along the merge, all experts together, so"),
    (["regmean", *SPEECH, "--statistics", "x"], "speech and statistics are both given"),
]


@pytest.mark.parametrize(("words", "message"), MERGES, ids=lambda value: " ".join(value)[:50])
def test_a_mistake_in_what_a_merge_is_given_is_a_sentence(run, experts, tmp_path, words, message):
    method, *more = words
    code, _, err = run("merge", method, tmp_path / "merged", *experts, "--base", "smoke", *more)
    assert code != 0 and message in " ".join(err.split()) and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_another_expert_are_refused_by_name(run, experts, folders, tmp_path):
    words = ("merge", "fisher", tmp_path / "merged", *experts, "--base", "smoke")
    code, _, err = run(*words, *options("--statistics", folders["fishers"][::-1]))
    told = " ".join(err.split())
    assert code == 1 and f"holds statistics of e2 (fingerprint {fingerprint(experts[1])[:16]}), not of" in told
    assert f"they belong to {experts[1]}, so give them in the order of the experts." in told
    code, _, err = run(*words, *options("--statistics", folders["grams"]))
    assert code == 1 and "holds grams, but fishers are needed" in " ".join(err.split())
    trained_again = tmp_path / "again"
    shutil.copytree(experts[0], trained_again)
    changed = {name: value * 1.001 for name, value in weights(trained_again).items()}
    save_file(changed, trained_again / "model.safetensors")
    with pytest.raises(CheckpointError, match="trained again or is another model; collect its statistics"):
        published.opened(folders["fishers"][:1], "fishers", [trained_again])
    record = folders["fishers"][0] / "statistics.json"
    old = shutil.copytree(folders["fishers"][0], tmp_path / "old")
    (old / "statistics.json").write_text(json.dumps(json.loads(record.read_text()) | {"version": 0}))
    with pytest.raises(CheckpointError, match="another version of the library"):
        published.opened([old], "fishers", experts[:1])


STATISTICS = [
    (["--kind", "fischers", "--speech", "tones:es"], "there are no statistics 'fischers'. Did you mean 'fishers'?"),
    (["--kind", "grams"], "Missing option '--speech'"),
    (["--kind", "grams", "--speech", "tones"], "'tones' is not"),
    (["--kind", "grams", "--speech", "tones:es", "--speech", "tones:es:asr"], "give each once"),
    (["--kind", "grams", "--speech", "tones:es", "--windows", "0"], "0 is not in the range x>=1"),
    (["--kind", "grams", "--speech", "tones:es", "--split", "test"], "'test' is not one of 'train', 'dev'"),
]


@pytest.mark.parametrize(("words", "message"), STATISTICS, ids=lambda value: " ".join(value)[:50])
def test_a_mistake_in_collecting_is_a_sentence(run, experts, tmp_path, words, message):
    code, _, err = run("statistics", experts[0], tmp_path / "out", *words)
    assert code != 0 and message in " ".join(err.split()) and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_collected_again(run, experts, folders, tmp_path):
    before = (folders["grams"][0] / "statistics.json").read_bytes()
    words = ("statistics", experts[0], folders["grams"][0], "--kind", "grams", "--speech", "tones:es")
    code, _, err = run(*words)
    assert code == 1 and "already exists; statistics are written once" in " ".join(err.split())
    assert (folders["grams"][0] / "statistics.json").read_bytes() == before
    (tmp_path / "merged").mkdir()
    code, _, err = run("merge", "regmean", tmp_path / "merged", *experts, "--base", "smoke", *SPEECH)
    assert code == 1 and "already exists; choose another output" in " ".join(err.split())
    code, _, err = run("statistics", "nowhere", tmp_path / "out", "--kind", "grams", "--speech", "tones:es")
    assert code == 1 and "'nowhere' is neither a folder nor the name of a base model" in " ".join(err.split())


def test_a_wrong_model_is_found_before_anything_is_heard(run, experts, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "collect", None)
    far = tmp_path / "far"
    shutil.copytree(experts[0], far)
    changed = {n: v if "embed_positions" in n else v + torch.randn_like(v) for n, v in weights(far).items()}
    save_file(changed, far / "model.safetensors")
    words = ("merge", "fisher", tmp_path / "merged", far, experts[1], "--base", "smoke", *SPEECH)
    code, _, err = run(*words)
    assert code == 1 and "far" in err and not (tmp_path / "merged").exists()


def test_too_little_memory_is_found_before_the_work(experts, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "_memory", lambda *_: 10**18)
    with pytest.raises(Exception, match=r"takes about 1000000000\.00 GB of memory .* fewer windows"):
        published.collect("grams", experts[0], [Source("tones", "es")], tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_speech_that_is_not_there_is_said(run, experts, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "load", lambda *_, **__: [])
    words = ("merge", "regmean", tmp_path / "merged", *experts, "--base", "smoke", "--speech", "tones:es")
    code, _, err = run(*words, "--speech", "tones:it:st")
    assert code == 1 and "tones has no speech in es in the train split." in " ".join(err.split())
    words = ("statistics", experts[0], tmp_path / "out", "--kind", "grams", "--speech", "tones:it:st", "--split", "dev")
    code, _, err = run(*words)
    assert code == 1 and "tones has no speech with a translation in it in the dev split." in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_speech_is_parted_at_commas_behind_a_language_or_task():
    assert Source.parse_all("tones:es") == (Source("tones", "es"),)
    assert Source.parse_all("a:es,b:yue:st,./c, d:it") == (
        Source("a", "es"),
        Source("b", "yue", "st"),
        Source("./c, d", "it"),
    )


def test_records_do_not_tell_where_speech_lies():
    names = ("tones", "uqm/pkunk", "hub:owner/name", "/home/me/clips", "./clips")
    told = [speech.label(Source(name, "es")) for name in names]
    assert told == [f"{name}:es:asr" for name in ("tones", "uqm/pkunk", "hub:owner/name", "clips", "clips")]


@pytest.mark.parametrize("kind", ["grams", "fishers"])
def test_a_large_number_of_windows_is_all_of_the_training_speech_and_no_other(kind):
    [source] = Source.parse_all("tones:es")
    drawn = published.drawn_for(kind, [source], "train", 10_000)
    heard = sorted(clip.id for window in drawn for clip in window.clips)
    assert heard == sorted(clip.id for clip in corpora.load("tones", "es", "train"))


def test_windows_are_shared_among_the_sources_of_an_expert():
    sources = [Source("tones", "es"), Source("tones", "it")]
    drawn = published.drawn_for("fishers", sources, "train", 6)
    assert [window.language for window in drawn] == ["es"] * 3 + ["it"] * 3
    known = {clip.id for clip in corpora.load("tones", "es", "train")}
    assert {window.clips[0].id for window in drawn[:3]} <= known
    with pytest.raises(MethodError, match="no statistics"):
        published.kind_of("means")
