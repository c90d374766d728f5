"""Whether the spread of an ensemble tells its errors."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 12
MOST_DOTS = 20_000


def calibration_curve(
    error: np.ndarray, std: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors by spread: equally many values in each bin.

    Args:
        error: (M,) errors of the mean.
        std: (M,) spreads.
        bins: At most; fewer where there are fewer than ten values for each.

    Returns:
        Of each bin the root mean square of the spread, that of the errors, and the standard error
        of the latter (of squares that scatter as a normal distribution's would).

    Example:
        >>> std = np.linspace(1.0, 2.0, 1000)
        >>> spread, rms, _ = calibration_curve(3.0 * std, std, 5)
        >>> np.allclose(rms, 3.0 * spread)
        True
    """
    bins = max(1, min(bins, len(error) // 10))
    parts = np.array_split(np.argsort(std, kind="stable"), bins)
    spread = np.array([np.sqrt(np.square(std[part]).mean()) for part in parts])
    rms = np.array([np.sqrt(np.square(error[part]).mean()) for part in parts])
    return spread, rms, rms / np.sqrt(2.0 * np.array([len(part) for part in parts]))


def plot_calibration(folder: str | os.PathLike[str]) -> list[Path]:
    """Draw errors against spread for a trained ensemble: ``calibration.png``.

    On the diagonal the spread is as large as the errors; above it the ensemble is too sure. Beside
    it, how many errors lie within so many spreads, against the normal distribution.

    Args:
        folder: Of the ensemble.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: If the folder holds no trained ensemble.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(
            f"There is no trained ensemble in {folder}: metrics.json is missing."
        )
    metrics = json.loads((folder / "metrics.json").read_text())
    factor, unit = metrics["shown_per_unit"], metrics["unit"]
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        names = [name for name in ("energy", "forces") if f"{name}_std" in file]
        known = {n: {k: file[f"{n}_{k}"] for k in ("reference", "mean", "std")} for n in names}
    figure = Figure(figsize=(9.0, 4.0 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(names), 2, squeeze=False)
    for row, (name, values) in zip(axes, known.items(), strict=True):
        error = factor * (values["mean"] - values["reference"])
        shown = f"{unit}/Å" if name == "forces" else unit
        title = name if name == "forces" else str(metrics["target"])
        _draw_errors(row[0], error, factor * values["std"], title, shown)
        _draw_shares(row[1], error, factor * values["std"])
    path = folder / "calibration.png"
    aside = folder / "calibration.part.png"
    figure.savefig(aside, dpi=150)
    os.replace(aside, path)
    return [path]


def _draw_errors(axes: "Axes", error: np.ndarray, std: np.ndarray, title: str, unit: str) -> None:
    size = np.abs(error)
    some = np.linspace(0, len(error) - 1, min(len(error), MOST_DOTS)).astype(int)
    seen = some[(size[some] > 0) & (std[some] > 0)]
    axes.loglog(std[seen], size[seen], ".", ms=2, alpha=0.3, color="0.6", label="|error|")
    spread, rms, uncertain = calibration_curve(error, std)
    axes.errorbar(spread, rms, uncertain, fmt="o-", ms=4, color="C0", label="rms error")
    ends = np.array([spread.min(), spread.max()])
    axes.plot(ends, ends, "k--", lw=1, label="spread = error")
    axes.set(xlabel=f"spread of the ensemble ({unit})", ylabel=f"error ({unit})", title=title)
    if len(seen):
        axes.set_ylim(bottom=np.quantile(size[seen], 0.01))
    axes.legend(frameon=False)


def _draw_shares(axes: "Axes", error: np.ndarray, std: np.ndarray) -> None:
    from math import erf, sqrt

    times = np.linspace(0.0, 4.0, 81)
    ratio = np.sort(np.abs(error) / np.where(std > 0, std, np.inf))
    within = np.searchsorted(ratio, times, side="right") / len(ratio)
    axes.plot(times, within, color="C0", label="ensemble")
    axes.plot(times, [erf(t / sqrt(2)) for t in times], "k--", lw=1, label="normal distribution")
    axes.set(xlabel="spreads", ylabel="share of errors within", ylim=(0, 1.02))
    axes.legend(frameon=False)
