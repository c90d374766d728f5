"""Structures at the nearest minimum of a potential's energy."""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from tqdm import tqdm

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

OPTIMIZERS = ("BFGS", "FIRE", "LBFGS")


@dataclass(frozen=True)
class Relaxation:
    """What :func:`relax` found.

    Attributes:
        atoms: The structure at the end, with its energy, forces and, of a crystal, its stress.
        initial_energy: eV.
        energy: At the end, eV.
        largest_force: The longest force on an atom at the end, eV/Å.
        steps: Of the optimizer.
        converged: Whether the forces came below the limit within the steps allowed.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> relax(EMT(), molecule("N2"), progress=False).largest_force < 0.01
        True
    """

    atoms: "Atoms"
    initial_energy: float
    energy: float
    largest_force: float
    steps: int
    converged: bool

    def sentence(self) -> str:
        """The numbers in one line."""
        end = f"in {self.steps} steps" if self.converged else f"NOT converged in {self.steps} steps"
        return (
            f"{self.atoms.get_chemical_formula()}: {self.initial_energy:.6f} -> "
            f"{self.energy:.6f} eV, largest force {self.largest_force:.4f} eV/Å, {end}"
        )


def relax(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    atoms: "Atoms",
    fmax: float = 0.01,
    steps: int = 1000,
    *,
    optimizer: str = "BFGS",
    cell: bool = False,
    progress: bool = True,
) -> Relaxation:
    r"""Move atoms, and on request the cell, until no force is longer than ``fmax``.

    The optimizers are ASE's: BFGS and LBFGS (Nocedal and Wright, Numerical Optimization, sections
    6.1 and 7.2), and FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)). With ``cell`` they
    move ASE's ``FrechetCellFilter``, whose gradients by the deformation of the cell count as forces
    too. Constraints of the structure hold; atoms they fix do not count.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        atoms: The start. It is not changed.
        fmax: eV/Å.
        steps: Most of them.
        optimizer: "BFGS", "FIRE" or "LBFGS".
        cell: Relax the cell too, to zero pressure.
        progress: Show a bar, where there is a terminal.

    Returns:
        The structure and how it was reached, converged or not.

    Raises:
        ValueError: If an argument is out of range, ``cell`` is asked for without three periodic
            directions, and as :meth:`Calculator.evaluator`.
        FloatingPointError: If energy or forces are no longer finite; the sentence names the step.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> found = relax(EMT(), molecule("N2"), progress=False)
        >>> found.converged, found.energy < found.initial_energy, found.largest_force < 0.01
        (True, True, True)
    """
    _check(fmax, steps, optimizer)
    return _relax(with_calculator(potential, atoms), fmax, steps, optimizer, cell, progress)


def relax_file(
    path: str | os.PathLike[str],
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    output: str | os.PathLike[str],
    fmax: float = 0.01,
    steps: int = 1000,
    *,
    optimizer: str = "BFGS",
    cell: bool = False,
    progress: bool = True,
) -> Iterator[Relaxation]:
    """Relax each structure of a file, one after the other, as :func:`relax` does.

    All are looked at before the first moves. Until the last is there the file of the result is
    ``output`` + ``".part"``.

    Args:
        path: Anything that ASE reads.
        potential: As for :func:`relax`.
        output: Extended XYZ to write, with energy (eV), forces (eV/Å) and, of crystals, stress
            (eV/Å³). What is there is replaced.
        fmax: eV/Å.
        steps: Most of them, for each structure.
        optimizer: "BFGS", "FIRE" or "LBFGS".
        cell: Relax the cells too.
        progress: Show a bar, where there is a terminal.

    Yields:
        What was found for each structure.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As :func:`relax`, with the number of the structure; if ASE cannot read the file,
            or ``output`` is the file itself or no name of an extended XYZ file.
        FloatingPointError: As :func:`relax`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> with TemporaryDirectory() as folder:
        ...     start, end = f"{folder}/n2.xyz", f"{folder}/relaxed.extxyz"
        ...     molecule("N2").write(start)
        ...     [found.converged for found in relax_file(start, EMT(), end, progress=False)]
        [True]
    """
    from ase.io import write

    _check(fmax, steps, optimizer)
    output = check_output(output, path)
    structures = read_structures(path)
    calculator = as_calculator(potential)
    for number, atoms in enumerate(structures):
        with _naming(number, path):
            _check_cell(atoms, cell)
            check_structure(calculator, atoms)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f"{output.name}.part")
    part.unlink(missing_ok=True)
    # One structure has a bar of its own steps.
    several = progress and len(structures) > 1
    with tqdm(
        structures, desc="relax", unit=" structures", disable=None if several else True
    ) as bar:
        for number, atoms in enumerate(bar):
            atoms.calc = calculator
            with _naming(number, path):
                found = _relax(atoms, fmax, steps, optimizer, cell, progress and not several)
            write(part, found.atoms, format="extxyz", append=True)
            yield found
    part.replace(output)


def read_structures(path: str | os.PathLike[str]) -> "list[Atoms]":
    """All structures of a file.

    Args:
        path: Anything that ASE reads.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ASE cannot read it, or it is empty; the sentence names the file.
    """
    from ase.io import read

    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no structure file at {path}.")
    try:
        structures = read(path, ":")
    except Exception as error:  # ASE's readers raise what their formats happen to raise
        raise ValueError(
            f"ASE cannot read structures from {path}: {type(error).__name__}: {error}"
        ) from error
    if not structures or not all(len(atoms) for atoms in structures):
        raise ValueError(f"{path} holds a structure without atoms, or none at all.")
    return structures


def check_output(output: str | os.PathLike[str], source: str | os.PathLike[str] | None) -> Path:
    """The path of a file to write.

    Args:
        output: Its name.
        source: The file that is read, which shall stay.

    Raises:
        ValueError: If it is no name of an extended XYZ file, or the file that is read.
    """
    output = Path(output)
    if output.suffix not in (".extxyz", ".xyz"):
        raise ValueError(f"output must end in .extxyz or .xyz, got {output}.")
    if source is not None and output.resolve() == Path(source).resolve():
        raise ValueError(f"output must not be the file that is read, {source}; choose another.")
    return output


def as_calculator(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]", skin: float = 0.5
) -> Any:
    """A calculator of ASE: itself, or :class:`Calculator` with this ``skin`` (Å)."""
    from ase.calculators.calculator import BaseCalculator

    from pyg_schnet.simulation.calculator import Calculator

    return potential if isinstance(potential, BaseCalculator) else Calculator(potential, skin=skin)


def with_calculator(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    atoms: "Atoms",
    skin: float = 0.5,
) -> "Atoms":
    """A copy of the structure with a calculator that knows its elements.

    Raises:
        ValueError: As :meth:`Calculator.evaluator`.
    """
    calculator = as_calculator(potential, skin)
    check_structure(calculator, atoms)
    copied = atoms.copy()
    copied.calc = calculator
    return copied


def check_structure(calculator: Any, atoms: "Atoms") -> None:
    """Refuse what a :class:`Calculator` cannot evaluate; others know themselves.

    Raises:
        ValueError: As :meth:`Calculator.evaluator`.
    """
    from pyg_schnet.simulation.calculator import Calculator

    if isinstance(calculator, Calculator):
        calculator.evaluator(atoms)


def _relax(
    atoms: "Atoms", fmax: float, steps: int, optimizer: str, cell: bool, progress: bool
) -> Relaxation:
    """Move ``atoms``, which have a calculator."""
    from ase import optimize
    from ase.filters import FrechetCellFilter

    _check_cell(atoms, cell)
    initial = float(atoms.get_potential_energy())
    mover = getattr(optimize, optimizer)(FrechetCellFilter(atoms) if cell else atoms, logfile=None)
    converged, taken = False, -1
    with tqdm(desc="relax", unit=" steps", disable=None if progress else True) as bar:
        # The first is the start itself.
        for reached in mover.irun(fmax=fmax, steps=steps):
            converged, taken = bool(reached), taken + 1
            energy, largest = float(atoms.get_potential_energy()), _largest_force(atoms)
            if not (math.isfinite(energy) and math.isfinite(largest)):
                raise FloatingPointError(
                    f"The energy is {energy} eV and the largest force {largest} eV/Å after {taken} "
                    f"steps of {optimizer}: the potential does not hold this structure together; "
                    "begin with one that is nearer to those of the training."
                )
            bar.set_postfix_str(f"{energy:.6f} eV, {largest:.4f} eV/Å", refresh=False)
            bar.update(taken > 0)
    return Relaxation(_labelled(atoms), initial, energy, largest, taken, converged)


def _largest_force(atoms: "Atoms") -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max(initial=0.0))


def _labelled(atoms: "Atoms") -> "Atoms":
    """A copy with its numbers, which the calculator forgets at the next structure."""
    from ase.calculators.singlepoint import SinglePointCalculator

    results = {
        "energy": float(atoms.get_potential_energy()),
        "forces": atoms.get_forces(apply_constraint=False),
    }
    known = getattr(atoms.calc, "results", {})
    if "stress" in known:
        results["stress"] = known["stress"].copy()
    copied = atoms.copy()
    # Velocities of the start are not those of a structure at rest.
    if copied.has("momenta"):
        del copied.arrays["momenta"]
    copied.calc = SinglePointCalculator(copied, **results)
    return copied


def _check(fmax: float, steps: int, optimizer: str) -> None:
    if not (math.isfinite(fmax) and fmax > 0):
        raise ValueError(f"fmax must be finite and above 0 eV/Å, got {fmax}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}.")


def _check_cell(atoms: "Atoms", cell: bool) -> None:
    if cell and not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise ValueError(
            f"cell=True needs a structure that is periodic in three directions, but pbc is "
            f"{atoms.pbc.tolist()}; leave it out."
        )


@contextlib.contextmanager
def _naming(number: int, path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors within say which structure of which file they are about."""
    where = f"Structure {number} of {path}: "
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"{where}{error}") from error
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error
