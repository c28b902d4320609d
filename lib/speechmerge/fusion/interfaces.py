"""Interfaces between frozen upstreams and a head: each declared once, built for the shapes of the upstreams.

An interface takes a list over upstreams of hidden states ``[N, L_i, D_i]``, N frames of any clips on one time grid, and
gives ``[N, out]``. It sees each frame alone, so nothing is padded and no clip depends on another.
"""

from collections.abc import Callable
from dataclasses import dataclass

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


INTERFACES: dict[str, Declared] = {}


def interface(**about: object) -> Callable:
    """Declare the function below as the maker of the interface that is described."""

    def declare(build: Callable[[Shapes, int], nn.Module]) -> Callable[[Shapes, int], nn.Module]:
        declared = Declared(build=build, **about)
        INTERFACES[declared.name] = declared
        return build

    return declare


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
    if declared.name in ("layer", "last"):
        return Layer(shapes, _place(name, place, shapes))
    if place:
        raise MethodError(f"there is no interface {name!r}; only 'layer' takes a number, such as layer:2.")
    return declared.build(shapes, width)


def _place(name: str, place: str, shapes: Shapes) -> int:
    layers = shapes[0][0]
    if name == "last":
        return layers - 1
    if not place.isdecimal() or int(place) >= layers:
        raise MethodError(f"there is no layer {place or 'without a number'!r}; expected layer:0 to layer:{layers - 1}.")
    return int(place)


def parameters(module: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(values.numel() for values in module.parameters() if values.requires_grad)


@interface(name="layer", title="One layer", equation="y = H_k", source="", rate=1e-2)
@interface(name="last", title="Last layer", equation="y = H_L", source="", rate=1e-2)
def _layer(shapes: Shapes, width: int) -> nn.Module:
    return Layer(shapes, shapes[0][0] - 1)


@interface(
    name="ws",
    title="Weighted sum",
    equation="y = [Σ_l softmax(w_i)_l H_i,l]_i, with several upstreams: W y + b",
    source=EARLIER,
    rate=1e-2,
    deviations="several upstreams: sums side by side, then one linear map",
)
def _weighted_sum(shapes: Shapes, width: int) -> nn.Module:
    return WeightedSum(shapes, width if len(shapes) > 1 else None)


@interface(
    name="gumd",
    title="Gumbel selection",
    equation="y_d = H_c(d),d with c(d) ~ softmax(z_·d)",
    source=LATER,
    rate=1e-2,
    deviations="temperature from 1 to 0.1 over the first 80 % of the steps",
)
def _gumbel(shapes: Shapes, width: int) -> nn.Module:
    return Gumbel(shapes, width)


@interface(name="concat", title="All layers, linear", equation="y = W [H_1; …; H_L] + b", source="", rate=3e-3)
def _concatenated(shapes: Shapes, width: int) -> nn.Module:
    return Concatenated(shapes, width)


@interface(
    name="hconv",
    title="HConv",
    equation="y = flatten(conv_n(… conv_1(H)))",
    source=EARLIER,
    rate=3e-3,
    deviations="the last convolution has ceil(D / layers left) channels",
)
def _hconv(shapes: Shapes, width: int) -> nn.Module:
    return Convolved([only("hconv", shapes)], width, add=True)


@interface(
    name="hconv_add",
    title="HConv of the sum",
    equation="y = HConv(Σ_i A_i P_i H_i)",
    source=LATER,
    rate=3e-3,
    deviations="projection to a common width before layers are interpolated",
)
def _hconv_add(shapes: Shapes, width: int) -> nn.Module:
    return Convolved(shapes, width, add=True)


@interface(
    name="chconv",
    title="CHConv",
    equation="y = HConv([A_i P_i H_i]_i)",
    source=LATER,
    rate=3e-3,
    deviations="projection to a common width before layers are interpolated; the result has that width",
)
def _chconv(shapes: Shapes, width: int) -> nn.Module:
    return Convolved(shapes, width, add=False)


@interface(
    name="chconv_wide",
    title="CHConv, wide",
    equation="y = HConv([A_i P_i H_i]_i), as wide as its input",
    source=LATER,
    rate=3e-3,
    deviations="projection to a common width before layers are interpolated",
)
def _wide(shapes: Shapes, width: int) -> nn.Module:
    return Convolved(shapes, width, add=False, out=width * len(shapes))


@interface(
    name="hlinear",
    title="HConv without ReLU",
    equation="as hconv (several upstreams: chconv), linear",
    source="",
    rate=3e-3,
)
def _linear(shapes: Shapes, width: int) -> nn.Module:
    return Convolved(shapes, width, add=False, relu=False)


@interface(
    name="mlp",
    title="MLP of equal size",
    equation="y = ReLU(W_2 ReLU(W_1 ws(H)))",
    source="",
    rate=3e-3,
)
def _perceptron(shapes: Shapes, width: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # the twin is only counted
        twin = Convolved(shapes, width, add=False)
    return Perceptron(shapes, parameters(twin))
