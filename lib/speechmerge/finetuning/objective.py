"""What a training minimises, and how large its steps are."""

import torch
from transformers import WhisperForConditionalGeneration

from .packing import IGNORED


def target_logits(
    whisper: WhisperForConditionalGeneration,
    input_features: torch.Tensor,
    decoder_input_ids: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, ``[n, tokens]``, and labels, ``[n]``, of the target tokens of a batch from ``packing.collate``.

    Leaving all other positions out halves the cost of the head.
    """
    states = whisper.model(input_features, decoder_input_ids=decoder_input_ids).last_hidden_state
    target = labels != IGNORED
    return whisper.proj_out(states[target]), labels[target]


class TokenLoss(torch.nn.Module):
    """Whisper with its training loss."""

    def __init__(self, whisper: WhisperForConditionalGeneration, kept: torch.Tensor | None = None) -> None:
        """Wrap a model; ``kept``, a mask of shape ``[tokens]``, names rows of the token table that are not trained."""
        super().__init__()
        self.whisper = whisper
        whisper.model.encoder.embed_positions.requires_grad_(False)  # the fixed sinusoid; loading makes it trainable
        if kept is not None:  # a gradient that is always zero moves nothing, for there is no weight decay
            table = whisper.model.decoder.embed_tokens.weight
            table.register_hook(lambda gradient: gradient.masked_fill(kept.to(gradient.device)[:, None], 0.0))

    def forward(
        self, input_features: torch.Tensor, decoder_input_ids: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean cross-entropy in nats over the target tokens of a batch from :func:`packing.collate`."""
        return torch.nn.functional.cross_entropy(
            *target_logits(self.whisper, input_features, decoder_input_ids, labels)
        )


def rate(step: int, steps: int, warmup: float, *, decays: bool = True) -> float:
    """Share of the peak learning rate: linear warm-up over ``warmup`` of ``steps``, then a linear decay or none."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    return max(0.0, (steps - step) / max(1, steps - ramp)) if decays else 1.0
