"""Bonds of a structure in motion: which break, and which form."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii

from pyg_schnet.graph import neighbor_edges

if TYPE_CHECKING:
    from ase import Atoms

_BONDED, _FORMED, _BROKEN = 1.3, 1.1, 1.5


class BondChange(NamedTuple):
    """A bond that broke or formed.

    Attributes:
        atoms: Their numbers.
        elements: Their symbols, such as "C-H".
        time: ps, when it was first seen.
        length: Å, then.
    """

    atoms: tuple[int, int]
    elements: str
    time: float
    length: float


class Bonds:
    """Pairs of atoms that are bonded at the start, and what becomes of them.

    A bond is a pair within 1.3 times the sum of its covalent radii (Cordero et al., Dalton Trans.
    2008, 2832). It is broken when longer than 1.5 times its first length; another pair has formed a
    bond when within 1.1 times the sum. Each is told once.

    Args:
        atoms: The start.

    Attributes:
        broken: Bonds that broke so far.
        formed: Bonds that formed so far.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> bonds = Bonds(water)
        >>> bonds.look(2 * water.positions, time=1.0)
        >>> [bond.elements for bond in bonds.broken]
        ['O-H', 'O-H']
    """

    def __init__(self, atoms: "Atoms") -> None:
        self._numbers = atoms.numbers.copy()
        self._radii = covalent_radii[atoms.numbers]
        self._cell = self._pbc = None
        if atoms.pbc.any():
            self._cell = torch.from_numpy(atoms.cell.complete().array).view(1, 3, 3)
            self._pbc = torch.from_numpy(atoms.pbc.copy()).view(1, 3)
        self._pairs, shifts, self._lengths = self._within(atoms.positions, _BONDED)
        self._offsets = self._lattice(shifts)
        self._known = self._keys(self._pairs, shifts)
        self._is_broken = np.zeros(len(self._pairs), dtype=bool)
        self.broken: list[BondChange] = []
        self.formed: list[BondChange] = []

    def look(self, positions: np.ndarray, time: float) -> None:
        """Note bonds that broke or formed; positions are not wrapped into the cell.

        Args:
            positions: (N, 3) Å.
            time: ps.
        """
        lengths = self._distances(positions, self._pairs, self._offsets)
        for bond in np.flatnonzero((lengths > _BROKEN * self._lengths) & ~self._is_broken):
            self._is_broken[bond] = True
            self.broken.append(self._change(self._pairs[bond], time, lengths[bond]))
        pairs, shifts, lengths = self._within(positions, _FORMED)
        keys = self._keys(pairs, shifts)
        for new in np.flatnonzero(~np.isin(keys, self._known)):
            self.formed.append(self._change(pairs[new], time, lengths[new]))
        self._known = np.union1d(self._known, keys)

    def _within(
        self, positions: np.ndarray, factor: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs (P, 2) nearer than so many sums of radii, their shifts (P, 3) and lengths (P,)."""
        edges, shifts = neighbor_edges(
            torch.from_numpy(positions),
            2 * factor * float(self._radii.max(initial=0.1)),
            cell=self._cell,
            pbc=self._pbc,
        )
        pairs, shift = edges.numpy()[::-1].T, shifts.numpy()
        # Of the two directions one; an atom and its own image keep their distance.
        once = pairs[:, 0] < pairs[:, 1]
        pairs, shift = pairs[once], shift[once]
        lengths = self._distances(positions, pairs, self._lattice(shift))
        near = lengths < factor * self._radii[pairs].sum(1)
        return pairs[near], shift[near], lengths[near]

    def _lattice(self, shifts: np.ndarray) -> np.ndarray:
        return 0.0 * shifts if self._cell is None else shifts @ self._cell[0].numpy()

    def _keys(self, pairs: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """A number for each pair and its shift."""
        keys = pairs[:, 0] * len(self._numbers) + pairs[:, 1]
        for axis in range(3):
            keys = keys * 1024 + (shifts[:, axis].astype(np.int64) + 512)
        return keys

    @staticmethod
    def _distances(positions: np.ndarray, pairs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        first, second = pairs.T
        return np.linalg.norm(positions[second] + offsets - positions[first], axis=1)

    def _change(self, pair: np.ndarray, time: float, length: float) -> BondChange:
        i, j = (int(atom) for atom in pair)
        elements = "-".join(chemical_symbols[self._numbers[atom]] for atom in (i, j))
        return BondChange((i, j), elements, time, float(length))
