"""Small heads on an interface's frames: classes of clips, voices to be verified, characters of speech."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ..errors import MethodError, TrainingError, nearest

EMBEDDING, SCALE, MARGIN = 128, 30.0, 0.2  # of verification; SUPERB (arXiv 2105.01051) has a margin of 0.4
NARROW, WIDE, BLOCKS, HEADS, DROPOUT = 80, 128, 2, 4, 0.1  # of the head with context
BLANK = 0
CTC_HEADS = ("linear", "context")


def pooled(frames: Tensor, counts: Sequence[int]) -> Tensor:
    """Return mean and standard deviation over the frames of each clip: ``[N, D]`` and clip sizes to ``[C, 2 D]``.

    The deviation is that of the frames themselves (no correction), so one frame has none.
    """
    found = []
    for own in frames.split(list(counts)):
        mean = own.mean(0)
        deviation = (own - mean).square().mean(0).clamp(min=1e-12).sqrt()
        found.append(torch.cat([mean, deviation]))
    return torch.stack(found)


class Classes(nn.Module):
    """Statistics pooling, then one linear map to the classes; cross-entropy."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, classes)

    def forward(self, frames: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the log-probabilities of the classes: ``[C, classes]``."""
        return self.linear(pooled(frames, counts)).log_softmax(-1)

    def loss(self, frames: Tensor, counts: Sequence[int], targets: Sequence[int]) -> Tensor:
        """Return the mean loss of clips."""
        return functional.nll_loss(self(frames, counts), torch.as_tensor(targets))


class Verification(nn.Module):
    """Statistics pooling and an embedding; additive-margin softmax over the training voices (arXiv 1801.05599)."""

    def __init__(self, width: int, voices: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, EMBEDDING)
        self.voices = nn.Parameter(nn.Linear(EMBEDDING, voices).weight.detach().clone())

    def forward(self, frames: Tensor, counts: Sequence[int]) -> Tensor:
        """Return embeddings of length 1: ``[C, 128]``."""
        return functional.normalize(self.linear(pooled(frames, counts)), dim=1)

    def loss(self, frames: Tensor, counts: Sequence[int], targets: Sequence[int]) -> Tensor:
        """Return the mean loss of clips."""
        target = torch.as_tensor(targets)
        cosine = self(frames, counts) @ functional.normalize(self.voices, dim=1).T
        margin = MARGIN * functional.one_hot(target, len(self.voices))
        return functional.cross_entropy(SCALE * (cosine - margin), target)


class Characters(nn.Module):
    """Connectionist temporal classification (CTC) over characters.

    The head ``linear`` sees each frame alone. The head ``context`` maps to 80, halves the rate by a convolution and has
    two transformer layers of width 128: ML-SUPERB's (arXiv 2305.10615) in small.
    """

    def __init__(self, width: int, alphabet: str, kind: str = "linear") -> None:
        super().__init__()
        if kind not in CTC_HEADS:
            raise MethodError(f"there is no head {kind!r} for speech recognition.{nearest(kind, CTC_HEADS)}")
        self.alphabet, self.context = alphabet, None
        if kind == "context":
            self.narrow = nn.Linear(width, NARROW)
            self.halve = nn.Conv1d(NARROW, WIDE, 5, stride=2, padding=2)
            told = {"dim_feedforward": 2 * WIDE, "dropout": DROPOUT, "batch_first": True}
            block = nn.TransformerEncoderLayer(WIDE, HEADS, **told)
            self.context = nn.TransformerEncoder(block, BLOCKS, enable_nested_tensor=False)
            width = WIDE
        self.linear = nn.Linear(width, len(alphabet) + 1)

    def left(self, frames: int) -> int:
        """Return how many frames the head makes of a clip's."""
        return frames if self.context is None else -(-frames // 2)

    def scores(self, frames: Tensor, counts: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Return log-probabilities ``[C, T, characters + 1]``, padded, and how many frames of each clip count."""
        frames = frames if self.context is None else self.narrow(frames)  # what is padded afterwards is zero
        states = pad_sequence(frames.split(list(counts)), batch_first=True)
        if self.context is not None:
            states = functional.gelu(self.halve(states.transpose(1, 2))).transpose(1, 2)
            kept = torch.tensor([self.left(count) for count in counts])
            states = self.context(states, src_key_padding_mask=torch.arange(states.shape[1]) >= kept[:, None])
        return self.linear(states).log_softmax(-1), [self.left(count) for count in counts]

    def forward(self, frames: Tensor, counts: Sequence[int]) -> list[str]:
        """Return the text of each clip: the best path, repeats merged, blanks dropped."""
        scores, kept = self.scores(frames, counts)
        return [self.spell(own[:count].argmax(-1).tolist()) for own, count in zip(scores, kept, strict=True)]

    def spell(self, path: Sequence[int]) -> str:
        """Return the text of a path of character numbers."""
        kept = [now for before, now in zip([None, *path], path, strict=False) if now != before and now != BLANK]
        return "".join(self.alphabet[place - 1] for place in kept)

    def number(self, text: str) -> list[int]:
        """Return the numbers of a text's characters.

        Raises:
            TrainingError: a character is not in the alphabet.
        """
        if strange := sorted(set(text) - set(self.alphabet)):
            raise TrainingError(f"text {text!r} has {strange[0]!r}, which is not in the alphabet {self.alphabet!r}.")
        return [self.alphabet.index(character) + 1 for character in text]

    def loss(self, frames: Tensor, counts: Sequence[int], targets: Sequence[str]) -> Tensor:
        """Return the mean loss of clips, each divided by the length of its text."""
        scores, kept = self.scores(frames, counts)
        wanted = [self.number(text) for text in targets]
        flat = torch.tensor([number for own in wanted for number in own])
        lengths = torch.tensor([len(own) for own in wanted])
        return functional.ctc_loss(scores.transpose(0, 1), flat, torch.tensor(kept), lengths, zero_infinity=True)


def made(task: str, width: int, classes: Sequence[str], kind: str = "linear") -> nn.Module:
    """Make the head of a task of a kind, for what an interface gives: its width, the classes or the alphabet."""
    if task == "characters":
        return Characters(width, "".join(classes), kind)
    return (Verification if task == "verification" else Classes)(width, len(classes))


def needed_frames(text: str) -> int:
    """Return the fewest frames that can say a text: one a character, and one between equal neighbours."""
    return len(text) + sum(a == b for a, b in itertools.pairwise(text))
