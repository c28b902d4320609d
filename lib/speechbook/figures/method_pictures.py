"""Small pictures for the method cards: what a method does to a few vectors, to signs and sizes, or to a spectrum.

Every picture is the output of the method itself on a made-up model that fits on a page. The SVG is written by hand and
rounded to tenths of a pixel, so that the same picture comes out on every machine.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from speechmerge.merging.engine import merge_state_dicts
from speechmerge.merging.methods import Method

from . import style, svg

NAME = "model.encoder.layers.{}.fc1.weight"
LINEAR = NAME.format(0)
TARGET = torch.tensor([2.9, 1.1], dtype=torch.float64)  # where the made-up development loss is least
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
    """A small picture: its SVG, what it shows in words, the parameters it was drawn with."""

    svg: str
    alt: str
    options: Mapping


def draw(method: Method) -> Picture:
    """Merge a made-up model and draw what came of it."""
    kind = KINDS["depth" if "depth" in method.needs else method.family]
    return kind(method, dict(DRAWN.get(method.name, {})))


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
    unit, origin, colour, body = 56, (96, 172), style.COLOURS[method.family], []

    def place(point: Tensor) -> tuple[float, float]:
        return origin[0] + unit * point[0].item(), origin[1] - unit * point[1].item()

    for name in ("grams", "fishers"):
        shapes = [next(iter(item.values())) for item in used.get(name, ())]
        for point, shape in zip(points, shapes, strict=bool(shapes)):
            body.append(svg.ellipse(place(point), shape if name == "grams" else shape[0].diag(), unit))
    if method.fit:
        x, y = place(TARGET)
        body += [svg.circle((x, y), radius, stroke=svg.PALE) for radius in (14, 30, 46)]
        body += [svg.text(x, y + 4, "×", "middle"), svg.text(x, y - 52, "least error on dev", "middle")]
    for number, point in enumerate(points, start=1):
        body += svg.arrow((*origin, *place(point)), svg.GREY, 1.2)
        x, y = place(point * (1 + 0.2 / point.norm()))
        body.append(svg.text(x, y + 4, "θ", "middle", svg.GREY, index=str(number)))
    if "space" in method.parameters:  # it has a sphere
        body.append(svg.arc(found.norm().item() * unit, origin))
    body += [*svg.arrow((*origin, *place(found)), colour, 3), svg.circle(origin, 3, fill=svg.DARK)]
    body.append(svg.text(origin[0] - 7, origin[1] + 14, "θ", "end", index="0"))
    told = ", ".join(f"({x:.1f}, {y:.1f})" for x, y in points.tolist())
    alt = f"Arrows from the base at the origin to experts at {told}, and to their merge at "
    alt += f"({found[0]:.2f}, {found[1]:.2f})."
    if method.fit:
        alt += f" The error on dev is least at ({TARGET[0]:.1f}, {TARGET[1]:.1f})."
    return Picture(svg.document(330, 194, body), alt, options)


def _entries(method: Method, options: dict) -> Picture:
    """Rows of entries: three experts, and what the merge keeps of them."""
    rows = torch.tensor(ENTRIES[: method.experts]).double() / 10
    if method.scale == "sum":
        options = {"scaling": round(1 / len(rows), 2), **options}
    found = _merge(method, options, rows[:, None])[0]
    cell, left, below, colour = 18, 62, 12 + 18 * len(rows), style.COLOURS[method.family]
    body = [svg.text(left - 6, 14 + cell * i, f"expert {i + 1}", "end") for i in range(len(rows))]
    label = "task 1" if method.family == "per_task" else "merged"
    body.append(svg.text(left - 6, below + 12, label, "end", colour))
    body += [*svg.grid(rows, left, 2, cell, 0.9), *svg.grid(found[None], left, below, cell, 0.9)]
    alt = f"Three rows of {len(found)} signed entries, one an expert, and a row of what is made of them, in which "
    if method.experts == 1:  # what it leaves out says as much
        below += cell + 10
        body.append(svg.text(left - 6, below + 12, "left out", "end"))
        body += svg.grid(rows - found, left, below, cell, 0.9)
        alt = (
            f"A row of {len(found)} signed entries, a row of what is taken of them, and one of the rest; in the second "
        )
    alt += f"{int((found == 0).sum())} are zero."
    return Picture(svg.document(left + cell * len(found) + 4, below + cell + 4, body), alt, options)


def _matrices(count: int, size: int = 12) -> Tensor:
    """Made-up task matrices with falling spectra that share their strongest direction; ``[count, size, size]``."""
    steps = torch.arange(size).double()
    wave = torch.cos(math.pi * (2 * steps[:, None] + 1) * steps[None] / (2 * size))
    basis = wave / wave.norm(dim=0)
    values = 2.0 * 0.72**steps
    first, others = torch.zeros(1, dtype=torch.long), torch.arange(size - 1)
    turned = [torch.cat([first, 1 + (others * (t + 2) + 3 * t) % (size - 1)]) for t in range(count)]
    return torch.stack([(basis[:, order] * values) @ basis[:, order.roll(t)].T for t, order in enumerate(turned)])


def _pruned(method: Method, options: dict) -> Picture:
    """One task matrix, what pruning keeps of it, and both spectra."""
    matrix = _matrices(1, 10)[0]
    spikes = torch.zeros_like(matrix)
    spikes[[1, 4, 6, 8, 9], [7, 2, 9, 5, 0]] = torch.tensor([0.9, -0.8, 0.8, -0.9, 0.7]).double()
    matrix = matrix + spikes
    found = _merge(method, options, matrix[None])
    cell, colour = 13, style.COLOURS[method.family]
    scale = matrix.abs().max().item()
    width = cell * len(matrix)
    body = [*svg.grid(matrix, 4, 20, cell, scale), *svg.grid(found, 24 + width, 20, cell, scale)]
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(found)
    body += svg.bars(before, after, 2 * width + 52, 130, 20 + width, colour)
    body += [
        svg.text(4, 12, "task matrix"),
        svg.text(24 + width, 12, "kept", fill=colour),
        svg.text(2 * width + 52, 12, "singular values"),
    ]
    rank, kept = int((after > 1e-9).sum()), int((found != 0).sum())
    alt = f"A task matrix of {found.numel()} entries beside what is kept of it: {kept} entries are not zero, and the "
    alt += f"rank is {rank} of {len(matrix)}."
    return Picture(svg.document(2 * width + 190, 20 + width + 2, body), alt, options)


def _spectrum(method: Method, options: dict) -> Picture:
    """Singular values of the sum of three task matrices, and of what the method makes of them."""
    deltas = _matrices(3)
    found = _merge(method, options, deltas)
    before, after = torch.linalg.svdvals(deltas.sum(0)), torch.linalg.svdvals(found)
    colour = style.COLOURS[method.family]
    body = [*svg.bars(before, after, 8, 320, 132, colour), svg.text(328, 12, "outlines: the sum of the experts", "end")]
    body += [svg.text(328, 27, "bars: merged", "end", colour), svg.text(8, 147, "singular values, largest first")]
    alt = f"Bars of {len(after)} singular values of the merged matrix, from {after[0]:.2f} down to {after[-1]:.2f}, "
    alt += f"beside outlines of those of the experts' sum, from {before[0]:.2f} down to {before[-1]:.2f}."
    return Picture(svg.document(336, 152, body), alt, options)


def _depth(method: Method, options: dict) -> Picture:
    """How much of the sum each layer of a stack gets."""
    names = [NAME.format(i) for i in range(6)]
    base = {name: torch.zeros(1, 1, dtype=torch.float64) for name in names}
    experts = [{name: torch.ones(1, 1, dtype=torch.float64) for name in names}] * 3
    merged = merge_state_dicts(method.name, base, experts, **options)
    share = [merged[name].item() / len(experts) for name in names]
    body, colour = [svg.line((70, 128, 320, 128), svg.GREY, 1)], style.COLOURS[method.family]
    for i, value in enumerate(share):
        x, height = 74 + 41 * i, 105 * value
        body.append(svg.box(x, 128 - height, 30, height, fill=colour))
        body.append(svg.text(x + 15, 124 - height, f"{value:.2f}", "middle"))
        body.append(svg.text(x + 15, 142, str(i + 1) if i else "layer 1", "middle"))
    body += [svg.text(4, 124, "share of", fill=svg.GREY), svg.text(4, 138, "the sum", fill=svg.GREY)]
    alt = "Bars of the share of the summed task vectors that each layer of a stack of six gets: "
    alt += ", ".join(f"{value:.2f}" for value in share) + "."
    return Picture(svg.document(330, 150, body), alt, options)


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
