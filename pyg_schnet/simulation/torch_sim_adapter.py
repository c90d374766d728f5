"""A potential as a model of torch-sim, and torch-sim's integrators for ``run_md``.

torch-sim (``torch-sim-atomistic``) is imported when it is first used.
"""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from pyg_schnet.models.frozen import FrozenPotential, Structure
from pyg_schnet.models.inputs import same
from pyg_schnet.simulation.calculator import Calculator
from pyg_schnet.simulation.integrator import Exploded, State
from pyg_schnet.simulation.replicas import degrees_of_freedom, start_momenta
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND

if TYPE_CHECKING:
    from ase import Atoms


def torch_sim_model(
    potential: nn.Module | str | os.PathLike[str],
    *,
    stress: bool = False,
    skin: float = 0.5,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Any:
    """A potential as torch-sim's ``ModelInterface``, for its integrators and optimizers.

    Called with a ``SimState`` of one or more systems it returns "energy" (B,), eV, "forces" (N, 3),
    eV/Å, and with ``stress`` "stress" (B, 3, 3), eV/Å³. A SchNet is evaluated by the function of
    :meth:`Potential.freeze() <pyg_schnet.Potential.freeze>`, which keeps its edges from step to
    step.

    Args:
        potential: What :class:`Calculator` takes.
        stress: The stress too; periodic systems only.
        skin: Å; see :meth:`pyg_schnet.Potential.freeze`.
        device: Where a model that is read from a file shall live.
        dtype: Of positions and results, whatever that of the model: float32 steps lose energy.

    Raises:
        ImportError: If torch-sim is not installed.
        ValueError: As :class:`Calculator`.
    """
    if isinstance(potential, Calculator):
        return _model_class()(potential, stress, dtype)
    return _model_class()(Calculator(potential, skin=skin, device=device), stress, dtype)


@functools.cache
def _model_class() -> type:
    """The class, whose base is torch-sim's."""
    try:
        from torch_sim.models.interface import ModelInterface
    except ImportError as error:
        raise ImportError(
            "torch-sim is not installed; pip install torch-sim-atomistic, or take the own "
            "integrator with engine='own'."
        ) from error

    class TorchSimModel(ModelInterface):
        """See :func:`torch_sim_model`."""

        def __init__(self, calculator: Calculator, stress: bool, dtype: torch.dtype) -> None:
            super().__init__()
            parameter = next(calculator.model.parameters(), torch.empty(0))
            self._device, self._dtype = parameter.device, dtype
            self._compute_stress, self._compute_forces = stress, True
            self._calculator = calculator
            self._evaluate = _Evaluator(calculator.engine(stress), parameter.dtype)

        def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
            """Energies, forces and stresses of all systems."""
            if isinstance(state, Mapping):
                from torch_sim.state import SimState

                state = SimState(**state)
            entries = {
                "z": state.atomic_numbers.long(),
                "batch": state.system_idx.long(),
                "cell": None,
                "pbc": None,
            }
            pbc = torch.as_tensor(state.pbc).expand(3)
            if bool(pbc.any()):
                entries["cell"] = state.cell.mT.contiguous()
                entries["pbc"] = pbc.expand(len(state.cell), 3).contiguous()
            elif self._compute_stress:
                raise ValueError(
                    "The stress needs periodic systems, but pbc is False; make the model with "
                    "stress=False."
                )
            result = self._evaluate(state.positions, entries)
            return {name: value.to(self._dtype) for name, value in result.items()}

    return TorchSimModel


class _Evaluator:
    """Calls the frozen function as long as positions alone change, else what there is."""

    def __init__(self, engine: Any, dtype: torch.dtype) -> None:
        self._engine, self._dtype = engine, dtype
        self._kept: dict[str, Any] = {}
        self._structure: Structure | None = None

    def __call__(self, positions: Tensor, entries: dict[str, Any]) -> dict[str, Tensor]:
        if not torch.isfinite(positions).all():
            raise ValueError("positions are not finite.")
        data = Data(pos=positions.to(self._dtype))
        for name, value in entries.items():
            if value is not None:
                data[name] = value
        if not isinstance(self._engine, FrozenPotential):
            data.cell = None if entries["cell"] is None else entries["cell"].to(self._dtype)
            result: dict[str, Tensor] = self._engine(data)
            return result
        if self._structure is None or not all(
            same(value, self._kept[name]) for name, value in entries.items()
        ):
            self._structure = self._engine.structure(data)
            self._kept = {
                name: None if value is None else value.clone() for name, value in entries.items()
            }
        energy, forces, virial = self._structure.evaluate_tensor(positions.detach())
        result = {"energy": energy, "forces": forces}
        if virial is not None:
            result["stress"] = virial / self._structure.volume
        return result


class TorchSimEngine:
    """Replicas moved by torch-sim: velocity Verlet, or BAOAB for ``"langevin"``.

    All replicas share one stream of noise, so none is the trajectory of a run of its own.

    Args:
        calculator: A :class:`Calculator`.
        structures: The replicas' starts, all periodic in three directions or in none.
        temperature: K.
        timestep: fs.
        thermostat: "none" or "langevin".
        time_constant: fs.
        seed: Of velocities and noise.
        keep_velocities: Begin with those that the structures have.
        hottest: K.

    Raises:
        ImportError: If torch-sim is not installed, or one whose integrators are called otherwise.
        ValueError: If it cannot do what is asked for.
    """

    def __init__(
        self,
        calculator: Any,
        structures: "Sequence[Atoms]",
        temperature: float,
        timestep: float,
        *,
        thermostat: str,
        time_constant: float,
        seed: int,
        keep_velocities: bool,
        hottest: float,
    ) -> None:
        if not isinstance(calculator, Calculator):
            raise ValueError("engine='torch-sim' moves a potential of this package only.")
        if thermostat == "nose-hoover" or any(atoms.constraints for atoms in structures):
            raise ValueError(
                "engine='torch-sim' does 'none' and 'langevin' without constraints; take "
                "engine='own' or 'ase'."
            )
        self._model = torch_sim_model(calculator)
        try:
            from torch_sim.integrators import nve, nvt_langevin
            from torch_sim.io import atoms_to_state
        except ImportError as error:
            raise ImportError(
                "This torch-sim has other integrators than version 0.3; install that, or take "
                "engine='own'."
            ) from error
        free = thermostat == "langevin"
        self.first = np.concatenate([[0], np.cumsum([len(atoms) for atoms in structures])])
        self._degrees = np.array([degrees_of_freedom(atoms, free) for atoms in structures])
        self._limit = hottest
        momenta = [
            start_momenta(
                atoms,
                None if keep_velocities else temperature,
                np.random.default_rng(seed + r),
                free,
            )
            for r, atoms in enumerate(structures)
        ]
        number = functools.partial(torch.tensor, dtype=torch.float64)
        duration, kt = number(timestep * FEMTOSECOND), number(BOLTZMANN * temperature)
        if free:
            gamma = number(1 / (time_constant * FEMTOSECOND))
            begin, self._update = nvt_langevin(self._model, dt=duration, kT=kt, gamma=gamma)
        else:
            begin, self._update = nve(self._model, dt=duration, kT=kt)
        start = atoms_to_state(list(structures), torch.device("cpu"), torch.float64)
        # Its own draw would take the seed of torch; ours follows.
        with torch.random.fork_rng(devices=[]):
            self._now = begin(start, kt, seed)
            torch.manual_seed(seed)
            self._random = torch.get_rng_state()
        self._now.momenta = torch.from_numpy(np.concatenate(momenta))
        self._free = free
        self._steps = 0

    @property
    def positions(self) -> np.ndarray:
        """(N, 3) Å."""
        return self._now.positions.numpy()

    @property
    def momenta(self) -> np.ndarray:
        """(N, 3), ASE's unit."""
        return self._now.momenta.numpy()

    @property
    def forces(self) -> np.ndarray:
        """(N, 3) eV/Å."""
        return self._now.forces.numpy()

    @property
    def energies(self) -> np.ndarray:
        """(R,) eV."""
        return self._now.energy.numpy()

    @property
    def kinetic(self) -> np.ndarray:
        """(R,) eV."""
        of_atom = 0.5 * (self.momenta**2).sum(1) / self._now.masses.numpy()
        return np.add.reduceat(of_atom, self.first[:-1])

    @property
    def temperatures(self) -> np.ndarray:
        """(R,) K."""
        return 2 * self.kinetic / (self._degrees * BOLTZMANN)

    @property
    def conserved(self) -> np.ndarray:
        """(R,) eV; torch-sim does not count the heat of friction and noise."""
        return self.energies + self.kinetic + (math.nan if self._free else 0.0)

    def advance(self, steps: int) -> None:
        """Take so many steps."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            for _ in range(steps):
                try:
                    self._now = self._update(self._now)
                except (ValueError, ArithmeticError) as error:
                    raise Exploded(self._steps, 0, str(error).rstrip(".")) from error
                hot = self.temperatures
                bad = np.flatnonzero(~((hot <= self._limit) & np.isfinite(self.energies)))
                if len(bad):
                    why = (
                        f"the energy is {self.energies[bad[0]]:g} eV and the temperature "
                        f"{hot[bad[0]]:.3g} K"
                    )
                    raise Exploded(self._steps, int(bad[0]), why)
                self._steps += 1
            self._random = torch.get_rng_state()

    @property
    def state(self) -> State:
        """All that a run goes on from."""
        return {
            "positions": self.positions.copy(),
            "momenta": self.momenta.copy(),
            "steps": np.array(self._steps),
            "random": self._random.numpy().copy(),
        }

    @state.setter
    def state(self, values: Mapping[str, np.ndarray]) -> None:
        self._now.positions = torch.from_numpy(values["positions"].copy())
        self._now.momenta = torch.from_numpy(values["momenta"].copy())
        result = self._model(self._now)
        self._now.energy, self._now.forces = result["energy"], result["forces"]
        self._steps = int(values["steps"])
        self._random = torch.from_numpy(values["random"].copy())
