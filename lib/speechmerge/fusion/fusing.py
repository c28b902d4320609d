"""The modules behind the interfaces: a list over upstreams of states ``[N, L_i, D_i]`` becomes ``[N, out]``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import MethodError
from .alignment import layer_matrix
from .convolution import HierarchicalConvolution

Shapes = Sequence[tuple[int, int]]  # layers and width of each upstream


def only(name: str, shapes: Shapes) -> tuple[int, int]:
    """Return the shape of the only upstream, or say that there are several."""
    if len(shapes) != 1:
        raise MethodError(f"{name!r} takes one upstream, found {len(shapes)}; use 'chconv' or 'hconv_add' for several.")
    return shapes[0]


class Layer(nn.Module):
    """One layer of one upstream: nothing is trained."""

    def __init__(self, shapes: Shapes, place: int, name: str = "layer") -> None:
        super().__init__()
        _, self.out = only(name, shapes)
        self.place = place

    def forward(self, states: list[Tensor]) -> Tensor:
        """Return the layer."""
        return states[0][:, self.place]


class WeightedSum(nn.Module):
    """Weighted sum of each upstream's layers; several stand side by side, and are projected to a width if one is given.

    The weights are a softmax over the layers of an upstream and start equal.
    """

    def __init__(self, shapes: Shapes, width: int | None = None) -> None:
        super().__init__()
        self.logits = nn.ParameterList(nn.Parameter(torch.zeros(layers)) for layers, _ in shapes)
        total = sum(own for _, own in shapes)
        self.project = nn.Linear(total, width) if width else nn.Identity()
        self.out = width or total

    def forward(self, states: list[Tensor]) -> Tensor:
        """Sum the layers."""
        sums = [torch.einsum("l,nld->nd", own.softmax(0), one) for own, one in zip(self.logits, states, strict=True)]
        return self.project(torch.cat(sums, -1))

    def weights(self) -> list[list[float]]:
        """Return the weight of each layer of each upstream."""
        return [own.detach().softmax(0).tolist() for own in self.logits]


class Projected(nn.Module):
    """Upstreams brought to one width, each by a linear map that its layers share; none where it has the width."""

    def __init__(self, shapes: Shapes, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Identity() if own == width else nn.Linear(own, width) for _, own in shapes)

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        """Project each upstream."""
        return [project(one) for project, one in zip(self.maps, states, strict=True)]


class Aligned(nn.Module):
    """Upstreams brought to one width and, by linear interpolation, to the most layers that any of them has."""

    def __init__(self, shapes: Shapes, width: int) -> None:
        super().__init__()
        self.project, self.layers = Projected(shapes, width), max(layers for layers, _ in shapes)
        for place, (layers, _) in enumerate(shapes):
            self.register_buffer(f"matrix{place}", layer_matrix(layers, self.layers), persistent=False)

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        """Align each upstream: ``[N, L_i, D_i]`` to ``[N, K, width]``."""
        return [
            one if one.shape[1] == self.layers else torch.einsum("kl,nld->nkd", getattr(self, f"matrix{place}"), one)
            for place, one in enumerate(self.project(states))
        ]


class Convolved(nn.Module):
    """HConv over aligned upstreams, which are added up or stand side by side."""

    def __init__(self, shapes: Shapes, width: int, *, add: bool, relu: bool = True, out: int | None = None) -> None:
        super().__init__()
        self.aligned, self.add = Aligned(shapes, width), add
        inside = width if add else width * len(shapes)
        self.hconv = HierarchicalConvolution(self.aligned.layers, inside, out or width, relu=relu)
        self.out = self.hconv.out

    def forward(self, states: list[Tensor]) -> Tensor:
        """Join and fuse."""
        found = self.aligned(states)
        return self.hconv(sum(found[1:], found[0]) if self.add else torch.cat(found, -1))


class Gumbel(nn.Module):
    """Each dimension of the result is one layer of one upstream: drawn in training, the most likely one afterwards.

    ``temperature`` falls during training (:func:`temperature`); the draws come from torch's generator.
    """

    def __init__(self, shapes: Shapes, width: int) -> None:
        super().__init__()
        self.project = Projected(shapes, width)
        self.logits = nn.Parameter(torch.zeros(sum(layers for layers, _ in shapes), width))
        self.out, self.temperature = width, 1.0

    def forward(self, states: list[Tensor]) -> Tensor:
        """Select."""
        candidates = torch.cat(self.project(states), 1)
        if not self.training:
            place = self.logits.argmax(0).expand(len(candidates), 1, -1)
            return candidates.gather(1, place)[:, 0]
        chosen = functional.gumbel_softmax(self.logits, tau=self.temperature, hard=True, dim=0)
        return torch.einsum("ld,nld->nd", chosen, candidates)


def temperature(share: float) -> float:
    """Return the temperature of the Gumbel draws after a share of the steps: from 1 to 0.1 over the first 80 %."""
    return max(0.1, 1.0 - 0.9 * share / 0.8)


class Concatenated(nn.Module):
    """All layers of all upstreams side by side, and one linear map."""

    def __init__(self, shapes: Shapes, width: int) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(sum(layers * own for layers, own in shapes), width), width

    def forward(self, states: list[Tensor]) -> Tensor:
        """Project."""
        return self.project(torch.cat([one.flatten(1) for one in states], -1))


class Perceptron(nn.Module):
    """Weighted sum, then two linear maps with ReLU on each frame: about as many parameters as are asked for."""

    def __init__(self, shapes: Shapes, wanted: int) -> None:
        super().__init__()
        self.sum = WeightedSum(shapes)
        self.out = self.sum.out
        hidden = max(1, round(wanted / (2 * self.out + 1)))
        self.net = nn.Sequential(nn.Linear(self.out, hidden), nn.ReLU(), nn.Linear(hidden, self.out), nn.ReLU())

    def forward(self, states: list[Tensor]) -> Tensor:
        """Map the sum."""
        return self.net(self.sum(states))
