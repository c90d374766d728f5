"""One crystal between its file and a data set: atoms and cell, checked."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

MAX_Z = 99
"""The last element that the embeddings of the models have a row for."""

# Volume per atom of hydrogen at 500 GPa is above 1 Å^3; what is denser by far is no crystal.
_MIN_VOLUME = 0.05  # Å^3 per atom
_MIN_FLATNESS = 1e-4  # volume over the product of the lengths
# Å; float32, in which positions are kept, is rounded to 1 mÅ there.
_MAX_LENGTH = 1e4
_MIN_SPACING = 0.1  # Å; nearer layers would be searched for hundreds of images of each atom
_DECORATED = re.compile(r"([A-Z][a-z]?)(?:\d*\.?\d*[+-]|[+-]\d*\.?\d*)?")


class Refused(ValueError):
    """Why a crystal cannot be read or used.

    Args:
        reason: In few words, the same for all of a kind, so that they can be counted.
        detail: What is particular to this crystal.

    >>> str(Refused("unknown species", "Xx at site 3"))
    'unknown species: Xx at site 3'
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class Crystal(NamedTuple):
    """Atoms in a cell; rows of ``cell`` are lattice vectors."""

    z: np.ndarray
    """(N,) int64 atomic numbers."""
    pos: np.ndarray
    """(N, 3) float64 positions, Å."""
    cell: np.ndarray
    """(3, 3) float64, Å."""
    pbc: np.ndarray
    """(3,) bool."""


@functools.cache
def _numbers() -> dict[str, int]:
    from ase.data import atomic_numbers

    known = {symbol: int(z) for symbol, z in atomic_numbers.items() if z > 0}
    return known | {"D": 1, "T": 1}


@functools.cache
def atomic_number(species: str) -> int:
    """Atomic number of an element's symbol, decorated with an oxidation state or not.

    Deuterium (D) and tritium (T) are hydrogen.

    Raises:
        Refused: if it is no element: a dummy atom, a vacancy, a group.

    >>> atomic_number("Fe"), atomic_number("Fe3+"), atomic_number("O-2"), atomic_number("D")
    (26, 26, 8, 1)
    """
    match = _DECORATED.fullmatch(species)
    z = _numbers().get(match.group(1)) if match else None
    if z is None:
        raise Refused("unknown species", f"{species!r} is no element")
    return z


def from_fractional(
    z: Sequence[int], frac: Any, cell: Any, pbc: Sequence[bool] = (True, True, True)
) -> Crystal:
    """A crystal from fractional coordinates (N, 3): positions are ``frac @ cell``."""
    matrix = np.array(cell, dtype=np.float64).reshape(3, 3)
    coordinates = np.array(frac, dtype=np.float64).reshape(-1, 3)
    with np.errstate(invalid="ignore"):  # told by check(), with the number of the atom
        pos = coordinates @ matrix
    return Crystal(np.array(z, np.int64), pos, matrix, np.array(pbc, bool))


def from_parameters(lengths: Sequence[float], angles: Sequence[float]) -> list[list[float]]:
    """Lattice vectors of a cell: c along the z axis, a in the xz plane, as pymatgen has them.

    Args:
        lengths: a, b, c in Å.
        angles: alpha, beta, gamma in degrees.

    Returns:
        (3, 3), rows a, b, c.

    >>> from_parameters([2.0, 3.0, 4.0], [90.0, 90.0, 90.0])[2]
    [0.0, 0.0, 4.0]
    """
    a, b, c = lengths
    alpha, beta, gamma = (math.radians(angle) for angle in angles)
    sines = math.sin(alpha) * math.sin(beta)
    if sines == 0.0:
        raise Refused("no cell", f"angles {list(angles)} degrees span no volume")
    cosine = (math.cos(alpha) * math.cos(beta) - math.cos(gamma)) / sines
    star = math.acos(min(1.0, max(-1.0, cosine)))
    return [
        [a * math.sin(beta), 0.0, a * math.cos(beta)],
        [
            -b * math.sin(alpha) * math.cos(star),
            b * math.sin(alpha) * math.sin(star),
            b * math.cos(alpha),
        ],
        [0.0, 0.0, c],
    ]


def from_dict(structure: Mapping[str, Any]) -> Crystal:
    """A crystal from the dictionary (JSON) of a pymatgen ``Structure``.

    Read directly, as to make a ``Structure`` of it takes fifty times as long.

    Raises:
        Refused: if sites are disordered, a species is no element, or it is no such dictionary.
    """
    try:
        lattice = structure["lattice"]
        z, frac = [], []
        for k, site in enumerate(structure["sites"]):
            species = site["species"]
            if len(species) != 1 or abs(species[0]["occu"] - 1.0) > 1e-6:
                held = ", ".join(f"{entry['element']} {entry['occu']:.4g}" for entry in species)
                raise Refused("occupancy disorder", f"site {k} holds {held or 'nothing'}")
            z.append(atomic_number(species[0]["element"]))
            frac.append(site["abc"])
        return from_fractional(z, frac, lattice["matrix"], lattice.get("pbc", (True,) * 3))
    except Refused:
        raise
    except KeyError as error:
        reason = "no cell" if error.args[0] in ("lattice", "matrix") else "unreadable"
        raise Refused(reason, f"the structure has no {error.args[0]!r}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise Refused("unreadable", f"the structure is malformed ({error})") from error


def from_pymatgen(structure: "Structure") -> Crystal:
    """A crystal from a pymatgen ``Structure``; oxidation states are dropped, Fe3+ is Fe.

    Raises:
        Refused: if sites are disordered, or a species is no element.
    """
    z = []
    for k, site in enumerate(structure):
        if not site.is_ordered:
            raise Refused("occupancy disorder", f"site {k} holds {site.species_string}")
        species = site.specie
        z.append(atomic_number(getattr(species, "element", species).symbol))
    lattice = structure.lattice
    return from_fractional(z, structure.frac_coords, lattice.matrix, lattice.pbc)


def from_atoms(atoms: "Atoms") -> Crystal:
    """A crystal from ASE's ``Atoms``, periodic as they are.

    Raises:
        Refused: if nothing is periodic, a species is no element, or occupancies are fractional.
    """
    if not atoms.pbc.any():
        raise Refused("no cell", "the structure is not periodic")
    occupancy = atoms.info.get("occupancy")
    for sites in occupancy.values() if isinstance(occupancy, Mapping) else ():
        if len(sites) != 1 or any(abs(value - 1.0) > 1e-6 for value in sites.values()):
            raise Refused("occupancy disorder", f"a site holds {dict(sites)}")
    if (atoms.numbers < 1).any():
        raise Refused("unknown species", f"{atoms.symbols[int(atoms.numbers.argmin())]!r}")
    z, cell = atoms.numbers.astype(np.int64), atoms.cell
    # Vectors along which nothing repeats may be zero in ASE; completed, the cell has a volume.
    complete = cell.complete().array if cell.array[atoms.pbc].any(axis=1).all() else cell.array
    return Crystal(z, atoms.positions, np.array(complete), atoms.pbc.copy())


def check(crystal: Crystal) -> None:
    """Refuses what is no crystal: no atoms, no volume, no numbers, elements beyond Z = 99.

    Raises:
        Refused: with the reason.
    """
    z, pos, cell, _ = crystal
    if not len(z):
        raise Refused("no atoms")
    if not np.isfinite(cell).all():
        raise Refused("no cell", f"{cell.tolist()} is not finite")
    lengths = np.sqrt((cell * cell).sum(1)).prod()
    volume = abs(_determinant(cell))
    if np.abs(cell).max() > _MAX_LENGTH:
        raise Refused("no cell", f"{cell.tolist()} has a vector longer than {_MAX_LENGTH:g} Å")
    if volume <= _MIN_FLATNESS * lengths or volume < _MIN_VOLUME * len(z):
        raise Refused("cell without volume", f"{volume:.3g} Å^3 for {len(z)} atoms")
    if volume < _MIN_SPACING * _largest_area(cell, crystal.pbc):
        spacing = volume / _largest_area(cell, crystal.pbc)
        raise Refused("cell without volume", f"its layers are {spacing:.2g} Å apart")
    if not np.isfinite(pos).all():
        atom = int(np.flatnonzero(~np.isfinite(pos).all(1))[0])
        raise Refused("unreadable", f"the position of atom {atom} is not finite")
    if np.abs(pos).max() > _MAX_LENGTH:
        atom = int(np.abs(pos).max(1).argmax())
        where = [float(f"{x:.4g}") for x in pos[atom]]
        raise Refused("unreadable", f"atom {atom} is at {where}, over {_MAX_LENGTH:g} Å away")
    if z.max() > MAX_Z or z.min() < 1:
        wrong = int(z.max() if z.max() > MAX_Z else z.min())
        raise Refused(f"element beyond Z = {MAX_Z}", f"atomic number {wrong}")


def _determinant(m: np.ndarray) -> float:
    # Three times as quick as NumPy's for one matrix, of which there are 130,000.
    (a, b, c), (d, e, f), (g, h, i) = m.tolist()
    return float(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


def _largest_area(m: np.ndarray, pbc: np.ndarray) -> float:
    """Of the faces that are repeated; the volume over it is the distance of their planes."""
    a, b, c = m.tolist()
    faces = zip(((b, c), (c, a), (a, b)), pbc.tolist(), strict=True)
    return max((_area(*sides) for sides, repeats in faces if repeats), default=0.0)


def _area(a: list[float], b: list[float]) -> float:
    x, y, z = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
    return math.sqrt(x * x + y * y + z * z)
