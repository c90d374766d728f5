"""What a run learns: how its model is made, trained and judged."""

import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from pyg_schnet.models import SchNet
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.config import RunConfig, TrainingConfig
from pyg_schnet.training.evaluation import (
    Evaluation,
    ForceEvaluation,
    evaluate,
    evaluate_forces,
)
from pyg_schnet.training.force_config import ForceTrainingConfig
from pyg_schnet.training.force_module import ForceTraining
from pyg_schnet.training.module import PropertyTraining
from pyg_schnet.training.schedules import Schedule
from pyg_schnet.training.splits import Split
from pyg_schnet.training.statistics import Offsets, baselines, force_scale, offsets
from pyg_schnet.units import KCAL_PER_MOL

UNITS = {"kcal/mol": 1.0 / KCAL_PER_MOL, "eV": 1.0, "meV": 1000.0}
"""What one eV is in the units in which energies may be told."""


class Target(Protocol):
    """What :func:`~pyg_schnet.training.run.train` asks of what is learned."""

    @property
    def dipole(self) -> bool:
        """Whether the model predicts a dipole moment."""

    def readout(self, config: Any) -> str:
        """Whether atomic contributions are summed ("add") or averaged ("mean")."""

    def offsets(self, config: Any, table: MoleculeTable, train: Tensor) -> Offsets:
        """Constants of the readout."""

    def module(
        self,
        config: Any,
        model: SchNet,
        schedule: Schedule,
        table: MoleculeTable,
        train: Tensor,
    ) -> PropertyTraining:
        """Loss and validation."""

    def judge(
        self, config: Any, model: SchNet, table: MoleculeTable, split: Split
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Errors on the test set, for metrics.json, and arrays for predictions.npz."""

    def info(self) -> dict[str, Any]:
        """What the header of the model's file says."""


@dataclass(frozen=True)
class Property:
    """One number per molecule.

    Args:
        name: Of the target.
        unit: Of the target in the table.
        shown_unit: In which errors are told: the paper's.
        shown_per_unit: The unit in shown units.
        extensive: Sum of contributions, else their mean.
        dipole: The magnitude of a dipole moment.
        atomref: (100, 1) single-atom references, or None.
    """

    name: str
    unit: str
    shown_unit: str
    shown_per_unit: float = 1.0
    extensive: bool = True
    dipole: bool = False
    atomref: Tensor | None = None

    def readout(self, config: TrainingConfig) -> str:
        """As configured, or by the kind of property."""
        if config.readout == "auto":
            return "add" if self.extensive else "mean"
        return config.readout

    def offsets(self, config: TrainingConfig, table: MoleculeTable, train: Tensor) -> Offsets:
        """As configured, of the training set."""
        return offsets(table, train, config.offsets, self.readout(config), self.atomref)

    def module(
        self,
        config: TrainingConfig,
        model: SchNet,
        schedule: Schedule,
        table: MoleculeTable,
        train: Tensor,
    ) -> PropertyTraining:
        """Training by the errors of the property."""
        return PropertyTraining(
            model,
            schedule,
            config.loss,
            self.shown_per_unit,
            self.shown_unit,
            config.gradient_clip,
            config.val_every,
            config.log_every,
        )

    def judge(
        self, config: TrainingConfig, model: SchNet, table: MoleculeTable, split: Split
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Errors in the shown unit, and those of two predictors without a network."""
        result = evaluate(model, table, split.test, config.eval_batch_size)
        mean, dressed = (
            Evaluation(result.reference, guess)
            for guess in baselines(table, split.train, split.test, self.readout(config))
        )
        unit, f = in_names(self.shown_unit), self.shown_per_unit
        metrics = {
            "target": self.name,
            "unit": self.shown_unit,
            "shown_per_unit": f,
            "extensive": self.extensive,
            "test_mae": result.mae() * f,
            "test_rmse": result.rmse() * f,
            f"test_mae_{unit}": result.mae() * f,
            f"test_rmse_{unit}": result.rmse() * f,
            f"baseline_mean_mae_{unit}": mean.mae() * f,
            f"baseline_dressed_atom_mae_{unit}": dressed.mae() * f,
        }
        return metrics, _arrays(result, dressed)

    def info(self) -> dict[str, Any]:
        """Name and unit."""
        return {"target": self.name, "unit": self.unit}


@dataclass(frozen=True)
class EnergyAndForces:
    """The energy of structures and its derivatives; a data set in eV and eV/Å.

    Args:
        name: Of what is learned, such as the molecule.
        shown_unit: In which errors of energies are told, and those of forces per Å.
    """

    name: str
    shown_unit: str = "kcal/mol"
    dipole: bool = False

    def readout(self, config: ForceTrainingConfig) -> str:
        """A sum: an energy is extensive."""
        return "add"

    def offsets(self, config: ForceTrainingConfig, table: MoleculeTable, train: Tensor) -> Offsets:
        """Constants of the energy from the training set, and the scale that is configured."""
        known = offsets(table, train, config.offsets, "add")
        if config.scale == "energy":
            return known
        std = 1.0 if config.scale == "one" else force_scale(table, train)
        return Offsets(known.mean, std, known.atomref)

    def module(
        self,
        config: ForceTrainingConfig,
        model: SchNet,
        schedule: Schedule,
        table: MoleculeTable,
        train: Tensor,
    ) -> ForceTraining:
        """Training by the papers' loss, or by energies alone."""
        if table.forces is None:
            raise ValueError(
                "The data set has no forces; energies and forces are trained, or at least tested, "
                "on data that have them."
            )
        return ForceTraining(
            model,
            schedule,
            config.rho,
            config.forces,
            config.energy_per_atom,
            (table, train),
            UNITS[self.shown_unit],
            self.shown_unit,
            config.gradient_clip,
            config.val_every,
            config.log_every,
        )

    def judge(
        self, config: RunConfig, model: SchNet, table: MoleculeTable, split: Split
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Errors in eV and eV/Å and in the shown unit; forces by component, as in the papers."""
        result = evaluate_forces(model, table, split.test, config.eval_batch_size)
        mean, dressed = (
            Evaluation(result.energy.reference, guess)
            for guess in baselines(table, split.train, split.test)
        )
        f, unit = UNITS[self.shown_unit], in_names(self.shown_unit)
        metrics: dict[str, Any] = {
            "target": self.name,
            "unit": self.shown_unit,
            "forces_unit": f"{self.shown_unit}/Å",
            "shown_per_unit": f,
            "extensive": True,
            **errors("test", result),
            **{f"{name}_{unit}": f * value for name, value in errors("test", result).items()},
            f"baseline_mean_mae_{unit}": mean.mae() * f,
            f"baseline_dressed_atom_mae_{unit}": dressed.mae() * f,
            f"baseline_no_forces_mae_{unit}": f * float(result.forces.reference.abs().mean()),
        }
        arrays = _arrays(result.energy, dressed) | {
            "forces_reference": result.forces.reference.numpy(),
            "forces_prediction": result.forces.prediction.numpy(),
            "num_atoms": table.num_atoms[split.test].numpy(),
        }
        return metrics, arrays

    def info(self) -> dict[str, Any]:
        """Name and unit."""
        return {"target": "energy", "unit": "eV", "data": self.name}


def errors(part: str, result: ForceEvaluation) -> dict[str, float]:
    """Mean absolute and root mean square errors of energies (eV) and force components (eV/Å).

    Args:
        part: Of the data; names begin with it.
        result: Predictions.
    """
    return {
        f"{part}_energy_mae": result.energy.mae(),
        f"{part}_energy_rmse": result.energy.rmse(),
        f"{part}_forces_mae": result.forces.mae(),
        f"{part}_forces_rmse": result.forces.rmse(),
    }


def in_names(unit: str) -> str:
    """A unit as a part of a name.

    Example:
        >>> in_names("kcal/mol")
        'kcal_mol'
    """
    return re.sub(r"[^A-Za-z0-9]+", "_", unit).strip("_")


def _arrays(result: Evaluation, dressed: Evaluation) -> dict[str, np.ndarray]:
    return {
        "reference": result.reference.numpy(),
        "prediction": result.prediction.numpy(),
        "dressed": dressed.prediction.numpy(),
    }
