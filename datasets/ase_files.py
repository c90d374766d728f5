"""Frames of the files that ASE reads, as streams, with the places where their numbers stand."""

import bz2
import glob
import gzip
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

Paths = str | Path | Sequence[str | Path]
# A structure, and where its numbers may stand: by name, in the order to look in.
Frame = tuple["Atoms", Sequence[Mapping[str, Any]]]

_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


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
            with _OPEN[path.suffix](path, "rb") as packed, open(plain, "wb") as file:
                shutil.copyfileobj(packed, file)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{path} is cut off or damaged ({error}): get it anew") from error
        yield from _stream(plain, path)


def _stream(file: Path, path: Path) -> Iterator[Frame]:
    import ase.io

    frames = iter(ase.io.iread(file, index=":"))
    k = 0
    while True:
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:  # ASE's readers raise whatever their parsing meets
            raise ValueError(
                f"{path}, frame {k} could not be read ({type(error).__name__}: {error}): cut the "
                f"file before it, or get it anew"
            ) from error
        # The results as they stand: get_forces() would set those of fixed atoms to zero.
        results = {} if atoms.calc is None else atoms.calc.results
        yield atoms, [atoms.info, atoms.arrays, results]
        k += 1


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
        raise ValueError(
            f"{path}, frame {k} could not be read ({type(error).__name__}: {error}): get the file "
            f"anew"
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
