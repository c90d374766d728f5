"""Edges of a whole data set, searched once and kept in few bytes."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pyg_schnet.graph import neighbor_edges

EDGE_MEMORY = 2_000_000_000
"""Bytes that the stored edges of one cutoff may take; beyond, every batch searches its own."""

PAIRS_TOGETHER = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Pairs of atoms that are looked at together while edges are stored."""

CRYSTALS_TOGETHER = 1024
"""Periodic structures whose images are searched together."""


@dataclass(frozen=True)
class StoredEdges:
    """Edges of every structure, with atoms counted from the first of their own structure.

    Attributes:
        local: (S, 2) source and target, uint8 or int16, sorted by target, then source.
        first: (M,) row where the edges of each structure start. Structures may share rows.
        count: (M,) edges of each structure. Like ``first``, int64 on the CPU.
        shift: (S, 3) lattice shifts, int8 (int32 where that is too small), or None where nothing
            is periodic.
    """

    local: Tensor
    first: Tensor
    count: Tensor
    shift: Tensor | None = None

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        """(S,) source and target in one number, the target in its upper half."""
        wide = np.uint16 if self.local.dtype == torch.uint8 else np.uint32
        return np.ravel(self.local.numpy().view(wide))


def store_edges(
    pos: Tensor,
    sizes: Tensor,
    cutoff: float | None,
    lattices: tuple[Tensor, Tensor] | None = None,
) -> StoredEdges | None:
    """The edges of all structures, or None where they would take too much memory.

    Args:
        pos: (N, 3) positions of all structures, Å.
        sizes: (M,) atoms of each structure, on the CPU.
        cutoff: Å, or None for all pairs within a structure.
        lattices: Cells (M, 3, 3), Å, and pbc (M, 3), or None for molecules.

    Raises:
        ValueError: As :func:`pyg_schnet.graph.neighbor_edges`.
    """
    size_of = None
    if cutoff is None and lattices is None:
        # All pairs depend on the size of a molecule alone, so each size is stored once.
        sizes, size_of = sizes.unique(return_inverse=True)
        pos = pos.new_zeros(int(sizes.sum()), 3)
    most = int(sizes.max()) if len(sizes) else 0
    width = torch.uint8 if most <= 256 else torch.int16
    if most > torch.iinfo(torch.int16).max:
        return None
    ends = sizes.cumsum(0)
    parts, shifts, counts, taken = [], [], [], 0
    chunks = _chunks(sizes, pos.device.type, lattices is not None)
    with tqdm(total=len(sizes), desc="edges", unit=" structures", delay=2, disable=None) as bar:
        for first, last in chunks:
            start = ends[first:last] - sizes[first:last]
            graph = torch.repeat_interleave(sizes[first:last]).to(pos.device)
            here = pos[int(start[0]) : int(ends[last - 1])]
            cell, pbc = (None, None) if lattices is None else (of[first:last] for of in lattices)
            edge_index, shift = neighbor_edges(here, cutoff, graph, cell, pbc, validate=False)
            of_edge = graph[edge_index[1]]
            offset = (start - start[0]).to(pos.device)
            parts.append((edge_index - offset[of_edge]).to(width).T)
            counts.append(torch.bincount(of_edge, minlength=last - first).cpu())
            taken += parts[-1].numel() * parts[-1].element_size()
            if lattices is not None:
                shifts.append(_narrow(shift))
                taken += shifts[-1].numel() * shifts[-1].element_size()
            if taken > EDGE_MEMORY:
                return None
            bar.update(last - first)
    empty = torch.zeros(0, 2, dtype=width, device=pos.device)
    count = torch.cat([sizes.new_zeros(0), *counts])
    begin = count.cumsum(0) - count
    if size_of is not None:
        begin, count = begin[size_of], count[size_of]
    of_lattice = None
    if lattices is not None:
        none = torch.zeros(0, 3, dtype=torch.int8, device=pos.device)
        of_lattice = torch.cat([none, *shifts]).contiguous()
    return StoredEdges(torch.cat([empty, *parts]).contiguous(), begin, count, of_lattice)


def _narrow(shift: Tensor) -> Tensor:
    """Shifts in one byte each, where they fit."""
    largest = int(shift.abs().max()) if shift.numel() else 0
    return shift.to(torch.int8 if largest <= 127 else torch.int32)


def _chunks(sizes: Tensor, device: str, periodic: bool) -> list[tuple[int, int]]:
    """Ranges of structures with about PAIRS_TOGETHER pairs each (one structure at least)."""
    if periodic:
        cuts = list(range(CRYSTALS_TOGETHER, len(sizes), CRYSTALS_TOGETHER))
    else:
        chunk = PAIRS_TOGETHER.get(device, PAIRS_TOGETHER["cuda"])
        number = sizes.square().cumsum(0) // chunk
        cuts = (number.diff().nonzero().squeeze(1) + 1).tolist()
    bounds = sorted({0, *cuts, len(sizes)})
    return list(zip(bounds[:-1], bounds[1:], strict=True))
