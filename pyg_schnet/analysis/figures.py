"""Figures of a training run."""

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COMPONENTS = 30_000
"""Force components that are drawn, at most; more only make the dots one blot."""


def read_log(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The log of a run, its resumed parts joined.

    Args:
        folder: Of the run.

    Returns:
        Columns by name, each an array of floats over all rows of the log, NaN where a row has no
        entry: "step", "train_loss", "lr", "seconds", "val_seconds", and "val_mae", "val_rmse" in
        the shown unit, or for energies and forces "val_loss", "val_energy_mae", "val_energy_rmse",
        "val_forces_mae" and "val_forces_rmse" in eV and Å.

    Raises:
        FileNotFoundError: If there is no log.
    """
    files = sorted(Path(folder).glob("log/*/metrics.csv"))
    if not files:
        raise FileNotFoundError(f"There is no log/*/metrics.csv in {folder}; is it a run folder?")
    rows: list[dict[str, str]] = []
    for path in files:
        with path.open(newline="") as file:
            part = list(csv.DictReader(file))
        if part:
            # A resumed part starts where its checkpoint was; what came after that is repeated.
            first = float(part[0]["step"])
            rows = [row for row in rows if float(row["step"]) < first] + part
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {
        name: np.array([float(row.get(name) or "nan") for row in rows], dtype=np.float64)
        for name in names
    }


def plot_run(folder: str | os.PathLike[str]) -> list[Path]:
    """Draw the learning curve, predictions against references, and the histogram of errors.

    Each goes into a PNG of its own, and all into ``summary.png``. Of energies and forces there are
    force components against references too.

    Args:
        folder: Of a finished run.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(f"There is no finished run in {folder}: metrics.json is missing.")
    metrics = json.loads((folder / "metrics.json").read_text())
    log = read_log(folder)
    factor = metrics["shown_per_unit"]
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        # Composition alone explains all but a thousandth of a total energy: what is left is shown.
        base = file["dressed"] if metrics["extensive"] else 0.0
        reference = (file["reference"] - base) * factor
        prediction = (file["prediction"] - base) * factor
        forces = [
            factor * file[name].ravel()[:MOST_COMPONENTS]
            for name in ("forces_reference", "forces_prediction")
            if name in file
        ]
    if forces:
        # Files of energies and forces hold errors in eV; they are drawn in the shown unit.
        metrics |= {f"test_{of}": factor * metrics[f"test_energy_{of}"] for of in ("mae", "rmse")}
    written = []

    def draw(ax: "Axes", panel: str) -> None:
        if panel == "learning_curve":
            _learning_curve(ax, log, metrics)
        elif panel == "predicted_vs_reference":
            _scatter(ax, reference, prediction, metrics)
        elif panel == "forces_vs_reference":
            _scatter_forces(ax, forces[0], forces[1], metrics)
        else:
            _histogram(ax, prediction - reference, metrics)

    panels = ["learning_curve", "predicted_vs_reference", "error_histogram"]
    if forces:
        panels.insert(2, "forces_vs_reference")
    for name, shown in [(panel, [panel]) for panel in panels] + [("summary", panels)]:
        figure = Figure(figsize=(4.6 * len(shown), 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        for i, panel in enumerate(shown):
            draw(figure.add_subplot(1, len(shown), i + 1), panel)
        path = folder / f"{name}.png"
        aside = folder / f"{name}.part.png"
        figure.savefig(aside, dpi=130)
        os.replace(aside, path)
        written.append(path)
    return written


def _learning_curve(ax: "Axes", log: dict[str, np.ndarray], metrics: dict[str, Any]) -> None:
    names = {"val_mae": "validation"}
    factor, ylabel = 1.0, f"MAE ({metrics['unit']})"
    if "val_forces_mae" in log:
        names = {"val_energy_mae": "energy", "val_forces_mae": "forces"}
        factor, ylabel = metrics["shown_per_unit"], f"{ylabel[:-1]}, {metrics['forces_unit']})"
    for color, (name, label) in enumerate(names.items()):
        valid = np.isfinite(log[name])
        minutes = log["val_seconds"][valid] / 60.0
        ax.plot(minutes, factor * log[name][valid], "o-", ms=3, c=f"C{color}", label=label)
        test = factor * metrics[name.replace("val_", "test_")]
        color = 3 if len(names) == 1 else color
        ax.axhline(test, color=f"C{color}", lw=1, label=f"test {test:.2f}")
    if metrics["unit"] == "kcal/mol" and len(names) == 1:
        ax.axhline(1.0, color="0.6", ls=":", label="chemical accuracy")
    ax.set(
        yscale="log",
        xlabel="minutes",
        ylabel=ylabel,
        title=f"{metrics['target']}, {metrics['n_train']:,} training molecules",
    )
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.legend(frameon=False)


def _scatter(
    ax: "Axes", reference: np.ndarray, prediction: np.ndarray, metrics: dict[str, Any]
) -> None:
    ax.plot(reference, prediction, ".", ms=1.5, alpha=0.4, rasterized=True)
    low, high = (float(q) for q in np.quantile(reference, (0.001, 0.999)))
    ax.plot([low, high], [low, high], color="0.4", lw=0.8)
    ax.locator_params(nbins=6)
    less = " less dressed atoms" if metrics["extensive"] else ""
    ax.set(
        xlim=(low, high),
        ylim=(low, high),
        xlabel=f"reference{less} ({metrics['unit']})",
        ylabel=f"predicted{less} ({metrics['unit']})",
        title=f"{metrics['n_test']:,} molecules never seen",
    )


def _scatter_forces(
    ax: "Axes", reference: np.ndarray, prediction: np.ndarray, metrics: dict[str, Any]
) -> None:
    ax.plot(reference, prediction, ".", ms=1.5, alpha=0.4, rasterized=True)
    ends = [reference.min(), reference.max()]
    ax.plot(ends, ends, color="0.4", lw=0.8)
    ax.locator_params(nbins=6)
    mae = metrics["shown_per_unit"] * metrics["test_forces_mae"]
    ax.set(
        xlabel=f"reference force component ({metrics['forces_unit']})",
        ylabel=f"predicted ({metrics['forces_unit']})",
        title=f"forces, MAE {mae:.3g} {metrics['forces_unit']}",
    )


def _histogram(ax: "Axes", errors: np.ndarray, metrics: dict[str, Any]) -> None:
    bound = float(np.quantile(np.abs(errors), 0.99)) or 1.0
    ax.hist(errors, bins=80, range=(-bound, bound), color="C0")
    ax.set(
        xlabel=f"error ({metrics['unit']}), 99 % of the molecules",
        ylabel="molecules",
        title=f"MAE {metrics['test_mae']:.3f}, RMSE {metrics['test_rmse']:.3f} {metrics['unit']}",
    )
