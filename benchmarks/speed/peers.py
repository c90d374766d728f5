"""SchNetPack as a second peer, in a process and an environment of its own.

Its pins may exclude this package's (2.1 asks for SymPy up to 1.12, PyTorch for a newer one), so
``schnetpack_peer.py`` is run by the Python of another environment. It gets a file ``case.npz``:

===============================  ===================================================================
``settings``                     JSON: task, blocks, features, gaussians, cutoff, threads, device
``z, pos, batch, edge_index``    the structures, as in :class:`~.systems.System`
``cell, cell_shift``             likewise, for periodic structures only
``walk``                         (steps, N, 3) displacements, Å, for molecular dynamics only
``weights/NAME``                 each parameter, by SchNetPack's name
===============================  ===================================================================
"""

import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet import Potential, SchNet
from pyg_schnet.benchmarks.speed import work
from pyg_schnet.benchmarks.speed.rows import Row
from pyg_schnet.benchmarks.speed.systems import System
from pyg_schnet.benchmarks.speed.timing import Comparison

SCRIPT = Path(__file__).with_name("schnetpack_peer.py")
HINT = (
    "SchNetPack was not measured: give the Python of an environment that has it with "
    "--schnetpack-python."
)
# SchNetPack has no frozen engine: its model stands against ours in both.
TASKS: dict[Callable[..., object], str] = {
    work.energy: "energy",
    work.energy_and_forces: "forces",
    work.frozen: "forces",
    work.dynamics: "dynamics",
    work.training_on_energies: "training_on_energies",
    work.training_on_forces: "training_on_forces",
}
NAMES = {
    "conv.lin1": "in2f",
    "conv.nn.0": "filter_network.0",
    "conv.nn.2": "filter_network.1",
    "conv.lin2": "f2out.0",
    "lin": "f2out.1",
    "lin1": "outnet.0",
    "lin2": "outnet.1",
}
# Sums in float32 in another order, and tabulated filters.
ENERGY_TOLERANCE = 1e-5  # eV for each atom
FORCE_TOLERANCE = 1e-4  # of the largest force


class PeerFailed(Exception):
    """Why there is no figure, in a sentence.

    Args:
        sentence: To be shown.
        unusable: Whether another row would fail alike.
    """

    def __init__(self, sentence: str, unusable: bool = False) -> None:
        super().__init__(sentence)
        self.unusable = unusable


def schnetpack_name(name: str) -> str:
    """A parameter of ours as SchNetPack's ``NeuralNetworkPotential`` calls it.

    Example:
        >>> schnetpack_name("interactions.2.conv.nn.2.bias")
        'representation.interactions.2.filter_network.1.bias'
        >>> schnetpack_name("readout.lin1.weight")
        'output_modules.0.outnet.0.weight'
    """
    path, kind = name.rsplit(".", 1)
    if path == "embedding":
        return f"representation.{name}"
    if path.startswith("readout."):
        return f"output_modules.0.{NAMES[path.removeprefix('readout.')]}.{kind}"
    block, index, layer = path.split(".", 2)
    return f"representation.{block}.{index}.{NAMES[layer]}.{kind}"


class SchNetPack:
    """Measures rows by the SchNetPack of another environment.

    Args:
        python: Its Python.
        limit: Seconds to wait for one answer.

    Attributes:
        facts: Its versions, once known, or why it cannot be used.
    """

    def __init__(self, python: str | Path, limit: float = 600.0) -> None:
        self.python = os.path.expanduser(python)
        self.limit = limit
        self.facts: str | None = None
        self._unusable = False

    def measure(
        self, row: Row, system: System, ours: Callable[[], object], seconds: float
    ) -> dict[str, Any]:
        """SchNetPack against ``ours`` in turn, as :func:`~.timing.compare`.

        Args:
            row: What to do.
            system: Its structures, on the device.
            ours: The call of this package.
            seconds: To spend, beside the start of the process.

        Returns:
            Milliseconds, ratio, quartiles and the largest differences of energies (eV for each
            atom) and forces (eV/Å); where they are too large, a sentence as ``disagreement``; or
            a sentence as ``failure`` alone. Nothing if an earlier row has found the environment
            of no use.
        """
        if self._unusable:
            return {}
        model, _ = work.models(system, row.blocks, row.features, row.cutoff)
        try:
            with tempfile.TemporaryDirectory() as folder:
                case = Path(folder) / "case.npz"
                write_case(case, row, system, model)
                with _Process(self.python, case, self.limit) as process:
                    first = process.answer()
                    found = _differences(first, system, model)
                    compared = _in_turn(ours, process, seconds)
        except PeerFailed as error:
            self._unusable = error.unusable
            if error.unusable:
                self.facts = str(error)
            return {"failure": str(error)}
        self.facts = ", ".join(f"{k} {v}" for k, v in dict(first["versions"]).items())
        return {**compared.as_dict(), **found}


def write_case(path: Path, row: Row, system: System, model: SchNet) -> None:
    """Write the file that ``schnetpack_peer.py`` reads."""
    task = TASKS[row.task]
    settings = {
        "task": task,
        "blocks": row.blocks,
        "features": row.features,
        "gaussians": model.num_gaussians,
        "cutoff": row.cutoff,
        "threads": torch.get_num_threads(),
        "device": system.pos.device.type,
    }
    tensors: dict[str, Tensor] = {k: v for k, v in vars(system).items() if v is not None}
    if task == "dynamics":
        tensors["walk"] = torch.stack(work.walk(system))
    for name, parameter in model.named_parameters():
        tensors[f"weights/{schnetpack_name(name)}"] = parameter.detach()
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    arrays["settings"] = np.array(json.dumps(settings))
    np.savez(path, **arrays)  # type: ignore[arg-type]


class _Process:
    """The other Python at work on one case."""

    def __init__(self, python: str, case: Path, limit: float) -> None:
        self.limit = limit
        self.late = False
        self.errors = case.with_name("stderr")
        # Our own search path is not for another environment.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        try:
            with self.errors.open("w") as stderr:
                self.process = subprocess.Popen(
                    [python, str(SCRIPT), str(case)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    env=environment,
                )
        except OSError as error:
            raise PeerFailed(
                f"schnetpack_python={python!r} cannot be started ({error.strerror}); give the "
                "Python of an environment where SchNetPack 2 is installed.",
                unusable=True,
            ) from None

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def _stop(self) -> None:
        self.late = True
        self.process.kill()

    def answer(self) -> dict[str, Any]:
        """The next line of JSON; what libraries print is passed over."""
        assert self.process.stdout is not None
        timer = threading.Timer(self.limit, self._stop)
        timer.start()
        try:
            for line in self.process.stdout:
                try:
                    found = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if isinstance(found, dict):
                    break
            else:
                raise PeerFailed(self._why())
        finally:
            timer.cancel()
        if "error" in found:
            if found.get("unusable"):
                mend = "give schnetpack_python of an environment where SchNetPack 2 is installed"
                raise PeerFailed(f"{found['error']}; {mend}.", unusable=True)
            raise PeerFailed(f"SchNetPack's process failed: {found['error']}.")
        return found

    def turn(self) -> float:
        """Seconds of one call in a turn of the other side."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("turn\n")
            self.process.stdin.flush()
        except OSError:
            raise PeerFailed(self._why()) from None
        return float(self.answer()["seconds"])

    def _why(self) -> str:
        code = self.process.wait()
        if self.late:
            return f"SchNetPack's process gave no answer within {self.limit:g} s and was stopped."
        said = self.errors.read_text(errors="replace").strip().splitlines()
        return (
            f"SchNetPack's process ended with code {code} before it answered"
            f"{': ' + said[-1] if said else ''}."
        )


def _differences(first: dict[str, Any], system: System, model: SchNet) -> dict[str, Any]:
    """Their energies and forces against ours."""
    known = Potential(model).eval()(work.as_data(system))
    atoms = torch.bincount(system.batch).cpu()
    energy, forces = known["energy"].detach().cpu().view(-1), known["forces"].detach().cpu()
    theirs, their_forces = torch.tensor(first["energy"]), torch.tensor(first["forces"])
    if theirs.shape != energy.shape or their_forces.shape != forces.shape:
        raise PeerFailed(
            f"SchNetPack's process gave energies and forces of shapes {tuple(theirs.shape)} and "
            f"{tuple(their_forces.shape)} instead of {tuple(energy.shape)} and "
            f"{tuple(forces.shape)}."
        )
    by_energy = float(((theirs - energy).abs() / atoms).max())
    by_forces = float((their_forces - forces).abs().max())
    found: dict[str, Any] = {"energy_difference": by_energy, "force_difference": by_forces}
    largest = float(forces.abs().max())
    # The negation catches numbers that are none.
    if not (by_energy <= ENERGY_TOLERANCE and by_forces <= FORCE_TOLERANCE * largest):
        found["disagreement"] = (
            f"SchNetPack's results are not ours: energies differ by up to {by_energy:.1e} eV for "
            f"each atom, forces by {by_forces:.1e} eV/Å of {largest:.1e} eV/Å."
        )
    return found


def _in_turn(
    ours: Callable[[], object], theirs: _Process, seconds: float, least: int = 7
) -> Comparison:
    """As :func:`~.timing.compare`, but the other side times its own calls."""
    for _ in range(2):
        ours()
        second = theirs.turn()
    repeat = max(3, min(20, round(second / max(_once(ours), 1e-6))))
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[1]) < least:
        ours()
        times[0].append(statistics.median(_once(ours) for _ in range(repeat)))
        times[1].append(theirs.turn())
    a, b = statistics.median(times[0]), statistics.median(times[1])
    ratios = sorted(y / x for x, y in zip(*times, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    return Comparison(1e3 * a, 1e3 * b, b / a, low, high)


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
