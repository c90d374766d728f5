"""What a trajectory of ``run_md`` tells, as one file of JSON."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyg_schnet.simulation.observables import (
    Distribution,
    diameters,
    distribution,
    energy_conservation,
    nearest_neighbor_distances,
    radial_distribution,
    temperature_statistics,
    vibrational_spectrum,
)
from pyg_schnet.simulation.replicas import degrees_of_freedom
from pyg_schnet.simulation.trajectories import Files, read_frames

if TYPE_CHECKING:
    from ase import Atoms

_MOST_ATOMS = 100_000  # whose distances are counted, over all frames: they vary slowly
_FARTHEST = 10.0  # Å
_LONGEST_INTERVAL = 5.0  # fs; a stretched O-H bond turns twice in 9 fs
_FEWEST = 100  # frames of a spectrum


def write_report(files: Files, atoms: "Atoms", path: Path, settings: Mapping[str, Any]) -> Path:
    """Temperature, conserved energy, distances and vibrations of finished trajectories.

    ``settings``; for each replica, ``temperature`` and ``conservation`` (the fields of
    :class:`~.observables.Temperature` and :class:`~.observables.Conservation`, None of fewer than
    40 frames); and over all replicas and frames (those of the first tenth left out) the
    distributions ``radial``, ``nearest_neighbor`` and ``diameter`` (the last two of molecules only)
    and the ``spectrum``, each as two lists, ``centers`` and ``density``. Frames more than 5 fs
    apart cannot show vibrations: the spectrum is None, and ``spectrum_hint`` says what to do.

    Args:
        files: Of the run.
        atoms: Masses and cell.
        path: To write.
        settings: Of the run: thermostat, timestep, every.
    """
    count = len(files.outputs)
    free = settings["thermostat"] == "langevin"
    degrees = degrees_of_freedom(atoms, free)
    result: dict[str, Any] = {"settings": dict(settings), "atoms": len(atoms), "degrees": degrees}
    result["logs"] = [log.name for log in files.logs]
    result["replicas"] = []
    positions, spectra = [], []
    interval = settings["every"] * settings["timestep"]
    for replica in range(count):
        log = files.read_log(replica)
        result["replicas"].append(_energies(log, degrees, len(atoms)))
        places, momenta = read_frames(files.outputs[replica])
        begun = len(places) // 10
        step = max(1, math.ceil((places.size // 3 * count) / _MOST_ATOMS))
        positions.append(places[begun::step])
        if interval <= _LONGEST_INTERVAL and len(momenta) - begun >= _FEWEST:
            masses = atoms.get_masses()
            velocities = momenta[begun:] / masses[:, None]
            spectra.append(vibrational_spectrum(velocities, interval, masses))
    result |= _distances(np.concatenate(positions), atoms)
    result["spectrum"], result["spectrum_hint"] = None, None
    if spectra:
        mean = np.mean([found.density for found in spectra], axis=0)
        result["spectrum"] = _lists(Distribution(spectra[0].centers, mean))
    elif interval > _LONGEST_INTERVAL:
        most = int(_LONGEST_INTERVAL / settings["timestep"])
        result["spectrum_hint"] = (
            f"Frames are {interval:g} fs apart, too far for vibrations; every={max(1, most)} or "
            "less shows them."
        )
    else:
        result["spectrum_hint"] = f"A spectrum needs {_FEWEST} frames; run for longer."
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(json.dumps(_finite(result), indent=1) + "\n")
    os.replace(aside, path)
    return path


def _energies(log: Mapping[str, np.ndarray], degrees: int, atoms: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "temperature": temperature_statistics(log["kinetic_energy_eV"], degrees)._asdict(),
        "conservation": None,
    }
    known = log["conserved_energy_eV"]
    if len(known) >= 40 and np.isfinite(known).all():
        found["conservation"] = energy_conservation(log["time_ps"], known, atoms)._asdict()
    return found


def _distances(positions: np.ndarray, atoms: "Atoms") -> dict[str, Any]:
    periodic = bool(atoms.pbc.any())
    if len(atoms) < 2 and not periodic:
        return {"radial": None, "nearest_neighbor": None, "diameter": None}
    if periodic:
        radial = radial_distribution(positions, _FARTHEST, cell=atoms.cell.array, pbc=atoms.pbc)
        return {"radial": _lists(radial), "nearest_neighbor": None, "diameter": None}
    across = diameters(positions)
    return {
        "radial": _lists(radial_distribution(positions, 1.02 * float(across.max()))),
        "nearest_neighbor": _lists(distribution(nearest_neighbor_distances(positions))),
        "diameter": _lists(distribution(across, 50)),
    }


def _lists(found: Distribution) -> dict[str, list[float]]:
    return {name: [float(f"{x:.6g}") for x in values] for name, values in found._asdict().items()}


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
