"""Normal modes of a structure at rest."""

import copy
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch_geometric.data import Data

from pyg_schnet.models import Potential
from pyg_schnet.simulation.hessians import hessian, hessian_by_differences
from pyg_schnet.simulation.predict import atoms_to_data
from pyg_schnet.simulation.relax import (
    Relaxation,
    as_calculator,
    check_output,
    check_structure,
    read_structures,
    relax,
)
from pyg_schnet.units import HBAR, INVERSE_CM

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator
    from ase.vibrations import VibrationsData

_LINEAR = 0.01  # Å; atoms nearer to one axis than this do not turn about it
_FIXING = ("FixAtoms",)


@dataclass(frozen=True)
class Vibrations:
    """Normal modes, without translations and rotations; M of them, of n atoms that move.

    Attributes:
        atoms: The structure, without a calculator.
        indices: (n,) atoms that move: all but those that constraints fix.
        frequencies: (M,) cm⁻¹, ascending. A negative number stands for an imaginary frequency of
            this size: the energy falls along that mode.
        modes: (M, N, 3) displacements, normalised so that the sum of mass times square is 1; in
            u^(-1/2). Fixed atoms have zeros.
        masses: (N,) u.
        hessian: (3n, 3n) eV/Å², as it is: with translations and rotations.
        energy: eV.
        largest_force: eV/Å, on an atom that moves. Frequencies mean something where it is small.
        rigid_motions: Number of translations and rotations taken out.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> relaxed = relax(EMT(), molecule("H2O"), 1e-4, progress=False).atoms
        >>> vibrations(EMT(), relaxed, progress=False).modes.shape
        (3, 3, 3)
    """

    atoms: "Atoms"
    indices: np.ndarray
    frequencies: np.ndarray
    modes: np.ndarray
    masses: np.ndarray
    hessian: np.ndarray
    energy: float
    largest_force: float
    rigid_motions: int

    @property
    def num_imaginary(self) -> int:
        """Number of modes along which the energy falls."""
        return int((self.frequencies < 0).sum())

    @property
    def kind(self) -> str:
        """What the point is, as far as second derivatives tell: a minimum, or a saddle point."""
        number = self.num_imaginary
        if number == 0:
            return "minimum"
        return "transition state" if number == 1 else f"saddle point of order {number}"

    @property
    def zero_point_energy(self) -> float:
        r"""eV; half the sum of :math:`\hbar\omega` over the real frequencies."""
        return 0.5 * INVERSE_CM * float(self.frequencies[self.frequencies > 0].sum())

    @property
    def reduced_masses(self) -> np.ndarray:
        """(M,) u, by the sum of squares of the displacements."""
        return 1.0 / np.square(self.modes).sum(axis=(1, 2))

    def to_ase(self) -> "VibrationsData":
        """As ASE has it, for its thermochemistry and files; rigid motions have no energy there."""
        from ase.vibrations import VibrationsData

        moving = self.modes[:, self.indices].reshape(len(self.modes), -1)
        masses = np.repeat(self.masses[self.indices], 3)
        values = np.sign(self.frequencies) * (self.frequencies * INVERSE_CM / HBAR) ** 2
        weighted = masses * moving  # [M, 3n]
        projected = weighted.T @ (values[:, None] * weighted)
        return VibrationsData.from_2d(self.atoms, projected, self.indices)

    def sentence(self) -> str:
        """The numbers in one line."""
        f = self.frequencies
        span = f" from {f[0]:.1f} to {f[-1]:.1f} cm⁻¹" if len(f) else ""
        imaginary = f", {self.num_imaginary} of them imaginary" if self.num_imaginary else ""
        return (
            f"{self.atoms.get_chemical_formula()}: {self.kind}, {len(f)} modes{span}{imaginary}, "
            f"zero-point energy {self.zero_point_energy:.4f} eV, largest force "
            f"{self.largest_force:.1e} eV/Å"
        )


def vibrations(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    atoms: "Atoms | Data",
    *,
    masses: Sequence[float] | None = None,
    chunk: int | None = None,
    progress: bool = True,
) -> Vibrations:
    r"""Frequencies and modes of a structure in the harmonic approximation.

    .. math::
        D_{ia,jb} = \frac{1}{\sqrt{m_i m_j}} \frac{\partial^2 E}{\partial r_{ia}\partial r_{jb}},
        \qquad P D P\, q_k = \omega_k^2 q_k, \qquad
        \tilde\nu_k = \frac{\omega_k}{2 \pi c}

    The second derivatives are exact (:func:`~pyg_schnet.simulation.hessian`); of calculators that
    are not of this package, differences of forces
    (:func:`~pyg_schnet.simulation.hessian_by_differences`). P takes out translations and rotations:
    six of a molecule, five of a linear one (atoms within 0.01 Å of a line), three of an atom or
    where a direction is periodic (the modes at the Gamma point of the cell as given), none where
    ``FixAtoms`` holds atoms. Wilson, Decius and Cross, Molecular Vibrations (1955), chapter 2.

    The structure is taken as it is: relax it first (:func:`relax`). Elsewhere than at a stationary
    point rotations are no zero modes, and frequencies depend on the coordinates.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        atoms: The structure: ASE's, or data with ``z``, ``pos`` and perhaps ``cell`` and ``pbc``.
            It is not changed.
        masses: (N,) u; None takes those of the structure, ASE's averages over isotopes.
        chunk: See :func:`~pyg_schnet.simulation.hessian`.
        progress: Show a bar for large structures, where there is a terminal.

    Raises:
        ValueError: If there are no atoms, a mass is not positive, a constraint is not ``FixAtoms``,
            and as :meth:`Calculator.evaluator`.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> relaxed = relax(EMT(), molecule("N2"), 1e-4, progress=False).atoms
        >>> found = vibrations(EMT(), relaxed, progress=False)
        >>> found.kind, found.rigid_motions, len(found.frequencies)
        ('minimum', 5, 1)
    """
    atoms = _to_atoms(atoms) if isinstance(atoms, Data) else atoms.copy()
    if not len(atoms):
        raise ValueError("The structure has no atoms, so there is nothing to vibrate.")
    indices = _moving(atoms)
    if masses is not None:
        atoms.set_masses(masses)
    weights = atoms.get_masses()
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError(f"masses must be positive, got {weights.tolist()} u.")
    source = _in_float64(potential, atoms)
    wanted = indices.tolist()
    if isinstance(source, nn.Module):
        data = atoms_to_data(atoms, torch.float64)
        second = hessian(source, data, atoms=wanted, chunk=chunk, progress=progress)
    else:
        second = hessian_by_differences(source, atoms, indices=wanted, progress=progress)
    energy, forces = _energy_and_forces(source, atoms)
    found, moved, rigid = normal_modes(
        second.numpy(),
        weights[indices],
        atoms.positions[indices],
        translations=len(indices) == len(atoms),
        rotations=len(indices) == len(atoms) and not atoms.pbc.any(),
    )
    modes = np.zeros((len(found), len(atoms), 3))
    modes[:, indices] = moved
    return Vibrations(
        atoms=atoms,
        indices=indices,
        frequencies=found,
        modes=modes,
        masses=weights,
        hessian=second.numpy(),
        energy=energy,
        largest_force=_longest(forces[indices]),
        rigid_motions=rigid,
    )


def normal_modes(
    second: np.ndarray,
    masses: np.ndarray,
    positions: np.ndarray,
    *,
    translations: bool = True,
    rotations: bool = True,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Frequencies and modes of second derivatives, in the space that rigid motions leave.

    Args:
        second: (3N, 3N) eV/Å².
        masses: (N,) u.
        positions: (N, 3) Å.
        translations: Take them out.
        rotations: Take them out too.

    Returns:
        Frequencies (M,), cm⁻¹, negative for imaginary ones; modes (M, N, 3), u^(-1/2); and the
        number of rigid motions taken out, 3N - M.

    Example:
        >>> spring = np.kron([[1.0, -1.0], [-1.0, 1.0]], np.diag([1.0, 0.0, 0.0]))
        >>> bond = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> frequencies, _, rigid = normal_modes(spring, np.array([2.0, 2.0]), bond)
        >>> round(float(frequencies[0]), 2), rigid  # 521.47 sqrt(1 eV/Å² / 1 u)
        (521.47, 5)
    """
    roots = np.repeat(np.sqrt(masses), 3)
    rigid = np.zeros((0, len(roots)))
    if translations:
        rigid = _rigid_motions(masses, positions, rotations)
    # The rows of a full orthonormal basis that come after those of the rigid motions.
    basis = np.linalg.qr(rigid.T, mode="complete")[0][:, len(rigid) :]  # [3N, M]
    weighted = second / np.outer(roots, roots)
    values, vectors = np.linalg.eigh(basis.T @ weighted @ basis)
    frequencies = np.sign(values) * HBAR * np.sqrt(np.abs(values)) / INVERSE_CM
    modes = (basis @ vectors / roots[:, None]).T.reshape(-1, len(masses), 3)
    return frequencies, modes, len(rigid)


def vibrations_file(
    path: str | os.PathLike[str],
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    output: str | os.PathLike[str],
    fmax: float = 1e-4,
    steps: int = 1000,
    *,
    optimizer: str = "BFGS",
    chunk: int | None = None,
    progress: bool = True,
) -> tuple[Vibrations, Relaxation | None]:
    """Normal modes of the last structure of a file; it is relaxed first where it is not at rest.

    Models are evaluated in float64. Files appear under their names when they are complete.

    Args:
        path: Anything that ASE reads.
        potential: As for :func:`vibrations`.
        output: Extended XYZ to write: a frame for each mode with the structure, its displacements
            as ``mode`` (u^(-1/2)), and ``frequency`` (cm⁻¹). Beside it, with the suffix ``.json``,
            the frequencies (cm⁻¹), reduced masses (u), energy and zero-point energy (eV).
        fmax: eV/Å; a structure with a longer force is relaxed until no force is longer.
        steps: Most of them; 0 takes the structure as it is, such as a transition state that is
            known otherwise.
        optimizer: "BFGS", "FIRE" or "LBFGS".
        chunk: See :func:`~pyg_schnet.simulation.hessian`.
        progress: Show bars, where there is a terminal.

    Returns:
        The modes, and how the structure was relaxed; None if it was at rest, or ``steps`` is 0.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ASE cannot read it, ``output`` is the file itself or no name of an extended
            XYZ file, and as :func:`vibrations` and :func:`relax`.
        ArithmeticError: If the relaxation does not come to rest within ``steps``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> with TemporaryDirectory() as folder:
        ...     start, end = f"{folder}/n2.xyz", f"{folder}/modes.extxyz"
        ...     molecule("N2").write(start)
        ...     modes, relaxed = vibrations_file(start, EMT(), end, progress=False)
        >>> len(modes.frequencies), relaxed.converged
        (1, True)
    """
    from ase.io import write

    output = check_output(output, path)
    if not (math.isfinite(fmax) and fmax > 0):
        raise ValueError(f"fmax must be finite and above 0 eV/Å, got {fmax}.")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}.")
    atoms = read_structures(path)[-1]
    atoms.calc = None
    indices = _moving(atoms)
    source = _in_float64(potential, atoms)
    done = None
    if steps and _longest(_energy_and_forces(source, atoms)[1][indices]) > fmax:
        done = relax(source, atoms, fmax, steps, optimizer=optimizer, progress=progress)
        if not done.converged:
            raise ArithmeticError(
                f"The structure has not come to rest: {done.sentence()}; allow more steps, or a "
                f"larger fmax than {fmax:g} eV/Å."
            )
        atoms = done.atoms
    found = vibrations(source, atoms, chunk=chunk, progress=progress)
    output.parent.mkdir(parents=True, exist_ok=True)
    frames = []
    for frequency, mode in zip(found.frequencies.tolist(), found.modes, strict=True):
        frame = found.atoms.copy()
        frame.set_constraint()
        frame.arrays["mode"] = mode
        frame.info = {"frequency": frequency}
        frames.append(frame)
    table = output.with_suffix(".json")
    parts = {name: name.with_name(f"{name.name}.part") for name in (output, table)}
    try:
        parts[output].touch()  # an atom alone has no modes to write
        if frames:
            write(parts[output], frames, format="extxyz", columns=["symbols", "positions", "mode"])
        text = json.dumps(_summary(found, done), indent=1)
        parts[table].write_text(f"{text}\n", encoding="utf-8")
        for name, part in parts.items():
            part.replace(name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return found, done


def _summary(found: Vibrations, done: Relaxation | None) -> dict[str, Any]:
    return {
        "formula": found.atoms.get_chemical_formula(),
        "kind": found.kind,
        "energy_eV": found.energy,
        "largest_force_eV_per_angstrom": found.largest_force,
        "relaxation_steps": None if done is None else done.steps,
        "rigid_motions": found.rigid_motions,
        "num_imaginary": found.num_imaginary,
        "zero_point_energy_eV": found.zero_point_energy,
        "frequencies_per_cm": found.frequencies.tolist(),
        "reduced_masses_u": found.reduced_masses.tolist(),
    }


def _to_atoms(data: Data) -> "Atoms":
    from ase import Atoms

    atoms = Atoms(data.z.cpu().numpy(), data.pos.detach().cpu().double().numpy())
    if data.get("cell") is not None:
        atoms.cell = data.cell.detach().cpu().double().view(3, 3).numpy()
        atoms.pbc = True if data.get("pbc") is None else data.pbc.cpu().view(3).numpy()
    return atoms


def _moving(atoms: "Atoms") -> np.ndarray:
    """Atoms that no constraint fixes."""
    fixed: set[int] = set()
    for constraint in atoms.constraints:
        if type(constraint).__name__ not in _FIXING:
            raise ValueError(
                f"Vibrations know the constraint FixAtoms only, not {type(constraint).__name__}; "
                "remove it with atoms.set_constraint()."
            )
        fixed |= set(np.asarray(constraint.index).tolist())
    return np.array([i for i in range(len(atoms)) if i not in fixed], dtype=np.int64)


def _in_float64(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]", atoms: "Atoms"
) -> Any:
    """The model in float64, with elements that it knows; or a calculator that is not ours."""
    from pyg_schnet.simulation.calculator import Calculator

    given = potential
    if isinstance(given, nn.Module):
        # A calculator says what is wrong with it; tables for one in float64 would take longer.
        potential = copy.deepcopy(given).float()
    calculator = as_calculator(potential)
    if not isinstance(calculator, Calculator):
        return calculator
    check_structure(calculator, atoms)
    model = given if isinstance(given, nn.Module) else calculator.model
    model = model.model if isinstance(model, Potential) else model
    return copy.deepcopy(model).double().eval().requires_grad_(False)


def _energy_and_forces(source: Any, atoms: "Atoms") -> tuple[float, np.ndarray]:
    """eV, and (N, 3) eV/Å whatever is fixed."""
    if not isinstance(source, nn.Module):
        free = atoms.copy()
        free.set_constraint()
        free.calc = source
        return float(free.get_potential_energy()), free.get_forces()
    device = next((p.device for p in source.parameters()), torch.device("cpu"))
    result = Potential(source).eval()(atoms_to_data(atoms, torch.float64).to(device))
    return float(result["energy"][0]), result["forces"].cpu().numpy()


def _longest(forces: np.ndarray) -> float:
    return float(np.linalg.norm(forces, axis=1).max(initial=0.0))


def _rigid_motions(masses: np.ndarray, positions: np.ndarray, rotations: bool) -> np.ndarray:
    """Orthonormal, mass-weighted translations and, on request, rotations; (3, 5 or 6, 3N)."""
    roots = np.sqrt(masses)
    moves = [np.outer(roots, axis).ravel() for axis in np.eye(3)]
    if rotations:
        centred = positions - masses @ positions / masses.sum()
        # Along the principal axes rotations are orthogonal to each other and to translations.
        axes = np.linalg.svd(roots[:, None] * centred, full_matrices=True)[2]
        for axis in axes:
            moved = np.cross(axis, centred)
            if np.linalg.norm(moved, axis=1).max() > _LINEAR:
                moves.append((roots[:, None] * moved).ravel())
    return np.array([move / np.linalg.norm(move) for move in moves])
