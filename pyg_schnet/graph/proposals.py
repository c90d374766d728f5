"""What the searches by other libraries share: a safe radius, a strict decision, one order.

A library only proposes pairs of atoms, in float64 and within a slightly larger radius. Which of
them are edges is decided here, in the dtype of the positions, in the same way for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_schnet.graph.layout import Edges, Molecules, lattice_offset, squared_distance


@dataclass(frozen=True)
class Pairs:
    """Pairs of atoms that may be neighbours, in any order, each once.

    Attributes:
        source: (P,) int64.
        target: (P,) int64.
        shift: (P, 3) int64 lattice shifts of the sources; None: nothing is periodic.
    """

    source: Tensor
    target: Tensor
    shift: Tensor | None


def padded(cutoff: float, pos: Tensor) -> float:
    """A radius that no pair escapes by rounding: libraries round distances in their own ways."""
    reach = cutoff + (float(pos.abs().max()) if pos.numel() else 0.0)
    return cutoff + 64 * torch.finfo(pos.dtype).eps * reach


def decide(molecules: Molecules, pairs: Pairs, cutoff: float, cell: Tensor | None) -> Edges:
    """The pairs closer than ``cutoff``, sorted by target, then source, then shift.

    Args:
        molecules: Atoms grouped by structure; they and the pairs are on one device.
        pairs: Proposed.
        cutoff: Å.
        cell: The caller's, (3, 3) or (B, 3, 3); heeded where the pairs have shifts.
    """
    source, target, shift = pairs.source, pairs.target, pairs.shift
    offset = None
    if shift is not None:
        assert cell is not None
        lattice = cell.detach().to(molecules.pos)
        if lattice.dim() == 3 and len(molecules.graphs) == 1:
            lattice = lattice[molecules.graphs[0]]
        elif lattice.dim() == 3:
            graph = torch.repeat_interleave(
                molecules.graphs, molecules.counts, output_size=len(molecules.pos)
            )
            lattice = lattice[graph[target]]  # [P, 3, 3]
        offset = lattice_offset(shift, lattice)
    squared = squared_distance(molecules.pos, source, target, offset)
    near = (squared < cutoff * cutoff).nonzero().squeeze(1)
    source, target, squared = source[near], target[near], squared[near]
    shift = None if shift is None else shift[near]
    order = sorted_order(source, target, shift)
    return Edges(
        source[order], target[order], squared[order], None if shift is None else shift[order]
    )


def sorted_order(source: Tensor, target: Tensor, shift: Tensor | None) -> Tensor:
    """The order that sorts edges by target, then source, then shift."""
    num = int(torch.maximum(source.max(), target.max())) + 1 if len(source) else 1
    key, size = target * num + source, num * num
    if shift is None or not len(source):
        return _argsort(key)
    low = shift.amin(0)
    spans = (shift.amax(0) - low + 1).tolist()
    if size * spans[0] * spans[1] * spans[2] < 2**63:
        for axis, span in enumerate(spans):
            key = key * span + (shift[:, axis] - low[axis])
        return _argsort(key)
    # Atoms that have drifted through very many cells: one key would overflow.
    order = torch.arange(len(key), device=key.device)
    for part in (*shift.T.flip(0), key):
        order = order[torch.argsort(part[order], stable=True)]
    return order


def _argsort(key: Tensor) -> Tensor:
    """The order that sorts a key in which no value occurs twice."""
    if key.device.type != "cpu":
        return torch.argsort(key)
    # NumPy sorts with the vector instructions of the processor, several times faster than torch.
    return torch.from_numpy(key.numpy().argsort())


def completed(cells: Tensor, repeats: Tensor) -> Tensor:
    """Cells whose vectors along which nothing repeats are replaced by normal unit vectors.

    Images do not depend on those vectors, but libraries invert the cell, and in slabs and chains
    the vectors may be zero or anything else.

    Args:
        cells: (B, 3, 3), float64.
        repeats: (B, 3), bool.

    Returns:
        (B, 3, 3); a replaced vector has length 1 and is normal to all others.
    """
    flat = (~repeats.all(dim=1)).nonzero().squeeze(1)
    if not len(flat):
        return cells
    first = torch.argsort((~repeats[flat]).to(torch.uint8), dim=1, stable=True)  # periodic first
    periodic = torch.gather(repeats[flat], 1, first)[..., None]
    rows = torch.gather(cells[flat], 1, first[..., None].expand(-1, 3, 3)) * periodic
    # The last of these vectors span what the rows, as many as are periodic, leave of space.
    normal = torch.linalg.svd(rows)[2]
    rows = torch.where(periodic, rows, normal)
    full = cells.clone()
    full[flat] = torch.empty_like(rows).scatter_(1, first[..., None].expand(-1, 3, 3), rows)
    return full
