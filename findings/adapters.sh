#!/usr/bin/env bash
# peft 0.21.0 adds a LoRA of the token table twice when it merges, if ensure_weight_tying=True keeps table and head tied.
# Seen 2026-11-29 with peft 0.21.0, transformers 5.23.0 and torch 2.13.0 on Python 3.11.
#   `LoraConfig(target_modules=["embed_tokens"], ensure_weight_tying=True)` on a Whisper, whose output head is its token
#   table, gives head and table one shared update. While the adapter is active both are W + update, so the model is a
#   tied one. `merge_and_unload()` adds the update for the table and once more for the head, to the one tensor the two
#   share: it holds W + 2 update afterwards, and the logits are others than before the merge. W + update gives the same
#   logits as the active adapter.
# Exits with 1 if this has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.0 transformers==5.23.0 torch==2.13.0 \
  2> "$work/pip.log" || { cat "$work/pip.log"; exit 1; }
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import copy
import sys
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import WhisperConfig, WhisperForConditionalGeneration

warnings.simplefilter("ignore")
print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 50, "num_mel_bins": 8}
sizes |= {f"{stack}_{what}": 2 for stack in ("encoder", "decoder") for what in ("layers", "attention_heads")}
ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0)
base = WhisperForConditionalGeneration(WhisperConfig(**sizes, **ends, max_source_positions=10)).eval()
heard = {"input_features": torch.randn(1, 8, 20), "decoder_input_ids": torch.tensor([[1, 2, 3]])}


def logits(model):
    with torch.no_grad():
        return model(**heard).logits


def apart(found):
    return ((found - active).norm() / active.norm()).item()


settings = LoraConfig(r=2, target_modules=["embed_tokens"], ensure_weight_tying=True)
model = get_peft_model(copy.deepcopy(base), settings).eval()
table = model.base_model.model.model.decoder.embed_tokens
table.lora_embedding_A["default"].data.normal_()  # as training would; the head's A and B are views of the table's
update = table.get_delta_weight("default").detach()
active = logits(model)
once = copy.deepcopy(base)
once.model.decoder.embed_tokens.weight.data += update
merged = model.merge_and_unload()
name = "model.decoder.embed_tokens.weight"
times = ((merged.state_dict()[name] - base.state_dict()[name]) / update).median().item()
print(f"the merged table holds the update {times:.2f} times")
print(f"logits, relative to those of the active adapter: merged {apart(logits(merged)):.1e} apart, "
      f"base plus the update once {apart(logits(once)):.1e} apart")
sys.exit(not (abs(times - 2) < 0.01 and apart(logits(merged)) > 0.01 > apart(logits(once))))
PYTHON
