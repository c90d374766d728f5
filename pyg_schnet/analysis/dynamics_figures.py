"""Figures of molecular dynamics: energies, temperature, vibrations and distances."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LINES = 8  # replicas that are drawn; more only cover each other
_MOST_POINTS = 5000


def plot_dynamics(report: str | os.PathLike[str]) -> Path:
    """Draw what the report of a run of ``pyg-schnet md`` tells.

    Panels: the conserved energy of each atom less its start, the temperature with the canonical
    distribution's width, the vibrational density of states, and the distributions of distances; of
    molecules those of the nearest neighbour and of the diameter too, as in Fig. 8 of Schütt et al.,
    J. Chem. Phys. 148, 241722 (2018). What the report lacks is left out.

    Args:
        report: The JSON file, beside its logs.

    Returns:
        The PNG file, the report's name with another suffix.

    Raises:
        FileNotFoundError: If the report or one of its logs is not there.

    Example:
        >>> import tempfile
        >>> from ase.build import molecule
        >>> from pyg_schnet.simulation import run_md
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = run_md("md17-ethanol", molecule("CH3CH2OH"), f"{folder}/a.extxyz", 0.05,
        ...                   progress=False)
        ...     plot_dynamics(done.report).name
        'a.png'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(report)
    if not path.is_file():
        raise FileNotFoundError(f"There is no report at {path}; pyg-schnet md writes one.")
    found = json.loads(path.read_text())
    logs = [
        np.genfromtxt(path.with_name(name), delimiter=",", names=True, ndmin=1)
        for name in found["logs"][:_MOST_LINES]
    ]
    panels = ["energy", "temperature"]
    panels += [
        name
        for name in ("spectrum", "radial", "nearest_neighbor", "diameter")
        if found[name] is not None
    ]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for i, panel in enumerate(panels):
        ax = figure.add_subplot(rows, columns, i + 1)
        if panel == "energy":
            _energy(ax, logs, found["atoms"])
        elif panel == "temperature":
            _temperature(ax, logs, found)
        else:
            _density(ax, panel, found[panel])
    written = path.with_suffix(".png")
    aside = path.with_name(f"{path.stem}.part.png")
    figure.savefig(aside, dpi=130)
    os.replace(aside, written)
    return written


def _energy(ax: "Axes", logs: list[np.ndarray], atoms: int) -> None:
    for log in logs:
        step = max(1, len(log) // _MOST_POINTS)
        energy = log["conserved_energy_eV"]
        if not np.isfinite(energy).all():  # of a thermostat whose heat nobody counts
            energy = log["total_energy_eV"]
        ax.plot(log["time_ps"][::step], 1000 * (energy - energy[0])[::step] / atoms, lw=0.7)
    ax.set_xlabel("time / ps")
    ax.set_ylabel("conserved energy / (meV/atom)")


def _temperature(ax: "Axes", logs: list[np.ndarray], found: dict[str, Any]) -> None:
    for log in logs:
        step = max(1, len(log) // _MOST_POINTS)
        ax.plot(log["time_ps"][::step], log["temperature_K"][::step], lw=0.7)
    wanted = found["settings"]["temperature"]
    if found["settings"]["thermostat"] != "none":
        width = wanted * np.sqrt(2 / found["degrees"])
        ax.axhspan(wanted - width, wanted + width, color="0.85", zorder=0)
        ax.axhline(wanted, color="0.4", lw=0.8, zorder=0)
    ax.set_xlabel("time / ps")
    ax.set_ylabel("temperature / K")
    mean = np.mean([replica["temperature"]["mean"] for replica in found["replicas"]])
    ax.set_title(f"mean {mean:.0f} K", fontsize="medium")


def _density(ax: "Axes", panel: str, found: dict[str, list[float]]) -> None:
    centers, density = np.array(found["centers"]), np.array(found["density"])
    ax.plot(centers, density, lw=1.0)
    ax.set_ylim(bottom=0.0)
    if panel == "spectrum":
        ax.set_xlabel("wavenumber / cm⁻¹")
        ax.set_ylabel("vibrational density of states")
        ax.set_xlim(0.0, min(4500.0, float(centers[-1])))
        return
    names = {
        "radial": "distance / Å",
        "nearest_neighbor": "nearest neighbour / Å",
        "diameter": "diameter / Å",
    }
    ax.set_xlabel(names[panel])
    ax.set_ylabel("density")
