"""How errors are spread, where they are large, and what they do to rankings."""

import importlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pyg_schnet.analysis.errors import PropertyErrors, read_errors, read_metrics

_SMALLEST = 1e-6  # of the largest error: where the first bin of a histogram begins


@dataclass(frozen=True)
class Outliers:
    """The structures with the largest errors.

    Attributes:
        place: (K,) places in the test set, the worst first.
        rows: (K,) rows of the data set.
        error: (K,) absolute errors.
    """

    place: np.ndarray
    rows: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class SizeErrors:
    """Absolute errors by number of atoms.

    Attributes:
        sizes: (G,) numbers of atoms that occur, ascending.
        count: (G,) structures of each.
        mean: (G,) mean absolute error.
        std: (G,) standard deviation of the absolute error.
    """

    sizes: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class IsomerRanking:
    """How well isomers are put in order.

    Attributes:
        formulas: (G,) compositions, the most frequent first.
        count: (G,) structures of each.
        tau: (G,) Kendall's tau-b; NaN where all references or all predictions are the same.
        mae: (G,) mean absolute error.
    """

    formulas: list[str]
    count: np.ndarray
    tau: np.ndarray
    mae: np.ndarray


@dataclass(frozen=True)
class LearningCurve:
    """Errors of several runs by the size of the training set.

    Attributes:
        name: Of the property.
        unit: Of the errors.
        n_train: (G,) sizes, ascending.
        mae: (G,) mean absolute errors on the test set, mean over runs of one size.
        std: (G,) standard deviation over these runs.
    """

    name: str
    unit: str
    n_train: np.ndarray
    mae: np.ndarray
    std: np.ndarray


def log_histogram(absolute: np.ndarray, bins: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A histogram whose bins have equal widths on a logarithmic axis.

    Args:
        absolute: (K,) absolute errors.
        bins: Their number.

    Returns:
        Edges (bins + 1,) from the smallest to the largest error, but from no less than a millionth
        of the largest; and counts (bins,). What is smaller counts in the first bin.

    Raises:
        ValueError: If there is no error or no bin, or an error is negative or not finite.

    Example:
        >>> edges, counts = log_histogram(np.array([0.0, 0.01, 0.2, 1.0]), 2)
        >>> edges.round(3).tolist(), counts.tolist()
        ([0.01, 0.1, 1.0], [2, 2])
    """
    absolute = np.asarray(absolute, dtype=np.float64)
    if not absolute.size or bins < 1:
        raise ValueError(f"There must be errors and bins, got {absolute.size} and {bins}.")
    if not np.isfinite(absolute).all() or absolute.min() < 0.0:
        raise ValueError("Absolute errors must be finite and not negative.")
    high = float(absolute.max()) or 1.0
    low = float(absolute[absolute > 0.0].min(initial=high))
    low = max(low if low < high else 0.1 * high, _SMALLEST * high)
    edges = np.geomspace(low, high, bins + 1)
    edges[[0, -1]] = low, high  # not a rounding beside them
    counts, _ = np.histogram(np.clip(absolute, low, high), edges)
    return edges, counts


def worst(found: PropertyErrors, count: int = 20) -> Outliers:
    """The structures with the largest absolute errors.

    Args:
        found: Of one property.
        count: How many, at most.

    Raises:
        ValueError: If count is not positive, or it is not known which number is whose.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    error = found.by_structure()
    place = np.argsort(-error, kind="stable")[:count]
    return Outliers(place, found.rows[place], error[place])


def error_by_size(absolute: np.ndarray, num_atoms: np.ndarray) -> SizeErrors:
    """Absolute errors by number of atoms; thesis (TU Berlin, 2018), figure 3.6.

    Args:
        absolute: (M,) absolute error of each structure.
        num_atoms: (M,).

    Raises:
        ValueError: If lengths differ or there is nothing.

    Example:
        >>> known = error_by_size(np.array([1.0, 3.0, 5.0]), np.array([9, 9, 4]))
        >>> known.sizes.tolist(), known.mean.tolist(), known.count.tolist()
        ([4, 9], [5.0, 2.0], [1, 2])
    """
    absolute, num_atoms = np.asarray(absolute, dtype=np.float64), np.asarray(num_atoms)
    if absolute.shape != num_atoms.shape or absolute.ndim != 1 or not len(absolute):
        raise ValueError(
            "absolute and num_atoms must be of one length, one number for each structure, got "
            f"shapes {absolute.shape} and {num_atoms.shape}."
        )
    sizes = np.unique(num_atoms)
    parts = [absolute[num_atoms == size] for size in sizes]
    return SizeErrors(
        sizes,
        np.array([len(part) for part in parts]),
        np.array([part.mean() for part in parts]),
        np.array([part.std() for part in parts]),
    )


def isomer_ranking(
    reference: np.ndarray, prediction: np.ndarray, formulas: Sequence[str], least: int = 2
) -> IsomerRanking:
    r"""How well structures of one composition are put in order of their property.

    .. math::
        \tau_b = \frac{C - D}{\sqrt{(C + D + T_x)(C + D + T_y)}}

    over pairs of isomers: C in the same order, D in the opposite one, :math:`T_x`, :math:`T_y` tied
    in the reference or in the prediction alone. 1 is the right order, -1 the opposite one. Thesis
    (TU Berlin, 2018), figure 3.7.

    Args:
        reference: (M,).
        prediction: (M,).
        formulas: (M,) compositions.
        least: Compositions with fewer structures are left out.

    Raises:
        ValueError: If lengths differ.

    Example:
        >>> known = isomer_ranking([1.0, 2.0, 3.0, 0.0], [1.1, 3.1, 2.9, 5.0], ["CO"] * 3 + ["N2"])
        >>> known.formulas, known.count.tolist(), known.tau.round(4).tolist()
        (['CO'], [3], [0.3333])
    """
    reference, prediction = (np.asarray(v, dtype=np.float64) for v in (reference, prediction))
    names = np.asarray(formulas, dtype=str)
    if not len(reference) == len(prediction) == len(names):
        raise ValueError(
            "reference, prediction and formulas must be of one length, got "
            f"{len(reference)}, {len(prediction)} and {len(names)}."
        )
    kendalltau = importlib.import_module("scipy.stats").kendalltau
    known, counts = np.unique(names, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    chosen = [str(known[k]) for k in order if counts[k] >= max(2, least)]
    tau, mae = [], []
    for formula in chosen:
        a, b = reference[names == formula], prediction[names == formula]
        tau.append(float(kendalltau(a, b).statistic))
        mae.append(float(np.abs(b - a).mean()))
    of = {str(name): int(count) for name, count in zip(known, counts, strict=True)}
    return IsomerRanking(
        chosen, np.array([of[name] for name in chosen], dtype=int), np.array(tau), np.array(mae)
    )


def learning_curves(runs: Iterable[str | os.PathLike[str]]) -> list[LearningCurve]:
    """Errors by the size of the training set, of each property that all runs have.

    Args:
        runs: Folders of finished runs.

    Raises:
        FileNotFoundError: If one holds no finished run.
        ValueError: If there is no run, or none of their properties is in all of them.
    """
    known: dict[tuple[str, str], list[tuple[int, float]]] = {}
    count = 0
    for run in runs:
        size = int(read_metrics(run)["n_train"])
        for found in read_errors(run):
            mae = float(found.absolute.mean())
            known.setdefault((found.name, found.unit), []).append((size, mae))
        count += 1
    curves = []
    for (name, unit), points in known.items():
        if len(points) == count:
            sizes, errors = (np.array(column) for column in zip(*points, strict=True))
            by_size = error_by_size(errors, sizes)
            curves.append(LearningCurve(name, unit, by_size.sizes, by_size.mean, by_size.std))
    if not curves:
        raise ValueError("runs must be several of one property; got none that all of them have.")
    return curves
