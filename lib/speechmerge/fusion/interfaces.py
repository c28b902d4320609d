"""Interfaces between frozen upstreams and a head: each declared once, built for the shapes of the upstreams.

An interface takes a list over upstreams of hidden states ``[N, L_i, D_i]``, N frames of any clips on one time grid, and
gives ``[N, out]``. It sees each frame alone, so nothing is padded and no clip depends on another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..errors import MethodError, nearest
from .fusing import Concatenated, Convolved, Gumbel, Layer, Perceptron, Shapes, WeightedSum, only

LATER = "arXiv 2511.08389"
EARLIER = "arXiv 2406.12209"


@dataclass(frozen=True)
class Declared:
    """An interface.

    Attributes:
        name: as it is asked for.
        title: for tables.
        equation: what it computes.
        source: where it is published; empty for controls of our own.
        rate: the peak learning rate that the pilot found best; every study chooses its own on dev.
        build: makes it for shapes and a common width.
        deviations: from the source.
    """

    name: str
    title: str
    equation: str
    source: str
    rate: float
    build: Callable[[Shapes, int], nn.Module]
    deviations: str = ""


def find(name: str) -> Declared:
    """Return the declaration of an interface; ``layer:2`` is that of ``layer``.

    Raises:
        MethodError: there is none of that name; the nearest is given.
    """
    kind = name.partition(":")[0]
    if kind not in INTERFACES:
        raise MethodError(f"there is no interface {name!r}.{nearest(name, INTERFACES)}")
    return INTERFACES[kind]


def build(name: str, shapes: Shapes, width: int | None = None) -> nn.Module:
    """Make an interface with the initial weights that torch's generator draws.

    Args:
        name: such as ``"hconv"`` or ``"layer:2"``.
        shapes: layers and width of each upstream, in order.
        width: to which upstreams are projected where several are joined; the largest of them without it.

    Returns:
        A module with an attribute ``out``, the width of what it gives.

    Raises:
        MethodError: an unknown interface, one that takes one upstream given several, or a layer there is not.
    """
    declared, place = find(name), name.partition(":")[2]
    width = width or max(width for _, width in shapes)
    if declared.name == "layer":
        return Layer(shapes, _place(place, shapes[0][0]))
    if place:
        raise MethodError(f"there is no interface {name!r}; only 'layer' takes a number, such as layer:2.")
    return declared.build(shapes, width)


def _place(place: str, layers: int) -> int:
    if not place.isdecimal() or int(place) >= layers:
        raise MethodError(f"there is no layer {place or 'without a number'!r}; expected layer:0 to layer:{layers - 1}.")
    return int(place)


def parameters(module: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(values.numel() for values in module.parameters() if values.requires_grad)


def _perceptron(shapes: Shapes, width: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # the twin is only counted
        twin = Convolved(shapes, width, add=False)
    return Perceptron(shapes, parameters(twin))


_DECLARED = (
    Declared("last", "Last layer", "y = H_L", "", 1e-2, lambda shapes, width: Layer(shapes, shapes[0][0] - 1, "last")),
    Declared("layer", "One layer", "y = H_k", "", 1e-2, Layer),  # of which the name says the number
    Declared(
        "ws",
        "Weighted sum",
        "y = [Σ_l softmax(w_i)_l H_i,l]_i, with several upstreams: W y + b",
        EARLIER,
        1e-2,
        lambda shapes, width: WeightedSum(shapes, width if len(shapes) > 1 else None),
        "several upstreams: sums side by side, then one linear map",
    ),
    Declared(
        "gumd",
        "Gumbel selection",
        "y_d = H_c(d),d with c(d) ~ softmax(z_·d)",
        LATER,
        1e-2,
        Gumbel,
        "temperature from 1 to 0.1 over the first 80 % of the steps",
    ),
    Declared("concat", "All layers, linear", "y = W [H_1; …; H_L] + b", "", 3e-3, Concatenated),
    Declared(
        "hconv",
        "HConv",
        "y = flatten(conv_n(… conv_1(H)))",
        EARLIER,
        3e-3,
        lambda shapes, width: Convolved([only("hconv", shapes)], width, add=True),
        "the last convolution has ceil(D / layers left) channels",
    ),
    Declared(
        "hconv_add",
        "HConv of the sum",
        "y = HConv(Σ_i A_i P_i H_i)",
        LATER,
        3e-3,
        partial(Convolved, add=True),
        "projection to a common width before layers are interpolated",
    ),
    Declared(
        "chconv",
        "CHConv",
        "y = HConv([A_i P_i H_i]_i)",
        LATER,
        3e-3,
        partial(Convolved, add=False),
        "projection to a common width before layers are interpolated; the result has that width",
    ),
    Declared(
        "chconv_wide",
        "CHConv, wide",
        "y = HConv([A_i P_i H_i]_i), as wide as its input",
        LATER,
        3e-3,
        lambda shapes, width: Convolved(shapes, width, add=False, out=width * len(shapes)),
        "projection to a common width before layers are interpolated",
    ),
    Declared(
        "hlinear",
        "HConv without ReLU",
        "as hconv (several upstreams: chconv), linear",
        "",
        3e-3,
        partial(Convolved, add=False, relu=False),
    ),
    Declared("mlp", "MLP of equal size", "y = ReLU(W_2 ReLU(W_1 ws(H)))", "", 3e-3, _perceptron),
)
INTERFACES = {declared.name: declared for declared in _DECLARED}
