"""The published files of QM7b: matrices of distances, or positions, and 14 numbers a molecule."""

import re
import zipfile
from pathlib import Path

import numpy as np

from pyg_schnet.datasets.mat_arrays import read_arrays
from pyg_schnet.datasets.qm9_properties import Property
from pyg_schnet.datasets.sources import check_zip, in_brief, is_of_disk
from pyg_schnet.units import BOHR

GEOMETRIES = "dsgdb7njp.xyz"

# The authors' readme: "Divide ae_pbe0 by 23.045108 to convert to eV" (the calorie of the steam
# tables). The thermochemical one, 23.0605 kcal/mol for an eV, would put 1 kcal/mol on a molecule.
KCAL_PER_MOL_PER_EV = 23.045108


class MolecularProperty(Property):
    """One property of QM7b; only the atomization energies of the files are in another unit."""

    @property
    def factor(self) -> float:
        """Multiplies the value in the original files into :attr:`unit`."""
        return 1 / KCAL_PER_MOL_PER_EV if self.is_energy and self.is_extensive else 1.0


PROPERTIES: dict[str, Property] = {
    "ae_pbe0": MolecularProperty("E_{at}", "atomization energy, PBE0", "eV", True, True),
    "p_pbe0": MolecularProperty(r"\alpha", "polarizability, PBE0", "Å^3", is_extensive=True),
    "p_scs": MolecularProperty(
        r"\alpha", "polarizability, self-consistent screening", "Å^3", is_extensive=True
    ),
    "homo_gw": MolecularProperty(r"\epsilon_{HOMO}", "highest occupied orbital, GW", "eV", True),
    "homo_pbe0": MolecularProperty(
        r"\epsilon_{HOMO}", "highest occupied orbital, PBE0", "eV", True
    ),
    "homo_zindo": MolecularProperty(
        r"\epsilon_{HOMO}", "highest occupied orbital, ZINDO", "eV", True
    ),
    "lumo_gw": MolecularProperty(r"\epsilon_{LUMO}", "lowest unoccupied orbital, GW", "eV", True),
    "lumo_pbe0": MolecularProperty(
        r"\epsilon_{LUMO}", "lowest unoccupied orbital, PBE0", "eV", True
    ),
    "lumo_zindo": MolecularProperty(
        r"\epsilon_{LUMO}", "lowest unoccupied orbital, ZINDO", "eV", True
    ),
    "ip_zindo": MolecularProperty("IP", "ionization potential, ZINDO", "eV", True),
    "ea_zindo": MolecularProperty("EA", "electron affinity, ZINDO", "eV", True),
    "e1_zindo": MolecularProperty("E_1^*", "first excitation energy, ZINDO", "eV", True),
    "emax_zindo": MolecularProperty(
        "E_{max}^*", "excitation energy at the maximal absorption, ZINDO", "eV", True
    ),
    "imax_zindo": MolecularProperty("I_{max}", "maximal absorption intensity, ZINDO", "arbitrary"),
}
"""The 14 properties, in the order of the authors' readme and of ``dsgdb7njp.xyz``."""

# In qm7b.mat the columns stand in another order, which its array `names` tells in words.
MAT_ORDER = (
    *("ae_pbe0", "emax_zindo", "imax_zindo", "homo_zindo", "lumo_zindo", "e1_zindo", "ip_zindo"),
    *("ea_zindo", "homo_pbe0", "lumo_pbe0", "homo_gw", "lumo_gw", "p_pbe0", "p_scs"),
)

_ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "S": 16, "Cl": 17}
# Mathematica's way of writing 1.5e-6, which stands in some coordinates.
_MATHEMATICA = re.compile(r"\*\^")
_SYMMETRY = 1e-5  # relative, of the matrices; they are stored in single precision
_RANK = 1e-3  # Å, by which distances may miss those of points in space

Molecules = tuple[list[np.ndarray], list[np.ndarray], np.ndarray]


def read_mat(path: str | Path) -> Molecules:
    """Reads ``qm7b.mat``: Coulomb matrices ``X`` (M, 23, 23) and properties ``T`` (M, 14).

    Args:
        path: The file.

    Returns:
        Atomic numbers (N,) int64 and positions (N, 3) float64, Å, of each molecule; properties
        (M, 14) float64 in the units of the file, in the order of :data:`PROPERTIES`.

    Raises:
        ValueError: if the file is damaged, an array is missing or of another shape, or a matrix is
            no Coulomb matrix.
    """
    arrays = read_arrays(path, ("X", "T"))
    for key, dims in (("X", 3), ("T", 2)):
        array = arrays.get(key)
        if array is None or array.ndim != dims or array.dtype.kind != "f":
            found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise ValueError(
                f"{path}: {key} must be an array of numbers with {dims} dimensions, found {found}"
            )
    matrices, values = arrays["X"].astype(np.float64), arrays["T"].astype(np.float64)
    if matrices.shape[1] != matrices.shape[2] or values.shape != (len(matrices), len(PROPERTIES)):
        raise ValueError(
            f"{path}: X has shape {matrices.shape} and T {values.shape}, and (M, 23, 23) and "
            f"(M, {len(PROPERTIES)}) are expected"
        )
    values = values[:, [MAT_ORDER.index(name) for name in PROPERTIES]]
    numbers, positions = [], []
    for k, matrix in enumerate(matrices):
        z, pos = atoms_of_coulomb_matrix(matrix, f"{path}, molecule {k}")
        numbers.append(z)
        positions.append(pos)
    return numbers, positions, values


def atoms_of_coulomb_matrix(matrix: np.ndarray, name: str = "matrix") -> tuple[np.ndarray, ...]:
    r"""Atoms and positions from a Coulomb matrix, up to rotation, translation and reflection.

    .. math::
        C_{ii} = \tfrac{1}{2} Z_i^{2.4}, \qquad C_{ij} = \frac{Z_i Z_j}{|\mathbf r_i - \mathbf r_j|}

    in atomic units. The distances :math:`d_{ij}` fix the scalar products of the positions from the
    centre, :math:`B = -\frac{1}{2} J d^2 J` with :math:`J = 1 - \frac{1}{N}`, whose three largest
    eigenvalues and their vectors give the coordinates (classical multidimensional scaling). They
    are then improved by least squares of the distances, since small matrix elements are rounded.

    Args:
        matrix: (n, n); rows and columns of zeros are padding, wherever they are.
        name: What to call it in messages.

    Returns:
        Atomic numbers (N,) int64, and positions (N, 3) float64, Å.

    Raises:
        ValueError: If it is not symmetric, its diagonal is not of atoms, or its distances are not
            those of points in space.

    >>> hydrogen = np.array([[0.5, 0.7143, 0.0], [0.7143, 0.5, 0.0], [0.0, 0.0, 0.0]])
    >>> z, pos = atoms_of_coulomb_matrix(hydrogen)
    >>> z.tolist(), round(float(np.linalg.norm(pos[1] - pos[0])), 3)
    ([1, 1], 0.741)
    """
    present = np.flatnonzero(np.diag(matrix))
    padding = np.flatnonzero(np.diag(matrix) == 0)
    c = matrix[np.ix_(present, present)].astype(np.float64)
    if not np.isfinite(matrix).all() or matrix[padding].any() or matrix[:, padding].any():
        raise ValueError(f"{name} has elements that are not finite, or beside its atoms")
    if not len(present) or not np.allclose(c, c.T, rtol=_SYMMETRY, atol=0):
        raise ValueError(f"{name} is empty or not symmetric: no Coulomb matrix")
    charges = (2.0 * np.abs(np.diag(c))) ** (1 / 2.4)
    z = np.round(charges).astype(np.int64)
    if (np.diag(c) < 0).any() or (np.abs(charges - z) > 1e-3).any() or (c <= 0).any():
        raise ValueError(
            f"{name} is no Coulomb matrix: its diagonal gives nuclear charges of "
            f"{np.round(charges, 3).tolist()}, or an element is not positive"
        )
    c = 0.5 * (c + c.T)
    distance = np.outer(z, z) / c * BOHR
    np.fill_diagonal(distance, 0.0)
    pos = _scaled(distance)
    error = np.abs(_distances(pos) - distance).max()
    if not error < _RANK:
        raise ValueError(
            f"{name}: its distances miss those of points in space by {error:.2g} Å: not the "
            "Coulomb matrix of a molecule, or one with noise"
        )
    nearest = (distance + np.where(distance == 0, np.inf, 0)).min()
    if len(z) > 1 and not 0.6 < nearest < 2.5:
        raise ValueError(
            f"{name}: the nearest atoms are {nearest:.3g} Å apart where 0.9 to 1.8 Å are usual; "
            "its distances must be in Bohr"
        )
    return z, pos


def _scaled(distance: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Positions (N, 3) with these distances, as far as there are such."""
    number = len(distance)
    centre = np.eye(number) - 1.0 / number
    products = -0.5 * centre @ distance**2 @ centre
    values, vectors = np.linalg.eigh(products)
    keep = np.argsort(values)[::-1][:3]
    pos = np.zeros((number, 3))
    pos[:, : len(keep)] = vectors[:, keep] * np.sqrt(np.maximum(values[keep], 0.0))
    first, second = np.triu_indices(number, 1)
    if not len(first):
        return pos
    row = np.arange(len(first))
    for _ in range(rounds):  # Gauss-Newton; the shortest step leaves the six free motions alone
        vectors_ij = pos[first] - pos[second]
        lengths = np.maximum(np.linalg.norm(vectors_ij, axis=1), 1e-12)
        slope = np.zeros((len(first), number, 3))
        slope[row, first] = vectors_ij / lengths[:, None]
        slope[row, second] = -slope[row, first]
        missing = distance[first, second] - lengths
        step, *_ = np.linalg.lstsq(slope.reshape(len(first), -1), missing, rcond=1e-6)
        if np.abs(missing).max() < 1e-7:
            break
        pos = pos + step.reshape(number, 3)
    return pos - pos.mean(0)


def _distances(pos: np.ndarray) -> np.ndarray:
    return np.linalg.norm(pos[:, None] - pos[None], axis=-1)


def read_xyz(path: str | Path) -> Molecules:
    """Reads ``dsgdb7njp.xyz``, or the archive with it: molecules with 14 numbers in the comment.

    Args:
        path: The file, or the zip archive.

    Returns:
        As :func:`read_mat`.

    Raises:
        ValueError: if the file is damaged; the message names molecule and line.
    """
    numbers: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    values: list[list[float]] = []
    lines = enumerate(_text(Path(path)).splitlines(), 1)
    for place, line in lines:
        if not line.strip():
            continue
        name = f"{path}, molecule {len(numbers)}, line {place}"
        try:
            size = int(line)
            properties = [_number(word) for word in next(lines)[1].split()]
            atoms = [next(lines)[1].split() for _ in range(size)]
            z = [_ELEMENTS[atom[0]] for atom in atoms]
            pos = [[_number(word) for word in atom[1:4]] for atom in atoms]
        except (ValueError, KeyError, IndexError, StopIteration, RuntimeError) as error:
            what = in_brief(error)
            raise ValueError(f"{name}: cut off or malformed ({what}): get it anew") from error
        if len(properties) != len(PROPERTIES) or size < 1 or {len(r) for r in pos} != {3}:
            raise ValueError(
                f"{name}: {len(properties)} properties and {size} atoms where "
                f"{len(PROPERTIES)} properties and atoms with three coordinates are expected"
            )
        numbers.append(np.array(z, dtype=np.int64))
        positions.append(np.array(pos, dtype=np.float64))
        values.append(properties)
    if not numbers:
        raise ValueError(f"{path} holds no molecules: get the file anew")
    for k, found in enumerate(positions):
        if not np.isfinite(found).all():
            raise ValueError(f"{path}, molecule {k}: a position is not finite")
    return numbers, positions, np.array(values)


def _text(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return path.read_text(errors="replace")
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, path)
            member = next((n for n in archive.namelist() if n.endswith(GEOMETRIES)), None)
            if member is None:
                raise ValueError(f"{path} holds no {GEOMETRIES}, but {archive.namelist()}")
            return archive.read(member).decode(errors="replace")
    except Exception as error:  # zipfile and the decoders raise whatever the bytes lead to
        if is_of_disk(error) or str(path) in str(error):
            raise
        raise ValueError(f"{path} is damaged ({in_brief(error)}): get the archive anew") from error


def _number(word: str) -> float:
    return float(_MATHEMATICA.sub("e", word))


def check_values(values: np.ndarray, path: Path) -> None:
    """Refuses numbers that are not finite, and columns that cannot be what they are taken for.

    Args:
        values: (M, 14), in the order of :data:`PROPERTIES` and the units of the files.
        path: Where they are from.

    Raises:
        ValueError: if so.
    """
    if not np.isfinite(values).all():
        k = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(f"{path}, molecule {k}: a property is not finite")
    typical = dict(zip(PROPERTIES, np.median(values, axis=0).tolist(), strict=True))
    likely = (
        typical["ae_pbe0"] < -100
        and all(1 < typical[f"p_{level}"] < 30 for level in ("pbe0", "scs"))
        and all(typical[f"homo_{m}"] < typical[f"lumo_{m}"] for m in ("gw", "pbe0", "zindo"))
        and all(typical[f"homo_{method}"] < -4 for method in ("gw", "pbe0", "zindo"))
        and typical["ip_zindo"] > 4
        and 0 < typical["e1_zindo"] <= typical["emax_zindo"]
    )
    if not likely:
        found = ", ".join(f"{name} {value:.4g}" for name, value in typical.items())
        raise ValueError(
            f"{path}: the columns are not in the order expected, or in other units; their medians "
            f"would be {found}"
        )
