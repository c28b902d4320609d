"""This machine and this library in one line each: the stamp that every measured number carries."""

import functools
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def stamp() -> dict[str, str]:
    """Return the fields that say where, when and by which library version a number was made."""
    return {"library": library(), "hardware": hardware(), "date": datetime.now(UTC).date().isoformat()}


@functools.cache
def hardware() -> str:
    """Describe this machine in one line: processor, cores, memory, GPU. No host name, no serial number."""
    import torch  # heavy, and of no use to who only reads what was measured

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gpu = f"{len(gpus)} × {gpus[0]}" if gpus else "no GPU"
    return f"{_processor()}, {cores} cores, {memory:.0f} GiB, {gpu}"


def _processor() -> str:
    """The processor's model name, from the kernel where it says so."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.processor() or platform.machine()


@functools.cache
def commit() -> str | None:
    """Return the short hash of the commit this library stands at, ``+`` if files differ from it; None if unknown.

    A library that is installed inside another project's repository has no commit there.
    """
    here, said = Path(__file__), []
    for asked in ("rev-parse --short=10 HEAD", "status --porcelain .", f"ls-files --error-unmatch {here.name}"):
        try:
            found = subprocess.run(["git", *asked.split()], cwd=here.parent, capture_output=True, text=True)
        except OSError:
            return None
        if found.returncode:
            return None
        said.append(found.stdout.strip())
    head, changed, _ = said
    return head + ("+" if changed else "")


def library() -> str:
    """Return the library's version, with the commit where it is known: ``0.1.0 (1a2b3c4d5e)``."""
    at = commit()
    return f"{version('speechmerge')} ({at})" if at else version("speechmerge")
