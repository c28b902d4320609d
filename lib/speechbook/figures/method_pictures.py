"""Small pictures for the method cards: what a method does to a few vectors, to signs and sizes, or to a spectrum.

Every picture is the output of the method itself on a made-up model that fits on a page.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, Ellipse
from torch import Tensor

from speechmerge.merging.engine import merge_state_dicts
from speechmerge.merging.methods import Method

from . import style

NAME = "model.encoder.layers.{}.fc1.weight"
LINEAR = NAME.format(0)
TARGET = torch.tensor([2.9, 1.1], dtype=torch.float64)  # where the made-up development loss is least
GREY, PALE = "#777777", "#dddddd"
SIGNS = LinearSegmentedColormap.from_list("signs", ["#2166ac", "white", "#c2571a"])  # below zero, zero, above
DRAWN = {  # parameters a picture is drawn with where the defaults would show little on so small a model
    "task_arithmetic": {"scaling": 0.5},
    "ties": {"density": 0.4},
    "breadcrumbs": {"density": 0.4},
    "breadcrumbs_ties": {"density": 0.4},
    "localize_and_stitch": {"density": 0.25},
    "pcb": {"density": 0.5},
    "sce": {"density": 0.5},
    "ram": {"epsilon": 0.25},
    "ramplus_tl": {"epsilon": 0.25, "r": 1.0, "alpha": 2.0},
    "nearswap": {"t": 0.25},
    "arcee_fusion": {"fence": 0.5},
    "svp": {"rank_ratio": 0.17},
    "lors": {"rank_ratio": 0.17, "density": 0.1},
    "subspace_boosting": {"boost": 0.7},
    "wudi": {"solver": "closed_form"},
    "optmerge": {"rate": 0.01},
    "doge_ta": {"strength": 3.0, "density": 1.0, "rate": 0.01},
    "learned_average": {"steps": 300, "rate": 0.1},
    "learned_arithmetic": {"steps": 300, "rate": 0.1},
    "adamerging": {"rate": 0.01},
    "evo_merging": {"penalty": 0.1},
}
ENTRIES = (  # task vectors of three experts, in tenths
    (8, -2, 1, 5, -6, 1, -3, 0, 2, 9, -1, 4, -7, 3, 1, -4, 6, -1, 2, -5),
    (6, 3, -1, 4, 5, -1, -5, 2, 0, -7, 1, 3, -8, -2, 1, 4, 5, 1, -3, 2),
    (7, 2, 0, -9, -4, 2, -4, -1, 1, 6, 1, -3, -5, -3, -1, 2, 7, 0, -2, -6),
)


@dataclass(frozen=True)
class Picture:
    """A small picture: the drawing, what it shows in words, the parameters it was drawn with."""

    fig: Figure
    alt: str
    options: Mapping


def draw(method: Method) -> Picture:
    """Merge a made-up model and draw what came of it."""
    kind = KINDS["depth" if "depth" in method.needs else method.family]
    with style.applied():
        return kind(method, dict(DRAWN.get(method.name, {})))


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of bare panels side by side, sizes in inches."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, [fig.add_subplot(1, panels, i + 1, frameon=False, xticks=(), yticks=()) for i in range(panels)]


def _merge(method: Method, options: Mapping, rows: Tensor, **extras: object) -> Tensor:
    """Merge experts that have one tensor, ``[T, ...]``, of a base that is zero."""
    rows = rows.double()
    base, experts = {LINEAR: torch.zeros_like(rows[0])}, [{LINEAR: row} for row in rows]
    return merge_state_dicts(method.name, base, experts, extras=extras, **options)[LINEAR]


def _statistics(points: Tensor) -> dict:
    """Made-up Fishers and Grams of the experts ``[T, 2]``, and the error of a merged model on development data."""
    fishers = torch.tensor([[6.0, 1.0], [1.0, 1.0], [0.5, 4.0]]).double()[: len(points)]
    grams = torch.diag_embed(fishers)
    for gram, tilt in zip(grams, (0.9, 0.0, -0.5), strict=False):
        gram[0, 1] = gram[1, 0] = tilt * gram.diagonal().prod().sqrt()

    def gradient(state: dict) -> tuple[float, dict]:
        gap = state[LINEAR] - TARGET
        return 0.5 * gap.square().sum().item(), {LINEAR: gap}

    return {
        "fishers": [{LINEAR: fisher[None]} for fisher in fishers],
        "grams": [{LINEAR.removesuffix(".weight"): gram} for gram in grams],
        "score": lambda state: (state[LINEAR] - TARGET).norm().item(),
        "loss": lambda state: gradient(state)[0],
        "gradient": gradient,
        "entropy": gradient,
    }


def _plane(method: Method, options: dict) -> Picture:
    """Two-dimensional experts as arrows from the base, and the merge among them."""
    angles, lengths = torch.tensor([5.0, 25.0, 105.0]).double().deg2rad(), torch.tensor([3.0, 2.2, 2.6]).double()
    points = torch.stack([lengths * angles.cos(), lengths * angles.sin()], -1)[: method.experts or 3]
    known = _statistics(points)
    used = {key: known[key] for key in method.data}
    found = _merge(method, options, points[:, None], **used)[0]
    fig, [axes] = _figure(3.4, 2.0)
    axes.set(aspect="equal", xlim=(-1.3, 4.2), ylim=(-0.5, 3.1))
    for name in ("grams", "fishers"):
        shapes = [next(iter(item.values())) for item in used.get(name, ())]
        for point, shape in zip(points, shapes, strict=bool(shapes)):
            axes.add_patch(_ellipse(point, shape if name == "grams" else shape[0].diag()))
    if method.fit:
        for radius in (0.25, 0.54, 0.82):
            axes.add_patch(Circle(TARGET.tolist(), radius, fill=False, color=PALE))
        axes.text(*TARGET, "×", ha="center", va="center")
        axes.text(TARGET[0], TARGET[1] + 0.9, "least error on dev", ha="center", fontsize=8)
    for number, point in enumerate(points, start=1):
        _arrow(axes, point, GREY, 1.2)
        axes.text(*(point * (1 + 0.3 / point.norm())), f"$\\theta_{number}$", color=GREY, ha="center", va="center")
    if "space" in method.parameters:  # it has a sphere
        length = 2 * found.norm().item()
        axes.add_patch(Arc((0, 0), length, length, theta1=-3, theta2=112, color=GREY, linestyle="--"))
    _arrow(axes, found, style.COLOURS[method.family], 2.5)
    axes.plot(0, 0, ".", color="black")
    axes.text(-0.1, -0.1, r"$\theta_0$", ha="right", va="top")
    told = ", ".join(f"({x:.1f}, {y:.1f})" for x, y in points.tolist())
    alt = f"Arrows from the base at the origin to experts at {told}, and to their merge at "
    alt += f"({found[0]:.2f}, {found[1]:.2f})."
    if method.fit:
        alt += f" The error on dev is least at ({TARGET[0]:.1f}, {TARGET[1]:.1f})."
    return Picture(fig, alt, options)


def _arrow(axes: Axes, to: Tensor, colour: str, width: float) -> None:
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", to.tolist(), (0, 0), arrowprops=look)


def _ellipse(centre: Tensor, shape: Tensor) -> Ellipse:
    """The curve around a centre on which a quadratic form, ``shape`` ``[2, 2]``, has one value."""
    values, vectors = torch.linalg.eigh(shape)
    width, height = (0.8 / values.sqrt()).tolist()
    turn = math.degrees(math.atan2(vectors[1, 0], vectors[0, 0]))
    return Ellipse(centre.tolist(), width, height, angle=turn, facecolor=PALE, edgecolor=GREY, alpha=0.6)


def _entries(method: Method, options: dict) -> Picture:
    """Rows of entries: three experts, and what the merge keeps of them."""
    rows = torch.tensor(ENTRIES[: method.experts]).double() / 10
    if method.scale == "sum":
        options = {"scaling": round(1 / len(rows), 2), **options}
    found = _merge(method, options, rows[:, None])[0]
    shown = {f"expert {number}": row for number, row in enumerate(rows, start=1)}
    shown["task 1" if method.family == "per_task" else "merged"] = found
    alt = f"Three rows of {len(found)} signed entries, one an expert, and a row of what is made of them, in which "
    if method.experts == 1:  # what it leaves out says as much
        shown["left out"] = rows[0] - found
        alt = f"A row of {len(found)} signed entries, a row of what is taken of them, and one of the rest; "
        alt += "in the second "
    fig, [axes] = _figure(4.4, 0.2 + 0.2 * len(shown))
    _grid(axes, torch.stack(list(shown.values())), 0.9, list(shown))
    axes.get_yticklabels()[len(rows)].set_fontweight("bold")
    axes.axhline(len(rows), color="white", linewidth=6)
    alt += f"{int((found == 0).sum())} are zero."
    return Picture(fig, alt, options)


def _grid(axes: Axes, values: Tensor, scale: float, names: Sequence[str] = ()) -> None:
    """Cells of a matrix: orange above zero, blue below, stronger for larger, blank for exactly zero."""
    look = {"cmap": SIGNS, "vmin": -scale, "vmax": scale, "linewidths": 0.5, "linecolor": PALE, "cbar": False}
    sns.heatmap(values.numpy(), square=True, xticklabels=[], yticklabels=names, ax=axes, **look)
    axes.tick_params("y", labelsize=8, rotation=0)


def _bars(axes: Axes, before: Tensor, after: Tensor, colour: str) -> None:
    """Two spectra in one frame: the one before as outlines, the one after as bars."""
    axes.bar(range(len(after)), after.tolist(), 0.7, color=colour, label="merged")
    outlines = {"fill": False, "edgecolor": "black", "linewidth": 0.8, "label": "the sum of the experts"}
    axes.bar(range(len(before)), before.tolist(), 0.95, **outlines)
    axes.axhline(0, color=GREY, linewidth=1)


def _matrices(count: int, size: int = 12) -> Tensor:
    """Made-up task matrices with falling spectra that share their strongest direction; ``[count, size, size]``."""
    steps = torch.arange(size).double()
    wave = torch.cos(math.pi * (2 * steps[:, None] + 1) * steps[None] / (2 * size))
    basis = wave / wave.norm(dim=0)
    values = 2.0 * 0.72**steps
    first, others = torch.zeros(1, dtype=torch.long), torch.arange(size - 1)
    turned = [torch.cat([first, 1 + (others * (t + 2) + 3 * t) % (size - 1)]) for t in range(count)]
    made = torch.stack([(basis[:, order] * values) @ basis[:, order.roll(t)].T for t, order in enumerate(turned)])
    return made + 0.02 * torch.sin(torch.arange(made.numel()).double() ** 1.3).view_as(made)  # no two entries are equal


def _pruned(method: Method, options: dict) -> Picture:
    """One task matrix, what pruning keeps of it, and both spectra."""
    matrix = _matrices(1, 10)[0]
    spikes = torch.zeros_like(matrix)
    spikes[[1, 4, 6, 8, 9], [7, 2, 9, 5, 0]] = torch.tensor([0.9, -0.8, 0.8, -0.9, 0.7]).double()
    matrix = matrix + spikes
    found = _merge(method, options, matrix[None])
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(found)
    fig, panels = _figure(4.6, 1.6, 3)
    for axes, values in zip(panels, (matrix, found), strict=False):
        _grid(axes, values, matrix.abs().max().item())
    _bars(panels[2], before, after, style.COLOURS[method.family])
    for axes, name in zip(panels, ("task matrix", "kept", "singular values"), strict=True):
        axes.set_title(name, fontsize=8, fontweight="normal")
    rank, kept = int((after > 1e-9).sum()), int((found != 0).sum())
    alt = f"A task matrix of {found.numel()} entries beside what is kept of it: {kept} entries are not zero, and the "
    alt += f"rank is {rank} of {len(matrix)}."
    return Picture(fig, alt, options)


def _spectrum(method: Method, options: dict) -> Picture:
    """Singular values of the sum of three task matrices, and of what the method makes of them."""
    deltas = _matrices(3)
    found = _merge(method, options, deltas)
    before, after = torch.linalg.svdvals(deltas.sum(0)), torch.linalg.svdvals(found)
    fig, [axes] = _figure(3.4, 1.7)
    _bars(axes, before, after, style.COLOURS[method.family])
    axes.legend(fontsize=8)
    axes.set_title("singular values, largest first", y=-0.15, fontsize=8, fontweight="normal")
    alt = f"Bars of {len(after)} singular values of the merged matrix, from {after[0]:.2f} down to {after[-1]:.2f}, "
    alt += f"beside outlines of those of the experts' sum, from {before[0]:.2f} down to {before[-1]:.2f}."
    return Picture(fig, alt, options)


def _depth(method: Method, options: dict) -> Picture:
    """How much of the sum each layer of a stack gets."""
    names = [NAME.format(i) for i in range(6)]
    base = {name: torch.zeros(1, 1, dtype=torch.float64) for name in names}
    experts = [{name: torch.ones(1, 1, dtype=torch.float64) for name in names}] * 3
    merged = merge_state_dicts(method.name, base, experts, **options)
    share = [merged[name].item() / len(experts) for name in names]
    fig, [axes] = _figure(3.4, 1.7)
    bars = axes.bar(range(6), share, 0.75, color=style.COLOURS[method.family])
    axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set(ylabel="share of the sum")
    axes.set_xticks(range(6), ["layer 1", *range(2, 7)])
    axes.grid(visible=False)
    alt = "Bars of the share of the summed task vectors that each layer of a stack of six gets: "
    alt += ", ".join(f"{value:.2f}" for value in share) + "."
    return Picture(fig, alt, options)


KINDS: dict[str, Callable[[Method, dict], Picture]] = {
    "depth": _depth,
    "averaging": _plane,
    "spherical": _plane,
    "calibrated": _plane,
    "learned": _plane,
    "sparse": _entries,
    "per_task": _entries,
    "lowrank": _pruned,
    "subspace": _spectrum,
}
