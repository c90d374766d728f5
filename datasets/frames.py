"""Structures with energies and forces between their files and a data set: chunks of arrays."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

BY_ATOM = frozenset({"z", "pos", "forces"})
# Energies and stresses stay float64: float32 rounds a total energy of -17,600 eV by 1 meV.
_DTYPES = {
    "z": np.int64,
    "pos": np.float32,
    "forces": np.float32,
    "energy": np.float64,
    "stress": np.float64,
    "cell": np.float32,
    "pbc": np.bool_,
    "idx": np.int64,
}


class Frames(NamedTuple):
    """Some consecutive structures, end to end, in the units of the data set (eV, Å).

    Columns are ``z`` (N,), ``pos`` (N, 3) and perhaps ``forces`` (N, 3) by atom, where N counts
    the atoms of all M frames; and by frame perhaps ``energy`` (M,), ``stress`` (M, 3, 3),
    ``cell`` (M, 3, 3), ``pbc`` (M, 3) and others.
    """

    num_atoms: np.ndarray
    """(M,) atoms of each frame."""
    columns: Mapping[str, np.ndarray]


def same_atoms(
    z: np.ndarray, pos: np.ndarray, forces: np.ndarray | None = None, **by_frame: np.ndarray
) -> Frames:
    """Frames that all have the same atoms, in the same order.

    Args:
        z: (n,) atomic numbers.
        pos: (M, n, 3).
        forces: (M, n, 3).
        by_frame: Other columns, (M, ...) each.

    >>> water = same_atoms(np.array([8, 1, 1]), np.zeros((2, 3, 3)), energy=np.zeros(2))
    >>> water.num_atoms.tolist(), water.columns["z"].tolist()
    ([3, 3], [8, 1, 1, 8, 1, 1])
    """
    count = len(pos)
    columns = {"z": np.tile(np.asarray(z), count), "pos": pos.reshape(-1, 3)}
    if forces is not None:
        columns["forces"] = forces.reshape(-1, 3)
    return Frames(np.full(count, len(z)), {**columns, **by_frame})


def in_chunks(frames: Iterable[Mapping[str, np.ndarray]], size: int = 1000) -> Iterator[Frames]:
    """Collects single frames (``z`` (n,), ``pos`` (n, 3), ``energy`` (), ...) into :class:`Frames`.

    So that of 400,000 frames never more than ``size`` are objects of their own.

    Raises:
        ValueError: if a frame has other columns than the first.
    """
    held: list[Mapping[str, np.ndarray]] = []
    for frame in frames:
        held.append(frame)
        if len(held) == size:
            yield _pack(held)
            held = []
    if held:
        yield _pack(held)


def _pack(frames: list[Mapping[str, np.ndarray]]) -> Frames:
    keys = frames[0].keys()
    for k, frame in enumerate(frames):
        if frame.keys() != keys:
            raise ValueError(
                f"a frame has {', '.join(frame)} and the one {k} before it {', '.join(keys)}"
            )
    columns = {
        key: (np.concatenate if key in BY_ATOM else np.stack)([frame[key] for frame in frames])
        for key in keys
    }
    return Frames(np.array([len(frame["z"]) for frame in frames]), columns)


def join(chunks: Iterable[Frames]) -> tuple[Data, dict[str, Tensor]]:
    """Joins chunks to collated data and its slices, as :class:`~.base.Source` takes them.

    Numbers are cast as they come: ``z`` int64, ``pos``, ``forces``, ``cell`` float32, ``energy``,
    ``stress`` float64, ``pbc`` bool. The chunks are let go one column after the other, so the
    memory needed is that of the data and of its largest column.

    Raises:
        ValueError: if there is no frame, or a chunk has other columns than the first.

    >>> chunk = same_atoms(np.array([8, 1, 1]), np.zeros((2, 3, 3)), energy=np.zeros(2))
    >>> data, slices = join([chunk, chunk])
    >>> data.pos.shape, data.energy.shape, slices["pos"].tolist(), slices["energy"].tolist()
    (torch.Size([12, 3]), torch.Size([4]), [0, 3, 6, 9, 12], [0, 1, 2, 3, 4])
    """
    sizes: list[np.ndarray] = []
    parts: dict[str, list[np.ndarray]] = {}
    for num_atoms, columns in chunks:
        if sizes and columns.keys() != parts.keys():
            raise ValueError(
                f"frames have {', '.join(columns)} and earlier ones {', '.join(parts)}"
            )
        sizes.append(num_atoms)
        for key, values in columns.items():
            cast = np.asarray(values).astype(_DTYPES.get(key, values.dtype), copy=False)
            parts.setdefault(key, []).append(cast)
    if not sizes:
        raise ValueError("there are no frames")
    by_frame = torch.arange(sum(map(len, sizes)) + 1)
    by_atom = torch.zeros_like(by_frame)
    by_atom[1:] = torch.from_numpy(np.concatenate(sizes)).cumsum(0)
    data = Data()
    slices = {}
    for key in list(parts):
        # torch wants arrays that it may write to; those of a file may be read-only views.
        data[key] = torch.from_numpy(
            np.require(_concatenate(parts.pop(key)), requirements=["C", "W"])
        )
        slices[key] = by_atom if key in BY_ATOM else by_frame
    return data, slices


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def check_finite(values: np.ndarray, what: str, place: Callable[[int], str]) -> None:
    """Refuses NaN and infinity.

    Args:
        values: (M, ...), by frame.
        what: Name of the quantity.
        place: From a row of ``values`` to the words that name its file and frame.

    Raises:
        ValueError: naming the first frame that has one.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(values)  # one pass without a copy; a NaN or infinity always shows
    if np.isfinite(total):
        return
    good = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not good.all():
        bad = np.flatnonzero(~good)
        others = f" (and {len(bad) - 1} frames after it)" if len(bad) > 1 else ""
        raise ValueError(
            f"{place(int(bad[0]))}{others}: {what} is not finite: leave the frame out, or get the "
            f"file anew"
        )


def frame_of(path: str | Path, first: int = 0) -> Callable[[int], str]:
    """Words for the place of a frame, for :func:`check_finite`.

    >>> frame_of("md.npz", 100)(7)
    'md.npz, frame 107'
    """
    return lambda row: f"{path}, frame {first + row}"
