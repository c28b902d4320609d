"""Dev losses of merged models: the training loss of packed windows, whatever the batch, and what choices minimise."""

import pytest
import torch
from safetensors.torch import load_file

from speechmerge import corpora
from speechmerge.finetuning.packing import pack
from speechmerge.merging import measuring
from speechmerge.merging.listening import batches, log_likelihood
from speechmerge.merging.measuring import Loss
from speechmerge.whisper import models

BASE = models.base_model("smoke")


@pytest.fixture(scope="module")
def speech():
    return [(corpora.load("tones", language, "dev"), language, "asr") for language in ("es", "it")]


def test_losses_are_those_of_the_windows_one_by_one(speech):
    state = load_file(BASE / "model.safetensors")
    found = measuring.listener(BASE, speech, precision="fp32", size=3)(state)
    whisper = models.load_model(BASE)
    for one, (clips, language, task) in zip(found, speech, strict=True):
        windows = pack(clips, language, task, None)
        with torch.inference_mode():
            alone = sum(-log_likelihood(whisper, b).item() for b in batches(BASE, windows, torch.device("cpu")))
        assert one.nats == pytest.approx(alone, rel=1e-5) and one.task == "asr" and one.tokens > len(clips)


def test_other_weights_have_other_losses_and_the_same_tokens(speech):
    listen = measuring.listener(BASE, speech[:1], precision="fp32")
    state = load_file(BASE / "model.safetensors")
    changed = {
        name: w + 0.05 * torch.randn(w.shape, generator=torch.Generator().manual_seed(1)) for name, w in state.items()
    }
    [before], [after], [again] = listen(state), listen(changed), listen(state)
    assert before == again != after and before.tokens == after.tokens


def test_tokens_are_pooled_within_a_task_and_tasks_count_alike():
    asr, other, st = Loss("asr", 10.0, 10), Loss("asr", 60.0, 20), Loss("st", 8.0, 2)
    assert measuring.dev_loss([asr, other]) == pytest.approx(70 / 30)
    assert measuring.dev_loss([asr, other, st]) == pytest.approx((70 / 30 + 4) / 2)
