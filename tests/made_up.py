"""Results that only tests may show: rows, comparisons and task vectors of the right form, with made-up values."""

import itertools

import torch

from speechmerge.merging import task_vectors
from speechmerge.studies import experiments, store

METHODS = {None: "none", "cell": "fine-tuning", "all": "joint training"}


def made_up_rows(profile: str, experiment: str = "table1") -> list[dict]:
    """Rows of every system and language of an experiment, with values that only tests may show."""
    settings = experiments.profiles()[profile]
    described = experiments.experiments()[experiment]
    languages = [*settings["sets"][described["languages"]], "pooled", "macro"]
    rows = []
    for number, (entry, language) in enumerate(itertools.product(described["systems"], languages)):
        wer = 0.3 + 0.002 * (number * 37 % 100)
        row = dict.fromkeys(store.ROW_FIELDS)
        row |= {"experiment": experiment, "profile": profile, "system": entry["system"], "language": language}
        row |= {
            "method": entry.get("method") or METHODS[entry.get("train")],
            "base": settings["base"],
            "task": "asr",
            "variant": "",
        }
        row |= {"split": "test", "wer": wer, "ci_low": wer - 0.02, "ci_high": wer + 0.03, "seed": 0, "params": {}}
        row |= {"n_utterances": 20, "n_reference_words": 90, "runaway": 1, "library": "0.0.0", "date": "2001-01-01"}
        row |= {"hardware": "made up for tests", "experts": [], "seconds": 1.0}
        row |= {"training": _trainings(entry, languages[:-2])}
        rows.append(row)
    return rows


def _trainings(entry: dict, languages: list[str]) -> dict[str, dict]:
    """What a row tells of the trainings behind its system; none for the base."""
    labels = [] if entry.get("model") == "base" else ["+".join(languages)] if entry.get("train") == "all" else languages
    log = {"learning_rate": 1e-5, "minutes": 2.5, "best_epoch": 2, "epochs": 3, "windows": 30, "seconds": 10.0}
    return {f"choose {label} asr": log for label in labels}


def made_up_comparisons(experiment: str) -> list[dict]:
    """Paired differences of every system from those the experiment names: one lower, one higher, the others unclear."""
    described = experiments.experiments()[experiment]
    names = [entry["system"] for entry in described["systems"]]
    rows = []
    for against in described["against"]:
        for number, system in enumerate(name for name in names if name != against):
            difference = (-0.03, 0.03, 0.001)[min(number, 2)]
            interval = {"ci_low": difference - 0.02, "ci_high": difference + 0.02, "p_value": 0.0002 * (1 + number)}
            rows.append(
                {
                    "system": system,
                    "against": against,
                    "task": "asr",
                    "variant": "",
                    "seed": 0,
                    "difference": difference,
                }
                | interval
            )
    return rows


def made_up_task_vectors(profile: str) -> list[dict]:
    """Statistics of random updates of a network of Whisper's tensor names, 32 wide."""
    generator = torch.Generator().manual_seed(0)
    shapes = {}
    for stack, layer in itertools.product(("encoder", "decoder"), range(2)):
        place = f"model.{stack}.layers.{layer}"
        attention = ["self_attn", "encoder_attn"] if stack == "decoder" else ["self_attn"]
        shapes |= {f"{place}.{block}.{part}_proj.weight": (32, 32) for block in attention for part in "qkv"}
        shapes |= {f"{place}.fc1.weight": (64, 32), f"{place}.fc2.weight": (32, 64), f"{place}.fc1.bias": (64,)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    languages = experiments.profiles()[profile]["sets"]["set1"]
    experts = {
        language: {name: w + 1e-3 * torch.randn(w.shape, generator=generator) for name, w in base.items()}
        for language in languages
    }
    return task_vectors.describe(base, experts)
