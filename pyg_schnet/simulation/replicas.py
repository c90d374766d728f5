"""Many structures in one batch: their forces, their start, and the integrator that moves them."""

import ctypes
import math
import os
import time as clock
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch_geometric.data import Batch, Data

from pyg_schnet.models.frozen import FrozenPotential, Structure, _Room
from pyg_schnet.simulation.calculator import Calculator, energy_and_forces
from pyg_schnet.simulation.integrator import THERMOSTATS, BatchForces, Exploded, Integrator
from pyg_schnet.simulation.predict import atoms_to_data
from pyg_schnet.simulation.stability import Point, at_rest
from pyg_schnet.units import BOLTZMANN

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

_SKIN = 2.0  # Å; atoms move on, and results do not depend on it
_TRY_EVERY = 256  # blocks of steps, at most, until the number of threads is chosen anew


class FrozenForces(Structure):
    """A batch of structures evaluated by a frozen potential, from within compiled steps.

    Args:
        frozen: The potential, without stress.
        structures: (N, 3) positions are not used.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import Potential, SchNet
        >>> waters = [molecule("H2O"), molecule("H2O")]
        >>> forces = FrozenForces(Potential(SchNet(32, 32, 2, 20, 5.0)).freeze(), waters)
        >>> [x.shape for x in forces(np.concatenate([a.positions for a in waters]))]
        [(2,), (6, 3)]
    """

    def __init__(self, frozen: FrozenPotential, structures: "Sequence[Atoms]") -> None:
        super().__init__(frozen, _batch(structures, frozen.weights.dtype), _Room())
        self._choice = _ThreadChoice()

    def __call__(self, positions: NDArray) -> tuple[NDArray, NDArray]:
        """Energies (R,) and forces (N, 3)."""
        # A list of neighbours that is kept would let a NaN pass.
        if not math.isfinite(positions.sum()):
            raise ValueError("positions are not finite.")
        energy, forces, _ = self.evaluate(positions)
        return energy, forces

    def propagate(
        self, moving: Integrator, noise: NDArray, potential: NDArray, kinetic: NDArray
    ) -> None:
        """Take one step for each row of ``potential``, searching for edges where that is due."""
        done, inside, steps = 0, False, len(potential)
        most = min(torch.get_num_threads(), self._most_threads) if self._has_edges else 1
        threads = self._choice.next(1 if self._engine._parallel is None else most)
        began = clock.perf_counter()
        with self._lock:
            while True:
                part = slice(done, steps)
                done += moving.compiled_steps(
                    self._prepared(moving, threads),
                    inside,
                    noise[part],
                    potential[part],
                    kinetic[part],
                )
                if done == steps:
                    break
                try:
                    self._renew(moving, threads)
                except ValueError as error:
                    raise Exploded(moving.steps, 0, str(error).rstrip(".")) from error
                inside = True
        if not inside:  # a search is not the threads' fault
            self._choice.tell(threads, (clock.perf_counter() - began) / steps)

    def _prepared(
        self, moving: Integrator, threads: int
    ) -> tuple[int, int, int, int, NDArray, NDArray]:
        """What the compiled steps call, with results where ``moving`` reads them."""
        cpu, arguments = self._cpu, self._arguments
        if not self._has_edges:
            self._search(torch.from_numpy(moving.positions))
        parallel = self._engine._parallel
        if threads > self._threads:
            self._provide(threads)
        chunks = max(threads, min(4 * threads, self.num_atoms // 8))
        arguments[cpu.CHUNKS] = 1 if threads == 1 else chunks
        arguments[cpu.POSITIONS] = moving.positions.ctypes.data
        arguments[cpu.POSITIONS_ARE_DOUBLE] = 1
        arguments[cpu.ENERGY] = moving.energies.ctypes.data
        arguments[cpu.FORCES] = moving.forces.ctypes.data
        arguments[cpu.VIRIAL] = 0
        address = 0 if parallel is None else ctypes.cast(parallel, ctypes.c_void_p).value or 0
        return (
            self._engine._address,
            address,
            threads,
            ctypes.addressof(arguments),
            np.frombuffer(arguments, dtype=np.int64),
            np.frombuffer(self._counters, dtype=np.int64),
        )

    def _renew(self, moving: Integrator, threads: int) -> None:
        """Edges and forces at the positions that the old edges did not serve."""
        if not math.isfinite(moving.positions.sum()):
            raise ValueError("positions are not finite")
        self._search(torch.from_numpy(moving.positions))
        self._prepared(moving, threads)
        if self._run():
            raise ValueError("two atoms lie on one point")


class _ThreadChoice:
    """One thread or several, whichever is faster now; results do not depend on it.

    Threads wait for each other many times in a step. Where other programs want the cores too,
    several may take ten times as long as one.
    """

    def __init__(self) -> None:
        self._costs: dict[int, float] = {}
        self._last, self._wait, self._left = 0, 1, 1

    def next(self, most: int) -> int:
        """For the next block of steps."""
        if most == 1:
            return 1
        untried = [count for count in (most, 1) if count not in self._costs]
        if untried:
            return untried[0]
        best = min((most, 1), key=lambda count: self._costs[count])
        self._left -= 1
        if self._left <= 0:
            # A choice that is confirmed is questioned less and less often.
            self._wait = min(2 * self._wait, _TRY_EVERY) if best == self._last else 2
            self._last, self._left = best, self._wait
            self._costs.clear()
        return best

    def tell(self, threads: int, seconds: float) -> None:
        """What a step took."""
        self._costs[threads] = seconds


class SeparateForces:
    """Structures that are evaluated one after the other, by whatever evaluates one.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        structures: Their positions are not used.
    """

    def __init__(
        self,
        potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
        structures: "Sequence[Atoms]",
    ) -> None:
        self._functions = [energy_and_forces(potential, atoms) for atoms in structures]
        self._first = np.concatenate([[0], np.cumsum([len(atoms) for atoms in structures])])

    def __call__(self, positions: NDArray) -> tuple[NDArray, NDArray]:
        """Energies (R,) and forces (N, 3)."""
        bounds = zip(self._first[:-1], self._first[1:], strict=True)
        parts = [
            function(positions[low:high])
            for function, (low, high) in zip(self._functions, bounds, strict=True)
        ]
        energies, forces = zip(*parts, strict=True)
        return np.array(energies), np.concatenate(forces)


def batch_forces(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    structures: "Sequence[Atoms]",
) -> BatchForces:
    """Energies and forces of all structures, in one call where the potential can be frozen.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        structures: They are not changed, and their constraints are ignored.

    Raises:
        ValueError: As :class:`Calculator` and :meth:`Calculator.evaluator`.
    """
    from ase.calculators.calculator import BaseCalculator

    if not isinstance(potential, BaseCalculator):
        potential = Calculator(potential, skin=_SKIN)
    if isinstance(potential, Calculator):
        for atoms in structures:
            potential._check_elements(atoms.numbers)
        engine = potential.engine()
        if isinstance(engine, FrozenPotential):
            return FrozenForces(engine, structures)
    return SeparateForces(potential, structures)


def prepare_replicas(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    structures: "Sequence[Atoms]",
    temperature: float = 300.0,
    timestep: float = 0.5,
    *,
    thermostat: str = "none",
    time_constant: float = 100.0,
    seed: int = 0,
    keep_velocities: bool = False,
    hottest: float = math.inf,
) -> Integrator:
    """An integrator of structures, of one kind or of several, that move in one batch.

    Velocities are drawn at the temperature; drift and, of molecules, rotation are removed, except
    with ``"langevin"``, whose friction and noise act on them too. Replica r uses the random numbers
    of ``seed + r`` and moves as it would alone with that seed.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        structures: The start; not changed.
        temperature: K.
        timestep: fs.
        thermostat: As :class:`Integrator`.
        time_constant: Of the thermostat, fs.
        seed: Of velocities and noise.
        keep_velocities: Begin with those that the structures have, without drift and rotation.
        hottest: K; above it a replica counts as exploded.

    Raises:
        ValueError: If an argument is out of range, a structure has constraints, and as
            :meth:`Calculator.evaluator`.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> start = [molecule("CH3CH2OH")] * 4
        >>> moving = prepare_replicas(SchNet(32, 32, 2, 20, 5.0), start, thermostat="langevin")
        >>> moving.advance(10).kinetic.shape
        (10, 4)
    """
    if not structures:
        raise ValueError("structures must be at least one, got none.")
    for number, atoms in enumerate(structures):
        if atoms.constraints:
            raise ValueError(
                f"Structure {number} has constraints, which the own integrator does not keep; use "
                "those of ASE with engine='ase'."
            )
        if keep_velocities and not atoms.has("momenta"):
            raise ValueError(
                "keep_velocities is asked for, but a structure has no velocities; leave it out to "
                "have them drawn."
            )
    if thermostat not in THERMOSTATS:
        raise ValueError(f"thermostat must be one of {', '.join(THERMOSTATS)}, got {thermostat!r}.")
    free = thermostat == "langevin"
    generators = [np.random.default_rng(seed + r) for r in range(len(structures))]
    momenta = [
        start_momenta(atoms, None if keep_velocities else temperature, generator, free)
        for atoms, generator in zip(structures, generators, strict=True)
    ]
    return Integrator(
        batch_forces(potential, structures),
        np.concatenate([atoms.positions for atoms in structures]),
        np.concatenate(momenta),
        np.concatenate([atoms.get_masses() for atoms in structures]),
        [len(atoms) for atoms in structures],
        timestep=timestep,
        thermostat=thermostat,
        temperature=temperature,
        time_constant=time_constant,
        degrees=[degrees_of_freedom(atoms, free) for atoms in structures],
        generators=generators,
        hottest=hottest,
    )


def start_momenta(
    atoms: "Atoms", temperature: float | None, rng: np.random.Generator, free: bool = False
) -> np.ndarray:
    """Momenta (N, 3) drawn at a temperature (K), or those of ``atoms`` where that is None.

    Args:
        atoms: Positions and masses.
        temperature: K, or None.
        rng: Random numbers.
        free: Keep drift and rotation; with constraints they are kept too.
    """
    masses = atoms.get_masses()[:, None]
    if temperature is None:
        momenta = atoms.get_momenta()
    else:
        momenta = np.sqrt(masses * BOLTZMANN * temperature) * rng.standard_normal((len(atoms), 3))
    if free or atoms.constraints:
        return momenta
    point = Point(atoms.positions, momenta, 0.0, momenta)
    return at_rest(point, masses, rotation=not atoms.pbc.any())


def degrees_of_freedom(atoms: "Atoms", free: bool = False) -> int:
    """Degrees of freedom: all of them, or those without drift and, of molecules, rotation.

    Args:
        atoms: Its constraints are subtracted, and nothing else where it has some.
        free: Count drift and rotation, on which friction and noise act.

    Example:
        >>> from ase.build import molecule
        >>> [degrees_of_freedom(molecule(name)) for name in ("N2", "H2O", "CH3CH2OH")]
        [1, 3, 21]
    """
    degrees = int(atoms.get_number_of_degrees_of_freedom())
    if not (free or atoms.constraints):
        degrees -= 3
        if not atoms.pbc.any():
            moments = atoms.get_moments_of_inertia()
            degrees -= int((moments > 1e-6 * max(moments.max(), 1e-12)).sum())
    return max(degrees, 1)


def _batch(structures: "Sequence[Atoms]", dtype: torch.dtype) -> Data:
    """One batch; the cells are not rounded, as positions are not."""
    from ase import Atoms

    parts: list[Any] = []
    for atoms in structures:
        still = Atoms(atoms.numbers, np.zeros((len(atoms), 3)), cell=atoms.cell, pbc=atoms.pbc)
        data = atoms_to_data(still, dtype)
        if atoms.pbc.any():
            data.cell = torch.from_numpy(atoms.cell.array.copy()).view(1, 3, 3)
        parts.append(data)
    if len({"cell" in data for data in parts}) > 1:
        raise ValueError("Periodic structures and molecules cannot be in one batch.")
    return parts[0] if len(parts) == 1 else Batch.from_data_list(parts)
