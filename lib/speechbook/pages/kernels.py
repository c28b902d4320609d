"""Kernels that are forked from a process with the heavy packages in it, so that a page's first cell runs at once.

jupyter_client starts each kernel as a new interpreter, and most pages then import torch, pandas and seaborn for longer
than they work. Here every process that executes notebooks has one server that imports them (:mod:`.preloaded`), and
its kernels are forks of that. A kernel is a process of its own still, with the folder and environment it is given.
"""

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

NAME = "forked"  # of the provisioner, which is an entry point of jupyter_client
LAUNCHER = "ipykernel_launcher"  # in a kernel's command; its arguments follow
# Threads that wait for one another sleep. Where other work has the cores, spinning takes most of the time: a short
# transcription beside three busy processes on two cores took 34 s instead of 5 s.
PATIENT = {"OMP_WAIT_POLICY": "passive"}


class _Kernel(ForkServerProcess):
    """A kernel, to jupyter_client a process like those of ``subprocess``."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: str) -> None:
        super().__init__()
        self.arguments, self.environment, self.folder = arguments, environment, folder

    def run(self) -> None:
        from ipykernel.kernelapp import IPKernelApp  # heavy, and the server has it

        os.setsid()  # an interrupt reaches a kernel and what it started, not the server
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment | {"JPY_PARENT_PID": str(os.getppid())})  # without the server it ends
        IPKernelApp.launch_instance(self.arguments)

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Forked(LocalProvisioner):
    """Gives jupyter_client forked kernels instead of new interpreters."""

    async def launch_kernel(self, cmd: list[str], **kwargs: object) -> KernelConnectionInfo:
        """Fork a kernel; of the command only the arguments matter, for the interpreter is this one."""
        multiprocessing.set_forkserver_preload([f"{__package__}.preloaded"])
        self.cwd = kwargs.get("cwd") or Path.cwd()
        self.process = _Kernel(cmd[cmd.index(LAUNCHER) + 1 :], kwargs.get("env") or dict(os.environ), str(self.cwd))
        self.process.start()
        self.pid = self.pgid = self.process.pid
        return self.connection_info


def fork() -> None:
    """Let the kernels that this process starts be forked; on Linux only, where a fork of loaded libraries is safe."""
    if sys.platform == "linux":
        KernelProvisionerFactory.instance().default_provisioner_name = NAME
