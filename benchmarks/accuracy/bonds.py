"""Chemistry that a geometry implies: bonds and their orders, and kinds of atoms, by RDKit."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.training.batches import MoleculeTable

if TYPE_CHECKING:
    from rdkit.Chem import Mol

ORDERS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
"""RDKit's names of the types of bonds; 1 and on in matrices of bonds, where 0 is no bond."""
KINDS = ("acceptor", "donor", "aromatic", "sp", "sp2", "sp3", "hydrogens", "number")
"""What is known of an atom beside its element; the last two are numbers, hydrogens those bound."""
COVALENT = 1.15
"""In radii, how long a bond may be where RDKit's own connections cannot be: strained cages."""
MOST_TRIES = 1_000
"""Assignments of bond orders that are tried in a molecule."""


@dataclass(frozen=True)
class Chemistry:
    """Of all molecules of a table.

    Attributes:
        atoms: (N, K) float32, of each of :data:`KINDS`.
        bonds: (sum of n^2,) uint8, of every ordered pair of atoms of a molecule with n atoms: 0, or
            1 and on for :data:`ORDERS`.
        begin: (M + 1,) where the pairs of a molecule begin.
        guessed: Molecules whose bond orders could not be found: all of their bonds are single.
    """

    atoms: Tensor
    bonds: Tensor
    begin: Tensor
    guessed: int


def perceive(z: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Kinds of atoms and types of bonds of one neutral molecule.

    RDKit connects atoms by their distances and then gives out bond orders that fit the valences
    (Kim and Kim, Bull. Korean Chem. Soc. 36, 1769 (2015)). In a sample of 4,000 molecules of QM9
    all but five come out as the SMILES of the data set has them, those five with charges elsewhere.

    Args:
        z: (N,) atomic numbers.
        pos: (N, 3) Å.

    Returns:
        (N, K) of :data:`KINDS`; (N, N), 0 or one more than the place in :data:`ORDERS`; and whether
        bond orders were found, else all bonds are single.

    Raises:
        ImportError: If there is no RDKit.

    Example:
        >>> _, bonds, _ = perceive(np.array([8, 6, 8]), np.outer([-1.16, 0.0, 1.16], [1, 0, 0]))
        >>> bonds.tolist()
        [[0, 2, 0], [2, 0, 2], [0, 2, 0]]
    """
    molecule, whole = _connected(z, pos)
    kinds = np.zeros((len(z), len(KINDS)), dtype=np.float32)
    kinds[:, -1] = z
    for column, family in enumerate(("Acceptor", "Donor")):
        for feature in _factory().GetFeaturesForMol(molecule, includeOnly=family):
            kinds[list(feature.GetAtomIds()), column] = 1.0
    columns = {"SP": 3, "SP2": 4, "SP3": 5}
    for atom in molecule.GetAtoms():
        row = kinds[atom.GetIdx()]
        row[2] = atom.GetIsAromatic()
        if (name := str(atom.GetHybridization())) in columns:
            row[columns[name]] = 1.0
        row[6] = sum(other.GetAtomicNum() == 1 for other in atom.GetNeighbors())
    bonds = np.zeros((len(z), len(z)), dtype=np.uint8)
    for bond in molecule.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[i, j] = bonds[j, i] = 1 + ORDERS.index(str(bond.GetBondType()))
    return kinds, bonds, whole


def chemistry(table: MoleculeTable) -> Chemistry:
    """Atoms and bonds of every molecule of a table; about a millisecond each.

    Args:
        table: Neutral molecules.

    Raises:
        ImportError: If there is no RDKit.
    """
    z, pos, ptr = table.z.numpy(), table.pos.numpy().astype(float), table.ptr.tolist()
    kinds, bonds, guessed = [], [], 0
    for k in range(len(table)):
        atoms = slice(ptr[k], ptr[k + 1])
        kind, bond, whole = perceive(z[atoms], pos[atoms])
        kinds.append(kind)
        bonds.append(bond.ravel())
        guessed += not whole
    squares = table.num_atoms.square()
    return Chemistry(
        torch.from_numpy(np.concatenate(kinds)),
        torch.from_numpy(np.concatenate(bonds)),
        torch.cat([squares.new_zeros(1), squares.cumsum(0)]),
        guessed,
    )


def _connected(z: np.ndarray, pos: np.ndarray) -> "tuple[Mol, bool]":
    """The molecule with its bonds, sanitized, and whether their orders were found."""
    chem, determine = _rdkit()
    bare = chem.RWMol()
    conformer = chem.Conformer(len(z))
    for k in range(len(z)):
        bare.AddAtom(chem.Atom(int(z[k])))
        conformer.SetAtomPosition(k, pos[k].tolist())
    bare.AddConformer(conformer)
    ways: tuple[dict[str, Any], ...] = ({}, {"useVdw": True, "covFactor": COVALENT})
    for way in ways:
        molecule = chem.RWMol(bare)
        try:
            determine.DetermineBonds(molecule, charge=0, maxIterations=MOST_TRIES, **way)
        except (ValueError, RuntimeError):
            continue
        chem.FastFindRings(molecule)  # of a lone atom there is nothing to determine
        return molecule, True
    molecule = chem.RWMol(bare)
    determine.DetermineConnectivity(molecule, **ways[-1])
    for atom in molecule.GetAtoms():
        atom.SetNoImplicit(True)
    molecule.UpdatePropertyCache(strict=False)
    chem.FastFindRings(molecule)
    chem.SetHybridization(molecule)
    return molecule, False


@cache
def _rdkit() -> tuple[Any, Any]:
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem import rdDetermineBonds
    except ImportError as error:
        raise ImportError(
            "enn-s2s needs RDKit for its bonds; install it with pip install "
            "'pyg_schnet[baselines]'."
        ) from error
    RDLogger.DisableLog("rdApp.*")  # each failed way would print a line
    return Chem, rdDetermineBonds


@cache
def _factory() -> Any:
    from pathlib import Path

    from rdkit import RDConfig
    from rdkit.Chem import ChemicalFeatures

    return ChemicalFeatures.BuildFeatureFactory(str(Path(RDConfig.RDDataDir, "BaseFeatures.fdef")))
