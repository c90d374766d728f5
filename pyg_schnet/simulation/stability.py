"""Is a potential a good force field: does it conserve energy and keep its bonds?"""

import math
import os
import time as clock
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase.calculators.calculator import BaseCalculator
from torch import nn
from tqdm import tqdm

from pyg_schnet.simulation.bonds import BondChange, Bonds
from pyg_schnet.simulation.calculator import EnergyAndForces
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND

if TYPE_CHECKING:
    from ase import Atoms

    from pyg_schnet.simulation.integrator import BatchForces

_CHECK_EVERY = 20  # steps between looks at the bonds
_FRICTION_TIME = 100.0  # fs
_BLOCKS = 20


class Point(NamedTuple):
    """Where the dynamics is: Å, ASE's unit of momentum, eV, eV/Å."""

    positions: np.ndarray
    momenta: np.ndarray
    energy: float
    forces: np.ndarray


@dataclass(frozen=True)
class Drift:
    """What :func:`nve_drift` found.

    Attributes:
        slope: Of the total energy, meV/atom per 100 ps, by a linear fit.
        slope_error: Standard error of the slope, from averages over 20 blocks.
        fluctuation: Root mean square deviation of the total energy from the line, meV/atom.
        temperature: K, mean.
        time: ps.
        broken: Bonds of the start structure that became longer than 1.5 times their length.
        formed: Pairs that were no bond and came within 1.1 times the sum of their covalent radii.
        seconds: That the dynamics took.
        times: (S,) ps.
        total_energy: (S,) eV, after each step.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> drift = nve_drift(EMT(), molecule("N2"), time=0.05, equilibration=0, progress=False)
        >>> drift.fluctuation < 10, len(drift.times)
        (True, 100)
    """

    slope: float
    slope_error: float
    fluctuation: float
    temperature: float
    time: float
    broken: list[BondChange]
    formed: list[BondChange]
    seconds: float
    times: np.ndarray = field(repr=False, compare=False)
    total_energy: np.ndarray = field(repr=False, compare=False)

    def summary(self) -> dict[str, Any]:
        """Without the arrays, for JSON."""
        kept = {k: v for k, v in vars(self).items() if k not in ("times", "total_energy")}
        for name in ("broken", "formed"):
            kept[name] = [change._asdict() for change in kept[name]]
        return kept


def nve_drift(
    potential: nn.Module | BaseCalculator | str | os.PathLike[str],
    atoms: "Atoms",
    time: float = 100.0,
    temperature: float = 300.0,
    timestep: float = 0.5,
    *,
    equilibration: float = 5.0,
    seed: int = 0,
    progress: bool = True,
) -> Drift:
    r"""Molecular dynamics at constant energy: the drift of the energy, and the bonds.

    Velocity Verlet (Swope et al., J. Chem. Phys. 76, 637 (1982)) by
    :class:`~.integrator.Integrator`:

    .. math::
        \mathbf p' = \mathbf p + \tfrac{h}{2} \mathbf F(\mathbf r), \quad
        \mathbf r \leftarrow \mathbf r + h\, \mathbf p' / m, \quad
        \mathbf p \leftarrow \mathbf p' + \tfrac{h}{2} \mathbf F(\mathbf r)

    ============================  ==============  ==============================================
    :math:`\mathbf r`             ``positions``   Å
    :math:`\mathbf p`             ``momenta``     ASE's unit
    :math:`h`                     ``timestep``    fs
    ============================  ==============  ==============================================

    Its energy oscillates in proportion to :math:`h^2` but does not drift as long as forces are the
    gradient of a smooth energy. Before it, velocities are drawn at twice the temperature and
    equilibrated by Langevin friction (a time of 100 fs) and noise; then the drift, and of molecules
    the rotation, are removed, and velocities scaled so that the total energy is the mean of the
    second half of that time. Without this a small molecule, whose energy fluctuates, may be left a
    third too hot or too cold.

    Bonds are pairs within 1.3 times the sum of their covalent radii in ``atoms``. They are looked
    at every 20 steps.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        atoms: The start, near a minimum of the energy. It is not changed; constraints are ignored.
        time: ps.
        temperature: K.
        timestep: fs.
        equilibration: ps before the energy counts. With 0 the start structure gets velocities of
            the temperature as they are drawn.
        seed: Of velocities and noise.
        progress: Show a bar, where there is a terminal.

    Raises:
        ValueError: If an argument is out of range, and as :meth:`Calculator.evaluator`.
        FloatingPointError: If the energy is no longer finite; the sentence says when.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> drift = nve_drift(EMT(), molecule("N2"), time=0.05, equilibration=0, progress=False)
        >>> drift.broken, len(drift.total_energy)
        ([], 100)
    """
    from pyg_schnet.simulation.integrator import Exploded, Integrator
    from pyg_schnet.simulation.replicas import batch_forces

    steps, warm = _steps(time, timestep, temperature, equilibration)
    forces = batch_forces(potential, [atoms])
    evaluate = _single(forces)
    masses = atoms.get_masses()[:, None]
    rng = np.random.default_rng(seed)
    bonds = Bonds(atoms)
    point = _start(atoms, masses, evaluate, temperature * (2 if warm else 1), rng)
    duration = timestep * FEMTOSECOND
    friction = _Friction(masses, temperature, timestep, rng)
    known = []
    with _bar(warm, "equilibration", progress and warm > 0) as bar:
        for step in range(warm):
            point = point._replace(momenta=friction(point.momenta))
            point = verlet_step(point, evaluate, masses, duration)
            point = point._replace(momenta=friction(point.momenta))
            _check(point, step, timestep)
            known.append(point.energy)
            bar.update()
    point = point._replace(momenta=at_rest(point, masses, rotation=not atoms.pbc.any()))
    degrees = _degrees(atoms, masses)
    if warm:
        wanted = np.mean(known[warm // 2 :]) + 0.5 * degrees * BOLTZMANN * temperature
        point = _with_energy(point, masses, float(wanted))
    kinetic, potential_energy = np.empty(steps), np.empty(steps)
    moving = Integrator(
        forces, point.positions, point.momenta, masses, [len(atoms)], timestep=timestep
    )
    began = clock.perf_counter()
    with _bar(steps, "NVE", progress) as bar:
        for done in range(0, steps, _CHECK_EVERY):
            count = min(_CHECK_EVERY, steps - done)
            try:
                record = moving.advance(count)
            except Exploded as end:
                why = _no_longer_finite(end.why, end.step, timestep)
                raise FloatingPointError(why) from end
            part = slice(done, done + count)
            potential_energy[part] = record.potential[:, 0]
            kinetic[part] = record.kinetic[:, 0]
            bonds.look(moving.positions, (done + count) * timestep / 1000)
            bar.update(count)
    seconds = clock.perf_counter() - began
    times = timestep / 1000 * np.arange(1, steps + 1)
    total = kinetic + potential_energy
    slope, error, fluctuation = linear_drift(times, total)
    per_atom = 1000 / len(atoms)
    return Drift(
        slope=100 * per_atom * slope,
        slope_error=100 * per_atom * error,
        fluctuation=per_atom * fluctuation,
        temperature=2 * float(kinetic.mean()) / (degrees * BOLTZMANN),
        time=steps * timestep / 1000,
        broken=bonds.broken,
        formed=bonds.formed,
        seconds=seconds,
        times=times,
        total_energy=total,
    )


def verlet_step(
    point: Point, evaluate: EnergyAndForces, masses: np.ndarray, duration: float
) -> Point:
    """One step of velocity Verlet; see :func:`nve_drift`.

    Args:
        point: Where to start from.
        evaluate: From positions to energy, eV, and forces, eV/Å.
        masses: (N, 1) u.
        duration: In ASE's unit of time.
    """
    half = point.momenta + (0.5 * duration) * point.forces
    positions = point.positions + duration * half / masses
    energy, forces = evaluate(positions)
    return Point(positions, half + (0.5 * duration) * forces, energy, forces)


def at_rest(point: Point, masses: np.ndarray, rotation: bool = True) -> np.ndarray:
    """Momenta (N, 3) without the drift of the whole, and without its rotation.

    Args:
        point: Positions and momenta.
        masses: (N, 1) u.
        rotation: Remove that too.
    """
    momenta = point.momenta - masses * (point.momenta.sum(0) / masses.sum())
    if not rotation:
        return momenta
    arms = point.positions - (masses * point.positions).sum(0) / masses.sum()
    spin = np.linalg.pinv(_inertia(arms, masses), rcond=1e-6) @ np.cross(arms, momenta).sum(0)
    return momenta - masses * np.cross(spin, arms)


def linear_drift(times: np.ndarray, energies: np.ndarray) -> tuple[float, float, float]:
    """Slope of a linear fit, its standard error, and the root mean square deviation from it.

    The error is that of a fit to averages over 20 blocks, in which the oscillations of the energy
    are no longer correlated.

    Args:
        times: (S,)
        energies: (S,)
    """
    # The mean is subtracted, as total energies are large.
    t, e = times - times.mean(), energies - energies.mean()
    slope = float(t @ e / (t @ t))
    rest = e - slope * t
    whole = len(t) - len(t) % _BLOCKS
    block_t = t[:whole].reshape(_BLOCKS, -1).mean(1)
    block_rest = rest[:whole].reshape(_BLOCKS, -1).mean(1)
    block_t -= block_t.mean()
    block_rest -= block_rest.mean()
    variance = float(block_rest @ block_rest) / (_BLOCKS - 2)
    return slope, math.sqrt(variance / float(block_t @ block_t)), float(np.sqrt((rest**2).mean()))


def _steps(
    time: float, timestep: float, temperature: float, equilibration: float
) -> tuple[int, int]:
    """Steps at constant energy, and before that with the thermostat."""
    for name, value in {"time": time, "timestep": timestep}.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and above 0, got {value}.")
    for name, value in {"temperature": temperature, "equilibration": equilibration}.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and at least 0, got {value}.")
    steps = round(1000 * time / timestep)
    if steps < 2 * _BLOCKS:
        raise ValueError(
            f"time must be at least {2 * _BLOCKS} steps ({2 * _BLOCKS * timestep / 1000:g} ps), "
            f"got {time} ps."
        )
    return steps, round(1000 * equilibration / timestep)


def _start(
    atoms: "Atoms",
    masses: np.ndarray,
    evaluate: EnergyAndForces,
    temperature: float,
    rng: np.random.Generator,
) -> Point:
    positions = atoms.positions.copy()
    momenta = np.sqrt(masses * BOLTZMANN * temperature) * rng.standard_normal(positions.shape)
    return Point(positions, momenta, *evaluate(positions))


def _kinetic(point: Point, masses: np.ndarray) -> float:
    return 0.5 * float(np.vdot(point.momenta, point.momenta / masses))


def _with_energy(point: Point, masses: np.ndarray, total: float) -> Point:
    """Momenta scaled to this total energy; left alone where the potential energy is above it."""
    kinetic, wanted = _kinetic(point, masses), total - point.energy
    if not (kinetic > 0 and wanted > 0):
        return point
    return point._replace(momenta=math.sqrt(wanted / kinetic) * point.momenta)


class _Friction:
    """Friction and noise for half a step: Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007)."""

    def __init__(
        self, masses: np.ndarray, temperature: float, timestep: float, rng: np.random.Generator
    ) -> None:
        self._kept = math.exp(-0.5 * timestep / _FRICTION_TIME)
        self._noise = np.sqrt((1 - self._kept**2) * masses * BOLTZMANN * temperature)
        self._rng = rng

    def __call__(self, momenta: np.ndarray) -> np.ndarray:
        return self._kept * momenta + self._noise * self._rng.standard_normal(momenta.shape)


def _inertia(arms: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """The tensor (3, 3) of positions relative to the centre of mass."""
    return float((masses * arms**2).sum()) * np.eye(3) - arms.T @ (masses * arms)


def _degrees(atoms: "Atoms", masses: np.ndarray) -> int:
    """Degrees of freedom without drift, and of molecules without rotation."""
    degrees = 3 * len(atoms) - 3
    if not atoms.pbc.any():
        arms = atoms.positions - (masses * atoms.positions).sum(0) / masses.sum()
        degrees -= int(np.linalg.matrix_rank(_inertia(arms, masses), rtol=1e-6))
    return max(degrees, 1)


def _check(point: Point, step: int, timestep: float) -> None:
    if not math.isfinite(point.energy):
        raise FloatingPointError(
            _no_longer_finite(f"the energy is {point.energy} eV", step, timestep)
        )


def _no_longer_finite(why: str, step: int, timestep: float) -> str:
    return (
        f"After {(step + 1) * timestep / 1000:g} ps {why}: the potential does not hold the atoms "
        "together, or the timestep is too long."
    )


def _single(forces: "BatchForces") -> EnergyAndForces:
    """Of one replica alone."""

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        energies, found = forces(positions)
        return float(energies[0]), found

    return evaluate


def _bar(steps: int, what: str, shown: bool) -> tqdm:
    return tqdm(total=steps, desc=what, unit=" steps", disable=None if shown else True)
