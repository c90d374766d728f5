"""Figures of the study."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyg_schnet.analysis import lorentzian_spectrum
from pyg_schnet.benchmarks.c20.stages import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = {
    "nearest_neighbor": "nearest neighbour / Å",
    "diameter": "diameter / Å",
    "distance": "distance of two atoms / Å",
}
_STYLES = {
    "classical": ("C0", "-", "model, classical, {t:.0f} K"),
    "path_integrals": ("C2", "-", "model, {p} beads, {t:.0f} K"),
    "trained_at": ("0.3", "-", "model, classical, {t:.0f} K"),
    "reference": ("C3", ":", "reference, {t:.0f} K"),
}


def draw_modes(off: Result, path: Path) -> Path:
    """Frequencies of both, and how far each of the model's is off.

    Args:
        off: Of :func:`~.modes.deviations`.
        path: To write.
    """

    def draw(axes: "list[Axes]") -> None:
        numbers = np.arange(1, off["modes"] + 1)
        axes[0].plot(numbers, off["reference_per_cm"], "o", ms=4, mfc="none", c="C3")
        axes[0].plot(numbers, off["model_per_cm"], ".", ms=4, c="C0")
        axes[0].legend(["reference", "model"], frameon=False)
        axes[0].set(xlabel="mode", ylabel="frequency / cm⁻¹")
        axes[1].axhspan(-1, 1, color="0.9", zorder=0)
        axes[1].bar(numbers, off["percent"], color="C0", width=0.7)
        axes[1].set(xlabel="mode", ylabel="deviation / %", title="grey: the paper's 1 %")

    return _figure(path, 1, 2, draw)


def draw_distributions(found: Mapping[str, Result], model: Result, path: Path) -> Path:
    """Distances that the dynamics sample, as in the paper's figure 8, and vibrations.

    Args:
        found: By the keys of the styles: those that were run.
        model: Of :func:`~.modes.of_model`, whose frequencies stand under the spectrum.
        path: To write.
    """

    def draw(axes: "list[Axes]") -> None:
        for ax, (quantity, label) in zip(axes, _LABELS.items(), strict=False):
            for name, (color, line, words) in _STYLES.items():
                if name not in found:
                    continue
                known = found[name]
                of = known[quantity]
                text = words.format(t=known["wanted_K"], p=known.get("beads", 1))
                ax.plot(of["centers"], of["density"], line, c=color, lw=1.1, label=text)
            ax.set(xlabel=label, ylabel="density / Å⁻¹", ylim=(0, None))
            if quantity != "distance":
                ax.set_xlim(*_occupied(found, quantity))
        axes[0].legend(frameon=False, fontsize="x-small")
        _spectrum(axes[3], found["classical"]["spectrum"], model)

    return _figure(path, 2, 2, draw)


def _spectrum(ax: "Axes", spectrum: dict[str, list[float]] | None, model: Result) -> None:
    frequencies = np.array(model["frequencies_per_cm"])
    grid = np.linspace(1, 1.15 * frequencies.max(), 1500)
    harmonic = lorentzian_spectrum(frequencies, grid, 15.0) / len(frequencies)
    ax.fill_between(grid, harmonic, color="0.85", label="normal modes of the model")
    if spectrum is not None:
        ax.plot(spectrum["centers"], spectrum["density"], c="C0", lw=0.9, label="velocities")
    ax.set(xlim=(0, grid[-1]), ylim=(0, None), xlabel="wavenumber / cm⁻¹", ylabel="density / cm")
    ax.legend(frameon=False, fontsize="x-small")


def _occupied(found: Mapping[str, Result], quantity: str) -> tuple[float, float]:
    """Where any of the densities is above a thousandth of its height."""
    ends = []
    for known in found.values():
        centers, density = (np.array(known[quantity][key]) for key in ("centers", "density"))
        inside = centers[density > 1e-3 * density.max(initial=0.0)]
        ends += [inside.min(initial=centers[-1]), inside.max(initial=centers[0])]
    return min(ends), max(ends)


def _figure(path: Path, rows: int, columns: int, draw: "Callable[[list[Any]], None]") -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * columns, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    draw([figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)])
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}.part{path.suffix}")
    figure.savefig(aside, dpi=100)
    os.replace(aside, path)
    return path
