"""What moves the atoms in ``run_md``: the own integrator, those of ASE, or torch-sim."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pyg_schnet.simulation.integrator import Exploded, Record, State
from pyg_schnet.simulation.relax import check_structure
from pyg_schnet.simulation.replicas import degrees_of_freedom, start_momenta
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND

if TYPE_CHECKING:
    from ase import Atoms

ENGINES = ("own", "ase", "torch-sim")


class Engine(Protocol):
    """Replicas whose atoms follow each other: those of r from ``first[r]`` to ``first[r + 1]``.

    :class:`~.integrator.Integrator` is one; what is not said here is said there.
    """

    @property
    def positions(self) -> np.ndarray:
        """(N, 3) Å."""

    @property
    def momenta(self) -> np.ndarray:
        """(N, 3), ASE's unit."""

    @property
    def forces(self) -> np.ndarray:
        """(N, 3) eV/Å."""

    @property
    def energies(self) -> np.ndarray:
        """Potential energies (R,), eV."""

    @property
    def first(self) -> np.ndarray:
        """(R + 1,) integers."""

    @property
    def kinetic(self) -> np.ndarray:
        """Kinetic energies (R,), eV."""

    @property
    def temperatures(self) -> np.ndarray:
        """Temperatures (R,), K."""

    @property
    def conserved(self) -> np.ndarray:
        """What should be constant, (R,) eV; NaN where it is not known."""

    def advance(self, steps: int) -> Record | None:
        """Take so many steps, or raise :class:`~.integrator.Exploded`."""

    @property
    def state(self) -> State:
        """All that a run goes on from."""

    @state.setter
    def state(self, values: Mapping[str, np.ndarray]) -> None: ...


class AseEngine:
    """One structure moved by an integrator of ASE, which keeps constraints.

    ``"langevin"`` is Vanden-Eijnden and Ciccotti, Chem. Phys. Lett. 429, 310 (2006), equation 23.

    Args:
        calculator: Of ASE.
        atoms: The start; copied.
        temperature: K.
        timestep: fs.
        thermostat: As :class:`~.integrator.Integrator`.
        time_constant: fs.
        seed: Of velocities and noise.
        keep_velocities: Begin with those that ``atoms`` have.
        hottest: K.

    Raises:
        ImportError: If this ASE has no Nosé-Hoover chain.
    """

    def __init__(
        self,
        calculator: Any,
        atoms: "Atoms",
        temperature: float,
        timestep: float,
        *,
        thermostat: str,
        time_constant: float,
        seed: int,
        keep_velocities: bool,
        hottest: float,
    ) -> None:
        check_structure(calculator, atoms)
        self.atoms = atoms.copy()
        self.atoms.calc = calculator
        self.first = np.array([0, len(atoms)])
        self._rng = np.random.default_rng(seed)
        self._limit = hottest
        self._degrees = degrees_of_freedom(atoms, free=thermostat == "langevin")
        drawn = None if keep_velocities else temperature
        momenta = start_momenta(atoms, drawn, self._rng, free=thermostat == "langevin")
        self.atoms.set_momenta(momenta)
        self._thermostat = thermostat
        self._timestep = timestep
        self._temperature, self._time_constant = temperature, time_constant
        self._mover = self._new_mover()
        self._steps = 0

    @property
    def positions(self) -> np.ndarray:
        """(N, 3) Å."""
        return self.atoms.positions

    @property
    def momenta(self) -> np.ndarray:
        """(N, 3), ASE's unit."""
        return self.atoms.arrays["momenta"]

    @property
    def forces(self) -> np.ndarray:
        """(N, 3) eV/Å, without constraints."""
        return self.atoms.get_forces(apply_constraint=False)

    @property
    def energies(self) -> np.ndarray:
        """(1,) eV."""
        return np.array([float(self.atoms.get_potential_energy())])

    @property
    def kinetic(self) -> np.ndarray:
        """(1,) eV."""
        momenta = self.momenta
        return np.array([0.5 * float(np.vdot(momenta, momenta / self._mover.masses))])

    @property
    def temperatures(self) -> np.ndarray:
        """(1,) K."""
        return 2 * self.kinetic / (self._degrees * BOLTZMANN)

    @property
    def conserved(self) -> np.ndarray:
        """(1,) eV; of Langevin dynamics ASE does not count the heat."""
        if self._thermostat == "langevin":
            return np.array([math.nan])
        if self._thermostat == "nose-hoover":
            return np.array([float(self._mover.get_conserved_energy())])
        return self.energies + self.kinetic

    def advance(self, steps: int) -> None:
        """Take so many steps."""
        for _ in range(steps):
            try:
                self._mover.step()
                energy = float(self.atoms.get_potential_energy())
            except (ValueError, ArithmeticError) as error:
                raise Exploded(self._steps, 0, str(error).rstrip(".")) from error
            temperature = float(self.temperatures[0])
            # Positions, as the calculator would refuse them at the next step only.
            finite = math.isfinite(energy + self.positions.sum())
            if not (finite and temperature <= self._limit):
                why = f"the energy is {energy:g} eV and the temperature {temperature:.3g} K"
                raise Exploded(self._steps, 0, why)
            self._steps += 1

    @property
    def state(self) -> State:
        """All that a run goes on from."""
        state = {
            "positions": self.positions.copy(),
            "momenta": self.momenta.copy(),
            "steps": np.array(self._steps),
            "generators": np.array([json.dumps(self._rng.bit_generator.state)]),
        }
        if self._thermostat == "nose-hoover":
            chain = self._mover._thermostat
            state |= {"chain_position": chain._eta.copy(), "chain_momentum": chain._p_eta.copy()}
        return state

    @state.setter
    def state(self, values: Mapping[str, np.ndarray]) -> None:
        self.atoms.positions = values["positions"]
        self.atoms.set_momenta(values["momenta"], apply_constraint=False)
        self._steps = int(values["steps"])
        self._rng.bit_generator.state = json.loads(str(values["generators"][0]))
        self._mover = self._new_mover()
        if self._thermostat == "nose-hoover":
            chain = self._mover._thermostat
            chain._eta, chain._p_eta = values["chain_position"], values["chain_momentum"]

    def _new_mover(self) -> Any:
        duration, period = self._timestep * FEMTOSECOND, self._time_constant * FEMTOSECOND
        if self._thermostat == "none":
            from ase.md.verlet import VelocityVerlet

            return VelocityVerlet(self.atoms, duration)
        if self._thermostat == "langevin":
            from ase.md.langevin import Langevin

            return Langevin(
                self.atoms,
                duration,
                temperature_K=self._temperature,
                friction=1 / period,
                # It would change the distribution: ASE's own documentation.
                fixcm=False,
                rng=self._rng,
            )
        try:
            from ase.md.nose_hoover_chain import NoseHooverChainNVT, NoseHooverChainThermostat
        except ImportError as error:
            raise ImportError(
                "This ASE has no Nosé-Hoover chain; install a newer one, or take engine='own'."
            ) from error
        mover = NoseHooverChainNVT(
            self.atoms, duration, temperature_K=self._temperature, tdamp=period
        )
        # Its own counts 3 N degrees of freedom: a molecule of 9 atoms at rest would be 29 % too
        # hot.
        mover._thermostat = NoseHooverChainThermostat(
            self._degrees / 3, mover.masses, temperature_K=self._temperature, tdamp=period
        )
        return mover


def make_engine(
    engine: str, calculator: Any, structures: "Sequence[Atoms]", **options: Any
) -> Engine:
    """The engine of that name.

    Args:
        engine: "own", "ase" or "torch-sim".
        calculator: Of ASE.
        structures: The replicas' starts.
        options: As :func:`~.replicas.prepare_replicas`.

    Raises:
        ValueError: If the engine cannot do what is asked for.
    """
    if engine == "own":
        from pyg_schnet.simulation.replicas import prepare_replicas

        return prepare_replicas(calculator, structures, **options)
    if engine == "ase":
        if len(structures) > 1:
            raise ValueError(
                f"engine='ase' moves one structure, but replicas is {len(structures)}; use "
                "engine='own'."
            )
        return AseEngine(calculator, structures[0], **options)
    from pyg_schnet.simulation.torch_sim_adapter import TorchSimEngine

    return TorchSimEngine(calculator, structures, **options)
