"""What is compared: each method under the library's name and its peer's, with parameters that mean the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MERGEKIT, FUSION_BENCH = "mergekit", "fusion_bench"


@dataclass(frozen=True)
class Pair:
    """One comparison.

    Attributes:
        name: of the row.
        ours, options: the library's method and its options.
        theirs, parameters: the peer's method and its parameters; lists are given to the experts one each.
        base: what the peer takes for the base: the ``"model"``, the ``"first"`` expert, or ``"none"``.
        experts: how many are merged.
        same: whether the two results should agree; not so for random masks and for thresholds chosen otherwise.
    """

    name: str
    ours: str
    options: Mapping[str, Any] = field(default_factory=dict)
    theirs: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    base: str = "model"
    experts: int = 5
    same: bool = True
    peer: str = MERGEKIT

    def job(self, folders: list, output) -> dict[str, Any]:
        """Return what the process of either side is told."""
        told = {"folders": [str(folder) for folder in folders[: self.experts + 1]], "output": str(output)}
        return told | {"ours": self.ours, "options": dict(self.options), "method": self.theirs or self.ours} | {
            "parameters": dict(self.parameters), "base": self.base}  # fmt: skip


ONES = [1.0] * 5
FLAVOUR = {"flavour": "mergekit"}
DARE = {"weight": ONES, "density": [0.5] * 5, "lambda": 0.3}
DELLA = {"weight": ONES, "density": [0.7] * 5, "epsilon": [0.07] * 5}
CRUMBS = {"weight": ONES, "density": [0.6] * 5, "gamma": [0.05] * 5, "lambda": 0.3}
TRIMMED = {"weight": ONES, "density": [0.2] * 5}
CRUMBED = {"density": 0.6, "outliers": 0.05, "scaling": 0.3}

PAIRS = (
    Pair("linear", "weight_average", {}, "linear", {"weight": ONES}, base="none"),
    Pair("task_arithmetic", "task_arithmetic", {"scaling": 0.3}, parameters={"weight": ONES, "lambda": 0.3}),
    Pair("task_arithmetic, hashed", "task_arithmetic", {"scaling": 0.3, "fingerprints": True}, "task_arithmetic",
         {"weight": ONES, "lambda": 0.3}),
    Pair("slerp", "slerp", {"t": 0.3} | FLAVOUR, parameters={"t": 0.3}, base="first", experts=2),
    Pair("nuslerp", "slerp", {"t": 0.3, "space": "deltas"}, "nuslerp", {"weight": [0.7, 0.3]}, experts=2),
    Pair("multislerp", "multi_slerp", {}, "multislerp", {"weight": ONES}, base="none"),
    Pair("karcher", "karcher", base="none", same=False),  # theirs skips angles below its fp32 arccos
    Pair("model_stock", "model_stock", FLAVOUR),
    Pair("ties", "ties", {"density": 0.2} | FLAVOUR, parameters=TRIMMED),
    Pair("ties, paper", "ties", {"density": 0.2}, "ties", TRIMMED, same=False),
    Pair("sce", "sce", {"density": 0.1} | FLAVOUR, parameters={"select_topk": 0.1}),
    Pair("breadcrumbs", "breadcrumbs", CRUMBED | FLAVOUR, parameters=CRUMBS),
    Pair("breadcrumbs_ties", "breadcrumbs_ties", CRUMBED | FLAVOUR, parameters=CRUMBS),
    Pair("dare_linear", "dare", {"density": 0.5, "scaling": 0.3} | FLAVOUR, "dare_linear", DARE, same=False),
    Pair("dare_ties", "dare_ties", {"density": 0.5, "scaling": 0.3} | FLAVOUR, parameters=DARE, same=False),
    Pair("della", "della", FLAVOUR, parameters=DELLA, same=False),
    Pair("della_linear", "della_linear", FLAVOUR, parameters=DELLA, same=False),
    Pair("tsvm", "tsvm", peer=FUSION_BENCH),
    Pair("iso_c", "iso_c", peer=FUSION_BENCH),
    Pair("regmean", "regmean", {"alpha": 0.9, "ridge": 0.0}, parameters={"alpha": 0.9}, peer=FUSION_BENCH),
)  # fmt: skip
