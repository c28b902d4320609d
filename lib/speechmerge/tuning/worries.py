"""What the user of a tuned merge should worry about, in sentences: models, speech, and the choice itself."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..merging.merge import Merge
from ..whisper.checkpoints import BLOCK
from .choosing import Choice
from .lab import Lab
from .speech import FEW, Speech, repeated

UNEQUAL, FAR = 2.0, 0.1  # ratio of norms, ‖τ‖/‖θ0‖ from which something is said
ALIKE, OPPOSED = 0.7, 0.02  # cosines, the second one negative


def described(merge: Merge, names: Sequence[str]) -> dict[str, Any]:
    """Describe the experts' task vectors: norms, cosines, and where signs conflict.

    Args:
        merge: of the experts, opened.
        names: of the experts.

    Returns:
        ``relative``: ‖τ_t‖/‖θ0‖ of each expert; ``cosines``: ``(a, b, cosine)`` of each pair; ``conflict``: the share
        of Σ|τ_t| that cancels out in the sum over experts, 0 to 1; two random updates of equal size cancel 29 %.
    """
    count, base = len(names), merge.base
    gram, square, summed, whole = torch.zeros(count, count, dtype=torch.float64), 0.0, 0.0, 0.0
    for name, shape in base.shapes.items():
        size = math.prod(shape) if base.dtypes[name].is_floating_point else 0
        for low in range(0, size, BLOCK):  # in blocks, for in fp64 a token table of many experts is large
            part = name, low, min(low + BLOCK, size)
            start = base.block(*part).double()
            flat = torch.stack([expert.block(*part).double() - start for expert in merge.experts])
            gram += flat @ flat.mT
            square += start.square().sum().item()
            summed += flat.sum(0).abs().sum().item()
            whole += flat.abs().sum().item()
    norms = gram.diagonal().clamp(min=0).sqrt()
    cosine = gram / (norms[:, None] * norms).clamp(min=1e-300)
    return {
        "relative": dict(zip(names, (norms / math.sqrt(max(square, 1e-300))).tolist(), strict=True)),
        "cosines": [[names[i], names[j], cosine[i, j].item()] for i in range(count) for j in range(i + 1, count)],
        "conflict": 1 - summed / whole if whole else 0.0,
    }


def of_models(about: Mapping[str, Any], merge: Merge, lab: Lab) -> list[str]:
    """Say what is odd about base and experts."""
    said, relative = [], about["relative"]
    if len(relative) > 1 and max(relative.values()) > UNEQUAL * min(relative.values()):
        most, least = max(relative, key=relative.get), min(relative, key=relative.get)
        said.append(
            f"The updates are of unequal length: {most} moved {relative[most]:.2%} of the base's norm, {least} "
            f"{relative[least]:.2%}. A sum is led by the longer one; weights for the experts may help."
        )
    for name, value in relative.items():
        if value > FAR:
            said.append(
                f"{name} moved {value:.1%} of the base's norm, far for a fine-tune; make sure that this base is the "
                "one it was trained from."
            )
    for a, b, cosine in about["cosines"]:
        if cosine < -OPPOSED:
            said.append(f"The updates of {a} and {b} point away from each other (cosine {cosine:.2f}).")
        elif cosine > ALIKE:
            said.append(
                f"The updates of {a} and {b} are nearly the same (cosine {cosine:.2f}): was one trained from the other?"
            )
    for t in range(len(lab.experts)):
        for i, one in enumerate(lab.speeches):
            if one.expert == t and lab.references[i] >= lab.of_base[i]:
                said.append(
                    f"The expert {lab.names[t]} is no better than the base on its own speech {one.name} (loss "
                    f"{lab.references[i]:.3f} against {lab.of_base[i]:.3f}): wrong base, wrong speech, or a failed "
                    "training."
                )
    for name, rounding in zip(lab.names, merge.inputs.rounding, strict=True):
        if rounding:
            told = rounding.sentence(f"the expert {name}", "the base")
            said.append(told[0].upper() + told[1:])
    return said


def of_speech(speeches: Sequence[Speech]) -> list[str]:
    """Say what is odd about the speech."""
    said = []
    for one in speeches:
        small = min(one.sizes())
        if small < FEW:
            why = " The budget allowed no more." if min(one.drawn) > small else ""
            said.append(
                f"{one.name}: {len(one.choose)} clips choose and {len(one.report)} report; with fewer than {FEW} the "
                f"intervals are wide and the choice is a coarse one.{why}"
            )
        if one.dropped:
            told = ", ".join(f"{count} × {reason}" for reason, count in one.dropped)
            said.append(f"{one.name}: {sum(count for _, count in one.dropped)} clips were left out: {told}.")
        said += [f"{one.name}: {note}" for note in one.notes]
        if one.training:
            said.append(
                f"{one.name}: the source calls all of it training speech. If the expert was trained on it, its own "
                "numbers are too good and the merge's too."
            )
    if again := repeated(speeches):
        said.append(
            f"{again} {'sentence reports and stands' if again == 1 else 'sentences report and stand'} also among those "
            "that chose, spoken by another voice or in another source."
        )
    return said


def of_choice(choice: Choice, lab: Lab, numbers: Mapping[str, Any]) -> list[str]:
    """Say what is unsure about the choice."""
    said = []
    if choice.allowed and not choice.kept:
        said.append(
            "No merge that was decoded keeps what --keep asks for; the chosen one comes closest and loses "
            f"{100 * choice.chosen.excess:.1f} points more than allowed on the clips that choose."
        )
    for row in numbers["kept"]:
        if row["lost_report"] > row["allowed"] and choice.kept:
            said.append(
                f"On the clips that report, {row['speech']} loses {100 * row['lost_report']:.1f} points, more than the "
                f"{100 * row['allowed']:.1f} allowed, which held on the clips that choose."
            )
    for row in numbers["paired"]:
        if row["against"] == "average" and row["speech"] is None and row["high"] >= 0:
            said.append(
                "The chosen merge is not surely better than the untuned average: the interval of the difference "
                "includes zero."
            )
    for row in numbers["rows"]:
        if row["system"] == "chosen merge" and row["runaway"]:
            said.append(
                f"{row['speech']}: {row['runaway']} of {row['clips']} transcripts of the chosen merge ran away into "
                "repetition."
            )
    for name, reason in lab.failed.items():
        said.append(f"{name} could not be tried: {reason}")
    if numbers["budget"]["late"]:
        said.append(
            "The machine was slower than measured at the start: the merges decoded before the choice "
            f"({numbers['budget']['finalists']}) are fewer than planned, or experts were heard on their own speech."
        )
    if numbers["budget"]["cut"]:
        said.append(
            "The machine was slower than measured at the start, so the search ended early; `--evaluations "
            f"{numbers['budget']['used']:.1f}` gives the same result again."
        )
    return said
