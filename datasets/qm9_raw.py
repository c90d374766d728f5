"""QM9 as it is published: the original xyz files, and the tables of the qm9pack package."""

import csv
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyg_schnet.datasets.qm9_properties import SCALARS
from pyg_schnet.datasets.sources import open_archive_members, verify

ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
XYZ_COLUMNS = ["A", "B", "C"] + [name for name in SCALARS if name not in "ABC"]
CSV_COLUMNS = {
    "mu": "Dipole_debye",
    "alpha": "Polarizability_bohr3",
    "homo": "HOMO_au",
    "lumo": "LUMO_au",
    "gap": "HOMO_LUMO_gap_au",
    "r2": "R2_bohr2",
    "zpve": "ZPVE_au",
    "U0": "InternalEnergy_0K_au",
    "U": "InternalEnergy_298K_au",
    "H": "Enthalphy_298K_au",  # spelt so in the file
    "G": "GibbsFreeEnergy_298K_au",
    "Cv": "Heatcapacity_Cv_cal_mol_K",
    "A": "RotA_GHz",
    "B": "RotB_GHz",
    "C": "RotC_GHz",
}
TENSOR_COLUMNS = ["A_xx", "A_xy", "A_yy", "A_xz", "A_yz", "A_zz"]
_NO_TENSOR = (float("nan"),) * 6

# Of qm9pack 1.0.3.
TABLES = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
POLARIZABILITY_TABLE = "qm9_polarizability.csv"
CHECKSUMS = {
    "qm9_part1.csv": "sha256:19f0a5d595462d52cd82eef3370f3e9eb55a1f52cb14985657200349568deff3",
    "qm9_part2.csv": "sha256:2bca113fdc0b28a13563c80ed9b240e934f3da6c64c64fe74ddb4f0f36036e61",
    "qm9_part3.csv": "sha256:9c5efb5733d2af149db8d95d36ff198b4ffed12d9f7b344220a1e5877d5c6a43",
    "qm9_polarizability.csv": (
        "sha256:1729ebca7da76850ca1091c050933901c84b90edb30d06f34df1ebd47789d23a"
    ),
}


class Molecule(NamedTuple):
    """One molecule in the units of the original files (Hartree, Å, ...)."""

    number: int  # of dsgdb9nsd_000001.xyz: 1
    z: Sequence[int]
    pos: Sequence[float]  # x y z of the first atom, x y z of the second, ...
    charges: Sequence[float]
    scalars: Sequence[float]  # in the order of SCALARS
    smiles: str
    polarizability: Sequence[float]  # in the order of TENSOR_COLUMNS


@cache
def uncharacterized() -> frozenset[int]:
    """Numbers of the 3,054 molecules that the authors left out of the characterized set.

    >>> len(uncharacterized()), min(uncharacterized())
    (3054, 58)
    """
    numbers: set[int] = set()
    for line in Path(__file__).with_name("qm9_uncharacterized.txt").read_text().splitlines():
        for entry in line.partition("#")[0].split():
            first, _, last = entry.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def parse_xyz(text: str, name: str) -> Molecule:
    """Reads one file of the original format: xyz with properties, charges and SMILES.

    Args:
        text: Content of the file.
        name: Its name, for messages.

    Raises:
        ValueError: naming file and line, if the content is not of this format.
    """
    lines = text.splitlines()
    number = 0
    try:
        num_atoms = int(lines[0])
        if num_atoms < 1:
            raise ValueError(f"{num_atoms} atoms")
        number = 1
        tag, *values = lines[1].split()
        if tag != "gdb" or len(values) != 1 + len(XYZ_COLUMNS):
            raise ValueError(f"'gdb', a number and {len(XYZ_COLUMNS)} properties are expected")
        molecule = int(values[0])
        if not 0 < molecule < 1_000_000:
            raise ValueError(f"the number of the molecule is {values[0][:30]}")
        by_name = dict(zip(XYZ_COLUMNS, map(_number, values[1:]), strict=True))
        z: list[int] = []
        pos: list[float] = []
        charges: list[float] = []
        for number in range(2, 2 + num_atoms):
            element, *xyz, charge = lines[number].split()
            if len(xyz) != 3 or element not in ATOMIC_NUMBERS:
                raise ValueError("'element x y z charge' is expected, the element one of HCNOF")
            z.append(ATOMIC_NUMBERS[element])
            pos.extend(map(_number, xyz))
            charges.append(_number(charge))
        # The frequencies come between. Of the two SMILES the first is GDB-17's and the second of
        # the relaxed structure; in characterized molecules they have the same bonds. The first is
        # the one qm9pack has.
        number = 3 + num_atoms
        smiles = lines[number].split()[0]
    except IndexError as error:
        raise ValueError(f"{name}, line {number + 1}: the file ends too early") from error
    except ValueError as error:
        raise ValueError(f"{name}, line {number + 1}: {error}") from error
    scalars = [by_name[key] for key in SCALARS]
    if not np.isfinite([*scalars, *pos, *charges]).all():
        raise ValueError(f"{name}: a number is not finite")
    return Molecule(molecule, z, pos, charges, scalars, smiles, _NO_TENSOR)


def _number(text: str) -> float:
    # Mathematica wrote the files: 6.2*^-6 is 6.2e-6.
    return float(text.replace("*^", "e"))


def read_xyz(path: str | Path) -> Iterator[Molecule]:
    """Characterized molecules of a folder of dsgdb9nsd_*.xyz files or a tar archive of them.

    Raises:
        FileNotFoundError: if the path does not exist or holds no such file.
        ValueError: if a file is malformed or the archive damaged.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("dsgdb9nsd_*.xyz"))
        members: Iterable[tuple[str, bytes]] = ((str(f), f.read_bytes()) for f in files)
    elif path.exists():
        members = open_archive_members(path, suffix=".xyz")
    else:
        raise FileNotFoundError(
            f"raw={str(path)!r} does not exist: give the folder of dsgdb9nsd_*.xyz files, or the "
            f"archive dsgdb9nsd.xyz.tar.bz2"
        )
    found = False
    for name, content in members:
        if not Path(name).name.startswith("dsgdb9nsd_"):
            continue
        found = True
        molecule = parse_xyz(content.decode(errors="replace"), name)
        if molecule.number not in uncharacterized():
            yield molecule
    if not found:
        raise FileNotFoundError(f"raw={str(path)!r} holds no file dsgdb9nsd_*.xyz")


def find_qm9pack() -> Path | None:
    """Folder of the tables in the installed qm9pack package, or None.

    The package is looked up and not imported: version 1.0.3 imports ``pkg_resources``, which
    recent setuptools no longer have.
    """
    spec = importlib.util.find_spec("qm9pack")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], "data")


def read_qm9pack(folder: Path) -> Iterator[Molecule]:
    """Molecules of qm9pack's tables, which hold the characterized ones only.

    Raises:
        FileNotFoundError: if a table is missing.
        ValueError: if a table has another checksum than version 1.0.3's, or a row is malformed.
    """
    for name, expected in CHECKSUMS.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: install qm9pack 1.0.3 anew")
        verify(folder / name, expected)
    molecules = chain.from_iterable(_read_table(folder / name) for name in TABLES)
    with open(folder / POLARIZABILITY_TABLE, newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        columns = [header.index(name) for name in ["XYZ_file", *TENSOR_COLUMNS]]
        # Both are in the order of the molecules' numbers; strict, so that neither may end first.
        for molecule, row in zip(molecules, rows, strict=True):
            name, *tensor = [row[column] for column in columns]
            if name != f"dsgdb9nsd_{molecule.number:06d}.xyz":
                raise ValueError(
                    f"{file.name}: a row for {name} stands where molecule {molecule.number} "
                    f"should: install qm9pack 1.0.3 anew"
                )
            yield molecule._replace(polarizability=[float(entry) for entry in tensor])


def _read_table(path: Path) -> Iterator[Molecule]:
    with open(path, newline="") as file:
        rows = csv.reader(file)
        header = {name: column for column, name in enumerate(next(rows))}
        scalar_columns = [header[CSV_COLUMNS[name]] for name in SCALARS]
        for row in rows:
            molecule = Molecule(
                number=int(row[header["Index"]]),
                z=[
                    ATOMIC_NUMBERS[element]
                    for element in row[header["Elements"]].strip("[]").replace("'", "").split(",")
                ],
                pos=_numbers(row[header["XYZ_Ang"]]),
                charges=_numbers(row[header["Mulliken_pop"]]),
                scalars=[float(row[column]) for column in scalar_columns],
                smiles=row[header["SMILES"]],
                polarizability=_NO_TENSOR,
            )
            if not 3 * len(molecule.z) == len(molecule.pos) == 3 * len(molecule.charges):
                raise ValueError(
                    f"{path}, molecule {molecule.number}: elements, positions and "
                    f"charges differ in number"
                )
            yield molecule


def _numbers(text: str) -> list[float]:
    # Not JSON, though it looks like it: some numbers are written "1." and "7.E-6".
    return [float(entry) for entry in text.replace("[", "").replace("]", "").split(",")]
