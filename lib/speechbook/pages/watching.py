"""A kernel under watch: the log says each minute what it is at, and a cell that stands still is stopped.

Nothing here has a limit of time: on a slow or busy machine a cell may take as long as it needs. What ends a cell is
that for minutes its processes used no processor time and it wrote nothing.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from traitlets.config import Config

from . import kernels

log = logging.getLogger(__name__)

ENGINE = "watched"  # its name in papermill's registry
HEARTBEAT = 60.0  # seconds between two lines of the log about the same notebook
STAND_STILL = 600.0  # seconds without a sign of life after which a cell is stopped
LOOKS = 60  # in that time
PATIENCE = 600  # seconds for a kernel to answer for the first time, and for the last output of a cell to arrive
IDLE = 0.005  # share of one core: a kernel that waits uses a tenth of it, one beside heavy work far more


class Watch:
    """One notebook's kernel, looked at from a thread of its own while its cells run.

    Attributes:
        title: names the notebook in the log.
        cell: the place of the cell that runs, in words.
        stopped: why the kernel was ended, empty if it was not.
    """

    def __init__(self, title: str) -> None:
        self.title, self.cell, self.stopped = title, "starting", ""
        self._looks = 0  # without a sign of life

    def sign(self) -> None:
        """Take note that the kernel is alive: it wrote something, or began another cell."""
        self._looks = 0

    @contextlib.contextmanager
    def over(self, pid: int) -> Iterator[None]:
        """Watch the processes of a kernel until the block ends."""
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(pid, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _look(self, pid: int, ended: threading.Event) -> None:
        """Look again and again; looks are counted, not seconds, for while the machine sleeps nobody works."""
        start = told = time.monotonic()
        used = 0.0
        with contextlib.suppress(psutil.Error):  # the client notices a dead kernel by itself
            kernel = psutil.Process(pid)
            while not ended.wait(STAND_STILL / LOOKS):
                now, found = time.monotonic(), processor_seconds(kernel)
                self._looks += 1
                if abs(found - used) > IDLE * STAND_STILL:
                    used, self._looks = found, 0
                if self._looks > LOOKS:
                    self._stop(kernel)
                    return
                if now - told >= HEARTBEAT:
                    log.info("%s, %s, %.0f s", self.title, self.cell, now - start)
                    told = now

    def _stop(self, kernel: psutil.Process) -> None:
        """End the kernel and what it started; a cell that hangs in native code hears no interrupt."""
        self.stopped = f"{self.cell} used no processor time and wrote nothing for {STAND_STILL / 60:.3g} minutes"
        for process in [*kernel.children(recursive=True), kernel]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def processor_seconds(root: psutil.Process) -> float:
    """Return the processor time that a process and its descendants have used, those that ended included."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # its own and that of ended children: user, system, user, system
    return total


class _Client(PapermillNotebookClient):
    """papermill's client, which tells a watch what happens."""

    def __init__(self, notebook: object, *, watch: Watch, **options: object) -> None:
        super().__init__(notebook, **options)
        self.watch = watch

    def papermill_execute_cells(self) -> None:
        with self.watch.over(self.km.provisioner.pid):
            super().papermill_execute_cells()

    def execute_cell(self, cell: NotebookNode, index: int) -> NotebookNode:
        self.watch.cell = f"cell {index + 1} of {len(self.nb.cells)}"
        self.watch.sign()
        return super().execute_cell(cell, index)

    def process_message(self, *message: object) -> object:
        self.watch.sign()
        return super().process_message(*message)


class _Engine(Engine):
    """papermill's engine with a watched client and patience; several notebooks may run in threads of one process."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: object, kernel_name: str, *, watch: Watch, folder: Path, config: Config, **_: object
    ) -> None:
        client = _Client(
            nb_man,
            watch=watch,
            kernel_name=kernel_name,
            config=config,
            log=logging.getLogger("papermill"),
            resources={"metadata": {"path": str(folder)}},  # papermill itself would move the whole process there
            startup_timeout=PATIENCE,
            iopub_timeout=PATIENCE,
        )
        try:
            client.execute(env=kernels.PATIENT | os.environ)
        finally:
            if threading.current_thread() is not threading.main_thread():
                asyncio.get_event_loop().close()  # the client made one for this thread and leaves it open


kernels.fork()
papermill_engines.register(ENGINE, _Engine)
