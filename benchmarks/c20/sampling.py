"""Dynamics with the model, classical and by path integrals, and the distributions they sample."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_schnet.benchmarks.c20.modes import MODEL_MINIMUM
from pyg_schnet.benchmarks.c20.options import Options
from pyg_schnet.benchmarks.c20.stages import Result
from pyg_schnet.datasets.fullerene import C20
from pyg_schnet.simulation.observables import (
    diameters,
    nearest_neighbor_distances,
    radial_distribution,
)

QUANTITIES = ("nearest_neighbor", "diameter", "distance")
_RANGES = {"nearest_neighbor": (1.2, 1.8), "diameter": (3.6, 5.0), "distance": (0.0, 5.0)}  # Å
_BINS = {"nearest_neighbor": 120, "diameter": 140, "distance": 250}
_MOST = 20_000  # structures that distances are counted in
_INTERVAL = 2.0  # fs between frames of dynamics: a stretched bond needs 24 fs to swing
_PIMD_INTERVAL = 5.0  # fs
_DISCARDED = 0.1  # of the frames, in which the start is forgotten


def run_classical(model: Path, options: Options, temperature: float) -> Result:
    """Classical dynamics of replicas from the model's minimum: distributions and spectrum.

    Langevin's friction is weak, 1/500 fs, which widens the lines of the spectrum by 11 cm⁻¹.

    Args:
        model: Its file.
        options: Of the study.
        temperature: K.
    """
    from ase.io import read

    from pyg_schnet.simulation import run_md
    from pyg_schnet.simulation.trajectories import read_frames

    folder = options.output / "dynamics" / fingerprint(model)
    done = run_md(
        str(model),
        read(options.output / MODEL_MINIMUM),
        folder / f"md-{temperature:g}K.extxyz",
        options.md_time,
        temperature,
        options.timestep,
        thermostat="langevin",
        time_constant=500.0,
        every=max(1, round(_INTERVAL / options.timestep)),
        seed=options.seed,
        replicas=options.replicas,
    )
    positions = [_settled(read_frames(path)[0]) for path in done.outputs]
    assert done.report is not None
    spectrum = json.loads(done.report.read_text())["spectrum"]
    return {
        "temperature_K": done.temperature,
        "time_ps": done.time,
        "replicas": len(done.outputs),
        "steps_per_second": done.steps_per_second,
        **distributions(np.concatenate(positions)),
        "spectrum": spectrum,
    }


def run_path_integrals(model: Path, options: Options) -> Result:
    """Path-integral dynamics from the model's minimum: the distributions of the beads.

    Args:
        model: Its file.
        options: Of the study.

    Raises:
        ImportError: If i-PI is not installed.
    """
    from ase.io import iread, read

    from pyg_schnet.simulation import run_pimd

    done = run_pimd(
        str(model),
        read(options.output / MODEL_MINIMUM),
        options.output / "dynamics" / fingerprint(model) / "pimd",
        options.pimd_time,
        options.temperature,
        options.timestep,
        beads=options.beads,
        every=max(1, round(_PIMD_INTERVAL / options.timestep)),
        seed=options.seed,
    )
    beads = np.array([image.positions for image in iread(done.trajectory)])
    kinetic = done.kinetic_energy
    return {
        "temperature_K": done.temperature.mean,
        "time_ps": done.time,
        "beads": done.beads,
        "steps_per_second": done.steps_per_second,
        "ipi": done.ipi_version,
        "kinetic_energy_eV": kinetic.mean,
        "kinetic_energy_error_eV": kinetic.error,
        "classical_kinetic_energy_eV": done.classical_kinetic_energy,
        "drift_meV_per_atom_ps": done.drift,
        **distributions(_settled(beads)),
    }


def of_trajectory(options: Options) -> Result:
    """Distributions of the reference trajectory."""
    data = C20(options.data, options.frames)
    return distributions(np.stack([frame.pos.double().numpy() for frame in data]))


def distributions(positions: NDArray) -> Result:
    """The quantities of the paper's figure 8: their mean, deviation and density.

    Nearest neighbours of all atoms, the largest distance in the molecule, and all distances (of
    which there are 19 around an atom).

    Args:
        positions: (S, N, 3) Å.

    Example:
        >>> from pyg_schnet.datasets.generate import dodecahedron
        >>> found = distributions(dodecahedron(1.45)[None])
        >>> round(found["nearest_neighbor"]["mean"], 6), round(found["diameter"]["mean"], 2)
        (1.45, 4.06)
    """
    positions = positions[:: max(1, len(positions) // _MOST)]
    values = {
        "nearest_neighbor": nearest_neighbor_distances(positions).ravel(),
        "diameter": diameters(positions),
    }
    found: dict[str, Any] = {"structures": len(positions)}
    for name, value in values.items():
        low, high = _RANGES[name]
        counts, bounds = np.histogram(value, _BINS[name], (low, high))
        found[name] = {
            "mean": float(value.mean()),
            "deviation": float(value.std()),
            "outside": int(len(value) - counts.sum()),
            "centers": _rounded(0.5 * (bounds[1:] + bounds[:-1])),
            "density": _rounded(counts / (len(value) * np.diff(bounds))),
        }
    pairs = radial_distribution(positions, _RANGES["distance"][1], _BINS["distance"])
    found["distance"] = {"centers": _rounded(pairs.centers), "density": _rounded(pairs.density)}
    return found


def fingerprint(model: Path) -> str:
    """A name for what a model's file holds: dynamics with other weights is other dynamics."""
    return hashlib.sha256(model.read_bytes()).hexdigest()[:12]


def _settled(frames: NDArray) -> NDArray:
    return frames[round(_DISCARDED * len(frames)) :]


def _rounded(values: NDArray) -> list[float]:
    return [float(f"{x:.6g}") for x in values]
