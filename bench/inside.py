"""Runs inside the peers' own environment: one merge, files to file, through a peer's functions in memory.

    python inside.py JOB.json

The job names the peer's ``method``, its ``parameters``, the model ``folders`` (the base first) and the ``output`` file.
Nothing of the library is imported here.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FROZEN = "model.encoder.embed_positions.weight"


def mergekit(job: dict, models: list[dict]) -> dict:
    """Merge with mergekit's API for state dicts, the way its documentation shows."""
    from mergekit.merge_methods.api import merge_state_dicts

    names = [f"expert{i}" for i in range(len(models) - 1)]
    inputs = dict(zip(names, models[1:], strict=True))
    parameters = {
        key: dict(zip(names, value, strict=True)) if isinstance(value, list) else value
        for key, value in job["parameters"].items()
    }
    if job["base"] == "model":
        inputs = {"base": models[0]} | inputs
    with torch.no_grad():
        return merge_state_dicts(
            inputs,
            job["method"],
            parameters=parameters,
            base={"model": "base", "first": names[0], "none": None}[job["base"]],
        )


def tsvm(job: dict, models: list[dict]) -> dict:
    """Merge with FusionBench's TSV-M: linear maps and, as there, every other tensor of two dimensions given."""
    from fusion_bench.method.task_singular_vector.utils import TSVM_utils

    def merged(vectors: list[dict]) -> dict:
        return TSVM_utils.compute_and_sum_svd_mem_reduction(vectors, accelerator="cpu")

    return _added(models, merged)


def iso_c(job: dict, models: list[dict]) -> dict:
    """Merge with FusionBench's Iso-C."""
    from fusion_bench.method.isotropic_merging import iso_utils

    tables = [n for n in models[0] if "embed" in n or n == "proj_out.weight"]
    return _added(models, lambda vectors: iso_utils.iso_c(vectors, accelerator="cpu", exclude_keys=tables))


def regmean(job: dict, models: list[dict]) -> dict:
    """Merge with FusionBench's RegMean, the Gram matrices read from their files."""
    from fusion_bench.method.regmean.regmean import merging_with_regmean_weights

    grams = [load_file(Path(folder) / "model.safetensors") for folder in job["grams"]]
    stacked = {name: [model[name] for model in models[1:]] for name in models[0]}
    with torch.no_grad():
        return merging_with_regmean_weights(stacked, grams, reduce_non_diagonal_ratio=job["parameters"]["alpha"])


def _added(models: list[dict], merged) -> dict:
    """Return the base plus a peer's merged task vector; tables and the tied head are averaged without it."""
    with torch.no_grad():
        vectors = [{n: model[n] - models[0][n] for n in models[0]} for model in models[1:]]
        tables = [n for n in models[0] if "embed" in n or n == "proj_out.weight"]
        mean = {n: sum(vector.pop(n) for vector in vectors) / len(vectors) for n in tables}
        change = merged(vectors) | mean
        return {n: models[0][n] + change[n] for n in models[0]}


def main() -> None:
    """Read, merge, write."""
    job = json.loads(Path(sys.argv[1]).read_text())
    models = [load_file(Path(folder) / "model.safetensors") for folder in job["folders"]]
    work = {"tsvm": tsvm, "iso_c": iso_c, "regmean": regmean}.get(job["method"], mergekit)
    merged = work(job, models)
    merged = {name: tensor.contiguous() for name, tensor in merged.items()}
    save_file(merged, job["output"], metadata={"format": "pt"})


if __name__ == "__main__":
    main()
