"""What every data set kept in one safetensors file shares: reading once, loading, fast access."""

import json
import re
import types
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.data.collate import collate
from torch_geometric.data.separate import separate
from tqdm import tqdm

from pyg_schnet.datasets.storage import load_collated, save_collated

_SPLITS = "split_bits"  # column of the file; bit k: the structure is in split k


class Source(NamedTuple):
    """What a data set reads from its original files: everything, end to end."""

    name: str
    """Where it is from, in few words; kept in the processed file."""
    data: Data
    """Per attribute, a tensor or strings with the values of all structures end to end."""
    slices: dict[str, Tensor]
    """Per attribute, (M + 1,) int64 bounds of the M structures; equal ones are best one tensor."""
    splits: Mapping[str, Tensor] = {}
    """Named splits: the rows (int64) of the structures in each."""


class StoredDataset(InMemoryDataset):
    """A data set that is read once and kept in one safetensors file under ``root/processed``.

    A subclass defines :meth:`read` and :attr:`processed_file_names`. It sets the attributes that
    :meth:`read` needs before it calls this constructor, which reads if need be, and loads. Nothing
    is pickled: names of ``pre_transform`` and ``pre_filter``, the source, and the
    :meth:`settings` of the subclass stand in the header of the file, and loading warns if others
    are asked for.

    Args:
        root: Folder for what is downloaded and processed; None: nothing is kept, and everything
            is read again the next time.
        raw: The original file, or the folder that it is in; None: where the subclass looks.
        split: Only the structures of this split, one of :attr:`split_names`; None: all.
        transform: Applied to each structure at every access.
        pre_transform: Applied once, before the structures are stored.
        pre_filter: Only structures for which this is true are stored.
        force_reload: Process anew, though there is a processed file.

    Raises:
        ValueError: if there is no such split, or the processed file is damaged.
    """

    noun: ClassVar[str] = "structures"

    def __init__(
        self,
        root: str | Path | None,
        raw: str | Path | None = None,
        split: str | None = None,
        transform: Callable[[Data], Data] | None = None,
        pre_transform: Callable[[Data], Data] | None = None,
        pre_filter: Callable[[Data], bool] | None = None,
        force_reload: bool = False,
    ) -> None:
        self.raw = None if raw is None else Path(raw).expanduser()
        self.metadata: dict[str, str] = {}
        self.split_names: tuple[str, ...] = ()
        self._membership: Tensor | None = None
        self._is_kept = root is not None
        folder = None if root is None else str(root)
        super().__init__(folder, transform, pre_transform, pre_filter, force_reload=force_reload)
        if self._is_kept:
            self.load(self.processed_paths[0])
        else:
            self._take(*self._collated())
        if split is not None:
            self._indices: Sequence[int] | None = self.split(split).tolist()

    @abstractmethod
    def read(self) -> Source:
        """Reads the original files; called when there is no processed file."""

    def settings(self) -> dict[str, str]:
        """What else the content of the processed file depends on; kept in its header."""
        return {}

    @property
    def processed_file_names(self) -> list[str]:
        """The one file that everything is read from."""
        raise NotImplementedError

    def split(self, name: str) -> Tensor:
        """Rows of a published split, int64, ascending.

        They count in this data set as it is: after ``pre_filter``, and within a subset such as
        ``dataset[:1000]``. So ``dataset[dataset.split(name)]`` is right in every case.

        Args:
            name: One of :attr:`split_names`.

        Raises:
            ValueError: if there is no such split.
        """
        if name not in self.split_names or self._membership is None:
            raise ValueError(
                f"split={name!r} is not in this {type(self).__name__}; "
                f"there {'are ' + ', '.join(self.split_names) if self.split_names else 'are none'}"
            )
        membership = self._membership
        if self._indices is not None:
            membership = membership[torch.as_tensor(list(self._indices), dtype=torch.int64)]
        return (membership >> self.split_names.index(name) & 1).nonzero().view(-1)

    def _process(self) -> None:
        # In place of PyG's, which keeps the names of pre_transform and pre_filter in pickles and
        # loads them without restriction; here they are in the header of the processed file.
        if not self._is_kept:
            return
        if self.force_reload or not Path(self.processed_paths[0]).exists():
            self.process()

    def process(self) -> None:
        """Reads the source and writes the processed file."""
        data, slices, metadata = self._collated()
        save_collated(data, slices, self.processed_paths[0], metadata)

    def _collated(self) -> tuple[Data, dict[str, Tensor], dict[str, str]]:
        source, data, slices, splits = self.read()
        if splits:
            _add_splits(data, slices, splits)
        if self.pre_filter is not None or self.pre_transform is not None:
            data, slices = self._prepare(data, slices)
        metadata = {
            "data_set": type(self).__name__,
            "source": source,
            "count": str(len(next(iter(slices.values()))) - 1),
            "splits": json.dumps(list(splits)),
            "pre_transform": function_name(self.pre_transform),
            "pre_filter": function_name(self.pre_filter),
            **self.settings(),
        }
        return data, slices, metadata

    def _raw_name(self) -> str:
        return f"raw {self.raw.name}" if self.raw is not None else ""

    def _prepare(self, data: Data, slices: dict[str, Tensor]) -> tuple[Data, dict[str, Tensor]]:
        kept = []
        count = len(next(iter(slices.values()))) - 1
        for i in tqdm(range(count), "filter, transform", unit=f" {self.noun}", disable=None):
            structure = separate(Data, data, i, slices, decrement=False)
            if self.pre_filter is not None and not self.pre_filter(structure):
                continue
            kept.append(structure if self.pre_transform is None else self.pre_transform(structure))
        if not kept:
            raise ValueError(
                f"pre_filter={function_name(self.pre_filter)} keeps none of {count} {self.noun}"
            )
        # Not InMemoryDataset.collate, which returns no slices for a single structure.
        joined, bounds, _ = collate(type(kept[0]), kept, increment=False, add_batch=False)
        return joined, bounds

    def load(self, path: str, data_cls: type[Data] = Data) -> None:
        """Loads a processed file, without pickle.

        Raises:
            ValueError: if it is damaged.
        """
        self._take(*load_collated(path, data_cls))
        asked = {
            "pre_transform": function_name(self.pre_transform),
            "pre_filter": function_name(self.pre_filter),
            **self.settings(),
        }
        if self.raw is not None:
            asked["source"] = self._raw_name()
        for key, value in asked.items():
            if self.metadata.get(key) != value:
                warnings.warn(
                    f"{path} was made with {key} {self.metadata.get(key)} and {value} is asked "
                    f"for: pass force_reload=True to make it anew",
                    stacklevel=4,
                )

    def _take(self, data: Data, slices: dict[str, Tensor], metadata: dict[str, str]) -> None:
        self._data, self.slices, self.metadata = data, slices, metadata
        if _SPLITS in slices:
            # Beside the attributes: nobody who looks at a structure asks for this.
            self.split_names = tuple(json.loads(self.metadata["splits"]))
            self._membership = self._data[_SPLITS]
            del self._data[_SPLITS], self.slices[_SPLITS]

    def copy(self, idx: slice | Sequence[int] | Tensor | None = None) -> "StoredDataset":
        """A deep copy, of all or of the rows ``idx``."""
        copied = super().copy(idx)
        if self._membership is not None:
            rows = (self if idx is None else self.index_select(idx)).indices()
            copied._membership = self._membership[torch.as_tensor(list(rows), dtype=torch.int64)]
        return copied

    def get(self, idx: int) -> Data:
        """One structure, before the transform.

        Args:
            idx: Row in this data set.
        """
        if self.slices is None or "num_nodes" in self._data:
            return super().get(idx)
        # As PyG's separate, but what is alike in all attributes is done once. Nothing is kept for
        # the next access: 130,831 molecules of 24 small tensors would take a gigabyte.
        ranges: dict[int, tuple[int, int]] = {}
        structure = type(self._data)()
        for key, bounds in self.slices.items():
            if id(bounds) not in ranges:
                start, end = bounds[idx : idx + 2].tolist()
                ranges[id(bounds)] = (start, end - start)
            value = self._data[key]
            if isinstance(value, Tensor):
                dim = self._data.__cat_dim__(key, value) or 0
                structure._store[key] = value.narrow(dim, *ranges[id(bounds)])
            else:
                structure._store[key] = value[idx]
        return structure


def _add_splits(data: Data, slices: dict[str, Tensor], splits: Mapping[str, Tensor]) -> None:
    count = len(next(iter(slices.values()))) - 1
    if len(splits) > 63:
        raise ValueError(f"{len(splits)} splits are given and 63 can be kept")
    membership = torch.zeros(count, dtype=torch.int64)
    for k, rows in enumerate(splits.values()):
        membership[rows] |= 1 << k
    data[_SPLITS] = membership
    by_structure = torch.arange(count + 1)
    # The bounds that other attributes have too, if any: get() is faster the fewer there are.
    same = (bounds for bounds in slices.values() if torch.equal(bounds, by_structure))
    slices[_SPLITS] = next(same, by_structure)


def function_name(function: Callable[..., object] | None) -> str:
    """A name that is the same in every run: without the address in memory.

    >>> function_name(len), function_name(None)
    ('builtins.len', 'None')
    """
    if isinstance(function, types.FunctionType | types.BuiltinFunctionType | type):
        return f"{function.__module__}.{function.__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(function))
