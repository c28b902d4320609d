"""Calls of the command line as a shell makes them, and small experts to merge."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmerge import cli
from speechmerge.whisper import models


class Caller:
    """Calls ``speechmerge``; returns exit code, output and messages."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words):
        self.monkeypatch.setattr(sys, "argv", ["speechmerge", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = self.capsys.readouterr()
        return stop.value.code or 0, out, err


def two_experts(place):
    """Make two folders that differ a little from the smoke base."""
    folders = []
    for seed in (1, 2):
        folder = place / f"e{seed}"
        shutil.copytree(models.base_model("smoke"), folder)
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(folder / "model.safetensors")
        for name, values in tensors.items():
            if "embed_positions" not in name:
                tensors[name] = values + 1e-3 * torch.randn(values.shape, generator=generator)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders
