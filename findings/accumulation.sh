#!/usr/bin/env bash
# transformers' Trainer and Whisper: N steps of gradient accumulation make loss and gradient N times as large.
# Seen 2026-11-30 with transformers 5.23.0, accelerate 1.15.0 and torch 2.13.0 on Python 3.11.
#   The Trainer divides a model's loss by `gradient_accumulation_steps`, unless the model's forward takes any keyword: it
#   then hands over how many tokens the whole step has and trusts the model to divide by them. Whisper's forward takes
#   any keyword and yet returns the plain mean of each batch, so nobody divides. One step on the same eight clips, with
#   transcripts of one length, as batches of 8, 4, 2 or 1: the loss and the gradient norm that are logged, and the step
#   of SGD, are 1, 2, 4 and 8 times what they should be. Adam hides most of it, but `max_grad_norm` clips that much
#   sooner, and training losses of runs that accumulate differently cannot be compared.
# Exits with 1 if this has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 accelerate==1.15.0 torch==2.13.0 \
  2> "$work/pip.log" || { cat "$work/pip.log"; exit 1; }
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import sys
import warnings

import accelerate
import torch
import transformers
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, WhisperConfig, WhisperForConditionalGeneration
from transformers.trainer_callback import PrinterCallback

warnings.simplefilter("ignore")
transformers.utils.logging.set_verbosity_error()
print(f"transformers {transformers.__version__}, accelerate {accelerate.__version__}, torch {torch.__version__}")
sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 50, "num_mel_bins": 8}
sizes |= {"dropout": 0.0}
sizes |= {f"{stack}_{what}": 2 for stack in ("encoder", "decoder") for what in ("layers", "attention_heads")}
ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0)
draw = torch.Generator().manual_seed(0)
clips = [{"input_features": torch.randn(8, 20, generator=draw), "labels": torch.randint(1, 50, (6,), generator=draw)}
         for _ in range(8)]


def trained(batch, steps):
    """One update on all clips: the loss and the norm of the gradient that are logged, and the length of the update."""
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **ends, max_source_positions=10))
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    how = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0, "max_steps": 1}
    how |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "logging_steps": 1}
    how |= {"report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    trainer = Seq2SeqTrainer(model, Seq2SeqTrainingArguments("out", **how), train_dataset=clips)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    logged = trainer.state.log_history[0]
    return logged["loss"], logged["grad_norm"], (after - before).norm().item()


whole = trained(8, 1)
wrong = False
for steps in (1, 2, 4, 8):
    found = trained(8 // steps, steps)
    times = [a / b for a, b in zip(found, whole)]
    wrong |= any(abs(ratio / steps - 1) > 0.01 for ratio in times)
    print(f"{steps} x {8 // steps} clips: loss {found[0]:.2f}, gradient norm {found[1]:.2f}, update {found[2]:.2f}; "
          f"{', '.join(f'{ratio:.2f}' for ratio in times)} times those of one batch")
sys.exit(wrong)
PYTHON
