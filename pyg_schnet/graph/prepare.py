"""Edges of many crystals, once: batch by batch, in several processes where asked for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch_geometric.data import Data
from tqdm import tqdm

from pyg_schnet.graph.transforms import PeriodicEdges

CHUNK = 256
"""Structures searched at once: enough that what is done once per call no longer shows."""


def prepare_edges(
    structures: Sequence[Data],
    cutoff: float = 5.0,
    num_workers: int = 0,
    backend: str = "auto",
) -> list[Data]:
    """The structures with ``edge_index`` and ``cell_shift``, as :class:`PeriodicEdges` sets them.

    Many structures are searched at once, and a bar shows the progress in a terminal. Where the
    loop over images is in use, one process does tens of thousands per second; more of them pay
    off with the slower backends.

    Args:
        structures: Data with ``pos`` (N, 3) and ``cell`` (1, 3, 3), Å, and perhaps ``pbc``
            (1, 3): a list or a data set. They are left as they are.
        cutoff: Å; may exceed the cell.
        num_workers: Processes besides this one; 0: this one works. They end with this call,
            interrupted or not.
        backend: As in :func:`pyg_schnet.graph.neighbor_edges`.

    Returns:
        Copies in the order given; they share the tensors of the originals.

    Raises:
        ValueError: for a structure that has no edges for a reason ``neighbor_edges`` gives; the
            message names it by its number, and by its ``material_id`` where it has one.

    Example:
        >>> data = Data(pos=torch.zeros(1, 3), cell=2 * torch.eye(3)[None])
        >>> [crystal.edge_index.shape for crystal in prepare_edges([data, data], cutoff=2.5)]
        [torch.Size([2, 6]), torch.Size([2, 6])]
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
    chunks = _Chunks(structures, PeriodicEdges(cutoff, backend))
    # A loader, because it ends its workers in every case and passes tensors on without a copy.
    loader: DataLoader[Found] = DataLoader(
        chunks, batch_size=None, num_workers=min(num_workers, len(chunks))
    )
    prepared: list[Data] = []
    with tqdm(total=len(structures), desc="edges", unit=" structures", disable=None) as bar:
        for found in loader:
            if found.error:
                raise ValueError(found.error)
            first, last = 0, 0
            for count, num_atoms in zip(found.counts.tolist(), found.sizes.tolist(), strict=True):
                data = copy.copy(structures[len(prepared)])
                edges = slice(last, last + count)
                # Copies, not views: a view would keep, and pickle, the edges of the whole chunk.
                data.edge_index = found.edge_index[:, edges] - first
                data.cell_shift = found.cell_shift[edges].clone()
                prepared.append(data)
                first, last = first + num_atoms, last + count
            bar.update(len(found.counts))
    return prepared


class Found(NamedTuple):
    """Edges of one chunk of structures.

    A message stands for an error, which a loader would wrap in a traceback of its worker.
    """

    edge_index: Tensor
    cell_shift: Tensor
    counts: Tensor
    sizes: Tensor
    error: str


class _Chunks(Dataset[Found]):
    """Chunk ``k`` holds the edges of structures ``k * CHUNK`` and following."""

    def __init__(self, structures: Sequence[Data], transform: PeriodicEdges) -> None:
        self.structures = structures
        self.transform = transform

    def __len__(self) -> int:
        return -(-len(self.structures) // CHUNK)

    def __getitem__(self, k: int) -> Found:
        if k >= len(self):
            raise IndexError(k)
        rows = range(k * CHUNK, min((k + 1) * CHUNK, len(self.structures)))
        given = [_geometry(self.structures[row]) for row in rows]
        try:
            joined = self.transform(_join(given))
        except (ValueError, KeyError, RuntimeError):  # of a shape or dtype too
            return self._one_by_one(given, rows)
        counts = torch.bincount(joined.batch[joined.edge_index[1]], minlength=len(given))
        sizes = torch.bincount(joined.batch, minlength=len(given))
        return Found(joined.edge_index, joined.cell_shift, counts, sizes, "")

    def _one_by_one(self, given: list[Data], rows: range) -> Found:
        """To find the structure that is at fault, or because they cannot be joined."""
        index, shifts, sizes, first = [], [], [], 0
        for data, row in zip(given, rows, strict=True):
            try:
                alone = self.transform(data)
            except ValueError as error:
                name = self.structures[row].to_dict().get("material_id")
                known = f" ({name})" if name is not None else ""
                none = torch.empty(0, dtype=torch.int64)
                return Found(none, none, none, none, f"structure {row}{known}: {error}")
            index.append(alone.edge_index + first)
            shifts.append(alone.cell_shift)
            sizes.append(len(data.pos))
            first += len(data.pos)
        counts = torch.tensor([len(shift) for shift in shifts])
        return Found(torch.cat(index, dim=1), torch.cat(shifts), counts, torch.tensor(sizes), "")


def _geometry(data: Data) -> Data:
    """What the search needs, and nothing else."""
    return Data(**{key: data[key] for key in ("pos", "cell", "pbc") if key in data})


def _join(given: list[Data]) -> Data:
    """One Data with ``batch``, as PyG's Batch, without what a Batch keeps to be split again.

    Raises:
        ValueError: where positions differ in dtype, in which the cutoff is decided.
        KeyError: where an attribute is missing.
    """
    if len({data["pos"].dtype for data in given}) > 1:
        raise ValueError
    sizes = torch.tensor([len(data["pos"]) for data in given])
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    return Data(
        pos=torch.cat([data["pos"] for data in given]),
        cell=torch.cat([data["cell"].view(1, 3, 3) for data in given]),
        pbc=torch.cat([data["pbc"].view(1, 3) if "pbc" in data else everywhere for data in given]),
        batch=torch.repeat_interleave(torch.arange(len(given)), sizes),
    )
