"""Errors of a finished run, read from its folder."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PropertyErrors:
    """Predictions of one property on the test set of a run, in the unit it is told in.

    Attributes:
        name: Of the property.
        unit: Of all values.
        rows: (M,) rows of the data set.
        reference: (K,) all numbers: K = M for a scalar, more for vectors, tensors and forces.
        prediction: (K,).
        owner: (K,) whose number it is, a place in ``rows``; None where the run does not say.
        base: (K,) what composition alone says of an extensive property; else 0.
        num_atoms: (M,) atoms of each structure, or None where the run does not say.
    """

    name: str
    unit: str
    rows: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    owner: np.ndarray | None
    base: np.ndarray
    num_atoms: np.ndarray | None = None

    @property
    def signed(self) -> np.ndarray:
        """(K,) prediction less reference."""
        return self.prediction - self.reference

    @property
    def absolute(self) -> np.ndarray:
        """(K,) absolute errors."""
        return np.abs(self.signed)

    @property
    def is_scalar(self) -> bool:
        """Whether there is one number for each structure."""
        return len(self.reference) == len(self.rows)

    def by_structure(self) -> np.ndarray:
        """Absolute error of each structure, the mean over its numbers, (M,).

        Raises:
            ValueError: If the run does not say which number is whose.
        """
        if self.owner is None:
            raise ValueError(
                f"The run does not say to which structure its {self.name} belong; look at the runs "
                "of the members of an ensemble instead."
            )
        count = np.bincount(self.owner, minlength=len(self.rows))
        sums = np.bincount(self.owner, self.absolute, minlength=len(self.rows))
        return sums / np.maximum(count, 1)


def read_metrics(run: str | os.PathLike[str]) -> dict[str, Any]:
    """What metrics.json of a run holds.

    Args:
        run: Its folder.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
    """
    path = Path(run) / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no finished run in {run}: metrics.json is missing.")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def read_errors(run: str | os.PathLike[str]) -> list[PropertyErrors]:
    """Predictions and references that a run wrote to predictions.npz.

    Args:
        run: Folder of a finished run, or of an ensemble of runs, whose mean is taken.

    Returns:
        One entry for each property; of energies and forces two.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
    """
    metrics, path = read_metrics(run), Path(run) / "predictions.npz"
    if not path.is_file():
        raise FileNotFoundError(f"There is no finished run in {run}: predictions.npz is missing.")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file}
    if "reference" not in arrays:  # an ensemble
        arrays |= {"reference": arrays["energy_reference"], "prediction": arrays["energy_mean"]}
        if "forces_mean" in arrays:
            arrays["forces_prediction"] = arrays["forces_mean"]
    rows, factor, unit = arrays["rows"], float(metrics["shown_per_unit"]), metrics["unit"]
    reference, prediction = arrays["reference"], arrays["prediction"]
    extensive, base = metrics.get("extensive", False), arrays.get("dressed")
    base = np.zeros_like(reference) if base is None else base
    names = str(metrics["target"]).split(",")
    if reference.ndim == 2 and len(names) == reference.shape[1] > 1:
        sums = extensive if isinstance(extensive, list) else [extensive] * len(names)
        found = []
        for t, name in enumerate(names):
            both = reference[:, t], prediction[:, t]
            shown, per_unit = _told_in(metrics, name, *both)
            known = base[:, t] * sums[t]
            found.append(_entry(name, shown, rows, *both, known, per_unit, None))
        return found
    forces = "forces_reference" in arrays
    name, sizes = "energy" if forces else str(metrics["target"]), arrays.get("num_atoms")
    values = reference, prediction, base * bool(extensive)
    found = [_entry(name, unit, rows, *values, factor, sizes)]
    if forces:
        both = arrays["forces_reference"].ravel(), arrays["forces_prediction"].ravel()
        owner = None if sizes is None else np.repeat(np.arange(len(rows)), 3 * sizes)
        ours, theirs = (values.astype(np.float64) * factor for values in both)
        shown = metrics.get("forces_unit", f"{unit}/Å")
        none = np.zeros(len(ours))
        found.append(PropertyErrors("forces", shown, rows, ours, theirs, owner, none, sizes))
    return found


def formula_of(numbers: Sequence[int] | np.ndarray) -> str:
    """The composition of a structure in Hill's order.

    Args:
        numbers: Atomic numbers.

    Example:
        >>> formula_of([8, 6, 1, 1, 1, 1])
        'CH4O'
    """
    from ase import Atoms

    return str(Atoms([int(number) for number in numbers]).get_chemical_formula("hill"))


def _entry(
    name: str,
    unit: str,
    rows: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    base: np.ndarray,
    factor: float,
    num_atoms: np.ndarray | None,
) -> PropertyErrors:
    each = reference.size // len(rows)
    scaled = [factor * v.astype(np.float64).ravel() for v in (reference, prediction, base)]
    owner = np.repeat(np.arange(len(rows)), each)
    return PropertyErrors(name, unit, rows, scaled[0], scaled[1], owner, scaled[2], num_atoms)


def _told_in(
    metrics: dict[str, Any], name: str, reference: np.ndarray, prediction: np.ndarray
) -> tuple[str, float]:
    """Unit of one of several properties, and what a unit of the table is in it.

    Metrics of several properties hold the error of each in its own unit, whose name is a part of
    the key; the ratio to the error in the unit of the table is the factor.
    """
    start, mae = f"test_mae_{name}_", float(np.abs(prediction - reference).mean())
    for key, value in metrics.items():
        if key.startswith(start) and mae > 0.0:
            word = key.removeprefix(start)
            return {"kcal_mol": "kcal/mol", "cal_mol_K": "cal/(mol K)"}.get(
                word, word.replace("_", "^")
            ), float(value) / mae
    return "unit of the data", 1.0
