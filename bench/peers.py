"""The other merging libraries, in an environment of their own, and the commands that run them."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

VERSIONS = {"mergekit": "mergekit==0.1.5", "fusion_bench": "fusion-bench==0.2.33"}
INSIDE = Path(__file__).with_name("inside.py")


def folder() -> Path:
    """Return where the environment is kept."""
    cache = os.environ.get("SPEECHMERGE_CACHE", "~/.cache/speechmerge")
    return Path(cache).expanduser() / "peers" / "venv"


def python() -> Path:
    """Return the environment's interpreter."""
    return folder() / "bin" / "python"


def install() -> dict[str, str]:
    """Make the environment if need be; returns for each peer that is not there why.

    The peers get this environment's torch, so that libraries are compared and not versions of torch.
    """
    if not python().is_file():
        subprocess.run([sys.executable, "-m", "venv", folder()], check=True)
    missing = {}
    torch = f"torch=={importlib.metadata.version('torch').split('+')[0]}"
    for name, requirement in VERSIONS.items():
        if subprocess.run([python(), "-c", f"import {name}"], capture_output=True).returncode:
            print(f"installing {requirement} into {folder()} (some minutes, once)", flush=True)
            wanted = [requirement, torch] + ([VERSIONS["mergekit"]] if name != "mergekit" else [])
            pip = [python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode:
                missing[name] = f"pip: {done.stderr.strip().splitlines()[-1]}"
    return missing


def in_memory() -> list[Path]:
    """Return the program that merges through the peers' functions."""
    return [python(), INSIDE]


def command_line(job: Mapping[str, Any], config: Path) -> list[str | Path]:
    """Write mergekit's configuration and return the command that merges by it."""
    base, *experts = job["folders"]
    each = {name: value for name, value in job["parameters"].items() if isinstance(value, list)}
    models = [
        {"model": path, "parameters": {name: value[i] for name, value in each.items()}}
        for i, path in enumerate(experts)
    ]
    content = {"merge_method": job["method"], "models": models, "dtype": "float32"}
    content["parameters"] = {name: value for name, value in job["parameters"].items() if name not in each}
    if job["base"] != "none":
        content["base_model"] = base if job["base"] == "model" else experts[0]
    config.write_text(yaml.safe_dump(content))
    tool = folder() / "bin" / "mergekit-yaml"
    return [tool, config, job["output"], "--no-copy-tokenizer", "--quiet"]
