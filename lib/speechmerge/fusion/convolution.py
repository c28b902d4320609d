"""A convolution along the layers of a frame, computed as matrix products (arXiv 2406.12209 and 2511.08389)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import MethodError

KERNEL, STRIDE = 5, 3
FEWEST = STRIDE  # layers that make one convolution


def depth(layers: int) -> int:
    """Return how many convolutions a stack of layers takes: the largest n with 3^n ≤ layers, in whole numbers."""
    count = 0
    while STRIDE ** (count + 1) <= layers:
        count += 1
    return count


class LayerConvolution(nn.Module):
    """``Conv1d(inside, outside, 5, stride=3, padding=2)`` along the layers: ``[N, L, in]`` to ``[N, ceil(L/3), out]``.

    Weights have the shapes of ``nn.Conv1d``. For each position of the result one matrix product runs over the layers
    that exist, which on a processor is several times as fast for so few layers; padding costs nothing.
    """

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        start = nn.Conv1d(inside, outside, KERNEL, STRIDE, KERNEL // 2)  # for its first values
        self.weight, self.bias = start.weight, start.bias

    def forward(self, states: Tensor) -> Tensor:
        """Convolve states ``[N, L, in]``."""
        frames, layers, _ = states.shape
        found = []
        for first in range(-(KERNEL // 2), layers - KERNEL // 2, STRIDE):
            low, high = max(first, 0), min(first + KERNEL, layers)
            weight = self.weight[:, :, low - first : high - first].transpose(1, 2).flatten(1)
            found.append(functional.linear(states[:, low:high].reshape(frames, -1), weight, self.bias))
        return torch.stack(found, 1)


class HierarchicalConvolution(nn.Module):
    """HConv: convolutions along the layers until fewer than three are left; what is left stands side by side.

    The last convolution has ``ceil(out / layers left)`` channels, so that the width of the result, ``out`` here, is
    ``out`` or a little more (the released code stops where it does not divide).

    Raises:
        MethodError: fewer than three layers.
    """

    def __init__(self, layers: int, width: int, out: int | None = None, *, relu: bool = True) -> None:
        super().__init__()
        if not depth(layers):
            raise MethodError(f"HConv needs at least {FEWEST} layers, found {layers}; use 'ws' or 'layer:0' instead.")
        wanted, steps, left = out or width, [], layers
        for place in range(depth(layers)):
            left = -(-left // STRIDE)
            channels = width if place < depth(layers) - 1 else -(-wanted // left)
            steps += [LayerConvolution(width, channels), nn.ReLU() if relu else nn.Identity()]
        self.steps, self.out = nn.Sequential(*steps), left * channels

    def forward(self, states: Tensor) -> Tensor:
        """Fuse the layers of each frame: ``[N, L, width]`` to ``[N, out]``, channel by channel."""
        return self.steps(states).transpose(1, 2).flatten(1)
