"""What a run learns: how its model is made, trained and judged."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.models.networks import Network
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
from pyg_schnet.training.statistics import (
    Offsets,
    baselines,
    force_scale,
    offsets,
    with_target,
)
from pyg_schnet.units import KCAL_PER_MOL

UNITS = {"kcal/mol": 1.0 / KCAL_PER_MOL, "eV": 1.0, "meV": 1000.0}
"""What one eV is in the units in which energies may be told."""


class Target(Protocol):
    """What :func:`~pyg_schnet.training.run.train` asks of what is learned."""

    def architecture(self, config: Any) -> dict[str, Any]:
        """Arguments of the network that depend on what is learned."""

    def offsets(self, config: Any, table: MoleculeTable, train: Tensor) -> Offsets:
        """Constants of the readout."""

    def module(
        self,
        config: Any,
        model: Network,
        schedule: Schedule,
        table: MoleculeTable,
        train: Tensor,
    ) -> PropertyTraining:
        """Loss and validation."""

    def judge(
        self, config: Any, model: Network, table: MoleculeTable, split: Split
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
        head: The head made for it; config.head may say otherwise.
        head_options: Its options.
        atomref: (100, 1) single-atom references, or None.
    """

    name: str
    unit: str
    shown_unit: str
    shown_per_unit: float = 1.0
    extensive: bool = True
    head: str = "atomwise"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    atomref: Tensor | None = None

    def architecture(self, config: Any) -> dict[str, Any]:
        """The head, and the pooling of an atomwise one."""
        head = self.chosen_head(config)
        options = dict(self.head_options) if head == self.head else {}
        return {"head": head, "head_options": options, "readout": self.readout(config)}

    def chosen_head(self, config: Any) -> str:
        """As configured; a configured ``readout`` is that of the atomwise head."""
        chosen = getattr(config, "head", "auto")
        if chosen != "auto":
            return str(chosen)
        if getattr(config, "model", "schnet") == "dtnn":
            return "atomwise"
        return self.head if getattr(config, "readout", "auto") == "auto" else "atomwise"

    def readout(self, config: Any) -> str:
        """As configured, or by the kind of property: how constants of atoms add up, too."""
        head = self.chosen_head(config)
        if head in ("softmax", "set2set"):
            return "mean"
        if head == "polarizability":
            return "add"
        if config.readout == "auto":
            return "add" if self.extensive else "mean"
        return str(config.readout)

    def offsets(self, config: Any, table: MoleculeTable, train: Tensor) -> Offsets:
        """As configured, of the training set; of a tensor, those of a third of its trace."""
        table = _scalar(table)
        return offsets(table, train, config.offsets, self.readout(config), self.atomref)

    def module(
        self,
        config: TrainingConfig,
        model: Network,
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
            optimizer=config.optimizer,
            momentum=config.momentum,
        )

    def judge(
        self, config: TrainingConfig, model: Network, table: MoleculeTable, split: Split
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Errors in the shown unit, and those of two predictors without a network."""
        result = evaluate(model, table, split.test, config.eval_batch_size)
        mean, dressed = (
            Evaluation(result.reference, _like(guess, result.reference))
            for guess in baselines(_scalar(table), split.train, split.test, self.readout(config))
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
class Properties:
    r"""Several properties at once, by one network whose last layer has one row for each.

    .. math::
        \ell = \frac{1}{T} \sum_t \frac{1}{s_t^2} \langle (\hat y_t - y_t)^2 \rangle

    with :math:`s_t` the standard deviation, in the training set, of what the constants leave of
    property t. Each has its own constants, and its own sum or mean. Errors are told in units of
    :math:`s_t` together, and in the paper's units apart.

    Args:
        parts: The properties, in the order of the columns of ``y``.
    """

    parts: tuple[Property, ...]
    shown_unit: str = "std"
    shown_per_unit: float = 1.0
    extensive: bool = False

    @property
    def name(self) -> str:
        """Names with commas between."""
        return ",".join(part.name for part in self.parts)

    def architecture(self, config: Any) -> dict[str, Any]:
        """An atomwise head with several outputs, or softmax or set2set, if configured.

        Raises:
            ValueError: If the head that is configured has one output.
        """
        head = "atomwise" if config.head == "auto" else config.head
        readout = [part.readout(_atomwise(config)) for part in self.parts]
        return {"head": head, "readout": readout, "out_channels": len(self.parts)}

    def offsets(self, config: Any, table: MoleculeTable, train: Tensor) -> Offsets:
        """Of each property on its own."""
        own = _atomwise(config) if config.head == "auto" else config
        known = [
            part.offsets(own, with_target(table, table.y[:, t : t + 1]), train)
            for t, part in enumerate(self.parts)
        ]
        return Offsets(
            torch.tensor([k.mean for k in known], dtype=torch.float64),
            torch.tensor([k.std for k in known], dtype=torch.float64),
            torch.cat([k.atomref for k in known], dim=1),
        )

    def scales(self, config: Any, table: MoleculeTable, train: Tensor) -> Tensor:
        """:math:`s_t`, (T,), float64, in the units of the table."""
        left = []
        for t, part in enumerate(self.parts):
            own = with_target(table, table.y[:, t : t + 1])
            _, dressed = baselines(own, train, train, part.readout(_atomwise(config)))
            left.append((own.y[train, 0] - dressed).std())
        return torch.stack(left).clamp(min=1e-12)

    def module(
        self,
        config: Any,
        model: Network,
        schedule: Schedule,
        table: MoleculeTable,
        train: Tensor,
    ) -> PropertyTraining:
        """Training by the errors of all, each in units of its spread."""
        return PropertyTraining(
            model,
            schedule,
            config.loss,
            1.0,
            self.shown_unit,
            config.gradient_clip,
            config.val_every,
            config.log_every,
            self.scales(config, table, train),
            optimizer=config.optimizer,
            momentum=config.momentum,
        )

    def judge(
        self, config: Any, model: Network, table: MoleculeTable, split: Split
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Errors of each property in the paper's unit, and of all in units of their spread."""
        result = evaluate(model, table, split.test, config.eval_batch_size)
        scales = self.scales(config, table, split.train)
        metrics: dict[str, Any] = {"target": self.name, "unit": "std", "shown_per_unit": 1.0}
        metrics["extensive"] = [part.extensive for part in self.parts]
        guesses, relative = [], []
        for t, part in enumerate(self.parts):
            one = Evaluation(result.reference[:, t], result.prediction[:, t])
            unit, f = in_names(part.shown_unit), part.shown_per_unit
            own = with_target(table, table.y[:, t : t + 1])
            readout = part.readout(_atomwise(config))
            mean, dressed = baselines(own, split.train, split.test, readout)
            metrics[f"test_mae_{part.name}_{unit}"] = one.mae() * f
            metrics[f"test_rmse_{part.name}_{unit}"] = one.rmse() * f
            guesses.append((mean, dressed))
            relative.append(float(scales[t]))
        spread = torch.tensor(relative, dtype=torch.float64)
        scaled = Evaluation(result.reference / spread, result.prediction / spread)
        mean, dressed = (torch.stack([g[k] for g in guesses], dim=1) / spread for k in (0, 1))
        metrics |= {
            "test_mae": scaled.mae(),
            "test_rmse": scaled.rmse(),
            "baseline_mean_mae_std": Evaluation(scaled.reference, mean).mae(),
            "baseline_dressed_atom_mae_std": Evaluation(scaled.reference, dressed).mae(),
        }
        return metrics, _arrays(result, Evaluation(result.reference, dressed * spread))

    def info(self) -> dict[str, Any]:
        """Names and units."""
        units = ",".join(part.unit for part in self.parts)
        return {"target": self.name, "unit": units}


@dataclass(frozen=True)
class EnergyAndForces:
    """The energy of structures and its derivatives; a data set in eV and eV/Å.

    Args:
        name: Of what is learned, such as the molecule.
        shown_unit: In which errors of energies are told, and those of forces per Å.
    """

    name: str
    shown_unit: str = "kcal/mol"

    def architecture(self, config: ForceTrainingConfig) -> dict[str, Any]:
        """A sum: an energy is extensive."""
        return {"readout": "add"}

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
        model: Network,
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
            optimizer=config.optimizer,
            momentum=config.momentum,
        )

    def judge(
        self, config: RunConfig, model: Network, table: MoleculeTable, split: Split
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


def _atomwise(config: Any) -> Any:
    """The options of a run whose head is the atomwise one."""
    return replace(config, head="atomwise")


def _scalar(table: MoleculeTable) -> MoleculeTable:
    """Tensors (M, 9) by a third of their trace; else as it is."""
    if table.y.size(1) != 9:
        return table
    return with_target(table, table.y[:, [0, 4, 8]].mean(dim=1, keepdim=True))


def _like(guess: Tensor, reference: Tensor) -> Tensor:
    """A guess of a number as one of what it is a part of: an isotropic tensor, no vector."""
    if reference.dim() == 1:
        return guess
    if reference.size(1) == 9:
        return guess[:, None] * torch.eye(3, dtype=guess.dtype).flatten()
    return torch.zeros_like(reference)


def _arrays(result: Evaluation, dressed: Evaluation) -> dict[str, np.ndarray]:
    return {
        "reference": result.reference.numpy(),
        "prediction": result.prediction.numpy(),
        "dressed": dressed.prediction.numpy(),
    }
