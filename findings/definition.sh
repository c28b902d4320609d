#!/usr/bin/env bash
# mergekit 0.1.5 comes with a definition of Whisper, and no Whisper can be merged with it.
# Seen 2026-11-30 with mergekit 0.1.5, transformers 5.23.0 and torch 2.13.0 on Python 3.11.
#   1. Names of tensors are a module's prefix and a name, joined as they are. The encoder's prefix ends with a point and
#      the decoder's does not, so mergekit-yaml asks for "model.decoderembed_tokens.weight" and stops. With a point put
#      there, the same recipe gives the mean of the two models.
#   2. Where config.json names a class that mergekit does not know, such as a subclass of one's own, it warns that it
#      takes the model for one that continues texts, and lists the tensors of that. The result is a decoder without an
#      encoder, and mergekit ends with 0.
# Exits with 1 if this has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mergekit==0.1.5 transformers==5.23.0 torch==2.13.0 \
  2> "$work/pip.log" || { cat "$work/pip.log"; exit 1; }
cd "$work"
export HF_HUB_OFFLINE=1
cat > make.py <<'PYTHON'
import json
import pathlib
import shutil

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 50, "num_mel_bins": 8}
sizes |= {f"{stack}_{what}": 2 for stack in ("encoder", "decoder") for what in ("layers", "attention_heads")}
ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0)
torch.manual_seed(0)
words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(50)}, unk_token="w0"))
for name in ("base", "a", "b"):
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **ends, max_source_positions=10))
    model.save_pretrained(name)
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(name)
    shutil.copytree(name, f"own_{name}")
    config = json.loads(pathlib.Path(name, "config.json").read_text())
    pathlib.Path(f"own_{name}", "config.json").write_text(json.dumps(config | {"architectures": ["OwnWhisper"]}))
for own in ("", "own_"):
    experts = [{"model": f"./{own}{name}", "parameters": {"weight": 0.5}} for name in "ab"]
    recipe = {"merge_method": "task_arithmetic", "base_model": f"./{own}base", "models": experts, "dtype": "float32"}
    pathlib.Path(f"{own}recipe.yaml").write_text(json.dumps(recipe))
PYTHON
venv/bin/python -W ignore make.py > made 2>&1 || { cat made; exit 1; }
if venv/bin/mergekit-yaml recipe.yaml merged > one 2>&1; then one=merged; else one=$(tail -1 one); fi
venv/bin/mergekit-yaml own_recipe.yaml own_merged > two 2>&1 && two=0 || two=$?
definition=$(echo venv/lib/python3*/site-packages/mergekit/_data/architectures/whisper.json)
sed -i 's/"model.decoder"/"model.decoder."/' "$definition"
venv/bin/mergekit-yaml recipe.yaml mended > three 2>&1 && three=0 || three=$?
venv/bin/python - "$one" "$two" "$three" <<'PYTHON'
import sys
from importlib.metadata import version

from safetensors.torch import load_file

stopped, own_code, mended_code = sys.argv[1:]
print({name: version(name) for name in ("mergekit", "transformers", "torch")})
a, b, own, mended = (load_file(f"{name}/model.safetensors") for name in ("a", "b", "own_merged", "mended"))
print(f"1. as it is: {stopped}")
apart = max((mended[name] - (a[name] + b[name]) / 2).abs().max().item() for name in a)
print(f"1. with a point: exit {mended_code}, {len(mended)} of {len(a)} tensors, {apart:.0e} from the mean at the most")
parts = sorted({name.split(".")[1] for name in own})
print(f"2. a class of one's own: exit {own_code}, {len(own)} of {len(a)} tensors, of {parts}")
as_described = "model.decoderembed_tokens.weight" in stopped and apart < 1e-6
sys.exit(not (as_described and own_code == "0" and parts == ["decoder"]))
PYTHON
