"""Frames of the files that ASE reads, as streams, with the places where their numbers stand."""

import bz2
import glob
import gzip
import lzma
import mmap
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyg_schnet.datasets.sources import in_brief, is_of_disk, limited

if TYPE_CHECKING:
    from ase import Atoms

Paths = str | Path | Sequence[str | Path]
# A structure, and where its numbers may stand: by name, in the order to look in.
Frame = tuple["Atoms", Sequence[Mapping[str, Any]]]

_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Columns of a property in a header of extended XYZ, and lines that are a number of atoms: ASE would
# make room for as many columns as a header says, and read as many lines, also beyond the end.
_TOO_WIDE = re.compile(rb":[RISL]:[0-9]{4,}")
_NUMBER_OF_ATOMS = re.compile(rb"(?m)^[ \t]*\+?([0-9_]{4,})[ \t\r]*$")


def find_files(paths: Paths) -> list[Path]:
    """The files that paths and patterns such as ``"runs/*.traj"`` name, in their order.

    Raises:
        FileNotFoundError: if one names no file.
        ValueError: if there are no paths.
    """
    found: list[Path] = []
    for entry in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(entry).expanduser()
        if path.is_file():
            found.append(path)
            continue
        matches = sorted(Path(match) for match in glob.glob(str(path)))
        found += [match for match in matches if match.is_file()]
        if not any(match.is_file() for match in matches):
            what = f"a folder: name its files, as {entry}/*.xyz" if path.is_dir() else "no file"
            raise FileNotFoundError(f"{entry} is {what}")
    if not found:
        raise ValueError(f"paths={paths!r} names no file")
    return found


def read_ase(path: Path) -> Iterator[Frame]:
    """Streams the frames of a file of any of ASE's formats.

    Raises:
        ValueError: naming file and frame, if one cannot be read.
    """
    if path.suffix not in _OPEN:
        yield from _stream(path, path)
        return
    # Unpacked, as ASE's reader of extxyz goes back to each frame, which in a compressed file means
    # to start from its beginning: the time would grow with the square of the number of frames.
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, path.stem)
        try:
            with (
                limited(_OPEN[path.suffix](path, "rb"), path) as packed,
                open(plain, "wb") as file,
            ):
                shutil.copyfileobj(packed, file, 1 << 20)
        except Exception as error:  # the decoders raise whatever the bytes lead to
            if is_of_disk(error) or str(path) in str(error):
                raise
            raise ValueError(
                f"{path} is cut off or damaged ({in_brief(error)}): get it anew"
            ) from error
        yield from _stream(plain, path)


def _stream(file: Path, path: Path) -> Iterator[Frame]:
    import ase.io

    if file.suffix in (".xyz", ".extxyz"):
        refuse_oversized(file, path)
    frames = iter(ase.io.iread(file, index=":"))
    k = 0
    while True:
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:  # ASE's readers raise whatever their parsing meets
            what = f"{type(error).__name__}: {in_brief(error)}"
            raise ValueError(
                f"{path}, frame {k} could not be read ({what}): cut the file before it, or get it "
                f"anew"
            ) from error
        # The results as they stand: get_forces() would set those of fixed atoms to zero.
        results = {} if atoms.calc is None else atoms.calc.results
        yield atoms, [atoms.info, atoms.arrays, results]
        k += 1


def refuse_oversized(file: Path, path: Path) -> None:
    """Refuse extended XYZ that declares more than it holds, on which ASE's reader would hang.

    Args:
        file: To look into.
        path: Its name to tell.

    Raises:
        ValueError: If it declares more atoms than it has bytes, or a property of too many columns.
    """
    size = file.stat().st_size
    if not size:
        return
    with (
        open(file, "rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        found = _TOO_WIDE.search(content)
        if found:
            told = found[0][:40].decode()
            raise ValueError(
                f"{path} declares a property of too many columns ({told}): get it anew, or leave "
                f"the property out"
            )
        for count in _NUMBER_OF_ATOMS.finditer(content):
            if len(count[1]) > 18 or int(count[1]) > size:
                raise ValueError(
                    f"{path} declares a frame of {count[1][:40].decode()} atoms and has {size:,} "
                    f"bytes: it is damaged; get it anew"
                )


def read_database(path: Path) -> Iterator[Frame]:
    """Streams the rows of an ASE database, by their number.

    Raises:
        ValueError: naming file and frame, if one cannot be read.
    """
    import ase.db
    from ase import Atoms

    k = 0
    try:
        for row in ase.db.connect(path).select():
            atoms = Atoms(row.numbers, row.positions, cell=row.cell, pbc=row.pbc)
            results = {
                name: row.get(name) for name in ("energy", "free_energy", "forces", "stress")
            }
            yield atoms, [row.key_value_pairs, row.data, results]
            k += 1
    except Exception as error:  # SQLite's, zlib's and ASE's own
        what = f"{type(error).__name__}: {in_brief(error)}"
        raise ValueError(
            f"{path}, frame {k} could not be read ({what}): get the file anew"
        ) from error


def look_up(places: Sequence[Mapping[str, Any]], key: str) -> Any:
    """The value under a key in the first of the places that has one; else None."""
    for place in places:
        if key in place and place[key] is not None:
            return place[key]
    return None


def missing(name: str, key: str | None, place: str, places: Sequence[Mapping[str, Any]]) -> str:
    """Words for what is missing in a frame, and what is there in its stead."""
    there = [entry for where in places for entry in where if look_up([where], entry) is not None]
    names = ", ".join(dict.fromkeys(e for e in there if e not in ("numbers", "positions")))
    wanted = f"no {name}" if key is None else f"no {key!r}"
    return (
        f"{place} has {wanted}; there {'are ' + names if names else 'is nothing beside positions'}"
        f": give one as {name}_key"
    )
