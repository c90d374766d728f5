"""Frames on a disk, mapped into memory: data sets larger than the memory there is."""

import json
import mmap
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, InMemoryDataset

from pyg_schnet.datasets.base import StoredDataset
from pyg_schnet.datasets.frames import BY_ATOM
from pyg_schnet.datasets.frames_files import (
    HEADER,
    NPY_HEADER,
    FramesWriter,
    read_header,
    verify,
    write_frames,
)
from pyg_schnet.datasets.storage import load_collated

__all__ = ["FramesWriter", "OnDiskFrames", "map_frames", "open_folder", "verify", "write_frames"]

_GENERIC = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if _GENERIC else 0)  # since Python 3.13


class OnDiskFrames(StoredDataset):
    """Frames that stay on the disk and are read where they are used.

    The interface is that of the data sets in memory: rows, slices, ``transform``, data loaders with
    any number of workers, and :class:`~pyg_schnet.training.batches.MoleculeTable` for training.
    Columns are those of :class:`~pyg_schnet.datasets.Trajectories`. Opening takes the time to look
    at a few hundred bytes; the pages of the files that were read lately are kept by the operating
    system, for all processes together, and given up when memory is needed.

    Made by :class:`FramesWriter`, from chunks of frames, or by
    ``Trajectories(..., in_memory=False)``. The folder holds a plain ``.npy`` file for each column
    (``z``, ``pos``, ``ptr``, ...) and ``header.json``, which says how many frames are complete.

    Args:
        root: The folder.
        split: Only the frames of this part.
        transform: Applied to each frame at every access.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is damaged, or there is no such split.

    >>> import tempfile
    >>> from pyg_schnet.datasets.frames import same_atoms
    >>> water = same_atoms(np.array([8, 1, 1]), np.zeros((2, 3, 3)), energy=np.zeros(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with FramesWriter(f"{folder}/water") as writer:
    ...         writer.add(water)
    ...     data = OnDiskFrames(f"{folder}/water")
    ...     len(data), data[1].z.tolist(), data[1:][0].energy.dtype
    (2, [8, 1, 1], torch.float64)
    """

    noun = "frames"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        transform: Callable[[Data], Data] | None = None,
    ) -> None:
        self.folder = Path(root).expanduser().absolute()
        super().__init__(None, split=split, transform=transform)
        self.root = str(self.folder)

    def _collated(self) -> tuple[Data, dict[str, Tensor], dict[str, str]]:
        return map_frames(self.folder)

    def read(self) -> Any:
        """Nothing is read before it is used."""
        raise NotImplementedError

    @property
    def processed_file_names(self) -> list[str]:
        """None: the folder is the data set."""
        return []

    def get(self, idx: int) -> Data:
        """One frame, before the transform.

        Args:
            idx: Row in this data set.
        """
        return in_memory(super().get(idx))

    def verify(self) -> None:
        """Read everything and compare with the checksums of the header.

        Raises:
            ValueError: naming a column that has changed.
        """
        verify(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is spawned maps the files itself; it is not sent their content.
        held = self.__dict__.copy()
        held["_data"], held["slices"] = None, None
        return held

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._take(*map_frames(self.folder))


def in_memory(frame: Data) -> Data:
    """A copy of a frame whose tensors are views of files, with elements as int64."""
    for key, value in frame._store.items():
        if isinstance(value, Tensor):
            frame._store[key] = value.long() if key == "z" else value.clone()
    return frame


def map_frames(folder: Path) -> tuple[Data, dict[str, Tensor], dict[str, str]]:
    """Data, slices and metadata of a folder; tensors are views of the files.

    They are private to this process: changing one changes no file.

    Raises:
        FileNotFoundError: If there is no header.
        ValueError: If the folder is damaged.
    """
    header = read_header(folder)
    columns, data = header["columns"], Data()
    tensors = {name: _mapped(folder / f"{name}.npy", column) for name, column in columns.items()}
    by_atom = tensors.pop("ptr")
    if int(by_atom[0]) != 0 or int(by_atom[-1]) != header["atoms"]:
        raise ValueError(
            f"{folder} does not hold whole frames (ptr goes from {int(by_atom[0])} to "
            f"{int(by_atom[-1])} and there are {header['atoms']} atoms): make the folder anew"
        )
    by_frame = torch.arange(header["frames"] + 1)
    slices = {}
    for name, tensor in tensors.items():
        data[name] = tensor
        slices[name] = by_atom if name in BY_ATOM else by_frame
    metadata = dict(header["metadata"])
    splits = json.loads(metadata.get("splits", "{}"))
    if splits:
        bits = torch.zeros(header["frames"], dtype=torch.int64)
        for k, (first, last) in enumerate(splits.values()):
            bits[first:last] |= 1 << k
        data["split_bits"], slices["split_bits"] = bits, by_frame
        metadata["splits"] = json.dumps(list(splits))
    return data, slices, metadata


def open_folder(folder: str | Path) -> InMemoryDataset:
    """The data set in a folder: frames on a disk, or what a data set has kept under ``root``.

    Args:
        folder: Of :class:`OnDiskFrames`, or the ``root`` of another data set.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several, or it is damaged.
    """
    path = Path(folder).expanduser()
    if (path / HEADER).is_file():
        return OnDiskFrames(path)
    kept = path / "processed"
    found = sorted(
        [*kept.glob("*.safetensors"), *(held.parent for held in kept.glob(f"*/{HEADER}"))]
    )
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no data set: neither {HEADER} nor processed/*.safetensors are there"
        )
    if len(found) > 1:
        names = ", ".join(held.name for held in found)
        raise ValueError(f"{folder} holds several data sets ({names}): give a folder of one")
    return OnDiskFrames(found[0]) if found[0].is_dir() else _Kept(path, found[0].name)


class _Kept(StoredDataset):
    """A processed file, whatever class has made it."""

    def __init__(self, root: Path, name: str) -> None:
        self._name = name
        super().__init__(root)

    @property
    def processed_file_names(self) -> list[str]:
        return [self._name]

    def read(self) -> Any:
        raise NotImplementedError

    def load(self, path: str, data_cls: type[Data] = Data) -> None:
        self._take(*load_collated(path, data_cls))


def _mapped(path: Path, column: Mapping[str, Any]) -> Tensor:
    shape = (column["rows"], *column["shape"])
    with path.open("rb") as file:
        if sys.platform == "win32":
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        else:
            # Copy on write: torch wants arrays that it may write to, and nobody does. So no memory
            # is to be set aside for copies, which Linux would refuse of files larger than it has.
            flags = mmap.MAP_PRIVATE | _NO_RESERVE
            prot = mmap.PROT_READ | mmap.PROT_WRITE
            held = mmap.mmap(file.fileno(), 0, flags=flags, prot=prot)
    dtype, count = np.dtype(column["dtype"]), int(np.prod(shape, dtype=np.int64))
    return torch.from_numpy(np.frombuffer(held, dtype, count, NPY_HEADER).reshape(shape))
