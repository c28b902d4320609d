"""Make the vectors of this folder with real peft: what ``merge_and_unload`` gives for adapters as peft saves them.

Run ``python tests/golden/peft/make.py`` in an environment with peft. The tests need the two files it writes, not peft.
"""

import copy
import dataclasses
import json
import logging
import shutil
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parent))
from tiny_base import CONFIG, tensors

QV = ["q_proj", "v_proj"]
TABLE, HEAD = "model.decoder.embed_tokens.weight", "proj_out.weight"
ROWS = [3, 17, 41]
CASES = {
    "plain": {"target_modules": QV},
    "rslora": {"target_modules": QV, "use_rslora": True},
    "patterns": {  # the file's order is alphabetical, whatever was given
        "target_modules": ["q_proj", "fc1"],
        "rank_pattern": {"q_proj": 3, "decoder.layers.1.fc1": 4},
        "alpha_pattern": {"self_attn.q_proj": 5, "decoder.*q_proj": 7, "^model.encoder.layers.0.fc1": 9},
    },
    "all_linear": {"target_modules": "all-linear", "exclude_modules": ["fc1", "k_proj", "out_proj"]},
    "regex": {"target_modules": r".*decoder\.layers\.\d\.fc\d"},
    "some_layers": {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": "layers"},
    "turned": {"target_modules": QV, "write": {"fan_in_fan_out": True}},  # peft takes it back for nn.Linear
    "convolutions": {"target_modules": ["conv1", "conv2"]},
    "positions": {"target_modules": ["decoder.embed_positions"]},
    "table": {"target_modules": ["embed_tokens"]},
    "table_alone": {"target_modules": ["embed_tokens"], "save": {"save_embedding_layers": False}},
    "head": {"target_modules": ["proj_out"]},
    "table_and_head": {"target_modules": ["embed_tokens", "proj_out"]},
    "tied_pair": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "resized": {"target_modules": QV, "save": {"save_embedding_layers": True}, "move": TABLE},
    "dora": {"target_modules": QV, "use_dora": True},
    "dora_rslora": {"target_modules": ["fc2"], "use_dora": True, "use_rslora": True},
    "dora_convolutions": {"target_modules": ["conv1", "conv2"], "use_dora": True},
    "dora_table": {"target_modules": ["embed_tokens"], "use_dora": True},
    "lora_bias": {"target_modules": ["q_proj", "conv1"], "lora_bias": True},
    "bias_all": {"target_modules": ["q_proj"], "bias": "all"},
    "bias_twice": {"target_modules": ["q_proj"], "bias": "lora_only", "lora_bias": True},
    "norms_whole": {"target_modules": QV, "modules_to_save": ["final_layer_norm", "conv1"]},
    "map_whole": {"target_modules": QV, "modules_to_save": ["encoder_attn.q_proj"]},
    "head_whole": {"target_modules": QV, "modules_to_save": ["proj_out"]},
    "table_whole": {"target_modules": QV, "modules_to_save": ["embed_tokens"]},
    "both_whole": {"target_modules": QV, "modules_to_save": ["embed_tokens", "proj_out"]},
    "tied_whole": {"target_modules": QV, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "rows": {"target_modules": QV, "trainable_token_indices": ROWS},
    "rows_by_name": {"target_modules": QV, "trainable_token_indices": {"embed_tokens": ROWS, "proj_out": ROWS}},
    "half": {"target_modules": QV, "dtype": torch.float16},
    "bfloat": {"target_modules": QV, "dtype": torch.bfloat16},
    "gaussian": {"target_modules": QV, "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": QV, "init_lora_weights": "orthogonal"},
    "mica": {"target_modules": QV, "init_lora_weights": "mica"},
    "velora": {"target_modules": ["fc1"], "velora_config": peft.VeloraConfig(num_groups=4)},
    "monteclora": {"target_modules": ["fc1"], "monteclora_config": {"num_samples": 2, "buffer_size": 2}},
    "converted_pissa": {"target_modules": QV, "init_lora_weights": "pissa"},
    "converted_pissa_rslora": {"target_modules": QV, "init_lora_weights": "pissa_niter_4", "use_rslora": True},
    "converted_olora": {"target_modules": QV, "init_lora_weights": "olora", "alpha_pattern": {"v_proj": 6}},
    "named": {"target_modules": ["q_proj"], "name": "es"},
}


def base() -> WhisperForConditionalGeneration:
    """Return the tiny base as a model."""
    model = WhisperForConditionalGeneration(copy.deepcopy(CONFIG))  # peft may note in it that the head is untied
    model.load_state_dict(tensors(), strict=False)
    model.tie_weights()
    return model.eval()


def trained(model: torch.nn.Module, seed: int, also: str | None) -> None:
    """Move everything that is trained, and a tensor of the base where the case says so."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in model.named_parameters():
        if values.requires_grad or (also and name.endswith(also)):
            values.data += 0.1 * torch.randn(values.shape, generator=generator).to(values.dtype)


def made(settings: dict, seed: int, folder: Path) -> dict[str, torch.Tensor]:
    """Save one adapter as peft does; return the state dict of the model into which peft merges it."""
    settings = {"r": 2, "lora_alpha": 3, "bias": "none"} | settings
    name, save, also = settings.pop("name", "default"), settings.pop("save", {}), settings.pop("move", None)
    dtype, written = settings.pop("dtype", None), settings.pop("write", {})
    torch.manual_seed(seed)
    model = get_peft_model(base(), LoraConfig(**settings), adapter_name=name)
    start = folder / "start"
    if str(settings.get("init_lora_weights")).startswith(("pissa", "olora")):
        model.peft_config[name].init_lora_weights = True
        model.save_pretrained(start)
        model.peft_config[name].init_lora_weights = settings["init_lora_weights"]
        save = save | {"path_initial_model_for_weight_conversion": str(start)}
    trained(model, seed, also)
    if dtype:
        for values in (x for n, x in model.named_parameters() if "lora_" in n):
            values.data = values.data.to(dtype)
    model.save_pretrained(folder / "adapter", **save)
    found = folder / "adapter" / (name if name != "default" else "")
    config = found / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | written))
    merged = PeftModel.from_pretrained(base(), found).merge_and_unload()
    (folder / "found").symlink_to(found)
    return {n: x.detach().clone() for n, x in merged.state_dict().items()}


def main() -> None:
    """Write ``cases.json`` and ``vectors.safetensors``."""
    here, cases, vectors, start = Path(__file__).parent, {}, {}, base().state_dict()
    for seed, (case, settings) in enumerate(CASES.items()):
        folder = Path(tempfile.mkdtemp())
        found = made(dict(settings), seed, folder)
        cases[case] = json.loads((folder / "found" / "adapter_config.json").read_text())
        cases[case]["base_model_name_or_path"] = None
        if isinstance(targets := cases[case]["target_modules"], list):  # a set's order, another one each time
            targets.sort()
        for name, values in load_file(folder / "found" / "adapter_model.safetensors").items():
            vectors[f"{case}/adapter/{name}"] = values
        changed = {n: x for n, x in found.items() if not torch.equal(x, start[n])}
        vectors |= {f"{case}/merged/{n}": x.contiguous().clone() for n, x in changed.items()}
        shutil.rmtree(folder)
    lines = [f"{json.dumps(case)}: {json.dumps(cases[case], sort_keys=True)}" for case in cases]
    (here / "cases.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    versions = {name: version(name) for name in ("peft", "torch", "transformers")}
    lists = {"methods": " ".join(method.value for method in peft.PeftType)}
    lists["fields"] = " ".join(field.name for field in dataclasses.fields(LoraConfig))
    save_file(vectors, here / "vectors.safetensors", metadata={"format": "pt", **versions, **lists})
    (here / "vectors.safetensors").chmod(0o644)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # peft's, about tied tables
    main()
