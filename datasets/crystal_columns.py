"""Rows of crystals to the tensors of a data set; what is refused is named and counted."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from pyg_schnet.datasets.crystal_cif import CifReaders, read_plain
from pyg_schnet.datasets.crystal_neighbors import check_neighbors
from pyg_schnet.datasets.crystal_properties import canonical, is_free, number
from pyg_schnet.datasets.crystal_sources import Row
from pyg_schnet.datasets.crystal_structure import Crystal, Refused, check, from_dict
from pyg_schnet.datasets.frames import Frames, join

_CHUNK = 500


class Skipped(NamedTuple):
    """A crystal that is left out."""

    material_id: str
    reason: str
    detail: str = ""


class Collected(NamedTuple):
    """All crystals of a source, end to end."""

    data: Data
    slices: dict[str, Tensor]
    splits: dict[str, Tensor]
    skipped: list[Skipped]


def collect(
    rows: Iterable[Row],
    readers: CifReaders,
    cutoff: float | None,
    targets: Sequence[str],
    source: str = "the source",
) -> Collected:
    """Reads, checks and joins the crystals of all rows.

    Never more than 500 of them are objects of their own, so the memory is that of the tensors.

    Args:
        rows: From any source.
        readers: For CIFs that are not plain.
        cutoff: Å; crystals with an atom that has no neighbour as near are left out. None: kept.
        targets: Columns to keep even where most values are no numbers.
        source: What to call where they are from, in errors.

    Raises:
        ValueError: if nothing is left.
    """
    ids: list[str] = []
    parts: list[str | None] = []
    skipped: list[Skipped] = []
    columns = _Columns()

    def chunks() -> Iterator[Frames]:
        # Read at once: the dictionaries of 500 structures keep Python's garbage collector busy for
        # five times as long as reading them takes.
        stream = map(_quickly_read, rows)
        while chunk := list(islice(stream, _CHUNK)):
            kept: list[tuple[Row, Crystal]] = []
            for row, found in zip(chunk, _read(chunk, readers, cutoff), strict=True):
                if isinstance(found, Refused):
                    skipped.append(Skipped(row.material_id, found.reason, found.detail))
                else:
                    kept.append((row, found))
            if not kept:
                continue
            ids.extend(row.material_id for row, _ in kept)
            parts.extend(row.split for row, _ in kept)
            columns.add([row for row, _ in kept])
            yield _pack([crystal for _, crystal in kept])

    packed = chunks()
    first = next(packed, None)
    if first is None:
        told = summary(skipped) if skipped else "there are none"
        raise ValueError(f"{source}: no crystal can be read: {told}")
    data, slices = join(_chain(first, packed))
    for name, values in columns.finish(targets).items():
        data[name], slices[name] = torch.from_numpy(values), slices["cell"]
    data["material_id"], slices["material_id"] = ids, slices["cell"]
    names = dict.fromkeys(part for part in parts if part is not None)
    splits = {
        name: torch.tensor([k for k, part in enumerate(parts) if part == name]) for name in names
    }
    return Collected(data, slices, splits, skipped)


def _chain(first: Frames, rest: Iterator[Frames]) -> Iterator[Frames]:
    yield first
    yield from rest


def _pack(crystals: list[Crystal]) -> Frames:
    return Frames(
        np.array([len(crystal.z) for crystal in crystals]),
        {
            "z": np.concatenate([crystal.z for crystal in crystals]),
            "pos": np.concatenate([crystal.pos for crystal in crystals]),
            "cell": np.stack([crystal.cell for crystal in crystals]),
            "pbc": np.stack([crystal.pbc for crystal in crystals]),
        },
    )


def _read(
    rows: Sequence[Row], readers: CifReaders, cutoff: float | None
) -> list[Crystal | Refused]:
    found = [row.structure for row in rows]
    slow = [k for k, structure in enumerate(found) if isinstance(structure, str)]
    texts = [str(found[k]) for k in slow]
    for k, crystal in zip(slow, readers.read(texts), strict=True):
        found[k] = crystal if isinstance(crystal, Refused) else _checked(crystal)
    whole = [k for k, structure in enumerate(found) if isinstance(structure, Crystal)]
    told = check_neighbors([c for c in found if isinstance(c, Crystal)], cutoff)
    for k, refused in zip(whole, told, strict=True):
        if refused is not None:
            found[k] = refused
    return [entry for entry in found if isinstance(entry, Crystal | Refused)]


def _quickly_read(row: Row) -> Row:
    """With its crystal, or why there is none; a CIF that is left to pymatgen stays a text."""
    structure = row.structure
    try:
        if isinstance(structure, Refused):
            return row
        if isinstance(structure, Crystal):
            return row._replace(structure=_checked(structure))
        if not isinstance(structure, str):
            return row._replace(structure=_checked(from_dict(structure)))
        crystal = read_plain(structure)
        return row if crystal is None else row._replace(structure=_checked(crystal))
    except Refused as error:
        return row._replace(structure=Refused(error.reason, error.detail))


def _checked(crystal: Crystal) -> Crystal | Refused:
    try:
        check(crystal)
    except Refused as error:
        return error
    return crystal


class _Columns:
    """Values by column, NaN where a row has none."""

    def __init__(self) -> None:
        self._count = 0
        self._parts: dict[str, list[tuple[int, np.ndarray]]] = {}
        self._filled: dict[str, int] = {}
        self._numeric: dict[str, int] = {}

    def add(self, rows: Sequence[Row]) -> None:
        names = dict.fromkeys(name for row in rows for name in row.values)
        for written in names:
            name = canonical(written)
            if not is_free(name):
                continue
            given = [row.values.get(written) for row in rows]
            numbers = [number(value) for value in given]
            filled = sum(value is not None and value != "" for value in given)
            self._filled[name] = self._filled.get(name, 0) + filled
            numeric = filled - sum(value is None for value in numbers)
            self._numeric[name] = self._numeric.get(name, 0) + numeric
            values = np.array([np.nan if value is None else value for value in numbers])
            self._parts.setdefault(name, []).append((self._count, values))
        self._count += len(rows)

    def finish(self, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """The columns of numbers: "InF" in a column of formulas reads as infinity, most do not."""
        columns = {}
        for name, parts in self._parts.items():
            filled, numeric = self._filled[name], self._numeric[name]
            if not numeric or (2 * numeric <= filled and name not in targets):
                continue
            values = np.full(self._count, np.nan)
            for start, part in parts:
                values[start : start + len(part)] = part
            columns[name] = values
        return columns


def summary(skipped: Sequence[Skipped]) -> str:
    """Counts by reason, with the first few of each.

    >>> summary([Skipped("mp-1", "no cell"), Skipped("mp-2", "no cell")])
    '2 no cell (mp-1, mp-2)'
    """
    by_reason: dict[str, list[str]] = {}
    for entry in skipped:
        by_reason.setdefault(entry.reason, []).append(entry.material_id)
    told = []
    for reason, ids in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        more = ", ..." if len(ids) > 5 else ""
        told.append(f"{len(ids)} {reason} ({', '.join(ids[:5])}{more})")
    return "; ".join(told)


def write_skipped(skipped: Sequence[Skipped], path: Path) -> None:
    """Writes all that is left out as a CSV: material_id, reason, detail."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Skipped._fields)
    writer.writerows(skipped)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text(text.getvalue(), encoding="utf-8")
    os.replace(aside, path)
