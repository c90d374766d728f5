r"""GDML and sGDML: force fields of one molecule in closed form, by the package ``sgdml``.

.. math::
    \hat f(x) = \sum_{m} \nabla \nabla^\top \kappa(x, x_m)\, \alpha_m, \qquad
    (K + \lambda I)\, \alpha = f

The kernel is Matérn's on inverse distances; sGDML sums it over permutations of equal atoms that the
training set shows. K has 3 N_atoms rows for each training structure, so memory grows with the
square of their number and the time with its cube.

Chmiela et al., Sci. Adv. 3, e1603015 (2017), and Nat. Commun. 9, 3887 (2018).
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.benchmarks.accuracy.composition import atoms_of
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.evaluation import Evaluation
from pyg_schnet.training.targets import EnergyAndForces
from pyg_schnet.training.tasks import Task

WIDTHS = (5, 7, 10, 14, 20, 28, 40, 56)
"""Of the kernel, that are tried; in 1/Å, as the package's sigma."""
REGULARIZATION = 1e-10
"""The package's default."""
FIRST = 200
"""Training structures, and validation structures, with which the width is chosen."""


@dataclass(frozen=True)
class Frames:
    """Structures of one molecule.

    Attributes:
        z: (N,) atomic numbers.
        pos: (M, N, 3) Å, float64.
        energy: (M,) eV.
        forces: (M, N, 3) eV/Å.
    """

    z: np.ndarray
    pos: np.ndarray
    energy: np.ndarray
    forces: np.ndarray

    @classmethod
    def of(cls, table: MoleculeTable, rows: Tensor) -> "Frames":
        """Some structures of a table.

        Raises:
            ValueError: If they are not of one molecule with its atoms in one order, or periodic, or
                without forces.
        """
        atoms = atoms_of(table.ptr, rows)
        size = int(table.num_atoms[rows[0]])
        same = bool((table.num_atoms[rows] == size).all())
        z = table.z[atoms].view(len(rows), -1) if same else None
        if z is None or not bool((z == z[0]).all()) or table.cell is not None:
            raise ValueError(
                "GDML learns one molecule: all structures must have the same atoms in the same "
                "order, and none may be periodic."
            )
        if table.forces is None:
            raise ValueError("GDML learns forces, and the data set has none.")
        shape = len(rows), size, 3
        return cls(
            z[0].numpy(),
            table.pos[atoms].double().view(shape).numpy(),
            table.y[rows, 0].double().numpy(),
            table.forces[atoms].double().view(shape).numpy(),
        )


class ForceField:
    """A trained model.

    Args:
        model: The package's.

    Attributes:
        model: The package's.
    """

    def __init__(self, model: dict[str, Any]) -> None:
        _, predict = _sgdml()
        self.model = model
        self._predictor = predict(model, max_processes=1)

    @property
    def permutations(self) -> int:
        """Permutations of atoms that the kernel is summed over, the identity counted in."""
        return len(self.model["perms"])

    def predict(self, pos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies (M,), eV, and forces (M, N, 3), eV/Å, of positions (M, N, 3), Å."""
        energy, forces = self._predictor.predict(pos.reshape(len(pos), -1))
        return energy, forces.reshape(pos.shape)


def fit(frames: Frames, name: str, width: float) -> ForceField:
    """Train in closed form, on one core.

    Args:
        frames: The training set.
        name: ``gdml``, or ``sgdml``, which finds permutations of atoms first.
        width: Of the kernel, 1/Å.

    Raises:
        ImportError: If there is no sgdml.
    """
    train, _ = _sgdml()
    count = len(frames.pos)
    data = {
        "type": "d",
        "name": np.array("frames"),
        "theory": np.array("unknown"),
        "z": frames.z,
        "R": frames.pos,
        "E": frames.energy,
        "F": frames.forces,
    }
    trainer = train(max_processes=1)
    try:
        # As many as there are, so the package draws none of its own.
        task = trainer.create_task(
            data, count, data, 0, sig=width, lam=REGULARIZATION, use_sym=name == "sgdml"
        )
        return ForceField(trainer.train(task))
    finally:
        del trainer  # there may be one at a time


def choose(train: Frames, val: Frames, name: str) -> int:
    """The width of :data:`WIDTHS` whose forces are best.

    Args:
        train: To train on.
        val: To judge with.
        name: ``gdml`` or ``sgdml``.
    """
    errors = {}
    for width in WIDTHS:
        _, forces = fit(train, name, width).predict(val.pos)
        errors[width] = float(np.abs(forces - val.forces).mean())
    return min(errors, key=errors.__getitem__)


def run(task: Task, name: str) -> dict[str, Any]:
    """Choose the width by validation, train on all training structures, and test.

    Args:
        task: Energies and forces of one molecule.
        name: ``gdml`` or ``sgdml``.

    Returns:
        As metrics.json of a run. ``cost`` is that of :func:`fit_and_time`, and milliseconds of the
        processor for a structure.

    Raises:
        ImportError: If there is no sgdml.
        ValueError: If the task is no energy with forces, or not of one molecule.
    """
    if not isinstance(task.target, EnergyAndForces):
        raise ValueError(f"{name} learns energies and forces, not {task.target.name}.")
    _sgdml()
    parts = task.split.train, task.split.val, task.split.test
    train, val, test = (Frames.of(task.table, rows) for rows in parts)
    begun = time.monotonic()
    few = [Frames.of(task.table, rows[:FIRST]) for rows in parts[:2]]
    width = choose(few[0], few[1], name)
    model, cost = fit_and_time(train, name, width)
    seconds = time.monotonic() - begun
    metrics = errors(model, test)
    predicting = time.process_time()
    _, forces = model.predict(val.pos)
    cost["milliseconds_per_structure"] = 1e3 * (time.process_time() - predicting) / len(val.pos)
    return {
        **metrics,
        "val_forces_mae": float(np.abs(forces - val.forces).mean()),
        "chosen": {
            "representation": "inverse distances",
            "kernel": "Matérn",
            "width": width,
            "regularization": REGULARIZATION,
            "permutations": model.permutations,
        },
        "cost": cost,
        "seconds": round(seconds, 1),
        **{f"n_{k}": len(rows) for k, rows in zip(("train", "val", "test"), parts, strict=True)},
    }


def fit_and_time(train: Frames, name: str, width: float) -> tuple[ForceField, dict[str, float]]:
    """Train, and tell what it took.

    Args:
        train: The training set.
        name: ``gdml`` or ``sgdml``.
        width: Of the kernel, 1/Å.

    Returns:
        The model; and ``train_seconds`` of the processor, ``kernel_bytes`` of the matrix, and on
        Linux ``peak_bytes`` that the process had beyond what it had before.
    """
    before, begun = start_of_peak(), time.process_time()
    model = fit(train, name, width)
    cost = {
        "train_seconds": time.process_time() - begun,
        "kernel_bytes": float(kernel_bytes(len(train.pos), len(train.z))),
    }
    if before is not None:
        cost["peak_bytes"] = float(peak() - before)
    return model, cost


def start_of_peak() -> int | None:
    """Begin a new peak of resident memory; bytes that are resident now, or None without /proc."""
    begin = Path("/proc/self/clear_refs")
    if not begin.exists():
        return None
    begin.write_text("5")
    return peak()


def peak() -> int:
    """The largest resident memory of this process since :func:`start_of_peak`, bytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def kernel_bytes(structures: int, atoms: int) -> int:
    """Size of the kernel matrix in float64.

    Args:
        structures: To train on.
        atoms: Of the molecule.

    Example:
        >>> kernel_bytes(1_000, 9) / 1e9, kernel_bytes(50_000, 9) / 1e12   # ethanol: GB and TB
        (5.832, 14.58)
    """
    return 8 * (3 * atoms * structures) ** 2


def errors(model: ForceField, frames: Frames) -> dict[str, float]:
    """Errors of energies (eV) and force components (eV/Å), as in metrics.json.

    Args:
        model: To be judged.
        frames: To judge with.
    """
    found = (torch.from_numpy(of) for of in model.predict(frames.pos))
    energy, forces = (
        Evaluation(torch.from_numpy(known), of)
        for known, of in zip((frames.energy, frames.forces), found, strict=True)
    )
    return {
        "test_energy_mae": energy.mae(),
        "test_energy_rmse": energy.rmse(),
        "test_forces_mae": forces.mae(),
        "test_forces_rmse": forces.rmse(),
    }


def _sgdml() -> tuple[Any, Any]:
    """The package's classes that train and predict; it would colour every logger there is."""
    kind = logging.getLoggerClass()
    try:
        from sgdml.predict import GDMLPredict
        from sgdml.train import GDMLTrain
    except ImportError as error:
        raise ImportError(
            "gdml and sgdml need the package sgdml; install it with pip install "
            "'pyg_schnet[baselines]'."
        ) from error
    finally:
        logging.setLoggerClass(kind)
    for name in ("train", "predict", "solvers.analytic"):
        logging.getLogger(f"sgdml.{name}").setLevel(logging.WARNING)
    return GDMLTrain, GDMLPredict
