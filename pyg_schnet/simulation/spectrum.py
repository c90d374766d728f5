"""Vibrations that trajectories show, beside those of the harmonic approximation."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch_geometric.data import Data

from pyg_schnet.simulation.observables import vibrational_spectrum
from pyg_schnet.simulation.relax import relax
from pyg_schnet.simulation.trajectories import read_frames
from pyg_schnet.simulation.vibrations import Vibrations, _in_float64, _to_atoms, vibrations
from pyg_schnet.units import FEMTOSECOND, HBAR, INVERSE_CM

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

_FEWEST = 100  # frames
_LONGEST_INTERVAL = 5.0  # fs; a stretched O-H bond turns twice in 9 fs
# 1/(c t): the wavenumber of what turns once in a femtosecond, cm^-1.
_PER_FEMTOSECOND = 2 * math.pi * HBAR / FEMTOSECOND / INVERSE_CM


class Motion(NamedTuple):
    """Frames of a trajectory.

    Attributes:
        atoms: The first frame.
        positions: (S, N, 3) Å.
        velocities: (S, N, 3) ASE's unit.
        interval: Between frames, fs; None where the file does not say.
    """

    atoms: "Atoms"
    positions: NDArray
    velocities: NDArray
    interval: float | None


@dataclass(frozen=True)
class MotionSpectrum:
    """Vibrational density of states of trajectories.

    Attributes:
        wavenumbers: (K,) cm⁻¹, from 0 on.
        density: (K,) cm; the integral is 1.
        resolution: Width of a line that is sharp, at half its height, cm⁻¹.
        frames: That it was made of, over all trajectories.
        temperature: Mean over these frames, of the motion that was counted, K.
    """

    wavenumbers: NDArray
    density: NDArray
    resolution: float
    frames: int
    temperature: float

    def peaks(self, least: float = 0.02) -> NDArray:
        """Where the density is largest within a resolution to both sides, cm⁻¹.

        Between points of the grid by a parabola through three of them.

        Args:
            least: Peaks lower than this share of the highest one are left out.

        Returns:
            (P,) ascending.

        Example:
            >>> grid = np.arange(0.0, 100.0)
            >>> found = MotionSpectrum(grid, np.exp(-(((grid - 40.3) / 5) ** 2)), 8.0, 100, 300.0)
            >>> [round(float(peak), 1) for peak in found.peaks()]
            [40.3]
        """
        d, step = self.density, float(self.wavenumbers[1] - self.wavenumbers[0])
        reach = max(1, round(self.resolution / step))
        around = np.lib.stride_tricks.sliding_window_view(
            np.pad(d, reach, constant_values=-np.inf), 2 * reach + 1
        ).max(axis=1)
        at = np.flatnonzero((d == around) & (d >= least * d.max()) & (d > 0))
        at = at[(at > 0) & (at < len(d) - 1)]
        left, middle, right = d[at - 1], d[at], d[at + 1]
        bend = left - 2 * middle + right
        aside = np.divide(0.5 * (left - right), bend, out=np.zeros(len(at)), where=bend < 0)
        return (at + aside) * step + self.wavenumbers[0]


def internal_velocities(positions: NDArray, velocities: NDArray, masses: NDArray) -> NDArray:
    r"""Velocities of a molecule without those of the whole, seen from the molecule.

    .. math::
        u_i = R^\top \left( v_i - \bar v - \omega \times (r_i - \bar r) \right), \qquad
        \omega = I^{-1} \sum_i m_i\, (r_i - \bar r) \times v_i

    with the inertia tensor I and the rotation R that brings the first frame nearest to this one
    (Kabsch, Acta Cryst. A 32, 922 (1976), with the masses as weights). Seen from outside, each line
    of a molecule that turns is split by the frequency of the turning.

    Args:
        positions: (S, N, 3) Å.
        velocities: (S, N, 3), any unit.
        masses: (N,) u.

    Returns:
        (S, N, 3), the unit of ``velocities``.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> turning = np.cross([0.1, 0.2, 0.3], water.positions) + [1.0, 0.0, 0.0]
        >>> u = internal_velocities(water.positions[None], turning[None], water.get_masses())
        >>> bool(abs(u).max() < 1e-12)
        True
    """
    m = np.asarray(masses, dtype=np.float64)[:, None]
    r = positions - (m * positions).sum(axis=1, keepdims=True) / m.sum()  # [S, N, 3]
    v = velocities - (m * velocities).sum(axis=1, keepdims=True) / m.sum()
    momentum = (m * np.cross(r, v)).sum(axis=1)  # [S, 3]
    squares = (m[..., 0] * np.square(r).sum(axis=2)).sum(axis=1)  # [S]
    inertia = squares[:, None, None] * np.eye(3) - np.einsum("n,sna,snb->sab", m[:, 0], r, r)
    # Of atoms on a line there is no inertia about it: the pseudo-inverse leaves that turn alone.
    turn = np.einsum("sab,sb->sa", np.linalg.pinv(inertia, rcond=1e-8, hermitian=True), momentum)
    v = v - np.cross(turn[:, None], r)
    left, _, right = np.linalg.svd(np.einsum("n,sna,nb->sab", m[:, 0], r, r[0]))
    sign = np.ones((len(r), 3))
    sign[:, 2] = np.sign(np.linalg.det(left @ right))
    rotation = left * sign[:, None] @ right  # first frame to each frame
    return v @ rotation


def read_motion(path: str | os.PathLike[str]) -> Motion:
    """Positions and velocities of a trajectory.

    Args:
        path: What ``pyg-schnet md`` wrote, or any file with momenta that ASE reads.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no momenta, or fewer than two frames, or frames of different atoms.
    """
    from ase.io import read

    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no trajectory at {file}.")
    try:
        positions, momenta = read_frames(file)
        head = read(file, ":2", format="extxyz")
    except (ValueError, IndexError, UnicodeDecodeError):  # not one of ours
        head = read(file, ":")
        if len({tuple(atoms.numbers) for atoms in head}) != 1:
            raise ValueError(f"The frames of {file} are not all of the same atoms.") from None
        if any("momenta" not in atoms.arrays for atoms in head):
            raise ValueError(
                f"{file} has no momenta, and so no velocities; write them with the trajectory."
            ) from None
        positions = np.array([atoms.positions for atoms in head])
        momenta = np.array([atoms.get_momenta() for atoms in head])
    if len(positions) < 2:
        raise ValueError(f"{file} holds one frame, which does not move.")
    times = [atoms.info.get("time_ps") for atoms in head[:2]]
    interval = None if None in times else 1000 * (times[1] - times[0])
    return Motion(head[0], positions, momenta / head[0].get_masses()[:, None], interval)


def motion_spectrum(
    trajectories: Sequence[Motion | str | os.PathLike[str]],
    *,
    interval: float | None = None,
    skip: float = 0.1,
    correlation: float = 4.0,
    rigid: bool = False,
) -> MotionSpectrum:
    r"""Vibrational density of states of one or several trajectories of the same atoms.

    The cosine transform of the mass-weighted velocity autocorrelation
    (:func:`~pyg_schnet.simulation.observables.vibrational_spectrum`), mean over the trajectories.
    Of molecules the motion of the whole is taken out and the rest is seen from the molecule
    (:func:`internal_velocities`); of periodic structures the drift is.

    Velocity Verlet of step t makes a line at :math:`\omega` too high, to where
    :math:`2 \sin(\omega' t / 2) = \omega t`: 10 cm⁻¹ at 3,000 cm⁻¹ and 0.5 fs. It is left so.

    Chapter of 2020, figure 5; Thomas et al., Phys. Chem. Chem. Phys. 15, 6608 (2013).

    Args:
        trajectories: Files (:func:`read_motion`), or what it read.
        interval: Between frames, fs; needed where files do not say.
        skip: Share of the frames at the beginning that is left out.
        correlation: How far velocities are followed, ps; at most half of what there is. The
            resolution is 33 cm⁻¹ ps by this.
        rigid: Keep the motion of the whole.

    Raises:
        ValueError: If there are fewer than 100 frames, frames are more than 5 fs apart, atoms or
            intervals differ, or an argument is out of range.
    """
    if not trajectories:
        raise ValueError("trajectories is empty; give at least one.")
    if not 0 <= skip < 1:
        raise ValueError(f"skip must lie in 0..1, 1 not included, got {skip}.")
    if not correlation > 0:
        raise ValueError(f"correlation must be above 0 ps, got {correlation}.")
    motions = [one if isinstance(one, Motion) else read_motion(one) for one in trajectories]
    first = motions[0].atoms
    if any(not np.array_equal(one.atoms.numbers, first.numbers) for one in motions):
        raise ValueError("All trajectories must be of the same atoms, in the same order.")
    known = {round(one.interval, 6) for one in motions if one.interval is not None}
    if interval is None and len(known) != 1:
        words = "do not say" if not known else f"differ in ({sorted(known)} fs)"
        raise ValueError(f"The files {words} the time between frames; give interval, in fs.")
    dt = known.pop() if interval is None else interval
    if not 0 < dt <= _LONGEST_INTERVAL:
        raise ValueError(
            f"Frames must be at most {_LONGEST_INTERVAL:g} fs apart to show vibrations, got "
            f"{dt:g} fs; write them more often."
        )
    parts = [slice(int(skip * len(one.positions)), None) for one in motions]
    fewest = min(len(one.positions[part]) for one, part in zip(motions, parts, strict=True))
    if fewest < _FEWEST:
        raise ValueError(f"A spectrum needs {_FEWEST} frames, got {fewest}; run for longer.")
    lags = max(2, min(fewest // 2, round(1000 * correlation / dt)))
    masses, whole = first.get_masses(), bool(first.pbc.any())
    densities, kinetic = [], []
    for one, part in zip(motions, parts, strict=True):
        v = one.velocities[part]
        if whole and not rigid:
            v = v - (masses[:, None] * v).sum(axis=1, keepdims=True) / masses.sum()
        elif not rigid:
            v = internal_velocities(one.positions[part], v, masses)
        found = vibrational_spectrum(v, dt, masses, lags)
        densities.append(found.density)
        kinetic.append(0.5 * (masses[:, None] * np.square(v)).sum(axis=(1, 2)))
    return MotionSpectrum(
        found.centers,
        np.mean(densities, axis=0),
        _PER_FEMTOSECOND / (lags * dt),
        sum(map(len, kinetic)),
        _temperature(np.concatenate(kinetic), first, rigid),
    )


def harmonic_lines(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    atoms: "Atoms | Data",
    fmax: float = 1e-4,
    steps: int = 2000,
    *,
    progress: bool = True,
) -> Vibrations:
    """Normal modes of the minimum that a structure relaxes to.

    Args:
        potential: As for :func:`~pyg_schnet.simulation.vibrations`; models count in float64.
        atoms: Where the relaxation begins, such as a frame of a trajectory.
        fmax: eV/Å.
        steps: Most of them.
        progress: Show bars, where there is a terminal.

    Raises:
        ArithmeticError: If the relaxation does not come to rest within ``steps``.
        ValueError: As :func:`~pyg_schnet.simulation.relax`.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> len(harmonic_lines(EMT(), molecule("N2"), progress=False).frequencies)
        1
    """
    atoms = _to_atoms(atoms) if isinstance(atoms, Data) else atoms
    source = _in_float64(potential, atoms)
    done = relax(source, atoms, fmax, steps, progress=progress)
    if not done.converged:
        raise ArithmeticError(
            f"The structure has not come to rest: {done.sentence()}; give another structure, or "
            f"a larger fmax than {fmax:g} eV/Å."
        )
    return vibrations(source, done.atoms, progress=progress)


def _temperature(kinetic: NDArray, atoms: "Atoms", rigid: bool) -> float:
    from pyg_schnet.simulation.observables import temperature_statistics
    from pyg_schnet.simulation.replicas import degrees_of_freedom

    degrees = 3 * len(atoms) if rigid else degrees_of_freedom(atoms, False)
    return temperature_statistics(kinetic, max(1, degrees)).mean
