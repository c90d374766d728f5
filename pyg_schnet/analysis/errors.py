"""Errors of a finished run: how they are spread, where they are large, what they do to rankings."""

import importlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure

_SMALLEST = 1e-6  # of the largest error: where the first bin of a histogram begins


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


def write_outliers(found: PropertyErrors, path: str | os.PathLike[str], count: int = 20) -> Path:
    """Write the structures with the largest errors as a table, whole or not at all.

    Args:
        found: Of one property.
        path: A .csv file.
        count: How many, at most.

    Returns:
        The file written.

    Raises:
        ValueError: As :func:`worst`.
    """
    known, path = worst(found, count), Path(path)
    head = f"rank,row,{found.name} error ({found.unit})"
    lines = [head + (",reference,prediction" if found.is_scalar else "")]
    for rank, (place, row, error) in enumerate(
        zip(known.place, known.rows, known.error, strict=True), 1
    ):
        line = f"{rank},{row},{error:.6g}"
        if found.is_scalar:
            line += f",{found.reference[place]:.10g},{found.prediction[place]:.10g}"
        lines.append(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def plot_errors(found: Sequence[PropertyErrors], path: str | os.PathLike[str]) -> Path:
    """Draw histograms of absolute errors on logarithmic axes, a panel for each property.

    J. Chem. Phys. 148, 241722 (2018) and its like; here both axes are logarithmic, so that the few
    large errors are seen beside the many small ones.

    Args:
        found: What :func:`read_errors` gave.
        path: Of the figure; its suffix says which kind.

    Returns:
        The file written.
    """
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure = new_figure(0.6 + 3.3 * columns, 0.4 + 2.8 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(found) :]:
        ax.set_axis_off()
    for ax, one in zip(axes, found, strict=False):
        edges, counts = log_histogram(one.absolute)
        ax.stairs(counts, edges, fill=True, color=OKABE_ITO[0], alpha=0.7)
        mean, middle = float(one.absolute.mean()), float(np.median(one.absolute))
        ax.axvline(mean, color=OKABE_ITO[1], lw=1.2, label=f"mean {mean:.3g}")
        ax.axvline(middle, color="0.1", lw=1.2, ls="--", label=f"median {middle:.3g}")
        ax.set(xscale="log", yscale="log", xlabel=f"absolute error ({one.unit})", title=one.name)
        ax.set_ylim(bottom=0.7)
        ax.legend(frameon=False, fontsize="small", loc="upper left")
    for ax in axes[::columns]:
        ax.set_ylabel("count")
    return save_figure(figure, path)


def plot_error_by_size(
    found: SizeErrors, path: str | os.PathLike[str], name: str = "error", unit: str = ""
) -> Path:
    """Draw mean absolute errors against the number of atoms, above the number of structures.

    Args:
        found: What :func:`error_by_size` gave.
        path: Of the figure; its suffix says which kind.
        name: Of the property.
        unit: Of the errors.

    Returns:
        The file written.
    """
    figure = new_figure(5.0, 4.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    certain = found.std / np.sqrt(found.count)
    above.errorbar(found.sizes, found.mean, certain, fmt="o-", ms=4, capsize=2, color=OKABE_ITO[0])
    above.set_ylim(bottom=0.0)
    above.set(ylabel=f"MAE ({unit})" if unit else "MAE", title=name)
    below.bar(found.sizes, found.count, color="0.6")
    below.set(xlabel="atoms", ylabel="structures", yscale="log")
    return save_figure(figure, path)


def plot_isomers(
    reference: np.ndarray,
    prediction: np.ndarray,
    path: str | os.PathLike[str],
    formula: str = "",
    unit: str = "eV",
) -> Path:
    """Draw predictions against references of isomers, with Kendall's tau; thesis, figure 3.7.

    Args:
        reference: (M,) of isomers.
        prediction: (M,).
        path: Of the figure; its suffix says which kind.
        formula: Their composition.
        unit: Of both.

    Returns:
        The file written.

    Raises:
        ValueError: If there are fewer than two.
    """
    known = isomer_ranking(reference, prediction, [formula] * len(reference))
    if not len(known.tau):
        raise ValueError(f"A ranking needs two isomers at least, got {len(reference)}.")
    zero = float(np.mean(reference))
    figure = new_figure(4.4, 4.2)
    ax = figure.subplots()
    a, b = np.asarray(reference) - zero, np.asarray(prediction) - zero
    ax.plot(a, b, ".", ms=3, alpha=0.6, color=OKABE_ITO[0], rasterized=True)
    ends = [min(a.min(), b.min()), max(a.max(), b.max())]
    ax.plot(ends, ends, color="0.4", lw=0.8)
    ax.set(
        xlabel=f"reference less its mean ({unit})",
        ylabel=f"predicted less the same ({unit})",
        title=f"{formula}: {len(a):,} isomers, Kendall's τ = {known.tau[0]:.4f}",
    )
    return save_figure(figure, path)


def plot_learning_curves(found: Sequence[LearningCurve], path: str | os.PathLike[str]) -> Path:
    """Draw errors against the size of the training set on logarithmic axes.

    Args:
        found: What :func:`learning_curves` gave.
        path: Of the figure; its suffix says which kind.

    Returns:
        The file written.
    """
    figure = new_figure(0.6 + 3.8 * len(found), 3.4)
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for ax, one in zip(axes, found, strict=True):
        ax.errorbar(one.n_train, one.mae, one.std, fmt="o-", ms=4, capsize=2, color=OKABE_ITO[0])
        ax.set(xscale="log", yscale="log", xlabel="training structures", title=one.name)
        ax.set_ylabel(f"MAE ({one.unit})")
    return save_figure(figure, path)


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
