"""Tiny Whisper-like models in fp64 for the laws: every class of tensor, layers 0 and 1, T = 4 experts."""

import torch

T, D, F, VOCAB = 4, 12, 20, 30


def shapes() -> dict[str, tuple[int, ...]]:
    found = {
        "model.encoder.conv1.weight": (D, 8, 3),
        "model.encoder.conv1.bias": (D,),
        "model.encoder.embed_positions.weight": (10, D),
    }
    for i in (0, 1):
        found |= {
            f"model.encoder.layers.{i}.self_attn.q_proj.weight": (D, D),
            f"model.encoder.layers.{i}.self_attn.q_proj.bias": (D,),
            f"model.encoder.layers.{i}.fc1.weight": (F, D),
            f"model.decoder.layers.{i}.encoder_attn.v_proj.weight": (D, D),
            f"model.decoder.layers.{i}.fc2.weight": (D, F),
            f"model.decoder.layers.{i}.final_layer_norm.weight": (D,),
        }
    return found | {
        "model.decoder.embed_tokens.weight": (VOCAB, D),
        "model.decoder.embed_positions.weight": (6, D),
    }


def make(delta: float = 1e-2, dtype: torch.dtype = torch.float64) -> tuple[dict, list[dict]]:
    generator = torch.Generator().manual_seed(7)
    base = {n: torch.randn(s, generator=generator, dtype=dtype) for n, s in shapes().items()}
    common = {n: torch.randn(s, generator=generator, dtype=dtype) for n, s in shapes().items()}
    experts = []
    for _ in range(T):
        own = {n: torch.randn(s, generator=generator, dtype=dtype) for n, s in shapes().items()}
        experts.append({n: base[n] + delta * (0.5 * common[n] + own[n]) for n in base})
        experts[-1]["model.encoder.embed_positions.weight"] = base["model.encoder.embed_positions.weight"].clone()
    return base, experts


def statistics() -> dict[str, list[dict]]:
    """Grams and diagonal Fishers of T experts, as the data-driven rules take them."""
    generator = torch.Generator().manual_seed(11)
    grams, fishers = [], []
    for _ in range(T):
        grams.append({})
        for name, shape in shapes().items():
            if len(shape) == 2 and "embed" not in name:
                inputs = torch.randn(40, shape[1], generator=generator, dtype=torch.float64)
                grams[-1][name.removesuffix(".weight")] = inputs.T @ inputs / len(inputs)
        fishers.append({n: torch.rand(s, generator=generator, dtype=torch.float64) + 0.01 for n, s in shapes().items()})
    return {"grams": grams, "fishers": fishers}


def measures(target: dict) -> dict:
    """An error and a loss that are least at ``target``, for the methods that learn from dev data."""

    def score(state: dict) -> float:
        return sum((state[n] - target[n]).abs().sum().item() for n in target)

    def gradient(state: dict) -> tuple[float, dict]:
        gaps = {n: state[n] - target[n] for n in target}
        return sum(gap.square().sum().item() for gap in gaps.values()) / 2, gaps

    def loss(state: dict) -> float:
        return gradient(state)[0]

    return {"score": score, "loss": loss, "gradient": gradient, "entropy": gradient}
