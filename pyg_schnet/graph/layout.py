"""How the atoms of a batch lie in memory, and what a search for their neighbours returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Molecules:
    """Atoms grouped by molecule, each molecule one contiguous block.

    Attributes:
        pos: (N, 3) positions, Å, detached, float32 or float64.
        graphs: (M,) number each molecule has in ``batch``; M counts molecules that have atoms.
        counts: (M,) atoms per molecule.
        order: (N,) index of each atom as the caller gave it, None where nothing moved.
    """

    pos: Tensor
    graphs: Tensor
    counts: Tensor
    order: Tensor | None

    @property
    def starts(self) -> Tensor:
        """(M,) index of the first atom of each molecule."""
        return self.counts.cumsum(0) - self.counts


@dataclass(frozen=True)
class Edges:
    """Directed edges, sorted by target, then source, then shift.

    Attributes:
        source: (E,) neighbour j.
        target: (E,) centre i.
        squared: (E,) squared distance, Å², None where no one asked for it.
        shift: (E, 3) integer lattice shifts, None where nothing is periodic.
    """

    source: Tensor
    target: Tensor
    squared: Tensor | None
    shift: Tensor | None = None


def group_atoms(pos: Tensor, batch: Tensor | None) -> Molecules:
    """Group atoms by molecule; atoms of an unsorted ``batch`` are moved, keeping their order."""
    if pos.dtype in (torch.float16, torch.bfloat16):
        pos = pos.float()
    pos = pos.detach()
    if batch is None:
        counts = torch.full((min(len(pos), 1),), len(pos), device=pos.device)
        return Molecules(pos, torch.zeros_like(counts), counts, None)
    order = None
    if bool((batch[1:] < batch[:-1]).any()):
        batch, order = torch.sort(batch, stable=True)
        pos = pos[order]
    graphs, counts = torch.unique_consecutive(batch, return_counts=True)
    return Molecules(pos, graphs.long(), counts, order)


def ungroup(edges: Edges, order: Tensor) -> Edges:
    """Number the atoms as the caller did, and sort by target again.

    The grouping keeps the order of the atoms within a molecule, so sources stay sorted.
    """
    target, by_target = torch.sort(order[edges.target], stable=True)
    squared, shift = edges.squared, edges.shift
    return Edges(
        order[edges.source][by_target],
        target,
        None if squared is None else squared[by_target],
        None if shift is None else shift[by_target],
    )


def squared_distance(
    pos: Tensor, source: Tensor, target: Tensor, offset: Tensor | None = None
) -> Tensor:
    r"""Squared length of ``pos[source] + offset - pos[target]``, in the dtype of ``pos``.

    Every backend decides with this function which pairs are neighbours. It is written out by
    component because each operation then rounds in the same way for an edge and its reverse,
    which a matrix product or a sum over the last axis does not promise.
    """
    squared = None
    for axis, x in enumerate(pos.T.contiguous()):
        d = x[source] - x[target]
        if offset is not None:
            d = d + offset[:, axis]
        squared = d * d if squared is None else squared + d * d
    assert squared is not None
    return squared


def lattice_offset(shift: Tensor, cell: Tensor) -> Tensor:
    """``shift @ cell`` (E, 3), Å; ``cell`` is (3, 3) or one (E, 3, 3) per edge.

    Written out for the reason given in :func:`squared_distance`.
    """
    s = shift.to(cell.dtype)
    a, b, c = cell.unbind(-2)
    return s[:, 0:1] * a + s[:, 1:2] * b + s[:, 2:3] * c
