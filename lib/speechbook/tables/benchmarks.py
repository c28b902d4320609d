"""Tables of the timings that ``make bench`` keeps in ``results/bench/``: ratios of whole processes, made in one run."""

import pandas as pd

from speechmerge.errors import StudyError
from speechmerge.merging.dialect import NAMES

from ..figures.numbers import change
from ..figures.style import DASH
from ..study import store

SIZE = "small"  # the shape that comparisons with other libraries are made at
MARKS = {"mergekit": "", "fusion_bench": " *"}  # after a method's name: which library it is compared with
PLAIN = "torch.linalg.svd"
TARGETS = {  # set before the work on speed: for a kind of ratio, the most that each method should take
    "time / floor": {"ties": 3, "breadcrumbs": 4, "dare_linear": 3, "dare_ties": 3, "della": 3, "della_linear": 3},
    "time / peer": {
        "ties": 0.08, "sce": 0.1, "task_arithmetic, hashed": 0.8, "tsvm": 0.2, "iso_c": 0.35, "regmean": 0.7,
    },
    "cpu / plain": {"tsvm, rule only": 0.2, "lors, rule only": 0.25},
}  # fmt: skip


def lines() -> pd.DataFrame:
    """Return every line of the one machine that was timed last.

    Raises:
        StudyError: nothing has been timed.
    """
    try:
        found = store.statistics("bench", "timings")
    except StudyError as error:
        raise StudyError("there are no timings in results/bench; run `make bench`.") from error
    return _last(found)


def _last(found: pd.DataFrame) -> pd.DataFrame:
    return found[found["hardware"] == found.sort_values("date", kind="stable")["hardware"].iloc[-1]]


def _shared(found: pd.DataFrame) -> pd.DataFrame:
    return found[(found["size"] == SIZE) & ~found["peer"].isin([PLAIN, "none"])]


def ratios(found: pd.DataFrame) -> pd.DataFrame:
    """Return time and memory against the peer's, in memory: columns ``panel, label, method, value``, 1 being equal."""
    shared = _shared(found).sort_values("ratio time / peer")
    named = pd.DataFrame({"label": shared["method"], "method": shared["method"].str.partition(",")[0].replace(NAMES)})
    panels = {"time": "ratio time / peer", "peak memory": "ratio memory / peer"}
    return pd.concat([named.assign(panel=panel, value=shared[column]) for panel, column in panels.items()])


def against_peers(found: pd.DataFrame) -> pd.DataFrame:
    """Return one line a method that another library has too: seconds, memory, and ratios below 1 where this is less."""
    shared = _shared(found)
    columns = {
        "ours_s": "seconds", "ratio time / floor": "of floor", "ratio time / peer": "time", "ratio cpu / peer": "cpu",
        "ratio memory / peer": "memory", "ratio time / command": "time ", "ratio memory / command": "memory ",
        "difference": "difference",
    }  # fmt: skip
    table = _shown(shared, columns)
    groups = ["this library"] * 2 + ["of the peer, in memory"] * 3 + ["of its command"] * 2 + [""]
    table.columns = pd.MultiIndex.from_arrays([groups, table.columns])
    return table.rename(dict(zip(shared["method"], shared["method"] + shared["peer"].map(MARKS), strict=True)))


def against_plain(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rules that need singular vectors, against the same rules written with ``torch.linalg.svd``."""
    columns = {"ours_cpu_s": "seconds", "ratio cpu / plain": "time", "difference": "difference"}
    return _shown(found[(found["size"] == SIZE) & (found["peer"] == PLAIN)], columns)


def targets(found: pd.DataFrame) -> pd.DataFrame:
    """Return one line a target that was set beforehand: its ratio, the one measured, and whether that is no larger."""
    own = found[found["size"] == SIZE].set_index("method")
    lines = [
        {"method": method, "ratio": kind, "target": limit, "measured": own.loc[method, f"ratio {kind}"]}
        for kind, limits in TARGETS.items()
        for method, limit in limits.items()
        if method in own.index
    ]
    table = pd.DataFrame(lines).assign(
        met=lambda line: (line["measured"] <= line["target"]).map({True: "yes", False: "no"})
    )
    return table.set_index("method").rename_axis(index=None)


def memory(found: pd.DataFrame) -> pd.DataFrame:
    """Return seconds and peak memory of what has no peer beside it: large merges, and a tuning, of five models each."""
    return _shown(found[found["peer"] == "none"], {"size": "whisper", "ours_s": "seconds", "ours_gb": "memory, GB"})


def together() -> pd.DataFrame:
    """Return merges made at once: seconds, in times of the first one alone, as a share of all made one by one.

    Raises:
        StudyError: none have been timed.
    """
    found = _last(store.statistics("bench", "together"))
    columns = {"together_s": "seconds", "ratio s / first": "times the first", "ratio s / apart": "of one by one"}
    return _shown(found[found["size"] == SIZE].rename(columns={"merges": "method"}), columns)


def fusing() -> pd.DataFrame:
    """Return what fusing frozen models takes: a convolution beside PyTorch's own, and a training's peak of memory.

    Raises:
        StudyError: nothing has been measured.
    """
    found = _last(store.statistics("bench", "fusing"))
    stores = found["store_gb"].map(" on a store of {:.1f} GB".format)
    found = found.assign(method=found["what"] + stores.where(found["store_gb"] > 0, ""))
    columns = {"ratio cpu / conv1d": "of nn.Conv1d's time", "difference": "difference", "ours_gb": "memory, GB"}
    return _shown(found, columns)


def listening() -> pd.DataFrame:
    """Return what clips take with models that are merged while they listen, one line a system and number of experts.

    Returns:
        Columns ``system, experts``; ``times`` and ``memory``: of one fixed merge's time for a clip and peak of memory;
        ``own``: the mean share that a clip's own expert had in what decoded it, where experts were chosen or weighed.

    Raises:
        StudyError: none have been timed.
    """
    found = _last(store.statistics("bench", "listening"))
    found = found.rename(columns={"times seconds": "times", "times gb": "memory"})
    return found[["system", "experts", "times", "memory", "own"]].reset_index(drop=True)


def tuned() -> pd.DataFrame:
    """Return what ``speechmerge tune`` chose beside the best merge of each method that it tried, on test clips.

    Raises:
        StudyError: nothing has been compared.
    """
    found = store.statistics("bench", "tuned").set_index("system")
    rates = 100 * found[["error", "ci_low", "ci_high", "difference", "low", "high"]]
    table = pd.DataFrame({"λ": found["scaling"].map("{:.2f}".format, na_action="ignore").fillna("")})
    table["error, %"] = rates["error"].map("{:.1f}".format)
    table["95 %"] = rates["ci_low"].map("{:.1f}".format) + DASH + rates["ci_high"].map("{:.1f}".format)
    changes = rates.rename(columns={"difference": "value"})
    table["chosen minus this"] = ["" if pd.isna(row.value) else change(row) for row in changes.itertuples()]
    chosen = {"chosen by tune": f"chosen by tune: {found['method'].get('chosen by tune')}"}
    return table.rename(index=chosen).rename_axis(index=None)


def _shown(found: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Choose and name columns, and write numbers as they are read."""
    table = found.set_index("method").reindex(columns=list(columns)).rename(columns=columns)
    for name in table.select_dtypes("number"):
        form = "{:.0e}" if name == "difference" else "{:.0f}" if name == "seconds" else "{:.2f}"
        table[name] = [form.format(value) if pd.notna(value) else "" for value in table[name]]
    return table.rename_axis(index=None)
