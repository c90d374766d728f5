"""Figures of a training run."""

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def read_log(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The log of a run, its resumed parts joined.

    Args:
        folder: Of the run.

    Returns:
        Columns by name, each an array of floats over all rows of the log, NaN where a row has no
        entry: "step", "train_loss", "lr", "seconds", "val_mae", "val_rmse", "val_seconds".

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

    Each goes into a PNG of its own, and all three into ``summary.png``.

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
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        # Composition alone explains all but a thousandth of a total energy: what is left is shown.
        base = file["dressed"] if metrics["extensive"] else 0.0
        reference = (file["reference"] - base) * metrics["shown_per_unit"]
        prediction = (file["prediction"] - base) * metrics["shown_per_unit"]
    written = []

    def draw(ax: "Axes", panel: str) -> None:
        if panel == "learning_curve":
            _learning_curve(ax, log, metrics)
        elif panel == "predicted_vs_reference":
            _scatter(ax, reference, prediction, metrics)
        else:
            _histogram(ax, prediction - reference, metrics)

    panels = ("learning_curve", "predicted_vs_reference", "error_histogram")
    for name, shown in [(panel, (panel,)) for panel in panels] + [("summary", panels)]:
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
    valid = np.isfinite(log["val_mae"])
    minutes = log["val_seconds"][valid] / 60.0
    ax.plot(minutes, log["val_mae"][valid], "o-", ms=3, label="validation")
    ax.axhline(metrics["test_mae"], color="C3", lw=1, label=f"test {metrics['test_mae']:.2f}")
    if metrics["unit"] == "kcal/mol":
        ax.axhline(1.0, color="0.6", ls=":", label="chemical accuracy")
    ax.set(
        yscale="log",
        xlabel="minutes",
        ylabel=f"MAE ({metrics['unit']})",
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


def _histogram(ax: "Axes", errors: np.ndarray, metrics: dict[str, Any]) -> None:
    bound = float(np.quantile(np.abs(errors), 0.99)) or 1.0
    ax.hist(errors, bins=80, range=(-bound, bound), color="C0")
    ax.set(
        xlabel=f"error ({metrics['unit']}), 99 % of the molecules",
        ylabel="molecules",
        title=f"MAE {metrics['test_mae']:.3f}, RMSE {metrics['test_rmse']:.3f} {metrics['unit']}",
    )
