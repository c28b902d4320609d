"""Methods against what the peers' own functions make of small models in fp64 (peers/make.py)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import speechmerge

HERE = Path(__file__).parent / "peers"
FILES = {peer: load_file(HERE / f"{peer}.safetensors") for peer in ("mergekit", "fusion_bench")}
ABOUT = {peer: json.loads((HERE / f"{peer}.json").read_text()) for peer in FILES}
CASES = {(peer, case): given for peer in FILES for case, given in ABOUT[peer]["cases"].items()}


def of(peer: str, prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(f"{prefix}/"): x for n, x in FILES[peer].items() if n.startswith(f"{prefix}/")}


@pytest.mark.parametrize(("peer", "case"), CASES)
def test_a_method_gives_the_peers_numbers(peer, case):
    name, options, experts = CASES[peer, case]
    theirs = of(peer, case)
    base, *tuned = ({n: of(peer, model)[n] for n in theirs} for model in ("base", *experts))
    extras = None
    if name == "frank_wolfe":
        [only] = theirs

        def gradient(state: dict) -> tuple[float, dict]:
            gap = state[only] - FILES[peer]["target"]
            return gap.square().sum().item() / 2, {only: gap}

        extras = {"gradient": gradient}
    ours = speechmerge.merge_state_dicts(name, base, tuned, extras=extras, **options)
    for tensor, expected in theirs.items():
        moved = (expected - base[tensor]).norm().item()
        assert (ours[tensor] - expected).norm().item() <= 1e-6 * moved + 1e-15, tensor
    assert any((x - base[n]).norm() > 0 for n, x in theirs.items())
