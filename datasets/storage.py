"""Collated PyG data in one safetensors file: whole or absent, and read without pickle."""

import errno
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch_geometric.data import Data

from pyg_schnet.datasets.sources import forget_stale, in_brief, is_of_disk

FORMAT_VERSION = "1"


class Strings(Sequence[str]):
    """Strings kept as one tensor of UTF-8 bytes and decoded one at a time, when asked for.

    A list of 130,000 Python strings costs memory and time at every load; this costs neither.

    Args:
        text: (number of bytes,) uint8, all strings end to end.
        offsets: (number of strings + 1,) int64; string i is ``text[offsets[i]:offsets[i + 1]]``.

    >>> names = Strings.pack(["CCO", "ä"])
    >>> names[1], names[-2], len(names), list(names)
    ('ä', 'CCO', 2, ['CCO', 'ä'])
    """

    def __init__(self, text: Tensor, offsets: Tensor) -> None:
        self.text = text
        self.offsets = offsets

    @classmethod
    def pack(cls, strings: Sequence[str]) -> "Strings":
        """The same strings as two tensors."""
        encoded = [string.encode() for string in strings]
        # bytearray: torch warns of buffers it may not write to, and refuses empty ones.
        joined = bytearray(b"".join(encoded))
        text = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0).byte()
        lengths = torch.tensor([0, *map(len, encoded)], dtype=torch.int64)
        return cls(text, lengths.cumsum(0))

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"string {i} asked for, of {len(self)}")
        start, end = self.offsets[i % len(self)], self.offsets[i % len(self) + 1]
        return bytes(self.text[start:end].tolist()).decode()


def save_collated(
    data: Data, slices: dict[str, Tensor], path: str | Path, metadata: dict[str, str]
) -> None:
    """Writes collated data (as ``InMemoryDataset.collate`` makes it) and its slices to one file.

    The file is written beside its place and moved there when complete: interrupted or on a full
    disk, nothing is left. Slices shared by several attributes are stored once.

    Args:
        data: Tensors and sequences of strings, each the values of all graphs end to end.
        slices: Per attribute, (number of graphs + 1,) int64 bounds.
        path: Where to; an existing file is replaced.
        metadata: Texts to keep in the file's header, returned by :func:`load_collated`.

    Raises:
        ValueError: if an attribute is neither a tensor nor a sequence of strings.
        OSError: if the disk is full or cannot be written to.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    kept: list[Tensor] = []
    if "num_nodes" in data:
        # PyG keeps these beside the attributes and has no slices for them.
        tensors["num_nodes"] = torch.tensor(data._store._num_nodes, dtype=torch.int64)
    for key, bounds in slices.items():
        value = data[key]
        if isinstance(value, Tensor):
            tensors[f"tensor/{key}"] = value.detach().cpu().contiguous()
        elif _are_strings(value):
            packed = value if isinstance(value, Strings) else Strings.pack(value)
            tensors[f"text/{key}"], tensors[f"offsets/{key}"] = packed.text, packed.offsets
        else:
            raise ValueError(
                f"attribute {key!r} of the data is a {type(value).__name__}, and only tensors, "
                f"numbers and strings can be stored: change it in pre_transform"
            )
        place = next((k for k, other in enumerate(kept) if torch.equal(other, bounds)), len(kept))
        if place == len(kept):
            kept.append(bounds)
        names[key] = f"slices/{place}"
    tensors |= {f"slices/{k}": bounds.clone() for k, bounds in enumerate(kept)}
    header = {**metadata, "format_version": FORMAT_VERSION, "slices": json.dumps(names)}
    _write(tensors, Path(path), header)


def _are_strings(value: object) -> bool:
    if isinstance(value, Strings):
        return True
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _write(tensors: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    forget_stale(path)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB free: make room, then try "
            f"again; nothing was written",
            str(path),
        )
    # One name per process: two that write the same data set at once do not mix their bytes.
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        # safetensors makes a file that others may not read; this one has the usual permissions.
        aside.touch()
        mode = aside.stat().st_mode
        save_file(tensors, aside, metadata=header)
        aside.chmod(mode)
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(
            number,
            f"could not be written ({error}): make room or choose another root, then try "
            f"again; nothing was left behind",
            str(path),
        ) from error
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


def load_collated(
    path: str | Path, data_cls: type[Data] = Data
) -> tuple[Data, dict[str, Tensor], dict[str, str]]:
    """Reads what :func:`save_collated` wrote: data, slices, metadata.

    Raises:
        ValueError: if the file is damaged or of another format version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors' own, or torch's of a type it does not know
        if is_of_disk(error):
            raise
        raise ValueError(
            f"{path} is damaged ({in_brief(error)}): delete it, or pass force_reload=True"
        ) from error
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {header.get('format_version')} and {FORMAT_VERSION} is "
            f"read here: pass force_reload=True to make it anew"
        )
    try:
        data, slices = _assembled(tensors, json.loads(header.pop("slices")), data_cls)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged, its parts do not fit each other ({in_brief(error)}): delete it, "
            f"or pass force_reload=True"
        ) from error
    return data, slices, header


def _assembled(
    tensors: dict[str, Tensor], names: dict[str, str], data_cls: type[Data]
) -> tuple[Data, dict[str, Tensor]]:
    data = data_cls()
    slices: dict[str, Tensor] = {}
    checked: dict[str, int] = {}
    for key, place in names.items():
        slices[key] = bounds = tensors[place]
        if place not in checked:
            checked[place] = _check_bounds(bounds)
        if f"text/{key}" in tensors:
            strings = Strings(tensors[f"text/{key}"], tensors[f"offsets/{key}"])
            if len(strings) < checked[place] or _check_bounds(strings.offsets) > len(strings.text):
                raise ValueError(f"{key} has too few characters")
            data[key] = strings
            continue
        data[key] = value = tensors[f"tensor/{key}"]
        if value.dim() and value.size(data.__cat_dim__(key, value) or 0) < checked[place]:
            raise ValueError(f"{key} has too few rows")
    if len({len(bounds) for bounds in slices.values()}) > 1:
        raise ValueError("attributes differ in the number of structures")
    if "num_nodes" in tensors:
        counts = tensors["num_nodes"].tolist()
        data._store._num_nodes = counts
        data.num_nodes = sum(counts)
    return data, slices


def _check_bounds(bounds: Tensor) -> int:
    """The last of bounds, which must rise from 0 or more."""
    if bounds.dim() != 1 or bounds.dtype != torch.int64 or not len(bounds):
        raise ValueError("bounds are whole numbers in a row")
    if int(bounds[0]) < 0 or (len(bounds) > 1 and bool((bounds.diff() < 0).any())):
        raise ValueError("bounds must not fall")
    return int(bounds[-1])
