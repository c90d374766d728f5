"""ISO17 as it is published: an archive of ASE's databases, read without ASE."""

import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.datasets.frames import Frames, check_finite
from pyg_schnet.datasets.sources import download, in_brief, is_of_disk, open_unpacked
from pyg_schnet.units import HARTREE, KCAL_PER_MOL

ARCHIVE = "iso17.tar.gz"
ARCHIVE_URL = "http://quantum-machine.org/datasets/iso17.tar.gz"
DATABASES = ("reference", "reference_eq", "test_within", "test_other", "test_eq")
# Of the frames of reference.db; each file lists ids, counted from 1.
IDS = {"train": "train_ids.txt", "validation": "validation_ids.txt"}
COMPOSITION = np.array([1] * 10 + [6] * 7 + [8] * 2)
_ENERGIES = (-11_600.0, -11_400.0)  # eV; those of the published equilibria lie around -11,506
_CHUNK = 2000
_VERSIONS = range(5, 10)  # of ASE's format: data is JSON text up to 8 and binary in 9


def fetch(archive: Path, folder: Path) -> Path:
    """Downloads the archive and unpacks it, going on where an earlier call was cut off.

    Its server publishes no checksum; what came is whole if its own CRC-32 says so.

    Raises:
        FileNotFoundError: if it could not be downloaded.
        ValueError: if what came is not whole; it is deleted.
    """
    try:
        download(ARCHIVE_URL, archive, lambda path: unpack(path, folder))
    except ConnectionError as error:
        raise FileNotFoundError(
            f"ISO17 is not on this computer ({error}): get {ARCHIVE_URL}, and pass raw= with the "
            f"archive or the folder that it unpacks to"
        ) from error
    return unpack(archive, folder)


def unpack(archive: str | Path, folder: str | Path) -> Path:
    """Unpacks the databases and lists of ISO17's archive, all of them or none.

    A folder that was unpacked from the same file (by size and time) is left alone.

    Args:
        archive: iso17.tar.gz, or another tar archive with such members.
        folder: Where to; it is replaced.

    Returns:
        ``folder``.

    Raises:
        ValueError: if the archive is damaged, cut off, or has none of the members.
    """
    archive, folder = Path(archive), Path(folder)
    stat = archive.stat()
    stamp = f"{stat.st_size} {stat.st_mtime_ns}\n"
    if (folder / "unpacked_from.txt").exists() and (
        (folder / "unpacked_from.txt").read_text() == stamp
    ):
        return folder
    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    wanted = {*(f"{name}.db" for name in DATABASES), *IDS.values()}
    member = None
    try:
        # As a stream: the databases are too large to be held in memory.
        # Members are told by their last name alone: where others would be put does not matter.
        with open_unpacked(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                name = Path(member.name).name
                if not member.isfile() or name not in wanted:
                    continue
                content = tar.extractfile(member)
                assert content is not None
                with open(aside / name, "wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
            while stream.read(1 << 20):  # to the end, where gzip has the checksum
                pass
        if not any(aside.iterdir()):
            raise ValueError(f"{archive} has none of {', '.join(sorted(wanted))}: pass {ARCHIVE}")
        (aside / "unpacked_from.txt").write_text(stamp)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except Exception as error:  # tarfile and the decoders raise whatever the bytes lead to
        if is_of_disk(error) or str(archive) in str(error):
            raise
        where = f"in or after member {member.name[:100]!r}" if member else "at its start"
        raise ValueError(
            f"{archive} is cut off or damaged {where} ({in_brief(error)}): get the archive anew"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _open(path: Path) -> "closing[sqlite3.Connection]":
    # Read-only and immutable: nothing is written beside it, so the folder may be read-only too.
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    return closing(sqlite3.connect(uri, uri=True))


def count_frames(path: str | Path) -> int:
    """Number of frames in a database of ASE.

    Raises:
        ValueError: if it is no such database, or of a format that is not read here.
    """
    path = Path(path)
    try:
        with _open(path) as connection:
            row = connection.execute("SELECT value FROM information WHERE name='version'")
            version = int(row.fetchone()[0])
            count: int = connection.execute("SELECT COUNT(*) FROM systems").fetchone()[0]
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no database of ASE, or damaged ({in_brief(error)})") from error
    if version not in _VERSIONS:
        raise ValueError(
            f"{path} has format version {version} of ASE's databases and {_VERSIONS[0]} to "
            f"{_VERSIONS[-1]} are read here: convert it with 'python -m ase.db.convert'"
        )
    return count


def read_database(
    path: str | Path, energy_key: str = "total_energy", forces_key: str = "atomic_forces"
) -> Iterator[Frames]:
    """Reads frames from a database of ASE, straight from sqlite and in chunks.

    Some twenty times as fast as through ASE's row objects, and without ASE. Columns: ``z``,
    ``pos``, ``forces``, ``energy``, ``idx`` (id less one), in the units of the file. Cells are not
    read: those in ISO17 are unit cubes, placeholders.

    Args:
        path: The database, format versions 5 to 9.
        energy_key: Among the key-value pairs of a row, or in its data.
        forces_key: In the data of a row.

    Raises:
        ValueError: naming file and frame, if a key is missing, a shape is wrong, a number not
            finite, the composition not C7O2H10, or the energy in another unit.
    """
    path = Path(path)
    query = "SELECT id, numbers, positions, key_value_pairs, data FROM systems ORDER BY id"
    try:
        with _open(path) as connection:
            cursor = connection.execute(query)
            while rows := cursor.fetchmany(_CHUNK):
                yield _chunk(path, rows, energy_key, forces_key)
    except Exception as error:  # of sqlite3, or of columns of other types than ASE's
        if is_of_disk(error) or str(path) in str(error):
            raise
        raise ValueError(
            f"{path} is no database of ASE, or damaged or cut off ({in_brief(error)}): get it anew"
        ) from error


def _chunk(path: Path, rows: list[tuple[Any, ...]], energy_key: str, forces_key: str) -> Frames:
    ids = np.array([row[0] for row in rows])

    def place(row: int) -> str:
        return f"{path}, frame {ids[row]}"

    sizes = np.empty(len(rows), np.int64)
    energy = np.empty(len(rows))
    forces = []
    for k, (_, numbers, positions, pairs, data) in enumerate(rows):
        sizes[k] = size = len(numbers or b"") // 4
        if size == 0 or len(numbers) != 4 * size or len(positions or b"") != 24 * size:
            raise ValueError(f"{place(k)}: numbers and positions do not fit each other")
        try:
            found = _decode(data)
            given = json.loads(pairs)
            value = given[energy_key] if energy_key in given else found[energy_key]
            energy[k] = _array(value, data).reshape(())
            values = _array(found[forces_key], data)
        except Exception as error:  # whatever JSON may hold in their stead
            raise ValueError(
                f"{place(k)}: it lacks {energy_key!r} among its key-value pairs or "
                f"{forces_key!r} in its data, or one of them is malformed ({in_brief(error)})"
            ) from error
        if values.shape != (size, 3):
            raise ValueError(
                f"{place(k)}: {forces_key} has shape {values.shape} and there are {size} atoms"
            )
        forces.append(values)
    # ASE writes little-endian bytes on every machine.
    columns = {
        "z": np.frombuffer(b"".join(row[1] for row in rows), "<i4"),
        "pos": np.frombuffer(b"".join(row[2] for row in rows), "<f8").reshape(-1, 3),
        "forces": np.concatenate(forces),
        "energy": energy,
        "idx": ids - 1,
    }
    _check(columns, sizes, place, energy_key)
    return Frames(sizes, columns)


def _check(
    columns: Mapping[str, np.ndarray],
    sizes: np.ndarray,
    place: Callable[[int], str],
    energy_key: str,
) -> None:
    n = len(COMPOSITION)
    for k in np.flatnonzero(sizes != n).tolist():
        raise ValueError(f"{place(k)}: it has {sizes[k]} atoms, and C7O2H10 has {n}")
    others = (np.sort(columns["z"].reshape(-1, n)) != COMPOSITION).any(axis=1)
    for k in np.flatnonzero(others).tolist():
        raise ValueError(f"{place(k)}: its atoms are not those of C7O2H10")
    check_finite(columns["pos"].reshape(-1, n, 3), "a position", place)
    check_finite(columns["forces"].reshape(-1, n, 3), "a force", place)
    check_finite(columns["energy"], "the energy", place)
    for unit, factor in {"Hartree": HARTREE, "kcal/mol": KCAL_PER_MOL}.items():
        energy = columns["energy"] * factor
        for k in np.flatnonzero((energy > _ENERGIES[0]) & (energy < _ENERGIES[1])).tolist():
            raise ValueError(
                f"{place(k)}: {energy_key}={columns['energy'][k]} is in {unit}, and ISO17 in eV: "
                f"convert energies and forces"
            )


def _decode(data: str | bytes | None) -> dict[str, Any]:
    """The data of a row: JSON text, or bytes that end in JSON and start with its offset."""
    if isinstance(data, bytes):
        data = data[int.from_bytes(data[:8], "little") :].decode()
    found = json.loads(data or "{}")
    if not isinstance(found, dict):
        raise ValueError("the data of the row is no dictionary")
    return found


def _array(value: Any, data: str | bytes | None) -> np.ndarray:
    """A number, nested lists or ASE's ``{"__ndarray__": [shape, dtype, ...]}`` as an array."""
    if not isinstance(value, dict):
        return np.asarray(value, dtype=np.float64)
    shape, dtype, content = value["__ndarray__"]
    if not isinstance(content, int):
        return np.asarray(content, dtype=np.float64).reshape(shape)
    assert isinstance(data, bytes)
    kind = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(data, kind, int(np.prod(shape)), content).reshape(shape)


def read_ids(path: str | Path, rows: Tensor) -> Tensor:
    """Positions in ``rows`` of the frames that a list of ids names.

    Args:
        path: Text file of ids, counted from 1.
        rows: (M,) int64, ascending: id less one of each frame that is there.

    Raises:
        ValueError: if an entry is no number, or no frame has it.
    """
    try:
        ids = np.array(Path(path).read_text().split(), dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"{path} must hold ids, whole numbers ({error})") from error
    have = rows.numpy()
    places = np.searchsorted(have, ids - 1)
    known = have[np.minimum(places, len(have) - 1)] == ids - 1
    if not known.all():
        raise ValueError(
            f"{path} names frame {ids[~known][0]}, which reference.db does not have: "
            f"get both from one archive"
        )
    return torch.from_numpy(places)
