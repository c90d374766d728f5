"""Trajectories of one molecule in npz files: those of sGDML (MD17) and of rMD17."""

import hashlib
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyg_schnet.datasets.frames import Frames, check_finite, frame_of, same_atoms
from pyg_schnet.datasets.sources import check_zip, in_brief, is_of_disk
from pyg_schnet.datasets.unit_names import ENERGY, LENGTH, factor

# The first name is sGDML's (sgdml.org/doc), the second rMD17's; the others are met in copies.
_NAMES = {
    "z": ("z", "nuclear_charges", "Z", "atomic_numbers", "numbers"),
    "pos": ("R", "coords", "positions", "pos"),
    "energy": ("E", "energies", "energy", "U"),
    "forces": ("F", "forces", "force"),
}


def read_npz(
    path: str | Path,
    file: BinaryIO | None = None,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    default_units: tuple[str, str] | None = None,
    keys: dict[str, str] | None = None,
    want: Collection[str] = ("energy", "forces"),
) -> Frames:
    """Reads a trajectory of one molecule, and converts it to eV and Å.

    The keys are ``z, R, E, F`` or ``nuclear_charges, coords, energies, forces``; ``E`` may be
    (M,) or (M, 1); ``z`` (n,), or (M, n) with equal rows. Units stand under ``e_unit`` and
    ``r_unit`` or are given. A ``lattice`` (3, 3), whose columns are the vectors as in sGDML, makes
    the frames periodic. ``md5``, where there is one, is compared with the arrays as sGDML computes
    it (``sgdml.utils.io.dataset_md5``).

    Args:
        path: The file; or what to call it, if its content is ``file``.
        file: The content, for members of archives.
        energy_unit: Unit of the energies, if the file does not tell.
        length_unit: The same of the positions.
        default_units: Energy and length, if neither the file nor the arguments tell.
        keys: Names in the file of ``"energy"`` or ``"forces"``, where they are others.
        want: Which of energy and forces to read.

    Returns:
        ``z``, ``pos``, ``energy``, ``forces``, ``idx`` (row in the file); ``old_idx`` where the
        file has ``old_indices``; ``cell`` and ``pbc`` where it has ``lattice``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged; an array is missing, pickled or of another shape; a unit is
            unknown, missing, or not the one asked for; frames differ in their atoms; or a number
            is not finite.
    """
    arrays = _load(path, file)
    name = {what: _name(arrays, what, path, keys or {}) for what in ("z", "pos", *want)}
    _check_md5(arrays, path)
    pos = _numbers(arrays.pop(name["pos"]), name["pos"], path)
    if pos.ndim != 3 or pos.shape[2] != 3:
        raise ValueError(
            f"{path}: {name['pos']} has shape {pos.shape} and (frames, atoms, 3) is expected"
        )
    count, size = pos.shape[:2]
    z = _same_in_all(arrays[name["z"]], name["z"], count, size, path)
    check_finite(pos, name["pos"], frame_of(path))
    default = default_units or (None, None)
    to_ev = _unit(arrays, "e_unit", ENERGY, "energy_unit", energy_unit, default[0], path)
    to_angstrom = _unit(arrays, "r_unit", LENGTH, "length_unit", length_unit, default[1], path)
    forces = None
    others: dict[str, np.ndarray] = {}
    if "energy" in want:
        energy = _numbers(arrays[name["energy"]], name["energy"], path)
        if energy.shape not in ((count,), (count, 1)):
            raise ValueError(
                f"{path}: {name['energy']} has shape {energy.shape} for {count} frames: "
                f"({count},) or ({count}, 1) is expected"
            )
        check_finite(energy, name["energy"], frame_of(path))
        others["energy"] = energy.reshape(-1) * to_ev
    if "forces" in want:
        forces = _numbers(arrays.pop(name["forces"]), name["forces"], path)
        if forces.shape != pos.shape:
            raise ValueError(
                f"{path}: {name['forces']} has shape {forces.shape} and {name['pos']} "
                f"{pos.shape}: they must be the same"
            )
        check_finite(forces, name["forces"], frame_of(path))
        forces *= to_ev / to_angstrom
        forces = forces.astype(np.float32)
    pos *= to_angstrom
    others["idx"] = np.arange(count)
    if "old_indices" in arrays:
        others["old_idx"] = _numbers(arrays["old_indices"], "old_indices", path).astype(np.int64)
        if others["old_idx"].shape != (count,):
            raise ValueError(
                f"{path}: old_indices has shape {others['old_idx'].shape} for {count} frames"
            )
    if "lattice" in arrays:
        cell = (_numbers(arrays["lattice"], "lattice", path) * to_angstrom).T
        if cell.shape != (3, 3) or not np.isfinite(cell).all():
            raise ValueError(f"{path}: lattice must be three finite vectors, shape (3, 3)")
        others["cell"] = np.broadcast_to(cell, (count, 3, 3))
        others["pbc"] = np.ones((count, 3), dtype=bool)
    return same_atoms(z, pos.astype(np.float32), forces, **others)


def _load(path: str | Path, file: BinaryIO | None) -> dict[str, np.ndarray]:
    if file is None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist: give an npz file")
        # Opened here, as numpy leaves files open that it cannot read.
        with open(path, "rb") as opened:
            return _load(path, opened)
    key = ""
    try:
        with zipfile.ZipFile(file) as members:
            check_zip(members, path)
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            arrays = {}
            for key in archive.files:
                # Copies of both labels are in rMD17's files; the old ones are not wanted.
                if key not in ("old_energies", "old_forces"):
                    arrays[key] = archive[key]
                    if not isinstance(arrays[key], np.ndarray):
                        raise ValueError("it is no array")
            return arrays
    except Exception as error:  # zipfile, decoders and NumPy raise whatever the bytes lead to
        if is_of_disk(error) or str(path) in str(error):
            raise
        if "Object arrays" in str(error):
            raise ValueError(
                f"{path}: {key} is a pickled object, which is never loaded: save it as a plain "
                f"array of numbers"
            ) from error
        where = f" at {key}" if key else ""
        raise ValueError(
            f"{path} is no whole npz file; it is cut off or damaged{where} ({in_brief(error)}): "
            f"get the file anew"
        ) from error


def _name(arrays: dict[str, np.ndarray], what: str, path: str | Path, keys: dict[str, str]) -> str:
    names = (keys[what],) if what in keys else _NAMES[what]
    for name in names:
        if name in arrays:
            return name
    raise ValueError(
        f"{path} has no {what}: {' or '.join(names)} is expected among its keys "
        f"({', '.join(arrays)})"
    )


def _numbers(values: np.ndarray, key: str, path: str | Path) -> np.ndarray:
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {key} is of type {values.dtype} and numbers are expected")
    return values.astype(np.float64, copy=False)


def _same_in_all(z: np.ndarray, key: str, count: int, size: int, path: str | Path) -> np.ndarray:
    """The atomic numbers (n,), which must not change from frame to frame."""
    if z.dtype.kind not in "fiu" or (z != np.round(z)).any() or (z < 1).any() or (z > 118).any():
        raise ValueError(f"{path}: {key} must be atomic numbers, 1 to 118")
    if z.shape not in ((size,), (1, size), (count, size)):
        raise ValueError(
            f"{path}: {key} has shape {z.shape} for {count} frames of {size} atoms: ({size},) is "
            f"expected"
        )
    rows = z.reshape(-1, size)
    differ = np.flatnonzero((rows != rows[0]).any(axis=1))
    if differ.size:
        k = int(differ[0])
        if (np.sort(rows[k]) == np.sort(rows[0])).all():
            raise ValueError(
                f"{path}, frame {k}: the atoms are in another order than in frame 0; forces and "
                f"positions follow the order of the atoms: bring all frames into one order"
            )
        raise ValueError(
            f"{path}, frame {k}: the composition is {formula(rows[k])} and that of frame 0 "
            f"{formula(rows[0])}: give each composition a file of its own"
        )
    return rows[0].astype(np.int64)


def _unit(
    arrays: dict[str, np.ndarray],
    key: str,
    known: dict[str, float],
    argument: str,
    asked: str | None,
    default: str | None,
    path: str | Path,
) -> float:
    written = _text(arrays[key]) if key in arrays else ""
    if written in ("", "n/a"):
        unit = asked or default
        if unit is None:
            raise ValueError(
                f"{path} does not tell its unit ({key}): pass {argument}, one of {', '.join(known)}"
            )
        return factor(unit, known, argument)
    value = factor(written, known, f"{path}: {key}")
    if asked is not None and factor(asked, known, argument) != value:
        raise ValueError(f"{path} is in {written} ({key}) and {argument}={asked!r} is asked for")
    return value


def _text(value: np.ndarray) -> str:
    entries = np.asarray(value).reshape(-1)
    entry = entries[0] if len(entries) else ""
    return entry.decode(errors="replace") if isinstance(entry, bytes) else str(entry)


def _check_md5(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    if "md5" not in arrays:
        return
    digest = hashlib.md5(usedforsecurity=False)
    for key in ("z", "R", "E", "F"):
        if key not in arrays:
            continue
        content = np.ascontiguousarray(arrays[key]).data
        digest.update(hashlib.md5(content, usedforsecurity=False).digest())
    if digest.hexdigest() != _text(arrays["md5"]):
        # No error: a user may have cut frames out, and left the md5 as it was.
        warnings.warn(
            f"{path} says that its arrays have md5 {_text(arrays['md5'])}, and they have "
            f"{digest.hexdigest()}: they were changed after the file was made",
            stacklevel=2,
        )


def formula(z: np.ndarray) -> str:
    """The sum formula, carbon first, then by atomic number.

    >>> formula(np.array([8, 1, 6, 1, 1, 1]))
    'C1H4O1'
    """
    from ase.data import chemical_symbols

    counts = Counter(np.asarray(z).tolist())
    order = sorted(counts, key=lambda number: (number != 6, number))
    return "".join(f"{chemical_symbols[number]}{counts[number]}" for number in order)
