#!/usr/bin/env bash
# Saving a model into a folder that held another one: what transformers reads back afterwards.
#
# transformers 5.23.0 with torch 2.13.0 (and peft 0.21.0 for the second), seen on 2026-11-29:
#
# 1. A folder holds model.safetensors. `save_pretrained(folder, max_shard_size=...)` of a changed model writes shards and
#    an index beside it and leaves the single file there. from_pretrained(folder) then returns the OLD weights, without
#    a warning: the single file is looked for first. (The other way round it deletes the shards and leaves their index.)
#
# 2. A LoRA adapter is merged into its model (`merge_and_unload`) and the full model is saved into the adapter's folder.
#    Where peft is installed, from_pretrained(folder) loads the merged model and puts the adapter on it once more: the
#    update acts twice. Where peft is not installed the same call gives the merged model. Neither says so.
#
# Exits 0 if this is what happens, non-zero if the behaviour changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 peft==0.21.0
cd "$place"
cat > seen.py <<'PY'
import pathlib, sys
import peft, torch, transformers
from peft import LoraConfig, get_peft_model
from transformers import WhisperConfig, WhisperForConditionalGeneration as Whisper

transformers.utils.logging.disable_progress_bar()
print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
sizes = dict(vocab_size=64, d_model=16, max_source_positions=50, max_target_positions=16)
sizes |= {f"{p}_{k}": v for p in ("encoder", "decoder") for k, v in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}
sizes |= dict(pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1)

torch.manual_seed(0)
model = Whisper(WhisperConfig(**sizes))
model.save_pretrained("one")
with torch.no_grad():
    model.model.encoder.conv1.bias.fill_(7.0)
model.save_pretrained("one", max_shard_size="5KB")
files = sorted(path.name for path in pathlib.Path("one").glob("model*"))
back = Whisper.from_pretrained("one").model.encoder.conv1.bias[0].item()
print(f"1. files: {files[0]} ... {files[-2]}, {files[-1]}")
print(f"1. a bias that was saved as 7.0 is read back as {back}")

name = "model.encoder.layers.0.self_attn.q_proj"
model.save_pretrained("base")
lora = LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
adapted = get_peft_model(Whisper.from_pretrained("base"), lora)
adapted.save_pretrained("adapter")
merged = adapted.merge_and_unload()
merged.save_pretrained("adapter")
start = Whisper.from_pretrained("base").get_submodule(name)
wanted = merged.get_submodule(name)
found = Whisper.from_pretrained("adapter").get_submodule(name)
x = torch.randn(3, 16)
with torch.no_grad():
    times = ((found(x) - start(x)).norm() / (wanted(x) - start(x)).norm()).item()
print(f"2. files: {sorted(path.name for path in pathlib.Path('adapter').iterdir())}")
print(f"2. the update of a merged q_proj, as read back, acts {times:.4f} times")
sys.exit(0 if back == 0.0 and abs(times - 2) < 1e-3 else 1)
PY
"$place/env/bin/python" -W ignore seen.py
