"""The number formats one may compute in, by name; ``auto`` is bf16 where it pays (:mod:`speechmerge.devices`)."""

PRECISIONS = ("auto", "bf16", "fp32")
