"""The whole way on the command line: two experts of tones, one merge, hypotheses, a score."""

import json
import re
import sys

import pytest
import torch

from speechmerge import cli, corpora
from speechmerge.evaluation import scoring
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.evaluation.predictions import read_predictions
from speechmerge.finetuning import packing
from speechmerge.merging import engine
from speechmerge.speech import pooled_clips
from speechmerge.whisper import models
from speechmerge.whisper.checkpoints import fingerprint

TRAIN = (
    "--base",
    "smoke",
    "--minutes",
    "0.3",
    "--epochs",
    "2",
    "--learning-rate",
    "1e-2",
    "--batch",
    "1",
    "--precision",
    "fp32",
)


@pytest.fixture(scope="module")
def run():
    """Call ``speechmerge`` as a shell would and return what it prints; anything but success is an error."""

    def call(*words):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["speechmerge", *map(str, words)])
            said = []
            patch.setattr(cli.click, "echo", lambda message, **_: said.append(str(message)))
            with pytest.raises(SystemExit) as stop:
                cli.main()
        assert not stop.value.code
        return "\n".join(said)

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("end-to-end")


@pytest.fixture(scope="module")
def experts(run, folder):
    said = [run("train", folder / code, "--source", f"tones:{code}", *TRAIN) for code in ("es", "it")]
    assert all(re.search(r"best epoch 2, dev loss \d\.\d+, [\d.]+ windows/s", line) for line in said)
    return [folder / "es", folder / "it"]


@pytest.fixture(scope="module")
def merged(run, folder, experts):
    run("merge", "task_arithmetic", folder / "merged", *experts, "--base", "smoke", "--scaling", "0.4")
    return folder / "merged"


def test_the_merge_lies_between_its_experts_and_says_what_it_is(merged, experts):
    base = models.base_model("smoke")
    in_memory = engine.merged("task_arithmetic", base, experts, scaling=0.4)
    assert fingerprint(merged) == fingerprint(in_memory)
    assert len({fingerprint(x) for x in (base, merged, *experts)}) == 4
    record = json.loads((merged / "merge_recipe.json").read_text())
    assert record["fingerprints"]["experts"] == [fingerprint(expert) for expert in experts]
    assert record["recipe"]["merge_method"] == "task_arithmetic" and record["recipe"]["parameters"]["lambda"] == 0.4


def test_it_is_decoded_and_scored(run, merged, folder):
    speech = ("--corpus", "tones", "--language", "es")
    said = run("decode", merged, folder / "es.jsonl.gz", *speech, "--precision", "fp32")
    clips = corpora.load("tones", "es", "test")
    assert said == f"{folder / 'es.jsonl.gz'}: {len(clips)} hypotheses"
    predictions = read_predictions(folder / "es.jsonl.gz")
    again = Decoder(merged, Decoding(precision="fp32")).decode(clips, "es", "asr", progress=False)
    assert predictions == again
    counts = scoring.count(predictions, clips, "es")
    said = run("score", folder / "es.jsonl.gz", *speech)
    assert said.startswith(f"WER {counts.wer:.2%} [") and f"CER {counts.cer:.2%}  12 clips" in said
    assert said.endswith(f"{counts.words.sum()} words, {counts.runaway} runaway")


def test_translations_are_scored_with_bleu(run, experts, folder):
    words = (folder / "st.jsonl.gz", "--corpus", "tones", "--language", "es", "--task", "st")
    run("decode", experts[0], *words, "--precision", "fp32", "--split", "dev")
    said = run("score", *words, "--split", "dev")
    assert re.fullmatch(
        r"BLEU [\d.]+ \[[\d.]+, [\d.]+\]  chrF [\d.]+  12 clips, \d+ runaway  nrefs:1\|case:mixed.*", said
    )


def test_a_finished_training_is_not_repeated_and_another_is_refused(run, experts, monkeypatch, capsys):
    before = fingerprint(experts[0])
    again = run("train", experts[0], "--source", "tones:es", *TRAIN)
    assert again.startswith(f"{experts[0]}: best epoch 2") and fingerprint(experts[0]) == before
    monkeypatch.setattr(sys, "argv", ["speechmerge", "train", str(experts[0]), "--source", "tones:it", *TRAIN])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1 and "made by another training" in capsys.readouterr().err


def loss(model_folder, language):
    """Mean cross-entropy of a language's dev clips, in nats a token."""
    model = models.load_model(model_folder)
    clips = pooled_clips(["tones"], language, "asr", "dev")
    tools = models.load_tokenizer(model_folder), models.load_feature_extractor(model_folder)
    batch = packing.collate(packing.pack(clips, language, "asr", None), *tools)
    with torch.inference_mode():
        return model(**batch).loss.item()


def test_the_merge_knows_both_languages_better_than_the_base_and_each_expert_knows_its_own_best(merged, experts):
    base, (es, it) = models.base_model("smoke"), experts
    assert loss(es, "es") < loss(merged, "es") < loss(base, "es")
    assert loss(it, "it") < loss(merged, "it") < loss(base, "it")
    assert loss(es, "es") < loss(it, "es") and loss(it, "it") < loss(es, "it")
