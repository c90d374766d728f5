"""i-PI and the driver as processes: started, listened to, and ended together."""

import contextlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time as clock
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from pyg_schnet.simulation.ipi_input import Address
from pyg_schnet.simulation.pimd_files import PimdFiles

if TYPE_CHECKING:
    from ase import Atoms

SOCKETS = ("unix", "tcp")
LOOK_EVERY = 0.1
"""Seconds."""

# i-PI, asked to end when standard input does: with the process that has started it.
_SERVER = """
import os, runpy, signal, sys, threading, time

def watch():
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({grace})
    os._exit(1)

threading.Thread(target=watch, daemon=True).start()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_GRACE = 8.0  # seconds for i-PI to write its state and end


class Processes:
    """i-PI and the driver while they run; none of them is left at the end.

    Both are in sessions of their own, so that Ctrl-C reaches neither: i-PI is asked to end, and
    writes its state. Both end with this process, whose death closes their standard input.
    """

    def __init__(
        self, files: PimdFiles, name: str, atoms: "Atoms", address: Address, lock: int
    ) -> None:
        self.files, self.name, self.address, self.lock = files, name, address, lock
        try:
            self.task = pickle.dumps(
                (atoms.calc, _bare(atoms), address.where(), torch.get_num_threads())
            )
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"The potential must be one that can be pickled, for another process: {error}."
            ) from error
        self.said: dict[str, Any] = {}
        self.cause = ""
        self._rest = b""
        self._server: subprocess.Popen[bytes] | None = None
        self._driver: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Processes":
        try:
            with open(self.files.folder / "pimd.log", "ab") as log:
                self._start(log)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self, log: IO[bytes]) -> None:
        shared: dict[str, Any] = {"start_new_session": True, "pass_fds": (self.lock,)}
        # Its arrays are small, and the driver needs the cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER.format(grace=_GRACE), str(ipi_script()), self.name],
            cwd=self.files.folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            **shared,
        )
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "pyg_schnet.simulation.ipi_driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            **shared,
        )
        assert self._driver.stdin is not None and self._driver.stdout is not None
        os.set_blocking(self._driver.stdout.fileno(), False)
        # What it does not take shows in how it ends.
        with contextlib.suppress(BrokenPipeError):
            self._driver.stdin.write(self.task)
            self._driver.stdin.flush()

    def alive(self) -> bool:
        """Whether both run; if not, the end of the other one has been waited for."""
        assert self._server is not None and self._driver is not None
        server, driver = self._server.poll(), self._driver.poll()
        if server is None and driver is None:
            return True
        if server is None:
            # It ends by itself once the driver is gone, and after the last step.
            server = self._await_server(asked=driver == 0)
            self.cause = _cause("the driver", driver)
        elif server != 0:
            self.cause = _cause("i-PI", server)
        if self._driver.poll() is None and server == 0:
            # Has been told, and says its last words.
            _ended(self._driver, _GRACE)
        for said in self.hear(0.0):
            self.said |= said
        return False

    def hear(self, seconds: float) -> Iterator[dict[str, Any]]:
        """What the driver says in this time."""
        assert self._driver is not None and self._driver.stdout is not None
        end = clock.monotonic() + seconds
        while True:
            part = self._driver.stdout.read()
            if part:
                *lines, self._rest = (self._rest + part).split(b"\n")
                for line in lines:
                    # Others may print as well.
                    with contextlib.suppress(ValueError):
                        said = json.loads(line)
                        if isinstance(said, dict):
                            yield said
            left = end - clock.monotonic()
            if left <= 0 or self._driver.poll() is not None:
                return
            clock.sleep(min(left, 0.05))

    def _await_server(self, asked: bool = False) -> int:
        """The exit code of i-PI, which writes its state before it ends.

        It is asked to, because it does not always survive the loss of its driver. Before its first
        frame there is nothing to write.
        """
        assert self._server is not None
        if not asked:
            self._server.terminate()
        if self.files.frames():
            _ended(self._server, _GRACE)
        if self._server.poll() is None:
            self._server.kill()
        return self._server.wait()

    def _stop(self) -> None:
        try:
            if self._server is not None and self._server.poll() is None:
                self._await_server()
        finally:
            for process in (self._server, self._driver):
                if process is not None:
                    process.kill()
                    process.wait()
                    for stream in (process.stdin, process.stdout):
                        if stream is not None:
                            with contextlib.suppress(BrokenPipeError):
                                stream.close()


def _ended(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """The exit code, if it ends in this time."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _cause(who: str, code: int | None) -> str:
    if code is None or code == 0:
        return ""
    if code < 0:
        return f"{who} was killed ({signal.Signals(-code).name})"
    return f"{who} failed with exit code {code}"


@contextlib.contextmanager
def listening(transport: str) -> Iterator[Address]:
    """A place for i-PI to listen, which is gone afterwards."""
    if transport == "tcp":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        yield Address(port=port)
        return
    # Short, as the name of a socket must be.
    place = tempfile.mkdtemp(prefix="pimd-")
    try:
        yield Address(path=f"{place}/socket")
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Nobody else works here; the processes started hold the lock too, till they have ended."""
    import fcntl

    with open(folder / ".lock", "w") as file:
        # An i-PI whose command was killed may take all of its time to end.
        end = clock.monotonic() + 2 * _GRACE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if clock.monotonic() > end:
                    raise ValueError(
                        f"Another process works in {folder}; wait for its end, or choose another "
                        "output."
                    ) from error
                clock.sleep(LOOK_EVERY)
        yield file.fileno()


def ipi_script() -> Path:
    """``i-pi`` of this environment."""
    places = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    found = shutil.which("i-pi", path=os.pathsep.join(places)) or shutil.which("i-pi")
    if found is None:
        raise ImportError("i-PI is installed without its program i-pi; install it again.")
    return Path(found)


def _bare(atoms: "Atoms") -> "Atoms":
    """The structure without its calculator."""
    bare = atoms.copy()
    bare.calc = None
    return bare
