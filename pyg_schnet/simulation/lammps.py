"""A potential in LAMMPS, through its ``fix external``: no plugin and no compiler."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from pyg_schnet.simulation.calculator import Calculator, Evaluator

# xx, yy, zz, xy, xz, yz
_ROWS, _COLUMNS = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)


class LammpsForces:
    """What LAMMPS calls at each step: adds forces, and tells energy and virial.

    Args:
        lmp: A ``lammps.lammps`` with its atoms, in ``units metal`` and one process.
        potential: What :class:`Calculator` takes.
        elements: Symbol of each atom type, from type 1 on.
        fix: Name that the fix gets.

    Attributes:
        calls: How often LAMMPS has asked.

    Raises:
        ValueError: If LAMMPS has other units or several processes, or there are more types than
            elements; and as :class:`Calculator`.
    """

    def __init__(
        self,
        lmp: Any,
        potential: nn.Module | str | os.PathLike[str],
        elements: Sequence[str],
        fix: str,
    ) -> None:
        from ase.data import atomic_numbers

        units, processes = lmp.extract_global("units"), lmp.extract_setting("world_size")
        if units != "metal":
            raise ValueError(f"LAMMPS must have 'units metal' (eV and Å), got {units!r}.")
        if processes != 1:
            raise ValueError(f"LAMMPS must run in one process with this fix, got {processes}.")
        types = lmp.extract_setting("ntypes")
        if len(elements) != types:
            raise ValueError(
                f"elements must name each of the {types} atom types of LAMMPS, got "
                f"{list(elements)}."
            )
        unknown = [symbol for symbol in elements if symbol not in atomic_numbers]
        if unknown:
            raise ValueError(f"elements must be symbols of elements, got {unknown[0]!r}.")
        self.calls = 0
        self._numbers = np.array([atomic_numbers[symbol] for symbol in elements])
        self._lmp, self._fix = lmp, fix
        self._calculator = potential if isinstance(potential, Calculator) else Calculator(potential)
        self._known: tuple[np.ndarray, np.ndarray, tuple[bool, ...]] | None = None
        self._evaluate: Evaluator | None = None
        self._volume = 0.0

    def __call__(
        self,
        caller: object,
        step: int,
        nlocal: int,
        tag: np.ndarray,
        x: np.ndarray,
        f: np.ndarray,
    ) -> None:
        """The callback of ``fix external pf/callback``.

        Args:
            caller: Not used.
            step: Number of the step.
            nlocal: Number of atoms, N.
            tag: Their identifiers (N,).
            x: Positions (N, 3), Å.
            f: (N, 3), eV/Å; filled in.
        """
        # The order of atoms changes as they move; the model's lists of neighbours need not.
        order = np.argsort(tag[:nlocal])
        types = self._lmp.numpy.extract_atom("type")[:nlocal]
        evaluate = self._evaluator(self._numbers[types[order] - 1])
        energy, forces, stress = evaluate(x[order])
        f[order] = forces
        self._lmp.fix_external_set_energy_global(self._fix, energy)
        if stress is not None:
            virial = -self._volume * stress[_ROWS, _COLUMNS]
            self._lmp.fix_external_set_virial_global(self._fix, virial.tolist())
        self.calls += 1

    def _evaluator(self, numbers: np.ndarray) -> Evaluator:
        """The energy as a function of positions, made anew where atoms or the cell change."""
        from ase import Atoms

        low, high, xy, yz, xz, periodic, _ = self._lmp.extract_box()
        cell = np.diag(np.subtract(high, low))
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        pbc = tuple(bool(each) for each in periodic)
        kept = self._known
        if (
            kept is None
            or not np.array_equal(numbers, kept[0])
            or not np.array_equal(cell, kept[1])
            or pbc != kept[2]
        ):
            atoms = Atoms(
                numbers, np.zeros((len(numbers), 3)), cell=cell if any(pbc) else None, pbc=pbc
            )
            self._volume = float(abs(np.linalg.det(cell)))
            self._evaluate = self._calculator.evaluator(atoms, stress=any(pbc))
            self._known = numbers, cell, pbc
        assert self._evaluate is not None
        return self._evaluate


def attach_to_lammps(
    lmp: Any,
    potential: nn.Module | str | os.PathLike[str],
    elements: Sequence[str],
    fix: str = "schnet",
) -> LammpsForces:
    """Let LAMMPS move its atoms by a potential of this package.

    Makes ``fix NAME all external pf/callback 1 1`` with energy and virial, so that thermostats,
    barostats, minimisers and outputs of LAMMPS see them. All atoms are evaluated together, in one
    process; a pair style is not needed, ``pair_style zero`` will do.

    Args:
        lmp: A ``lammps.lammps`` with its atoms, in ``units metal``.
        potential: What :class:`Calculator` takes.
        elements: Symbol of each atom type, from type 1 on.
        fix: Name of the fix.

    Returns:
        The callback, which LAMMPS keeps.

    Raises:
        ValueError: As :class:`LammpsForces`.
    """
    forces = LammpsForces(lmp, potential, elements, fix)
    lmp.command(f"fix {fix} all external pf/callback 1 1")
    lmp.command(f"fix_modify {fix} energy yes virial yes")
    lmp.set_fix_external_callback(fix, forces, None)
    return forces


__all__ = ["LammpsForces", "attach_to_lammps"]
