"""The Coulomb matrix of molecules, and the structures of a split as a table of their own."""

from dataclasses import replace

import numpy as np
import torch

from pyg_schnet.benchmarks.accuracy.composition import atoms_of
from pyg_schnet.benchmarks.accuracy.descriptors import (
    BOHR,
    Descriptors,
    sorted_triangle,
    spectrum,
)
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.splits import Split
from pyg_schnet.training.tasks import Task


def coulomb_matrix(z: np.ndarray, pos: np.ndarray) -> np.ndarray:
    r"""Coulomb matrix of a molecule.

    .. math::
        x_{ij} = \frac{Z_i Z_j}{|r_i - r_j|}, \quad x_{ii} = \frac{Z_i^{2.4}}{2}

    Rupp, Tkatchenko, Müller and von Lilienfeld, Phys. Rev. Lett. 108, 058301 (2012), equation 1.

    Args:
        z: (N,) atomic numbers.
        pos: (N, 3) Å.

    Returns:
        (N, N), Hartree.

    Raises:
        ValueError: If two atoms lie in one place.

    Example:
        >>> pos = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.97]])
        >>> coulomb_matrix(np.array([1, 8]), pos).round(2).tolist()
        [[0.5, 4.36], [4.36, 73.52]]
    """
    distance = np.linalg.norm(pos[:, None] - pos[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    if (distance < 1e-6).any():
        raise ValueError("Two atoms of a molecule lie in one place; remove one of them.")
    matrix = np.outer(z, z) * BOHR / distance
    np.fill_diagonal(matrix, 0.5 * z.astype(float) ** 2.4)
    return matrix


def describe_molecules(table: MoleculeTable) -> Descriptors:
    """Spectra and sorted Coulomb matrices of every molecule, padded to the largest.

    Args:
        table: Molecules, a few ten thousand at most: some kilobytes are kept of each.

    Raises:
        ValueError: If two atoms of a molecule lie in one place.
    """
    size, count = int(table.num_atoms.max()), len(table)
    found = Descriptors(np.zeros((count, size)), np.zeros((count, size * (size + 1) // 2)))
    assert found.sorted is not None
    z, pos, ptr = table.z.numpy(), table.pos.numpy().astype(float), table.ptr.tolist()
    for k in range(count):
        atoms = slice(ptr[k], ptr[k + 1])
        matrix = coulomb_matrix(z[atoms], pos[atoms])
        found.spectrum[k] = spectrum(matrix, size)
        found.sorted[k] = sorted_triangle(matrix, size)
    return found


def only_used(task: Task) -> Task:
    """The same task with a table of the structures of its split alone: train, val, test.

    Of the 130,831 molecules of QM9 a short run looks at some ten thousand.

    Args:
        task: On molecules.

    Raises:
        ValueError: If structures are periodic.
    """
    table = task.table
    if table.cell is not None:
        raise ValueError("only_used is for molecules, and these structures are periodic.")
    parts = task.split.train, task.split.val, task.split.test
    rows = torch.cat(parts)
    atoms = atoms_of(table.ptr, rows)
    sizes = table.num_atoms[rows]
    small = MoleculeTable(
        table.z[atoms],
        table.pos[atoms],
        torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        table.y[rows],
        None if table.forces is None else table.forces[atoms],
    )
    places = torch.arange(len(rows)).split([part.numel() for part in parts])
    return replace(task, table=small, split=Split(*places))
