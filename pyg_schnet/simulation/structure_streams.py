"""Structures of files as streams that go on at any place, for screenings that take hours."""

import functools
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch_geometric.data import Data

from pyg_schnet.nn.readout import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from ase import Atoms

MOST_ATOMS = 10_000_000
"""Of a structure; a larger number at its head is taken for a damaged one."""

_FEWEST_BYTES = 8  # of the line of an atom
_LONGEST_LINE = 1 << 20  # bytes, of a file that may be no text at all
_MOST_FAILURES = 100  # one after the other, of a file whose structures are read one by one
_PROPERTIES = re.compile(rb'\bProperties=(?:"([^"]*)"|(\S+))')
_LATTICE = re.compile(rb'\bLattice="([^"]*)"')
_PBC = re.compile(rb'\bpbc="([^"]*)"')


class Place(NamedTuple):
    """Where a stream goes on: number of the next structure, and its first byte (or number)."""

    number: int = 0
    offset: int = 0


class Structure(NamedTuple):
    """Atomic numbers (N,), positions (N, 3), Å, and where there is one the cell (3, 3), Å."""

    z: np.ndarray
    pos: np.ndarray
    cell: np.ndarray | None = None
    pbc: tuple[bool, bool, bool] = (False, False, False)


class Read(NamedTuple):
    """What was read: a structure, or in its place what is wrong with it; and where to go on."""

    number: int
    structure: Structure | str
    after: Place


@dataclass(frozen=True)
class Source:
    """A file, or anything else with structures in it.

    Attributes:
        name: In tables and sentences.
        identity: What is the same only if the structures are.
        read: The structures from a place on.
        length: The offset of its end, for progress; None where that is not known.
    """

    name: str
    identity: tuple[str | int, ...]
    read: Callable[[Place], Iterator[Read]]
    length: int | None = None


def lazy_source(path: str | os.PathLike[str], read: Callable[[], Sequence[Data]]) -> Source:
    """A file with a reader of its own, which reads it whole when its turn has come.

    Args:
        path: Of the file.
        read: Its structures.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    known = _stat(Path(path))
    name = str(path)

    def stream(place: Place) -> Iterator[Read]:
        return _indexed(name, read(), of_data, place)

    return Source(name, (name, known.st_size, known.st_mtime_ns), stream)


def open_source(given: "Source | str | os.PathLike[str] | Sequence[Data]") -> Source:
    """A file of any format that ASE reads, or structures in any indexed form, as a stream.

    Extended XYZ is read by its own reader, ten times as fast as ASE's, which first looks through
    the whole file; frames that it does not understand are given to ASE's. Of trajectories
    (``.traj``) and databases (``.db``) any structure is found at once. Other formats are read anew
    from their beginning to where a stream goes on.

    Args:
        given: A path, or a data set: a sequence of structures with ``z``, ``pos``, and where
            periodic ``cell`` and ``pbc``. What is a source already stays as it is.

    Raises:
        FileNotFoundError: If there is no such file.

    Example:
        >>> import torch
        >>> source = open_source([Data(z=torch.tensor([1]), pos=torch.zeros(1, 3))])
        >>> [read.structure.z.tolist() for read in source.read(Place())]
        [[1]]
    """
    if isinstance(given, Source):
        return given
    if not isinstance(given, str | os.PathLike):
        name = str(getattr(given, "root", None) or type(given).__name__)
        read = functools.partial(_indexed, name, given, of_data)
        return Source(name, (name, len(given)), read, len(given))
    path = Path(given)
    known = _stat(path)
    identity = str(path), known.st_size, known.st_mtime_ns
    if path.suffix in (".xyz", ".extxyz"):
        return Source(str(path), identity, functools.partial(_extxyz, path), known.st_size)
    if path.suffix == ".traj":
        return Source(str(path), identity, functools.partial(_trajectory, path), _frames(path))
    if path.suffix == ".db":
        return Source(str(path), identity, functools.partial(_database, path), _rows(path))
    return Source(str(path), identity, functools.partial(_any_format, path))


def _stat(path: Path) -> os.stat_result:
    if not path.is_file():
        raise FileNotFoundError(f"There is no structure file at {path}.")
    return path.stat()


def of_atoms(atoms: "Atoms") -> Structure | str:
    """An ASE structure, or what is wrong with it."""
    cell = atoms.cell.array if atoms.pbc.any() else None
    return _checked(atoms.numbers, atoms.positions, cell, tuple(atoms.pbc.tolist()))


def of_data(data: Data) -> Structure | str:
    """A structure of a data set, or what is wrong with it."""
    cell, pbc = data.get("cell"), data.get("pbc")
    repeats = [True] * 3 if pbc is None else pbc.flatten().tolist()
    lattice = None if cell is None else cell.view(3, 3).numpy()
    if lattice is None or not any(repeats):
        lattice, repeats = None, [False] * 3
    return _checked(data.z.numpy(), data.pos.numpy(), lattice, tuple(repeats))


def _checked(
    z: np.ndarray, pos: np.ndarray, cell: np.ndarray | None, pbc: tuple[Any, ...]
) -> Structure | str:
    if not len(z):
        return "it has no atoms"
    if z.min() < 1 or z.max() > MAX_ATOMIC_NUMBER:
        wrong = z[(z < 1) | (z > MAX_ATOMIC_NUMBER)][0]
        return f"an atom has the atomic number {wrong}, not one of 1 to {MAX_ATOMIC_NUMBER}"
    if not np.isfinite(pos).all():
        bad = int(np.flatnonzero(~np.isfinite(pos).all(1))[0])
        return f"atom {bad} has the position {pos[bad].tolist()}, which is not finite"
    if cell is not None:
        if not np.isfinite(cell).all():
            return f"the cell is {cell.tolist()}, which is not finite"
        if not cell[np.array(pbc)].any(axis=1).all():
            return f"it is periodic in {list(pbc)} but its cell is {cell.tolist()}"
    return Structure(z.astype(np.int64, copy=False), pos, cell, pbc)


def _extxyz(path: Path, place: Place) -> Iterator[Read]:
    number, offset = place
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(offset)
        while head := file.readline(_LONGEST_LINE):
            offset += len(head)
            if head.isspace():
                continue
            count, found = _atoms_of_frame(head), None
            if count is not None and count * _FEWEST_BYTES <= size - offset:
                comment = file.readline()
                lines = list(islice(file, count))
                try:
                    found = _parsed(comment, lines)
                except (ValueError, KeyError, IndexError, OverflowError) as error:
                    end = offset + len(comment) + sum(map(len, lines))
                    found = _by_ase(head + comment + b"".join(lines), error)
                    if isinstance(found, str) and not _frame_begins(file, end):
                        found = f"its lines cannot be told from those after it: {found}"
                        end = _next_frame(file, offset)
                else:
                    end = offset + len(comment) + sum(map(len, lines))
            else:
                found = f"it begins with {head[:40]!r} instead of its number of atoms"
                if count is not None:
                    found = f"it is to have {count} atoms, and the file ends before"
                end = _next_frame(file, offset)
            offset = end
            yield Read(number, found, Place(number + 1, offset))
            number += 1


def _atoms_of_frame(line: bytes) -> int | None:
    """The number of atoms, where a line holds it and nothing else."""
    word = line.strip()
    return int(word) if word.isdigit() and len(word) < 12 and int(word) <= MOST_ATOMS else None


def _frame_begins(file: IO[bytes], offset: int) -> bool:
    """Whether a frame may begin here, or the file ends; leaves the file at this place."""
    file.seek(offset)
    line = file.readline(_LONGEST_LINE)
    file.seek(offset)
    return not line or line.isspace() or _atoms_of_frame(line) is not None


def _next_frame(file: IO[bytes], offset: int) -> int:
    """Where the next frame begins: a number, any line, and that of an atom. Goes there."""
    file.seek(offset)
    begin = [offset, offset, offset]
    held = [b"", b"", file.readline(_LONGEST_LINE)]
    while held[2]:
        held = [held[1], held[2], file.readline(_LONGEST_LINE)]
        begin = [begin[1], begin[2], begin[2] + len(held[1])]
        if _atoms_of_frame(held[0]) is not None and _is_atom(held[2]):
            file.seek(begin[0])
            return begin[0]
    return file.tell()


def _is_atom(line: bytes) -> bool:
    words = line.split()
    try:
        return len(words) >= 4 and bool([float(word) for word in words[1:4]])
    except ValueError:
        return False


def _parsed(comment: bytes, lines: list[bytes]) -> Structure | str:
    """A frame of extended XYZ.

    Raises:
        ValueError: If it is other than most are, or damaged; likewise KeyError, IndexError.
    """
    words = b"".join(lines).split()
    known = _PROPERTIES.search(comment)
    width, symbol, first = 0, 0, 1
    if known:
        width, symbol, first = _columns(known[1] or known[2])
    elif lines:
        width = len(lines[0].split())
    if len(words) != width * len(lines) or (lines and width < 4):
        raise ValueError(f"its lines do not hold {width} words each")
    table = _numbers()
    z = np.array([table[word] for word in words[symbol::width]] if words else [], np.int64)
    pos = np.empty((len(z), 3))
    for axis in range(3):
        pos[:, axis] = list(map(float, words[first + axis :: width]))
    cell, pbc = None, (False, False, False)
    if b"attice=" in comment:
        found = _LATTICE.search(comment)
        if found is None:
            raise ValueError("its Lattice is not nine numbers in quotes")
        cell = np.array(found[1].split(), np.float64).reshape(3, 3)
        pbc = (True, True, True)
    if b"pbc=" in comment:
        found = _PBC.search(comment)
        told = found[1].split() if found else []
        if len(told) != 3 or not {b"T", b"F"}.issuperset(told):
            raise ValueError("its pbc is not three of T and F in quotes")
        pbc = told[0] == b"T", told[1] == b"T", told[2] == b"T"
        if cell is None and any(pbc):
            cell = np.zeros((3, 3))
    return _checked(z, pos, cell if any(pbc) else None, pbc)


@functools.lru_cache(64)
def _columns(properties: bytes) -> tuple[int, int, int]:
    """Columns in all, that of the symbol, and the first of the positions."""
    place, found = 0, {}
    words = properties.split(b":")
    for name, kind, count in zip(words[::3], words[1::3], words[2::3], strict=True):
        found[name, kind, int(count)] = place
        place += int(count)
    return place, found[b"species", b"S", 1], found[b"pos", b"R", 3]


@functools.cache
def _numbers() -> dict[bytes, int]:
    from ase.data import atomic_numbers

    return {symbol.encode(): number for symbol, number in atomic_numbers.items() if number}


def _by_ase(frame: bytes, error: Exception) -> Structure | str:
    """What ASE makes of a frame of extended XYZ; else what is wrong with it."""
    from ase.io import read

    try:
        return of_atoms(read(io.StringIO(frame.decode()), format="extxyz"))
    except Exception as second:  # ASE's readers raise what their formats happen to raise
        told = error if isinstance(error, ValueError) else second
        return f"it cannot be read ({type(told).__name__}: {told})"


def _indexed(
    name: str, held: Any, convert: Callable[[Any], Structure | str], place: Place
) -> Iterator[Read]:
    failures = 0
    for number in range(place.number, len(held)):
        structure: Structure | str
        try:
            structure, failures = convert(held[number]), 0
        except Exception as error:  # ASE's readers raise what their formats happen to raise
            structure, failures = _unreadable(error), failures + 1
        yield Read(number, structure, Place(number + 1, number + 1))
        if failures > _MOST_FAILURES:
            raise ValueError(f"{_all_of(name, number, failures)}: {structure}")


def _frames(path: Path) -> int:
    from ase.io.trajectory import Trajectory

    try:
        with Trajectory(path) as frames:
            return len(frames)
    except Exception as error:  # ASE's readers raise what their formats happen to raise
        raise ValueError(f"{path}: {_unreadable(error)}.") from error


def _trajectory(path: Path, place: Place) -> Iterator[Read]:
    from ase.io.trajectory import Trajectory

    with Trajectory(path) as frames:
        yield from _indexed(str(path), frames, of_atoms, place)


def _rows(path: Path) -> int | None:
    import ase.db

    try:
        return ase.db.connect(path).count()
    except Exception:  # told of when it is read
        return None


def _database(path: Path, place: Place) -> Iterator[Read]:
    import ase.db

    number, failures = place.number, 0
    while failures <= _MOST_FAILURES:
        rows = ase.db.connect(path).select(sort="id", offset=number, limit=2**31)
        while True:
            structure: Structure | str
            try:
                structure, failures = of_atoms(next(rows).toatoms()), 0
            except StopIteration:
                return
            except Exception as error:  # SQLite's, zlib's and ASE's own
                structure, failures = _unreadable(error), failures + 1
            yield Read(number, structure, Place(number + 1, number + 1))
            number += 1
            if failures:  # a generator that has raised is at its end
                break
    raise ValueError(f"{_all_of(path, number - 1, failures)}: {structure}")


def _any_format(path: Path, place: Place) -> Iterator[Read]:
    from ase.io import iread

    frames, number = iread(path, ":"), 0
    while True:
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:  # ASE's readers raise what their formats happen to raise
            words = f"{_unreadable(error)}, and with it all that follows in this file"
            if number >= place.number:
                yield Read(number, words, Place(number + 1, number + 1))
            return
        if number >= place.number:
            yield Read(number, of_atoms(atoms), Place(number + 1, number + 1))
        number += 1


def _unreadable(error: Exception) -> str:
    return f"it cannot be read ({type(error).__name__}: {error})"


def _all_of(name: object, last: int, failures: int) -> str:
    return f"structures {last - failures + 1} to {last} of {name} are all bad, the last because"
