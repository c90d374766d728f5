r"""Molecular dynamics of one structure or of many replicas at once, in compiled steps."""

import json
import math
import time as clock
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pyg_schnet.units import BOLTZMANN, FEMTOSECOND

THERMOSTATS = ("none", "langevin", "nose-hoover")

State = dict[str, np.ndarray]

_BLOCK = 0.2  # seconds after which an interrupt is heard
_NOISE = 2_000_000  # numbers drawn beforehand, at most


class BatchForces(Protocol):
    """Energies and forces of several replicas, whose atoms follow each other."""

    def __call__(self, positions: NDArray) -> tuple[NDArray, NDArray]:
        """Energies (R,), eV, and forces (N, 3), eV/Å, at positions (N, 3), float64, Å."""


class Record(NamedTuple):
    """What each of S steps ended with, for each of R replicas; eV.

    Attributes:
        potential: (S, R).
        kinetic: (S, R).
    """

    potential: NDArray
    kinetic: NDArray


class Exploded(FloatingPointError):
    """Energy or positions are no longer finite, or a replica is hotter than its limit.

    Args:
        step: Number of the step, counted from 0 where the integrator began.
        replica: Its number.
        why: What was found.
    """

    def __init__(self, step: int, replica: int, why: str) -> None:
        super().__init__(f"Replica {replica} exploded in step {step + 1}: {why}.")
        self.step, self.replica, self.why = step, replica, why


class Integrator:
    r"""Positions and momenta, float64, moved by the forces of a potential.

    =================  ========================================================================
    ``"none"``         constant energy: velocity Verlet (Swope et al., J. Chem. Phys. 76, 637
                       (1982))
    ``"langevin"``     friction and noise on all 3 N degrees of freedom, BAOAB (Leimkuhler and
                       Matthews, J. Chem. Phys. 138, 174102 (2013))
    ``"nose-hoover"``  a chain of three for each replica (Martyna, Klein and Tuckerman, J. Chem.
                       Phys. 97, 2635 (1992)), half before and half after a step of Verlet
    =================  ========================================================================

    One step of BAOAB, with :math:`c = e^{-h/\tau}` and :math:`\xi` from a normal distribution:

    .. math::
        \mathbf p &\leftarrow \mathbf p + \tfrac{h}{2} \mathbf F(\mathbf r), \quad
        \mathbf r \leftarrow \mathbf r + \tfrac{h}{2} \mathbf p / m, \quad
        \mathbf p \leftarrow c\, \mathbf p + \sqrt{(1 - c^2)\, m k_\mathrm B T}\, \xi, \\
        \mathbf r &\leftarrow \mathbf r + \tfrac{h}{2} \mathbf p / m, \quad
        \mathbf p \leftarrow \mathbf p + \tfrac{h}{2} \mathbf F(\mathbf r)

    The heat that a thermostat has given is counted, so that :attr:`conserved` says how well the
    steps follow the forces with a thermostat too (Bussi and Parrinello, Phys. Rev. E 75, 056707
    (2007)).

    Each replica has random numbers of its own and no sum goes over replicas: it moves as it would
    alone. With a frozen potential (:class:`~.replicas.FrozenForces`) no Python runs between steps.

    Args:
        forces: Energies and forces of all replicas.
        positions: (N, 3) Å, of all replicas; copied.
        momenta: (N, 3), ASE's unit; copied.
        masses: (N,) u.
        sizes: Atoms of each replica, (R,).
        timestep: fs.
        thermostat: One of the table.
        temperature: K.
        time_constant: Of the thermostat, fs: the inverse friction, or the period of the chain.
        degrees: Degrees of freedom of each replica, (R,); of the chain and of :attr:`temperatures`.
        generators: Of the noise, one for each replica; needed by ``"langevin"`` only.
        hottest: K; above it a replica counts as exploded.

    Attributes:
        positions: (N, 3) Å.
        momenta: (N, 3).
        forces: (N, 3) eV/Å.
        energies: (R,) eV, potential energies.
        steps: Taken so far.

    Raises:
        ValueError: If shapes or numbers do not fit.
        Exploded: At once, if energies or forces are not finite at the start.

    Example:
        >>> def spring(r):
        ...     return 0.5 * (r**2).sum(keepdims=True)[0], -r
        >>> atom = np.ones((1, 3))
        >>> moving = Integrator(spring, atom, 0 * atom, np.ones(1), [1], timestep=1.0)
        >>> record = moving.advance(100)
        >>> float(np.ptp(record.potential + record.kinetic)) < 0.01
        True
    """

    def __init__(
        self,
        forces: BatchForces,
        positions: NDArray,
        momenta: NDArray,
        masses: NDArray,
        sizes: Sequence[int],
        *,
        timestep: float,
        thermostat: str = "none",
        temperature: float = 0.0,
        time_constant: float = 100.0,
        degrees: Sequence[int] | None = None,
        generators: Sequence[np.random.Generator] = (),
        hottest: float = math.inf,
    ) -> None:
        from pyg_schnet.simulation import step_kernels

        self._kernels = step_kernels
        self.positions = np.array(positions, dtype=np.float64, order="C")
        self.momenta = np.array(momenta, dtype=np.float64, order="C")
        self.masses = np.array(masses, dtype=np.float64).reshape(-1)
        self.first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        count = len(sizes)
        self.degrees = np.array(
            3 * np.diff(self.first) if degrees is None else degrees, dtype=np.float64
        )
        self._check(timestep, thermostat, temperature, time_constant, len(generators))
        self.timestep, self.thermostat = timestep, thermostat
        self._kind = THERMOSTATS.index(thermostat)
        self._duration = timestep * FEMTOSECOND
        self._kt = BOLTZMANN * temperature
        self._kept = math.exp(-timestep / time_constant)
        self._generators = list(generators)
        self._limit = 0.5 * self.degrees * BOLTZMANN * hottest
        period = time_constant * FEMTOSECOND
        inertia = np.full((count, 3), self._kt * period**2)
        inertia[:, 0] *= self.degrees
        self._thermal = (self.degrees, inertia, np.zeros((count, 3)), np.zeros((count, 3)))
        self._heat = np.zeros(count)
        self._block = 1  # steps that take less than _BLOCK seconds
        self.steps = 0
        self._forces = forces
        self._evaluate()

    @property
    def replicas(self) -> int:
        """Their number, R."""
        return len(self.first) - 1

    @property
    def kinetic(self) -> NDArray:
        """Kinetic energies (R,), eV."""
        of_atom = 0.5 * (self.momenta**2).sum(1) / self.masses
        return np.add.reduceat(of_atom, self.first[:-1])

    @property
    def temperatures(self) -> NDArray:
        """Temperatures (R,), K: twice the kinetic energy by the degrees of freedom."""
        return 2 * self.kinetic / (self.degrees * BOLTZMANN)

    @property
    def conserved(self) -> NDArray:
        """Potential and kinetic energy less the heat of the thermostat, (R,), eV."""
        return self.energies + self.kinetic - self._heat

    def advance(self, steps: int) -> Record:
        """Take so many steps.

        Raises:
            Exploded: If a replica does; it is at the step that the error names.
            ValueError: From the neighbour search, if two atoms lie on one point.
        """
        record = Record(np.empty((steps, self.replicas)), np.empty((steps, self.replicas)))
        done = 0
        while done < steps:
            count = min(self._block, steps - done, max(1, _NOISE // max(1, self.momenta.size)))
            began = clock.perf_counter()
            noise = self._noise(count)
            part = slice(done, done + count)
            run = getattr(self._forces, "propagate", None)
            if run is None:
                self._python_steps(noise, record.potential[part], record.kinetic[part])
            else:
                run(self, noise, record.potential[part], record.kinetic[part])
            done += count
            seconds = clock.perf_counter() - began
            if seconds < 0.5 * _BLOCK:
                self._block = min(2 * self._block, 100_000)
            elif seconds > _BLOCK:
                self._block = max(1, self._block // 2)
        return record

    @property
    def state(self) -> State:
        """All that a run goes on from."""
        return {
            "positions": self.positions.copy(),
            "momenta": self.momenta.copy(),
            "heat": self._heat.copy(),
            "chain_velocity": self._thermal[2].copy(),
            "chain_position": self._thermal[3].copy(),
            "steps": np.array(self.steps),
            "generators": np.array([json.dumps(g.bit_generator.state) for g in self._generators]),
        }

    @state.setter
    def state(self, values: Mapping[str, np.ndarray]) -> None:
        self.positions[:] = values["positions"]
        self.momenta[:] = values["momenta"]
        self._heat[:] = values["heat"]
        self._thermal[2][:] = values["chain_velocity"]
        self._thermal[3][:] = values["chain_position"]
        self.steps = int(values["steps"])
        for generator, kept in zip(self._generators, values["generators"], strict=True):
            generator.bit_generator.state = json.loads(str(kept))
        self._evaluate()

    def _evaluate(self) -> None:
        self.energies, self.forces = (np.array(x) for x in self._forces(self.positions))
        if not (np.isfinite(self.energies).all() and np.isfinite(self.forces).all()):
            raise Exploded(self.steps - 1, 0, f"the energies are {self.energies.tolist()} eV")

    def _noise(self, steps: int) -> NDArray:
        """Normal numbers (S, N, 3), each replica's own."""
        if self.thermostat != "langevin":
            return np.empty((steps, 0, 3))
        noise = np.empty((steps, *self.momenta.shape))
        for r, generator in enumerate(self._generators):
            low, high = self.first[r], self.first[r + 1]
            noise[:, low:high] = generator.standard_normal((steps, high - low, 3))
        return noise

    def begin(self, noise: NDArray) -> None:
        """The first half of a step, up to the new positions."""
        self._kernels.begin_step(
            self._kind, self._duration, self.positions, self.momenta, self.forces, self.masses,
            self.first, self._kt, self._kept, noise, self._heat, self._thermal,
        )  # fmt: skip

    def end(self, potential: NDArray, kinetic: NDArray) -> None:
        """The second half, with the new forces; the energies (R,) are filled in."""
        self._kernels.end_step(
            self._kind, self._duration, self.momenta, self.forces, self.masses, self.first,
            self._kt, self._heat, self._thermal, kinetic,
        )  # fmt: skip
        potential[:] = self.energies
        self.check(potential, kinetic)
        self.steps += 1

    def _python_steps(self, noise: NDArray, potential: NDArray, kinetic: NDArray) -> None:
        for s in range(len(potential)):
            self.begin(noise[s])
            try:
                self.energies[:], self.forces[:] = self._forces(self.positions)
            except (ValueError, ArithmeticError) as error:
                raise Exploded(self.steps, 0, str(error).rstrip(".")) from error
            self.end(potential[s], kinetic[s])

    def compiled_steps(
        self,
        engine: tuple[int, int, int, int, NDArray, NDArray],
        inside: bool,
        noise: NDArray,
        potential: NDArray,
        kinetic: NDArray,
    ) -> int:
        """Steps by a frozen potential, until all are taken or its edges are outdated.

        Args:
            engine: What :func:`~.step_kernels.propagate` takes first.
            inside: The first step has been begun, and forces are those of its end.
            noise: (S, N, 3).
            potential: (S, R), to be filled in.
            kinetic: (S, R), likewise.

        Returns:
            Whole steps taken; if fewer than S, the next has been begun.
        """
        done, why = self._kernels.propagate(
            *engine, inside, self._kind, self._duration, self.positions, self.momenta, self.forces,
            self.energies, self.masses, self.first, self._kt, self._kept, noise, self._heat,
            self._thermal, self._limit, potential, kinetic,
        )  # fmt: skip
        self.steps += done
        if why == self._kernels.EXPLODED:
            self.check(potential[done], kinetic[done])
        return done

    def check(self, potential: NDArray, kinetic: NDArray) -> None:
        """Raise :class:`Exploded` where energies (R,) are not finite or too large."""
        bad = self._kernels.sound(potential, kinetic, self._limit)
        if bad < 0:
            return
        temperature = 2 * kinetic[bad] / (self.degrees[bad] * BOLTZMANN)
        why = f"the energy is {potential[bad]:g} eV and the temperature {temperature:.3g} K"
        raise Exploded(self.steps, bad, why)

    def _check(
        self, timestep: float, thermostat: str, temperature: float, constant: float, generators: int
    ) -> None:
        if thermostat not in THERMOSTATS:
            raise ValueError(
                f"thermostat must be one of {', '.join(THERMOSTATS)}, got {thermostat!r}."
            )
        for name, value in {"timestep": timestep, "time_constant": constant}.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0 fs, got {value}.")
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature must be finite and at least 0 K, got {temperature}.")
        if thermostat != "none" and temperature == 0:
            raise ValueError(f"temperature must be above 0 K with thermostat={thermostat!r}.")
        atoms, count = int(self.first[-1]), len(self.first) - 1
        shape = (atoms, 3)
        if not (count and (np.diff(self.first) > 0).all()):
            raise ValueError("sizes must name at least one replica, each of at least one atom.")
        if self.positions.shape != shape or self.momenta.shape != shape:
            raise ValueError(
                f"positions and momenta must have shape {shape} to match sizes, got "
                f"{self.positions.shape} and {self.momenta.shape}."
            )
        if self.masses.shape != (atoms,) or not (self.masses > 0).all():
            raise ValueError(f"masses must be {atoms} numbers above 0 u, one for each atom.")
        if self.degrees.shape != (count,) or not (self.degrees > 0).all():
            raise ValueError(f"degrees must be {count} numbers above 0, one for each replica.")
        if thermostat == "langevin" and generators != count:
            raise ValueError(f"generators must be {count}, one for each replica, got {generators}.")
