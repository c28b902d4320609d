"""Small drawings written as SVG by hand: arrows, cells, bars, ellipses, with coordinates rounded to tenths of a pixel.

Unlike a plotting library's output these are a few kilobytes each and the same to the byte on every machine, so that
they can be committed and compared.
"""

import math

import torch
from torch import Tensor

GREY, PALE, DARK = "#777777", "#dddddd", "#222222"
POSITIVE, NEGATIVE = (194, 87, 26), (33, 102, 172)


def document(width: float, height: float, body: list[str]) -> str:
    """Return the drawing as a file, sizes in pixels."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
    head += f'viewBox="0 0 {width:g} {height:g}" font-family="DejaVu Sans, Verdana, sans-serif" font-size="11">'
    return "\n".join([head, *body, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "start", fill: str = DARK, *, index: str = "") -> str:
    """Words at a point, with an index below the line."""
    below = f'<tspan dy="2" font-size="8">{index}</tspan>' if index else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{words}{below}</text>'


def line(ends: tuple, colour: str, width: float) -> str:
    """A line from ``(x1, y1)`` to ``(x2, y2)``."""
    x1, y1, x2, y2 = ends
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {where} stroke="{colour}" stroke-width="{width:g}"/>'


def circle(centre: tuple, radius: float, fill: str = "none", stroke: str = "none") -> str:
    """A circle."""
    return f'<circle cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" r="{radius:g}" fill="{fill}" stroke="{stroke}"/>'


def box(x: float, y: float, width: float, height: float, fill: str = "none", stroke: str = "none") -> str:
    """A rectangle."""
    where = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {where} fill="{fill}" stroke="{stroke}"/>'


def arrow(ends: tuple, colour: str, width: float) -> list[str]:
    """A line with a head that ends at its second point."""
    x1, y1, x2, y2 = ends
    size, angle = 5 + 1.5 * width, math.atan2(y2 - y1, x2 - x1)
    sides = [(x2 - size * math.cos(angle + turn), y2 - size * math.sin(angle + turn)) for turn in (0.4, -0.4)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x2, y2), *sides])
    stop = (x1, y1, x2 - 0.8 * size * math.cos(angle), y2 - 0.8 * size * math.sin(angle))
    return [line(stop, colour, width), f'<polygon points="{points}" fill="{colour}"/>']


def grid(values: Tensor, left: float, top: float, cell: int, scale: float) -> list[str]:
    """Cells of a matrix: orange above zero, blue below, darker for larger, white for exactly zero."""
    side, body = cell - 1, [f'<g stroke="{PALE}" stroke-width=".6">']
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            corner = f"M{left + j * cell:g} {top + i * cell:g}"
            body.append(f'<path d="{corner}h{side}v{side}h-{side}z" fill="{_shade(value / scale)}"/>')
    return [*body, "</g>"]


def _shade(value: float) -> str:
    """A colour between white at zero and full strength at one or minus one; there are ten steps to each side."""
    if value == 0:
        return "#fff"
    share = max(1, round(10 * min(1.0, abs(value)))) / 10
    full = POSITIVE if value > 0 else NEGATIVE
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in full)


def bars(before: Tensor, after: Tensor, left: float, width: float, height: float, colour: str) -> list[str]:
    """Two spectra in one frame: the one before as outlines, the one after as bars; ``height`` is the base line."""
    step, top = width / len(before), 1.05 * max(before.max().item(), after.max().item())
    body = [line((left, height, left + width, height), GREY, 1)]
    for i, (old, new) in enumerate(zip(before.tolist(), after.tolist(), strict=True)):
        x, old, new = left + i * step, (height - 14) * old / top, (height - 14) * new / top
        body.append(box(x + 2, height - new, step - 4, new, fill=colour))
        body.append(box(x + 0.5, height - old, step - 1, old, stroke=DARK))
    return body


def ellipse(centre: tuple, shape: Tensor, unit: float) -> str:
    """The curve around a centre on which a quadratic form, ``shape`` ``[2, 2]``, has one value."""
    values, vectors = torch.linalg.eigh(shape)
    first, second = (0.4 * unit / values.sqrt()).tolist()
    x, y = vectors[:, 0].tolist()
    turn = -math.degrees(math.atan2(y, x)) % 180
    return (
        f'<ellipse rx="{first:.1f}" ry="{second:.1f}" fill="{PALE}" fill-opacity="0.6" stroke="{GREY}" '
        f'stroke-width="0.8" transform="translate({centre[0]:.1f} {centre[1]:.1f}) rotate({turn:.1f})"/>'
    )


def arc(radius: float, centre: tuple) -> str:
    """Part of the circle on which the merge lies."""
    ends = [(centre[0] + radius * math.cos(a), centre[1] - radius * math.sin(a)) for a in (-0.05, 1.95)]
    (x1, y1), (x2, y2) = ends
    return (
        f'<path d="M{x1:.1f} {y1:.1f}A{radius:.1f} {radius:.1f} 0 0 0 {x2:.1f} {y2:.1f}" fill="none" '
        f'stroke="{GREY}" stroke-dasharray="3 3"/>'
    )
