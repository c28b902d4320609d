"""Whole processes, timed: seconds on the clock and on the processors, and the most memory they held.

The file is also the small program that starts a command and waits for it: memory counts from the fork on, so a command
started from a large process would seem to hold as much as that one.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """What one process took, with the children it waited for."""

    seconds: float  # from start to end
    processor: float  # seconds of all cores together; what to compare on a machine that others use too
    memory: float  # GB held at the peak, pages of mapped files included


class FailedError(RuntimeError):
    """The process did not succeed; the message ends with what it said last."""


def run(command: Sequence[str | Path], log: Path) -> Measured:
    """Run a command to its end, what it says going to ``log``.

    Raises:
        FailedError: it ended with another status than 0.
    """
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    starter = [sys.executable, __file__, log, *command]
    answer = subprocess.run([str(word) for word in starter], stdout=subprocess.PIPE, env=quiet, check=True)
    status, *numbers = json.loads(answer.stdout)
    if status:
        said = log.read_text(errors="replace").strip().splitlines()
        raise FailedError(f"{command[1]} ended with {status}: {said[-1] if said else 'it said nothing'}")
    return Measured(*numbers)


def main() -> None:
    """Start the command, wait, print status, seconds, processor seconds and GB as JSON."""
    log, *command = sys.argv[1:]
    started = time.perf_counter()
    with open(log, "w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    print(json.dumps([process.returncode, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9]))


if __name__ == "__main__":
    main()
