"""Matrices that describe a crystal, as one learned from before there were networks: Coulomb's law.

Three of them, of Faber et al., Int. J. Quantum Chem. 115, 1094 (2015), in Hartree. All depend on
the choice of cell: a supercell has a larger matrix, with other eigenvalues.
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pyg_schnet.training.batches import MoleculeTable

Matrix = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

BOHR = 0.529177210903
"""Å; CODATA 2018."""
DECAY = 1.0
"""Å, in which the interaction of :func:`coulomb_matrix` falls by e."""
SORTED_UP_TO = 24
"""Atoms of a cell up to which whole matrices are kept; beyond, only their eigenvalues."""
SAVED_EVERY = 20.0
"""Seconds between two points from which an interrupted calculation goes on."""


def sine_matrix(z: np.ndarray, pos: np.ndarray, cell: np.ndarray) -> np.ndarray:
    r"""Coulomb matrix with a distance that repeats with the cell.

    .. math::
        x_{ij} = \frac{Z_i Z_j}{|\sum_k \sin^2(\pi f_k)\, a_k|}, \quad x_{ii} = Z_i^{2.4} / 2

    where :math:`f` are fractional coordinates of :math:`r_i - r_j` and :math:`a_k` rows of the
    cell. It is matminer's ``SineCoulombMatrix``, which needs an older pandas than pymatgen does.

    Args:
        z: (N,) atomic numbers.
        pos: (N, 3) Å.
        cell: (3, 3) Å, lattice vectors as rows.

    Returns:
        (N, N), Hartree.

    Raises:
        ValueError: If two atoms lie in one place.

    Example:
        >>> rock_salt = np.array([[0.0, 2.8, 2.8], [2.8, 0.0, 2.8], [2.8, 2.8, 0.0]])
        >>> pos = np.array([[0.0, 0.0, 0.0], [2.8, 2.8, 2.8]])
        >>> sine_matrix(np.array([11, 17]), pos, rock_salt).round(2).tolist()
        [[157.87, 10.2], [10.2, 448.79]]
    """
    fractional = pos @ np.linalg.inv(cell)
    waves = np.sin(np.pi * (fractional[:, None] - fractional[None])) ** 2
    distance = np.linalg.norm(waves @ cell, axis=-1)
    np.fill_diagonal(distance, np.inf)
    if (distance < 1e-6).any():
        raise ValueError("Two atoms of a crystal lie in one place; remove one of them.")
    matrix = np.outer(z, z) * BOHR / distance
    np.fill_diagonal(matrix, 0.5 * z.astype(float) ** 2.4)
    return matrix


def ewald_matrix(z: np.ndarray, pos: np.ndarray, cell: np.ndarray) -> np.ndarray:
    r"""Energies of pairs of nuclei and all their images, each in its neutralising background.

    .. math::
        x_{ij} = Z_i Z_j \Big[\sum_L \frac{\mathrm{erfc}(a |r_{ij} + L|)}{|r_{ij} + L|}
          + \frac{4\pi}{V} \sum_{G \ne 0} \frac{e^{-G^2 / 4 a^2}}{G^2} \cos G \cdot r_{ij}
          - \frac{\pi}{V a^2}\Big]

    and :math:`x_{ii}` is half of that without :math:`L = 0` and less :math:`Z_i^2 a/\sqrt\pi`. The
    upper triangle sums up to the electrostatic energy of a cell. Faber et al. add the self-energies
    of both nuclei to every pair, whose element then depends on the screening :math:`a`; in this
    form, which is also dscribe's, none does.

    Args:
        z: (N,) atomic numbers, or charges.
        pos: (N, 3) Å.
        cell: (3, 3) Å, lattice vectors as rows.

    Returns:
        (N, N), Hartree; converged to twelve digits.

    Raises:
        ImportError: If there is no pymatgen.
    """
    try:
        from pymatgen.core import Lattice, Structure
        from pymatgen.core.ewald import EwaldSummation
    except ImportError as error:
        raise ImportError(
            "ewald-matrix needs pymatgen; install it with pip install 'pyg_schnet[baselines]'."
        ) from error
    charges = z.astype(float)
    names = ["H"] * len(z)  # of no meaning: the charges are given as properties of the sites
    sites = {"charge": charges.tolist()}
    lattice = Lattice(cell)
    structure = Structure(lattice, names, pos, coords_are_cartesian=True, site_properties=sites)
    summation = EwaldSummation(structure)
    half = summation.total_energy_matrix / EwaldSummation.CONV_FACT  # of both ij and ji
    half -= np.outer(charges, charges) * np.pi / (2 * structure.volume * summation.eta)
    matrix = 2 * half * BOHR
    np.fill_diagonal(matrix, np.diag(half) * BOHR)
    return matrix


def coulomb_matrix(
    z: np.ndarray, pos: np.ndarray, cell: np.ndarray, decay: float = DECAY
) -> np.ndarray:
    r"""Coulomb matrix of a cell and its images, whose interaction is damped to make the sum end.

    .. math::
        x_{ij} = Z_i Z_j \sum_L \frac{e^{-|r_{ij} + L| / \lambda}}{|r_{ij} + L|}, \quad
        x_{ii} = \frac{Z_i^{2.4}}{2}
          + \frac{Z_i^2}{2} \sum_{L \ne 0} \frac{e^{-|L| / \lambda}}{|L|}

    Faber's second matrix takes atoms of the cell against those of some cells around; here the
    images are summed onto the atom they are of, so it is square and of the size of the cell.

    Args:
        z: (N,) atomic numbers.
        pos: (N, 3) Å.
        cell: (3, 3) Å, lattice vectors as rows.
        decay: :math:`\lambda`, Å; images up to 20 of them are summed.

    Returns:
        (N, N), Hartree.
    """
    from vesin import NeighborList

    neighbors = NeighborList(cutoff=20.0 * decay, full_list=True)
    i, j, distance = neighbors.compute(pos, cell, periodic=True, quantities="ijd")
    number = len(z)
    pairs = i.astype(np.int64) * number + j.astype(np.int64)
    sums = np.bincount(pairs, np.exp(-distance / decay) * BOHR / distance, number**2)
    matrix = np.outer(z, z) * sums.reshape(number, number)
    np.fill_diagonal(matrix, 0.5 * (np.diag(matrix) + z.astype(float) ** 2.4))
    return matrix


MATRICES: dict[str, Matrix] = {
    "sine-matrix": sine_matrix,
    "ewald-matrix": ewald_matrix,
    "coulomb-matrix": coulomb_matrix,
}
"""By the name that a row calls its predictor."""


def spectrum(matrix: np.ndarray, size: int) -> np.ndarray:
    """Eigenvalues, the largest in magnitude first, and zeros up to ``size``.

    Example:
        >>> spectrum(np.diag([1.0, -3.0]), 3).tolist()
        [-3.0, 1.0, 0.0]
    """
    values = np.linalg.eigvalsh(matrix)
    values = values[np.argsort(-np.abs(values), kind="stable")]
    return np.pad(values, (0, size - len(values)))


def sorted_triangle(matrix: np.ndarray, size: int) -> np.ndarray:
    """Lower triangle, diagonal included, of the matrix with its largest rows first and zeros after.

    Example:
        >>> sorted_triangle(np.array([[1.0, 0.5], [0.5, 3.0]]), 2).tolist()
        [3.0, 0.5, 1.0]
    """
    order = np.argsort(-np.linalg.norm(matrix, axis=1), kind="stable")
    padded = np.zeros((size, size))
    padded[: len(order), : len(order)] = matrix[order][:, order]
    return padded[np.tril_indices(size)]


@dataclass(frozen=True)
class Descriptors:
    """Vectors of all structures of a table.

    Attributes:
        spectrum: (M, n) eigenvalues, n atoms in the largest cell.
        sorted: (M, n(n + 1)/2) matrices; None where cells have more than SORTED_UP_TO atoms.
    """

    spectrum: np.ndarray
    sorted: np.ndarray | None

    def by_name(self) -> dict[str, np.ndarray]:
        """Those there are."""
        known = {"spectrum": self.spectrum, "sorted": self.sorted}
        return {name: values for name, values in known.items() if values is not None}


def describe_table(table: MoleculeTable, name: str, folder: Path) -> Descriptors:
    """Descriptors of every structure, from a file in ``folder`` if they have been found before.

    The file is of these structures alone: other ones have another name. An interrupted calculation
    goes on where it was.

    Args:
        table: Crystals.
        name: Of :data:`MATRICES`.
        folder: Of the files, made if needed.

    Raises:
        ValueError: If a structure is not periodic, or has two atoms in one place.
    """
    if table.cell is None or table.pbc is None or not bool(table.pbc.all()):
        raise ValueError(
            f"{name} describes crystals, periodic in all three directions, and some structures of "
            "the data set are not."
        )
    arrays = [of.numpy() for of in (table.z, table.pos, table.cell, table.ptr)]
    key = hashlib.sha256(f"{name} 1 {DECAY}".encode())
    for array in arrays:
        key.update(np.ascontiguousarray(array).tobytes())
    file = folder / f"{name}-{key.hexdigest()[:16]}.npz"
    found, done = _read(file)
    if found is None:
        size, count = int(table.num_atoms.max()), len(table)
        triangles = np.zeros((count, size * (size + 1) // 2)) if size <= SORTED_UP_TO else None
        found = Descriptors(np.zeros((count, size)), triangles)
    if done < len(table):
        _calculate(arrays, name, found, done, file)
    return found


def _calculate(
    arrays: list[np.ndarray], name: str, found: Descriptors, done: int, file: Path
) -> None:
    z, pos, cell, ptr = arrays
    size, saved = found.spectrum.shape[1], time.monotonic()
    rows = range(done, len(cell))
    try:
        for k in tqdm(rows, desc=name, unit=" crystals", delay=2, disable=None):
            a, b = ptr[k], ptr[k + 1]
            lattice = cell[k].astype(float)
            matrix = MATRICES[name](z[a:b], pos[a:b].astype(float), lattice)
            found.spectrum[k] = spectrum(matrix, size)
            if found.sorted is not None:
                found.sorted[k] = sorted_triangle(matrix, size)
            done = k + 1
            if time.monotonic() - saved > SAVED_EVERY:
                _write(file, found, done)
                saved = time.monotonic()
    finally:
        _write(file, found, done)


def _read(file: Path) -> tuple[Descriptors | None, int]:
    if not file.is_file():
        return None, 0
    with np.load(file, allow_pickle=False) as content:
        return Descriptors(content["spectrum"], content.get("sorted")), int(content["done"])


def _write(file: Path, found: Descriptors, done: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.stem}.part.npz")
    np.savez(aside, done=done, **found.by_name())  # type: ignore[arg-type]
    os.replace(aside, file)
