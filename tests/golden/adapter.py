"""Joins the library to ``check.py``: the peers' names for methods and parameters, said in the library's own."""

from collections.abc import Callable

import speechmerge

FROZEN_TOO = {"FROZEN": "rule"}  # peers that know no frozen tensor count its zeros


def merge(method: str, base: dict, experts: list[dict], extras: dict, params: dict) -> dict:
    """Merge as golden entry ``params["golden"]`` was made.

    Args:
        method: the entry's name of the method.
        base: tensors by name, without the tied head.
        experts: the entry's experts.
        extras: ``grams`` and ``fisher`` of these experts, ``config``, ``frozen``.
        params: the peer's parameters, and ``variant``, ``golden``, for random methods ``seed``.

    Raises:
        NotImplementedError: a method the library does not have.
    """
    if method not in ADAPTED:
        raise NotImplementedError(method)
    name, options, needed = ADAPTED[method](params, extras)
    return speechmerge.merge_state_dicts(name, base, experts, extras=needed, **options)


def weighted(params: dict) -> dict:
    return {"weights": params["weights"]} if "weights" in params else {}


def linear(params: dict, extras: dict) -> tuple:
    return "weight_average", weighted(params), None


def task_arithmetic(params: dict, extras: dict) -> tuple:
    return "task_arithmetic", weighted(params) | {"scaling": params["lam"]}, None


def ties(params: dict, extras: dict) -> tuple:
    flavour = "official" if params["trim_scope"] == "global" else "mergekit"
    options = {"density": params["density"], "scaling": params["lam"], "flavour": flavour, "merge": params["merge"]}
    if not params.get("exclude_frozen", True):
        options["policy"] = FROZEN_TOO
    return "ties", options | weighted(params), None


def slerp(params: dict, extras: dict) -> tuple:
    return "slerp", {"t": params["t"], "flavour": "mergekit"}, None


def nuslerp(params: dict, extras: dict) -> tuple:
    first, second = params["weights"]
    return "slerp", {"t": second / (first + second), "space": SPACES[params["space"]]}, None


SPACES = {"weights": "weights", "delta": "deltas"}


def multislerp(params: dict, extras: dict) -> tuple:
    return "multi_slerp", weighted(params) | {"space": SPACES[params["space"]]}, None


def karcher(params: dict, extras: dict) -> tuple:
    options = {"iterations": params["max_iter"], "tolerance": params["tol"], "space": SPACES[params["space"]]}
    return "karcher", options, None


def model_stock(params: dict, extras: dict) -> tuple:
    flavour = "mergekit" if params["angle"] == "mean_cosine" else "fusion_bench"
    return "model_stock", {"per_row": params["filter_wise"], "flavour": flavour}, None


def sce(params: dict, extras: dict) -> tuple:
    flavour = "mergekit" if params["masked_deltas"] else "paper"
    return "sce", {"density": params["select_topk"], "flavour": flavour}, None


def breadcrumbs(params: dict, extras: dict) -> tuple:
    flavour = "official" if params["rank_scope"] == "row" else "mergekit"
    density = params.get("density", params.get("beta"))
    options = {"density": density, "outliers": params["gamma"], "scaling": params["lam"], "flavour": flavour}
    return "breadcrumbs", options, None


def breadcrumbs_ties(params: dict, extras: dict) -> tuple:
    return "breadcrumbs_ties", breadcrumbs(params, extras)[1], None


def subspace(name: str) -> Callable:
    def adapted(params: dict, extras: dict) -> tuple:
        common = {"common": params["common_space_fraction"]} if "common_space_fraction" in params else {}
        return name, {"scaling": params["alpha"]} | common, None

    return adapted


def regmean(params: dict, extras: dict) -> tuple:
    return "regmean", {"alpha": params["alpha"], "ridge": 0.0}, {"grams": extras["grams"]}


def fisher(params: dict, extras: dict) -> tuple:
    options = {"weights": params["coeffs"], "floor": params["floor"], "normalise": params["normalize"]}
    options |= {"flavour": "fusion_bench", "policy": FROZEN_TOO}
    return "fisher", options, {"fishers": extras["fisher"]}


def emr(params: dict, extras: dict) -> tuple:
    rescale = "sums" if params["rescale"] == "global" else "means"
    return "emr", {"task": params["task"], "rescale": rescale}, None


def tall_mask(params: dict, extras: dict) -> tuple:
    return "tall_mask", {"task": params["task"], "strictness": params["lam"], "scaling": params["alpha"]}, None


def consensus(params: dict, extras: dict) -> tuple:
    return "consensus", {"votes": params["k"], "strictness": params["lam"], "scaling": params["alpha"]}, None


def pcb(params: dict, extras: dict) -> tuple:
    return "pcb", {"density": params["ratio"], "limit": params["clamp_q"], "scaling": params["lam"]}, None


def wudi(params: dict, extras: dict) -> tuple:
    others = dict.fromkeys(("EMB", "CONV", "VEC"), params["nonmat"])
    options = {"flavour": "official", "steps": params["steps"], "rate": params["lr"], "policy": others}
    return "wudi", options, None


def localize_and_stitch(params: dict, extras: dict) -> tuple:
    return "localize_and_stitch", {"density": params["density"], "flavour": "official"}, None


def lines(params: dict, extras: dict) -> tuple:
    return "lines", {"alpha": params["alpha"], "beta": params["beta"]}, None


def random(name: str) -> Callable:
    def adapted(params: dict, extras: dict) -> tuple:
        options = {"density": params["density"], "scaling": params["lam"], "seed": params["seed"]}
        if "mergekit" in params["variant"]:
            options["flavour"] = "mergekit"
        if "epsilon" in params:
            options["window"] = params["epsilon"]
        return name, options, None

    return adapted


ADAPTED = {
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "model_stock": model_stock,
    "sce": sce,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": breadcrumbs_ties,
    "tsvm": subspace("tsvm"),
    "iso_c": subspace("iso_c"),
    "iso_cts": subspace("iso_cts"),
    "regmean": regmean,
    "fisher": fisher,
    "emr": emr,
    "tall_mask": tall_mask,
    "consensus": consensus,
    "pcb": pcb,
    "wudi": wudi,
    "localize_and_stitch": localize_and_stitch,
    "lines": lines,
    "dare_linear": random("dare"),
    "dare_ties": random("dare_ties"),
    "della": random("della"),
    "della_linear": random("della_linear"),
}
