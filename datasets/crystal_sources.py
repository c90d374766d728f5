"""Files that hold crystals and their properties, as rows one after the other."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeAlias

import numpy as np

from pyg_schnet.datasets.crystal_json import read_records
from pyg_schnet.datasets.crystal_properties import number
from pyg_schnet.datasets.crystal_structure import Crystal, Refused, from_fractional
from pyg_schnet.datasets.sources import check_zip, in_brief, is_of_disk, limited

Structure: TypeAlias = Crystal | Mapping[str, Any] | str | Refused
"""Read, a pymatgen dictionary, a CIF, or why there is none."""

SPLITS = ("train", "val", "valid", "test")
_IDS = ("material_id", "id", "mp_id", "mpid", "task_id", "cif_id", "filename", "name", "index", "")
_STRUCTURES = ("cif", "structure", "cif_text", "cif_string", "final_structure")
_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_LONGEST = 1 << 28  # characters of one field


class Row(NamedTuple):
    """One crystal as its source has it."""

    material_id: str
    structure: Structure
    values: Mapping[str, Any]
    """The other columns, as they are written."""
    split: str | None = None


def read_rows(path: Path, targets: Sequence[str]) -> Iterator[Row]:
    """Rows of a file or folder, by its name and content.

    Args:
        path: ``.json``, ``.csv``, ``.npz``, the first two also compressed or (JSON) in a zip; or a
            folder with train.csv, val.csv, test.csv, or with CIFs and a table of their targets.
        targets: What the columns of a table without header are called.

    Raises:
        FileNotFoundError: if there is nothing there.
        ValueError: if it is of no such kind, or damaged as a whole.
    """
    if path.is_dir():
        return _read_folder(path, targets)
    if not path.is_file():
        raise FileNotFoundError(f"raw={path} does not exist: give a file or folder of crystals")
    name = path.name.lower()
    for suffix in (*_OPEN, ".zip"):
        name = name.removesuffix(suffix)
    if name.endswith(".json") or path.suffix.lower() == ".zip":
        return map(record_row, read_records(lambda: open_text(path), path.name))
    if name.endswith(".csv"):
        return read_csv(path)
    if name.endswith(".npz"):
        return _read_npz(path)
    raise ValueError(
        f"raw={path} is no table of crystals: .json, .csv (also compressed), .npz, or a folder of "
        f"CIFs with id_prop.csv can be read; a single structure is for read_crystals()"
    )


def open_text(path: Path) -> TextIO:
    """Opens a text, compressed or not, or the one .json member of a zip.

    Raises:
        ValueError: if a zip is damaged or holds other members; while reading, if a compressed file
            unpacks to far more than its size.
    """
    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                check_zip(archive, path)
                names = [entry for entry in archive.namelist() if entry.endswith(".json")]
                if len(names) != 1:
                    raise ValueError(f"{path} must hold one .json file, and holds {len(names)}")
                return io.TextIOWrapper(archive.open(names[0]), encoding="utf-8")
        except Exception as error:  # zipfile raises whatever the bytes lead to
            if is_of_disk(error) or str(path) in str(error):
                raise
            raise ValueError(
                f"{path} is cut off or damaged ({in_brief(error)}): get it anew"
            ) from error
    if path.suffix.lower() not in _OPEN:
        return open(path, encoding="utf-8", newline="")
    packed = _OPEN[path.suffix.lower()](path, "rb")
    return io.TextIOWrapper(limited(packed, path), encoding="utf-8", newline="")


def record_row(record: Mapping[str, Any]) -> Row:
    """A row from an object of a JSON file or of the Materials Project.

    >>> record_row({"material_id": "mp-1", "structure": "data_Cs", "band_gap": 0.0}).values
    {'band_gap': 0.0}
    """
    values = dict(record)
    material_id = _take(values, _IDS)
    structure = _take(values, _STRUCTURES)
    return Row(str(material_id), _structure(structure), values)


def _take(values: dict[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in values:
            return values.pop(name)
    return None


def _structure(given: Any) -> Structure:
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            return Refused("unreadable", f"the structure is no JSON ({error})")
    if given is None or given == "":
        return Refused("no structure")
    if isinstance(given, str | Mapping):
        return given
    return Refused("unreadable", f"the structure is a {type(given).__name__}")


def _csv_rows(path: Path) -> Iterator[list[str]]:
    # A CIF of a thousand atoms is longer than the 131,072 characters of Python's default.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    line = 0
    try:
        with open_text(path) as file:
            for line, row in enumerate(csv.reader(file), 1):  # noqa: B007
                if row:
                    yield row
    except Exception as error:  # csv and the decoders raise whatever the bytes lead to
        if is_of_disk(error) or str(path) in str(error):
            raise
        raise ValueError(
            f"{path} is cut off or damaged after row {line} ({in_brief(error)}): get it anew"
        ) from error


def read_csv(path: Path, split: str | None = None) -> Iterator[Row]:
    """Rows of a CSV with a column of CIFs; a column ``split`` or ``..._split`` names the splits.

    Raises:
        ValueError: if it has no such column, or is damaged.
    """
    rows = _csv_rows(path)
    header = [name.strip() for name in next(rows, [])]
    lower = [name.lower() for name in header]
    place = next((lower.index(name) for name in _STRUCTURES if name in lower), None)
    if place is None:
        raise ValueError(
            f"{path} has no column 'cif' but {', '.join(header[:20])!r}: for a table of CIF files "
            f"give the folder that they lie in"
        )
    own = next((lower.index(name) for name in _IDS if name in lower), None)
    by_split = next((k for k, name in enumerate(lower) if name.endswith("split")), None)
    for k, row in enumerate(rows):
        if len(row) != len(header):
            name = row[own] if own is not None and own < len(row) else f"row {k}"
            what = f"{len(row)} fields for {len(header)} columns"
            yield Row(name, Refused("unreadable", what), {}, split)
            continue
        values = {
            name: value
            for i, (name, value) in enumerate(zip(header, row, strict=True))
            if i not in (place, own, by_split)
        }
        part = (row[by_split] or None) if by_split is not None and split is None else split
        yield Row(row[own] if own is not None else str(k), _structure(row[place]), values, part)


def _read_folder(path: Path, targets: Sequence[str]) -> Iterator[Row]:
    parts = [
        (name, file)
        for name in SPLITS
        for suffix in (".csv", ".csv.gz")
        if (file := path / f"{name}{suffix}").is_file()
    ]
    if parts:
        return (row for name, file in parts for row in read_csv(file, name))
    cifs = _find_cifs(path)
    if not cifs:
        raise FileNotFoundError(
            f"raw={path} holds neither train.csv, val.csv, test.csv nor .cif files: give the "
            f"folder that they lie in, or the file itself"
        )
    return _read_cifs(cifs, _find_table(path, cifs[0].parent), targets)


def _find_cifs(path: Path) -> list[Path]:
    cifs = sorted(path.glob("*.cif"))
    if cifs:
        return cifs
    below = [found for sub in sorted(path.iterdir()) if (found := sorted(sub.glob("*.cif")))]
    return below[0] if len(below) == 1 else []


def _find_table(path: Path, folder: Path) -> Path | None:
    named = [place / "id_prop.csv" for place in (folder, path)]
    tables = [*named, *sorted(folder.glob("*.csv")), *sorted(path.glob("*.csv"))]
    # Beside a folder of CIFs, in some published sets: but there, not just any table.
    tables += sorted(path.parent.glob("*prop*.csv"))
    return next((table for table in tables if table.is_file()), None)


def _read_cifs(cifs: list[Path], table: Path | None, targets: Sequence[str]) -> Iterator[Row]:
    files = {path.stem: path for path in cifs}
    if table is None:
        if targets:
            raise ValueError(
                f"{cifs[0].parent} holds CIFs and no table of their targets: add id_prop.csv with "
                f"rows 'id,target', or pass target=None"
            )
        for name, path in files.items():
            yield Row(name, _read_text(path), {})
        return
    rows = _csv_rows(table)
    first = next(rows, [])
    has_header = len(first) > 1 and number(first[1]) is None
    header = first[1:] if has_header else list(targets or ["target"])
    if not has_header and len(first) != len(header) + 1:
        raise ValueError(
            f"{table} has no header and {len(first) - 1} columns after the ids, and target= names "
            f"{len(header)}: name each"
        )
    own = 0
    if has_header:
        lower = [name.strip().lower() for name in first]
        own = next((lower.index(name) for name in _IDS if name and name in lower), 0)
        header = [name.strip() for name in first]
    else:
        header = ["", *header]
    for row in rows if has_header else _chain(first, rows):
        name = row[own].strip().removesuffix(".cif") if own < len(row) else ""
        structure: Structure = Refused("no structure", f"there is no {name}.cif")
        if name in files:
            structure = _read_text(files.pop(name))
        if len(row) != len(header):
            structure = Refused("unreadable", f"{len(row)} fields for {len(header)} columns")
        pairs = zip(header, row, strict=False)
        yield Row(name, structure, {key: value for i, (key, value) in enumerate(pairs) if i != own})
    for name in files:
        yield Row(name, Refused("not in the table", table.name), {})


def _chain(first: list[str], rows: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rows


def _read_text(path: Path) -> Structure:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return Refused("unreadable", str(error))


def _read_npz(path: Path) -> Iterator[Row]:
    arrays = _load_arrays(path)
    needed = ("n_atoms", "numbers", "frac_coords", "cell")
    if missing := [key for key in needed if key not in arrays]:
        raise ValueError(
            f"{path} has no array {', '.join(missing)} but {', '.join(arrays)}: {', '.join(needed)}"
            f" and material_id are needed"
        )
    counts, numbers, frac, cells = (arrays.pop(key) for key in needed)
    for key, values, kinds in zip(
        needed, (counts, numbers, frac, cells), ("iu", "iu", "fiu", "fiu"), strict=True
    ):
        if values.dtype.kind not in kinds or not values.ndim:
            raise ValueError(
                f"{path}: {key} is of type {values.dtype} and shape {values.shape}, and an array "
                f"of {'whole ' if kinds == 'iu' else ''}numbers is expected"
            )
    size, total = len(counts), int(counts.sum())
    if counts.ndim != 1 or (counts.astype(np.int64) < 0).any():
        raise ValueError(f"{path}: n_atoms must be a list of numbers of 0 or more")
    if numbers.shape != (total,) or frac.shape != (total, 3) or cells.shape != (size, 3, 3):
        raise ValueError(
            f"{path}: {size} crystals of {total} atoms do not fit numbers {numbers.shape}, "
            f"frac_coords {frac.shape}, cell {cells.shape}"
        )
    ids = arrays.pop("material_id", np.arange(size))
    if ids.shape != (size,):
        raise ValueError(f"{path}: material_id has shape {ids.shape} for {size} crystals")
    columns = {key: values.tolist() for key, values in arrays.items() if values.shape == (size,)}
    start = 0
    for k, count in enumerate(counts.tolist()):
        part = slice(start, start + count)
        start += count
        crystal = from_fractional(numbers[part], frac[part], cells[k])
        known = {key: values[k] for key, values in columns.items()}
        yield Row(_name(ids[k].item()), crystal, known)


def _name(entry: object) -> str:
    return entry.decode(errors="replace") if isinstance(entry, bytes) else str(entry)


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, as numpy leaves files open that it cannot read.
        with open(path, "rb") as file:
            with zipfile.ZipFile(file) as members:
                check_zip(members, path)
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {key: np.asarray(archive[key]) for key in archive}
    except Exception as error:  # zipfile, decoders and NumPy raise whatever the bytes lead to
        if is_of_disk(error) or str(path) in str(error):
            raise
        raise ValueError(
            f"{path} is damaged or holds Python objects ({in_brief(error)}): get it anew"
        ) from error
