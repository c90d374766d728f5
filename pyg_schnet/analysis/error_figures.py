"""Figures and tables of the errors of a run."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure
from pyg_schnet.analysis.error_statistics import (
    LearningCurve,
    SizeErrors,
    isomer_ranking,
    log_histogram,
    worst,
)
from pyg_schnet.analysis.errors import PropertyErrors


def write_outliers(found: PropertyErrors, path: str | os.PathLike[str], count: int = 20) -> Path:
    """Write the structures with the largest errors as a table, whole or not at all.

    Args:
        found: Of one property.
        path: A .csv file.
        count: How many, at most.

    Returns:
        The file written.

    Raises:
        ValueError: As :func:`~.error_statistics.worst`.
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
        found: What :func:`~pyg_schnet.analysis.errors.read_errors` gave.
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
        found: What :func:`~.error_statistics.error_by_size` gave.
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
    below.set_ylim(bottom=0.7)
    below.yaxis.set_minor_formatter("")
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
        found: What :func:`~.error_statistics.learning_curves` gave.
        path: Of the figure; its suffix says which kind.

    Returns:
        The file written.
    """
    figure = new_figure(0.6 + 3.8 * len(found), 3.4)
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for ax, one in zip(axes, found, strict=True):
        ax.errorbar(one.n_train, one.mae, one.std, fmt="o-", ms=4, capsize=2, color=OKABE_ITO[0])
        ax.set(xscale="log", yscale="log", xlabel="training structures", title=one.name)
        ax.set_xticks(one.n_train, [f"{size:,}" for size in one.n_train], fontsize="small")
        ax.xaxis.set_minor_formatter("")
        ax.set_ylabel(f"MAE ({one.unit})")
    return save_figure(figure, path)
