#!/usr/bin/env bash
# peft 0.21.0: add_weighted_adapter changes what it merges if the adapters use rslora, DoRA or a bias of B.
# Seen 2026-11-30 with peft 0.21.0, transformers 5.23.0 and torch 2.13.0 on Python 3.11.
#   The new adapter is meant to have scale 1, with the weights and scales of its sources within its A and B, and takes
#   most other settings from the first source. The documentation calls the ways "cat" and "svd" precise, so that either,
#   of one adapter with weight 1, should be that adapter. It is for a plain LoRA. But
#   1. with use_rslora=True the new scale is rank / sqrt(rank): the update is sqrt(rank) times as long. Half of each of
#      two adapters of rank 4 gives 2.83 times their mean.
#   2. with use_dora=True the trained magnitudes are left behind: the new adapter's are the norms of the base's rows.
#   3. with lora_bias=True the trained biases are left behind: the new adapter's are zero.
#   None of the three raises or warns.
# Exits with 1 if this has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.0 transformers==5.23.0 torch==2.13.0 \
  2> "$work/pip.log" || { cat "$work/pip.log"; exit 1; }
HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore::FutureWarning - <<'PYTHON'
import copy
import sys
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import WhisperConfig, WhisperForConditionalGeneration

print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 50, "num_mel_bins": 8}
sizes |= {f"{stack}_{what}": 2 for stack in ("encoder", "decoder") for what in ("layers", "attention_heads")}
ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0)
base = WhisperForConditionalGeneration(WhisperConfig(**sizes, **ends, max_source_positions=10)).eval()
layer = "model.decoder.layers.0.self_attn.q_proj"


def adapted(**settings):
    """Two adapters, every part of which differs from where it starts, as after training."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], **settings)
    model = get_peft_model(copy.deepcopy(base), config, "first")
    model.add_adapter("second", config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + torch.rand_like(parameter))
            elif "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def update(model, adapter, part):
    model = copy.deepcopy(model)
    model.set_adapter(adapter)
    name = f"{layer}.{part}"
    return model.merge_and_unload().state_dict()[name] - base.state_dict()[name]


def share(model, sources, way, part="weight"):
    """How much of the mean update of the sources the new adapter holds, and how far it is from it, relatively."""
    model = copy.deepcopy(model)
    wanted = sum(update(model, name, part) for name in sources) / len(sources)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model.add_weighted_adapter(sources, [1 / len(sources)] * len(sources), "new", combination_type=way, svd_rank=8)
    found = update(model, "new", part)
    told.extend(str(warning.message) for warning in warned if warning.category is UserWarning)
    return ((found * wanted).sum() / wanted.square().sum()).item(), ((found - wanted).norm() / wanted.norm()).item()


seen, told = {}, []
for case, settings, part in (("plain", {}, "weight"), ("rslora", {"use_rslora": True}, "weight"),
                             ("dora", {"use_dora": True}, "weight"), ("bias", {"lora_bias": True}, "bias")):
    torch.manual_seed(1)
    model = adapted(**settings)
    for way in ("cat", "svd"):
        for sources in (["first"], ["first", "second"]):
            seen[case, way, len(sources)] = held, apart = share(model, sources, way, part)
            print(f"{case}, {way} of {len(sources)}, {part}: {held:.2f} times the update, {apart:.2f} apart")
print(f"warnings: {len(told)}")
as_described = all(seen["plain", way, count][1] < 1e-4 for way in ("cat", "svd") for count in (1, 2))
as_described &= abs(seen["rslora", "cat", 1][0] - 2) < 0.01 and abs(seen["rslora", "cat", 2][0] - 8**0.5) < 0.01
as_described &= all(seen["dora", way, 1][1] > 0.3 and seen["bias", way, 1][0] == 0 for way in ("cat", "svd"))
sys.exit(not (as_described and not told))
PYTHON
