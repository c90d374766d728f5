"""What is known without a geometry: the mean of the training set, and dressed atoms."""

from typing import Any

import torch
from torch import Tensor

from pyg_schnet.benchmarks.accuracy.catalogue import CONSTANT
from pyg_schnet.training.evaluation import Evaluation
from pyg_schnet.training.statistics import baselines
from pyg_schnet.training.targets import EnergyAndForces, Property
from pyg_schnet.training.tasks import Task


def guess(task: Task, name: str, rows: Tensor) -> Tensor:
    """What the mean or the dressed atoms of the training set say of structures.

    Dressed atoms are one value per element, fitted to the training set by least squares; their sum
    is the guess, or their mean for an intensive property. Of one molecule they say what the mean
    says.

    Args:
        task: An energy, or one property.
        name: ``mean`` or ``dressed-atoms``.
        rows: (n,) structures.

    Returns:
        (n,), float64, in the unit of the table.
    """
    extensive = isinstance(task.target, EnergyAndForces) or bool(task.target.extensive)
    known = baselines(task.table, task.split.train, rows, "add" if extensive else "mean")
    return known[CONSTANT.index(name)]


def run(task: Task, name: str) -> dict[str, Any]:
    """Errors of the guess on the test set; of forces, if there are any, the guess is none.

    Args:
        task: An energy with forces, or one property.
        name: ``mean`` or ``dressed-atoms``.

    Returns:
        As metrics.json of a run.

    Raises:
        ValueError: If several properties shall be predicted.
    """
    table, split, target = task.table, task.split, task.target
    if not isinstance(target, Property | EnergyAndForces):
        raise ValueError(f"{name} predicts one property, not {target.name}.")
    found = Evaluation(table.y[split.test, 0], guess(task, name, split.test))
    sizes = {f"n_{part}": getattr(split, part).numel() for part in ("train", "val", "test")}
    if isinstance(target, Property):
        factor = target.shown_per_unit
        errors = {"test_mae": found.mae() * factor, "test_rmse": found.rmse() * factor}
        return {"unit": target.shown_unit, **errors, **sizes}
    assert table.forces is not None
    reference = table.forces[atoms_of(table.ptr, split.test)]
    forces = Evaluation(reference, torch.zeros_like(reference))
    return {
        "test_energy_mae": found.mae(),
        "test_energy_rmse": found.rmse(),
        "test_forces_mae": forces.mae(),
        "test_forces_rmse": forces.rmse(),
        **sizes,
    }


def atoms_of(ptr: Tensor, rows: Tensor) -> Tensor:
    """Atoms of structures, one structure after the other.

    Args:
        ptr: (M + 1,) first atom of each structure.
        rows: (n,) structures.

    Example:
        >>> atoms_of(torch.tensor([0, 2, 3, 6]), torch.tensor([2, 0])).tolist()
        [3, 4, 5, 0, 1]
    """
    sizes = ptr.diff()[rows]
    shift = ptr[rows] - (sizes.cumsum(0) - sizes)
    return torch.arange(int(sizes.sum())) + torch.repeat_interleave(shift, sizes)
