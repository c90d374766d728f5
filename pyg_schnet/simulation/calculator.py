"""A potential as a calculator of ASE."""

import copy
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError, all_changes
from ase.calculators.calculator import Calculator as AseCalculator
from ase.data import atomic_numbers, chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from torch import nn
from torch_geometric.data import Data

from pyg_schnet.models import Ensemble, Potential, load, read_header
from pyg_schnet.models.frozen import FrozenPotential
from pyg_schnet.models.frozen_weights import check_model
from pyg_schnet.models.networks import Network
from pyg_schnet.models.pretrained import find_model
from pyg_schnet.nn import Atomwise
from pyg_schnet.nn.tabulated import fixed_filters
from pyg_schnet.simulation.predict import atoms_to_data

if TYPE_CHECKING:
    from ase import Atoms

Evaluator = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray | None]]
EnergyAndForces = Callable[[np.ndarray], tuple[float, np.ndarray]]

_SKIN = 2.0  # Å


class Calculator(AseCalculator):
    r"""Energy, forces and stress of a potential for ASE's optimisers, dynamics and other tools.

    =================  =============  ==========================================================
    ``energy``         eV             a float; ``free_energy`` is the same number
    ``forces``         eV/Å           (N, 3)
    ``stress``         eV/Å³          (6,), ASE's sign and order; periodic structures only
    ``energies``       eV             (N,), contributions of the atoms
    =================  =============  ==========================================================

    A :class:`~pyg_schnet.SchNet` is evaluated by the compiled function of
    :meth:`Potential.freeze() <pyg_schnet.Potential.freeze>`, whose numbers these are: energies are
    summed in float64 and contain the model's constants. Positions are taken in float64, whatever
    the dtype of the model, which keeps float32 models from rounding them at each step. Other energy
    models (a :class:`~pyg_schnet.DTNN`), and a SchNet that cannot be frozen, are evaluated by
    :class:`~pyg_schnet.Potential`, that is by autograd.

    The stress is :math:`\frac{1}{V} \partial E / \partial \varepsilon` with the volume of the cell
    as given, also where a direction is not periodic.

    Of an :class:`~pyg_schnet.Ensemble` these are means over its members, and ``results`` has their
    standard deviations beside them in the same shapes: "energy_std", "forces_std", "stress_std".

    Threads may share a calculator, whose calls then follow each other; those that are to run at
    once take a copy each (``copy.deepcopy``). A function of :meth:`evaluator` may be shared too,
    but for the ``spread`` of an ensemble's.

    Args:
        potential: A :class:`~pyg_schnet.Potential` or :class:`~pyg_schnet.Ensemble`, an energy
            model, a ``.safetensors`` file, a run folder, or the name of a model that comes with the
            package. The weights are copied.
        elements: Symbols or atomic numbers that the model knows; None takes what its file says, and
            allows all where that says nothing.
        skin: Å; see :meth:`pyg_schnet.Potential.freeze`. Results do not depend on it.
        device: Where a model that is read from a file shall live.

    Raises:
        ValueError: If the model predicts something other than an energy in eV, there is no such
            model, or ``skin`` is negative.
        FileNotFoundError: If ``potential`` is a path and there is no file.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import Potential, SchNet
        >>> atoms = molecule("CH3CH2OH")
        >>> atoms.calc = Calculator(Potential(SchNet(32, 32, 2, 20, 5.0)))
        >>> atoms.get_forces().shape, type(atoms.get_potential_energy()).__name__
        ((9, 3), 'float')
    """

    name = "pyg_schnet"
    implemented_properties = ["energy", "free_energy", "forces", "stress", "energies"]
    # No result depends on them.
    ignored_changes = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        potential: nn.Module | str | os.PathLike[str],
        *,
        elements: Collection[str | int] | None = None,
        skin: float = 0.5,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        if not skin >= 0:
            raise ValueError(f"skin must be a length of at least 0 Å, got {skin}.")
        if isinstance(potential, nn.Module):
            module, info = potential, getattr(potential, "info", {})
        else:
            path = find_model(potential)
            module, info = load(path, device), read_header(path)["info"]
        members = list(module.members) if isinstance(module, Ensemble) else [module]
        models = [member.model if isinstance(member, Potential) else member for member in members]
        _check_unit(info)
        self.models: list[nn.Module] = [
            copy.deepcopy(model).eval().requires_grad_(False) for model in models
        ]
        self.skin = skin
        self.elements = _numbers(info.get("elements") if elements is None else elements)
        self._engines: dict[bool, list[Any]] = {}
        self._system: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._evaluate: Evaluator | None = None
        # ASE keeps the last structure and its results in the calculator, so that each call must be
        # over before the next begins.
        self._lock = threading.RLock()
        self._engines_for(stress=False)  # what cannot be evaluated shall be said now

    @property
    def model(self) -> nn.Module:
        """The model; of an ensemble its first member."""
        return self.models[0]

    @property
    def is_ensemble(self) -> bool:
        """Whether there are several models, and so a spread."""
        return len(self.models) > 1

    def evaluator(self, atoms: "Atoms", stress: bool = False) -> Evaluator:
        """Energy and forces as a function of positions alone, without ASE's share of the time.

        Args:
            atoms: The structure; its positions are not used.
            stress: The stress too.

        Returns:
            A function of positions (N, 3), float64, Å, that returns the energy, eV; forces (N, 3),
            float64, eV/Å; and the stress (3, 3), eV/Å³, or None.

        Raises:
            ValueError: If the model was not trained on one of the elements, a periodic direction
                has no lattice vector, or ``stress`` is asked for without periods. The function
                raises it if positions are not finite, or two atoms lie on one point.

        Example:
            >>> from ase.build import molecule
            >>> from pyg_schnet import SchNet
            >>> water = molecule("H2O")
            >>> energy, forces, stress = Calculator(SchNet(32, 32, 2, 20, 5.0)).evaluator(water)(
            ...     water.positions
            ... )
        """
        self._check_elements(atoms.numbers)
        if stress and not _has_stress(atoms):
            raise ValueError(_no_stress(atoms))
        volume = abs(atoms.cell.volume) if stress else 1.0
        evaluators = []
        for model, engine in zip(self.models, self._engines_for(stress), strict=True):
            data = atoms_to_data(_at_origin(atoms), _dtype(model))
            if isinstance(engine, FrozenPotential):
                if atoms.pbc.any():
                    # Not rounded, as positions are not.
                    data.cell = torch.from_numpy(atoms.cell.array.copy()).view(1, 3, 3)
                evaluators.append(_frozen_evaluator(engine, data, volume))
            else:
                evaluators.append(_torch_evaluator(engine, data, model))
        return MeanEvaluator(evaluators) if self.is_ensemble else evaluators[0]

    def calculate(
        self,
        atoms: "Atoms | None" = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Called by ASE: all but ``energies`` are always computed, as they cost nothing more."""
        with self._lock:
            self._calculate(atoms, properties, system_changes)

    def _calculate(
        self, atoms: "Atoms | None", properties: Sequence[str], system_changes: Sequence[str]
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        now = self.atoms
        if "stress" in properties and not _has_stress(now):
            raise PropertyNotImplementedError(_no_stress(now))
        system = (now.numbers, now.cell.array, now.pbc)
        if self._system is None or not all(map(np.array_equal, system, self._system)):
            self._evaluate = self.evaluator(now, stress=_has_stress(now))
            self._system = system
        energy, forces, stress = cast(Evaluator, self._evaluate)(now.positions)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        if isinstance(self._evaluate, MeanEvaluator):
            spread = self._evaluate.spread
            self.results |= {"energy_std": spread[0], "forces_std": spread[1]}
            if spread[2] is not None:
                self.results["stress_std"] = full_3x3_to_voigt_6_stress(spread[2])
        if "energies" in properties:
            self.results["energies"] = self._energies(now)

    def check_state(self, atoms: "Atoms", tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation; ASE's own way takes longer than a call."""
        kept = self.atoms
        if kept is None:
            return list(all_changes)
        pairs = {
            "positions": (kept.positions, atoms.positions),
            "numbers": (kept.numbers, atoms.numbers),
            "cell": (kept.cell.array, atoms.cell.array),
            "pbc": (kept.pbc, atoms.pbc),
        }
        return [name for name, (was, now) in pairs.items() if not np.array_equal(was, now)]

    def get_property(
        self, name: str, atoms: "Atoms | None" = None, allow_calculation: bool = True
    ) -> Any:
        """As ASE's, with a sentence for what a potential does not have."""
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"A potential has no {name}, only {', '.join(self.implemented_properties)}; models "
                "of dipoles are evaluated with pyg_schnet.simulation.predict_file."
            )
        with self._lock:
            return super().get_property(name, atoms, allow_calculation)

    def engine(self, stress: bool = False) -> Any:
        """What evaluates the model: a frozen or captured potential, else one of torch.

        Args:
            stress: With the stress.

        Raises:
            ValueError: If the calculator is of an ensemble.
        """
        if self.is_ensemble:
            raise ValueError(
                f"This needs one potential, but the calculator is of an ensemble of "
                f"{len(self.models)}; take one of its members."
            )
        return self._engines_for(stress)[0]

    def _engines_for(self, stress: bool) -> list[Any]:
        """What evaluates each model: a frozen or captured potential, else one of torch."""
        if stress not in self._engines:
            engines = []
            for model in self.models:
                potential = Potential(model, stress=stress).eval()
                frozen = any(p.is_cuda for p in model.parameters()) or _can_be_frozen(model)
                engines.append(potential.freeze(skin=self.skin) if frozen else potential)
            self._engines[stress] = engines
        return self._engines[stress]

    def _energies(self, atoms: "Atoms") -> np.ndarray:
        return np.mean([self._energies_of(model, atoms) for model in self.models], axis=0)

    def _energies_of(self, model: nn.Module, atoms: "Atoms") -> np.ndarray:
        if not isinstance(model, Network) or not isinstance(model.readout, Atomwise):
            raise PropertyNotImplementedError(
                "Energies of atoms are known of a DTNN or SchNet only, not of a "
                f"{type(model).__name__}."
            )
        data = atoms_to_data(atoms, _dtype(model)).to(model.embedding.weight.device)
        with torch.no_grad(), fixed_filters():
            x = model.features(data.z, data.pos, cell=data.get("cell"), pbc=data.get("pbc"))
            energies = model.readout.contributions(x, data.z)[:, 0] * model.readout.scale
        share = len(atoms) if model.readout.readout == "mean" else 1
        return (energies / share).cpu().numpy()

    def _check_elements(self, numbers: np.ndarray) -> None:
        if self.elements is None:
            return
        strange = sorted(set(numbers.tolist()) - self.elements)
        if strange:
            atom = int(np.flatnonzero(numbers == strange[0])[0])
            known = ", ".join(chemical_symbols[z] for z in sorted(self.elements))
            raise ValueError(
                f"The model was trained on {known} and knows nothing of "
                f"{', '.join(chemical_symbols[z] for z in strange)} (atom {atom} of the "
                "structure); train one on structures with these elements."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Compiled functions hold addresses; a copy makes its own."""
        kept = {**self.__dict__, "_engines": {}, "_system": None, "_evaluate": None}
        del kept["_lock"]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())


def energy_and_forces(
    potential: nn.Module | BaseCalculator | str | os.PathLike[str], atoms: "Atoms"
) -> EnergyAndForces:
    """Energy, eV, and forces, eV/Å, as a function of positions alone.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        atoms: The structure; it is not changed, and its constraints are ignored.

    Raises:
        ValueError: As :class:`Calculator` and :meth:`Calculator.evaluator`.
    """
    if isinstance(potential, BaseCalculator) and not isinstance(potential, Calculator):
        moved = atoms.copy()
        moved.set_constraint()
        moved.calc = potential

        def by_ase(positions: np.ndarray) -> tuple[float, np.ndarray]:
            moved.positions = positions
            forces = moved.get_forces()
            return float(moved.get_potential_energy()), forces

        return by_ase
    if isinstance(potential, Calculator):
        calculator = potential
    else:
        # Atoms move on here: a longer list pays, and results do not depend on it.
        calculator = Calculator(potential, skin=_SKIN)
    evaluate = calculator.evaluator(atoms)
    return lambda positions: evaluate(positions)[:2]


class MeanEvaluator:
    """The mean of several evaluators, and their standard deviations in ``spread``.

    Args:
        evaluators: Of the members of an ensemble.

    Attributes:
        spread: Of energy, forces (N, 3) and stress (3, 3) or None, at the last positions.
    """

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        self.evaluators = list(evaluators)
        self.spread: tuple[float, np.ndarray, np.ndarray | None] = (0.0, np.zeros((0, 3)), None)

    def __call__(self, positions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray | None]:
        """As an evaluator."""
        energies, all_forces, stresses = zip(
            *(evaluate(positions) for evaluate in self.evaluators), strict=True
        )
        energy, forces = np.array(energies), np.stack(all_forces)
        stress = spread = None
        known = [each for each in stresses if each is not None]
        if known:
            values = np.stack(known)
            stress, spread = values.mean(0), values.std(0, ddof=1)
        self.spread = float(energy.std(ddof=1)), forces.std(0, ddof=1), spread
        return float(energy.mean()), forces.mean(0), stress


def _frozen_evaluator(frozen: FrozenPotential, data: Data, volume: float) -> Evaluator:
    structure = frozen.structure(data)

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray | None]:
        # A list of neighbours that is kept would let a NaN pass.
        _check_finite(positions)
        energy, forces, virial = structure.evaluate(positions)
        stress = None if virial is None else virial[0] / volume
        return float(energy[0]), forces.astype(np.float64), stress

    return evaluate


def _torch_evaluator(potential: Any, data: Data, model: nn.Module) -> Evaluator:
    parameter = next(model.parameters(), torch.empty(0))
    data = data.to(parameter.device)
    dtype = _dtype(model)

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray | None]:
        _check_finite(positions)
        moved = copy.copy(data)  # shallow: other threads may evaluate at other positions
        moved.pos = torch.tensor(positions, dtype=dtype, device=parameter.device)
        result = {name: value.double().cpu().numpy() for name, value in potential(moved).items()}
        stress = result.get("stress")
        return float(result["energy"][0]), result["forces"], None if stress is None else stress[0]

    return evaluate


def _check_finite(positions: np.ndarray) -> None:
    # One reduction for good data: a NaN or an infinity anywhere shows in the sum.
    if np.isfinite(positions.sum()):
        return
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise ValueError(
            f"Atom {bad[0]} has the position {positions[bad[0]].tolist()}, which is not finite."
        )


def _at_origin(atoms: "Atoms") -> "Atoms":
    """Elements and cell; positions come later, and must not be judged before."""
    from ase import Atoms

    return Atoms(atoms.numbers, np.zeros((len(atoms), 3)), cell=atoms.cell, pbc=atoms.pbc)


def _dtype(model: nn.Module) -> torch.dtype:
    """Of the positions that a model takes."""
    parameter = next(model.parameters(), None)
    return torch.float64 if parameter is None else parameter.dtype


def _has_stress(atoms: "Atoms") -> bool:
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def _no_stress(atoms: "Atoms") -> str:
    return (
        "The stress needs a periodic structure with three lattice vectors, but pbc is "
        f"{atoms.pbc.tolist()} and the cell {atoms.cell.array.tolist()}."
    )


def _can_be_frozen(model: nn.Module) -> bool:
    try:
        check_model(model)
    except ValueError:
        return False
    return True


def _check_unit(info: Mapping[str, Any]) -> None:
    if info.get("unit", "eV") != "eV":
        raise ValueError(
            f"The model predicts {info.get('target', 'something')} in {info['unit']}, but a "
            "calculator needs an energy in eV."
        )


def _numbers(elements: Collection[str | int] | None) -> set[int] | None:
    if elements is None:
        return None
    try:
        return {atomic_numbers[e] if isinstance(e, str) else int(e) for e in elements}
    except KeyError as error:
        raise ValueError(
            f"elements must be symbols or atomic numbers, got {error.args[0]!r}."
        ) from error
