"""Reads models and writes one with safetensors, nothing else: ``python floor.py OUTPUT FILE...``."""

import sys

from safetensors import safe_open
from safetensors.torch import save_file


def main() -> None:
    """Copy every tensor out of its file (opening alone reads nothing), then write the last model."""
    output, *files = sys.argv[1:]
    for file in files:
        with safe_open(file, "pt") as stream:
            tensors = {name: stream.get_tensor(name).clone() for name in stream.keys()}  # noqa: SIM118 (no mapping)
    save_file(tensors, output)


if __name__ == "__main__":
    main()
