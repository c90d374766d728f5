"""Energies and forces for i-PI: its socket protocol, all beads of a step in one batch."""

import contextlib
import json
import os
import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch_geometric.data import Data

from pyg_schnet.simulation.ipi_input import to_ipi
from pyg_schnet.units import BOHR, HARTREE

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator
    from torch import nn

_HEADER = 12  # bytes
_CELLS = 2 * 9 * 8  # bytes of a cell and its inverse
_REPORT_EVERY = 0.1  # seconds
_PATIENCE = 60.0  # seconds that a server has to open its socket
_SKIN = 2.0  # Å; beads move on here, and results do not depend on it


class Bead(NamedTuple):
    """What i-PI asks for, of each bead.

    Attributes:
        energy: (B,), eV.
        forces: (B, N, 3), eV/Å.
        virial: (B, 3, 3), eV: minus the derivative of the energy by strain, which is minus volume
            times stress; zero where the structure is not periodic.
    """

    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray


Beads = Callable[[np.ndarray, np.ndarray], Bead]
"""Of cells (B, 3, 3), whose rows are lattice vectors, and positions (B, N, 3), Å."""


def bead_evaluator(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]", atoms: "Atoms"
) -> Beads:
    """Evaluates copies of a structure, all in one batch.

    Other calculators than :class:`Calculator` evaluate one after the other.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        atoms: Elements and periods; neither its positions nor its cell are used.

    Raises:
        ValueError: As :meth:`Calculator.evaluator`.

    Example:
        >>> import numpy as np
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> water = molecule("H2O")
        >>> evaluate = bead_evaluator(SchNet(32, 32, 2, 20, 5.0), water)
        >>> beads = evaluate(np.zeros((4, 3, 3)), np.stack(4 * [water.positions]))
        >>> beads.energy.shape, beads.forces.shape, beads.virial.shape
        ((4,), (4, 3, 3), (4, 3, 3))
    """
    from pyg_schnet.simulation.calculator import Calculator
    from pyg_schnet.simulation.relax import as_calculator, check_structure

    calculator = as_calculator(potential, _SKIN)
    check_structure(calculator, atoms)
    if isinstance(calculator, Calculator):
        return _Batch(calculator, atoms)
    return lambda cells, positions: _one_by_one(calculator, atoms, cells, positions)


def turned(evaluate: Beads, rotation: np.ndarray) -> Beads:
    """As ``evaluate``, in the frame of i-PI.

    Args:
        evaluate: In the frame of the structure, which a potential may depend on.
        rotation: Q (3, 3), of :func:`~pyg_schnet.simulation.ipi_input.to_ipi`.
    """

    def there_and_back(cells: np.ndarray, positions: np.ndarray) -> Bead:
        beads = evaluate(cells @ rotation, positions @ rotation)
        virial = rotation @ beads.virial @ rotation.T
        return Bead(beads.energy, beads.forces @ rotation.T, virial)

    return there_and_back


class _Batch:
    """Beads of one structure; what depends on their number or the cell is kept while it stays."""

    def __init__(self, calculator: Any, atoms: "Atoms") -> None:
        from pyg_schnet.models.frozen import FrozenPotential

        self.periodic = bool(atoms.pbc.any())
        self.numbers = torch.from_numpy(atoms.numbers.astype(np.int64))
        self.pbc = torch.from_numpy(atoms.pbc.copy()).view(1, 3)
        self.engine = calculator.engine(self.periodic)
        self.frozen = isinstance(self.engine, FrozenPotential)
        parameter = next(calculator.model.parameters(), torch.empty(0, dtype=torch.float64))
        self.dtype, self.device = parameter.dtype, parameter.device
        self.kept: dict[int, tuple[np.ndarray, Any]] = {}

    def __call__(self, cells: np.ndarray, positions: np.ndarray) -> Bead:
        count, atoms = positions.shape[:2]
        _check_finite(positions)
        kept = self.kept.get(count)
        if kept is None or (self.periodic and not np.array_equal(kept[0], cells)):
            data = self._data(cells, count)
            kept = cells.copy(), self.engine.structure(data) if self.frozen else data
            self.kept[count] = kept
        made = kept[1]
        flat = np.ascontiguousarray(positions.reshape(-1, 3))
        if self.frozen:
            energy, forces, virial = made.evaluate(flat)
        else:
            made.pos = torch.tensor(flat, dtype=self.dtype, device=self.device)
            result = {k: v.double().cpu().numpy() for k, v in self.engine(made).items()}
            energy, forces, virial = result["energy"], result["forces"], result.get("stress")
            if virial is not None:
                virial = virial * np.abs(np.linalg.det(cells))[:, None, None]
        return Bead(
            energy,
            forces.reshape(count, atoms, 3).astype(np.float64),
            np.zeros((count, 3, 3)) if virial is None else -virial,
        )

    def _data(self, cells: np.ndarray, count: int) -> Data:
        data = Data(
            z=self.numbers.repeat(count),
            pos=torch.zeros(count * len(self.numbers), 3, dtype=self.dtype),
            batch=torch.arange(count).repeat_interleave(len(self.numbers)),
        )
        if self.periodic:
            # Not rounded by the compiled function, as positions are not.
            dtype = torch.float64 if self.frozen else self.dtype
            data.cell = torch.tensor(cells, dtype=dtype)
            data.pbc = self.pbc.repeat(count, 1)
        return data if self.frozen else data.to(self.device)


def _one_by_one(
    calculator: "BaseCalculator", atoms: "Atoms", cells: np.ndarray, positions: np.ndarray
) -> Bead:
    _check_finite(positions)
    moved = atoms.copy()
    moved.set_constraint()
    moved.calc = calculator
    periodic = atoms.pbc.any() and "stress" in calculator.implemented_properties
    energy, forces = np.empty(len(positions)), np.empty(positions.shape)
    virial = np.zeros((len(positions), 3, 3))
    for bead, (cell, at) in enumerate(zip(cells, positions, strict=True)):
        if atoms.pbc.any():
            moved.cell = cell
        moved.positions = at
        forces[bead] = moved.get_forces()
        energy[bead] = moved.get_potential_energy()
        if periodic:
            virial[bead] = -moved.get_volume() * moved.get_stress(voigt=False)
    return Bead(energy, forces, virial)


def serve(
    evaluate: Beads, connection: socket.socket, progress: Callable[[int, float], None] | None = None
) -> int:
    """Answer i-PI until it says that it is done.

    Speaks the protocol of i-PI's ``<ffsocket>``, one structure at a time, and with ``<batch_size>``
    (i-PI 3.3) the batched form of it, all in one message. An incomplete batch, which i-PI fills up
    with copies of its last structure, costs only what it holds.

    Kapil et al., Comput. Phys. Commun. 236, 214 (2019); Litman et al., J. Chem. Phys. 161, 062504
    (2024).

    Args:
        evaluate: As :func:`bead_evaluator` makes it.
        connection: To the server; it is closed at the end.
        progress: Called after each answer, with the number of structures so far, and the seconds
            that they took.

    Returns:
        The number of structures evaluated.

    Raises:
        ConnectionError: If the server is gone without a word, or says what is no part of the
            protocol.
        FloatingPointError: If energy or forces are not finite.
        ValueError: As ``evaluate``.
    """
    with connection:
        return _Session(evaluate, connection, progress).run()


class _Session:
    """A conversation with the server."""

    def __init__(
        self,
        evaluate: Beads,
        connection: socket.socket,
        progress: Callable[[int, float], None] | None,
    ) -> None:
        self.evaluate, self.connection, self.progress = evaluate, connection, progress
        self.batch = 0  # not told yet
        self.answer = b""
        self.structures, self.seconds = 0, 0.0

    def run(self) -> int:
        while True:
            message = self._receive(_HEADER).rstrip()
            if message == b"STATUS":
                state = b"HAVEDATA" if self.answer else b"READY" if self.batch else b"NEEDINIT"
                self.connection.sendall(state.ljust(_HEADER))
            elif message == b"INIT":
                self._initialize()
            elif message == b"POSDATA":
                self.answer = self._evaluated()
            elif message == b"GETFORCE":
                self.connection.sendall(self.answer)
                self.answer = b""
                if self.progress is not None:
                    self.progress(self.structures, self.seconds)
            elif message == b"EXIT":
                return self.structures
            else:
                raise ConnectionError(
                    f"The server says {message!r}, which is no part of i-PI's protocol."
                )

    def _initialize(self) -> None:
        _, length = np.frombuffer(self._receive(8), np.int32)
        self.batch = 1
        for part in self._receive(int(length)).decode().split(","):
            name, _, value = part.partition(":")
            if name.strip() == "batch_size":
                self.batch = int(value)

    def _evaluated(self) -> bytes:
        """The answer to a message of positions."""
        count = max(self.batch, 1)
        if count > 1:
            atoms = int(np.frombuffer(self._receive(4), np.int32)[0])
            cells = np.frombuffer(self._receive(count * _CELLS)).reshape(count, 2, 3, 3)[:, 0]
        else:
            cells = np.frombuffer(self._receive(_CELLS)).reshape(1, 2, 3, 3)[:, 0]
            atoms = int(np.frombuffer(self._receive(4), np.int32)[0])
        positions = np.frombuffer(self._receive(count * atoms * 24)).reshape(count, atoms, 3)
        held = _without_copies(positions)
        began = time.perf_counter()
        # i-PI's lattice vectors are columns.
        beads = self.evaluate(BOHR * cells[:held].transpose(0, 2, 1), BOHR * positions[:held])
        self.seconds += time.perf_counter() - began
        self.structures += held
        _check_beads(beads)
        padded = [np.concatenate([a, *(count - held) * [a[-1:]]]) for a in beads]
        return _forceready(Bead(*padded), atoms, self.batch > 1)

    def _receive(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.connection.recv(size)
            if not part:
                raise ConnectionError("The server has closed the connection without a word.")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _forceready(beads: Bead, atoms: int, batched: bool) -> bytes:
    """The message with the results, in hartree and bohr; the extra strings are empty."""
    energy = (beads.energy / HARTREE).astype(np.float64).tobytes()
    forces = (beads.forces * (BOHR / HARTREE)).astype(np.float64).tobytes()
    virial = (beads.virial / HARTREE).astype(np.float64).tobytes()
    extras = np.zeros(len(beads.energy) if batched else 1, np.int32).tobytes()
    head = b"FORCEREADY".ljust(_HEADER)
    return head + energy + np.int32(atoms).tobytes() + forces + virial + extras


def _without_copies(positions: np.ndarray) -> int:
    """How many structures a batch holds before the copies of its last one."""
    held = len(positions)
    while held > 1 and np.array_equal(positions[held - 1], positions[held - 2]):
        held -= 1
    return held


def _check_beads(beads: Bead) -> None:
    for name, values in (("energy", beads.energy), ("force", beads.forces)):
        if not np.isfinite(values.sum()):
            raise FloatingPointError(
                f"The dynamics exploded: the {name} of a bead is not finite. Try a shorter "
                "timestep, a lower temperature or a relaxed start."
            )


def _check_finite(positions: np.ndarray) -> None:
    if not np.isfinite(positions.sum()):
        raise FloatingPointError(
            "The dynamics exploded: a position of a bead is not finite. Try a shorter timestep, a "
            "lower temperature or a relaxed start."
        )


def connect(address: str | tuple[str, int], patience: float = _PATIENCE) -> socket.socket:
    """A connection to a server that may still be starting.

    Args:
        address: The path of a Unix socket, or host and port.
        patience: Seconds to try.

    Raises:
        ConnectionError: If there is none in that time.
    """
    end = time.monotonic() + patience
    while True:
        try:
            return _connected(address)
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(
                    f"No server of i-PI answers at {address} within {patience:g} s: {error}."
                ) from error
            time.sleep(0.02)


def _connected(address: str | tuple[str, int]) -> socket.socket:
    kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    connection = socket.socket(kind, socket.SOCK_STREAM)
    try:
        connection.connect(address)
        if kind == socket.AF_INET:
            # Short messages shall not wait for company.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        connection.close()
        raise
    return connection


def _main() -> int:
    """The process that :func:`run_pimd` starts: what to do comes by standard input.

    It stays open while the parent lives; at its end this process ends as well.
    """
    try:
        potential, atoms, address, threads = pickle.load(sys.stdin.buffer)
    except Exception as error:  # whatever unpickling leads to
        _say(error=f"The potential cannot be made anew in another process: {error}")
        return 1
    threading.Thread(target=_watch, args=(address,), daemon=True).start()
    try:
        torch.set_num_threads(threads)
        evaluate = bead_evaluator(potential, atoms)
        if atoms.pbc.any():
            evaluate = turned(evaluate, to_ipi(atoms)[2])
        connection = connect(address)
        _say(structures=0, seconds=0.0, wall=0.0)
        serve(evaluate, connection, _Progress())
    except ConnectionError as error:
        _say(lost=str(error))
        return 3
    except Exception as error:  # whatever a calculator raises is for the parent to tell
        _say(kind=type(error).__name__, error=str(error) or type(error).__name__)
        return 1
    return 0


class _Progress:
    """Tells the parent, but not too often."""

    def __init__(self) -> None:
        self.began = self.last = time.perf_counter()

    def __call__(self, structures: int, seconds: float) -> None:
        now = time.perf_counter()
        if now - self.last > _REPORT_EVERY:
            self.last = now
            _say(structures=structures, seconds=seconds, wall=now - self.began)


def _say(**what: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(what), flush=True)


def _watch(address: str | tuple[str, int]) -> None:
    sys.stdin.buffer.read()
    if isinstance(address, str):
        # Nobody else is left to do it.
        with contextlib.suppress(OSError):
            Path(address).unlink(missing_ok=True)
            Path(address).parent.rmdir()
    os._exit(4)


if __name__ == "__main__":
    sys.exit(_main())
