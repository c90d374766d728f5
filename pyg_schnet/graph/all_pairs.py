"""All pairs of atoms within each molecule, by index arithmetic over the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.graph.layout import Edges, Molecules, squared_distance

CHUNK = {"cpu": 1 << 17, "cuda": 1 << 24}
"""Pairs looked at together: on a CPU its caches hold them, on a GPU they need about 1 GB."""


def all_pairs(molecules: Molecules, cutoff: float | None, distances: bool = True) -> Edges:
    r"""Every ordered pair of different atoms of one molecule, closer than ``cutoff`` if given.

    An atom of a molecule of :math:`n` atoms is target of :math:`n - 1` edges. Pair :math:`p` of
    target :math:`i`, counted from 0 at the target's first, has the source

    .. math::
        j = s + p + [s + p \ge i]

    with :math:`s` the first atom of the molecule; the bracket is 1 if true and steps over
    :math:`i` itself. No loop runs over molecules or atoms, only over chunks of many pairs.

    Args:
        molecules: Atoms grouped by molecule.
        cutoff: Å; None keeps all pairs.
        distances: Whether squared distances are wanted when there is no cutoff.

    Returns:
        Sorted edges.
    """
    counts, num_atoms = molecules.counts, len(molecules.pos)
    degree = torch.repeat_interleave(counts - 1, counts, output_size=num_atoms)  # [N]
    start = torch.repeat_interleave(molecules.starts, counts, output_size=num_atoms)  # [N]
    ends = degree.cumsum(0)
    total = int(ends[-1]) if num_atoms else 0
    parts = []
    for first, last in _chunks(ends, total):
        source, target = _pairs(start, degree, first, last)
        squared = None
        if distances or cutoff is not None:
            squared = squared_distance(molecules.pos, source, target)
        if cutoff is not None:
            assert squared is not None
            near = (squared < cutoff * cutoff).nonzero().squeeze(1)
            source, target, squared = source[near], target[near], squared[near]
        parts.append(Edges(source, target, squared))
    if len(parts) == 1:
        return parts[0]
    have_squared = [p.squared for p in parts if p.squared is not None]
    return Edges(
        torch.cat([p.source for p in parts]),
        torch.cat([p.target for p in parts]),
        torch.cat(have_squared) if len(have_squared) == len(parts) else None,
    )


def _chunks(ends: Tensor, total: int) -> list[tuple[int, int]]:
    """Ranges of targets with about CHUNK pairs each (one target at least)."""
    chunk = CHUNK.get(ends.device.type, CHUNK["cuda"])
    if total <= chunk:
        return [(0, len(ends))]
    marks = torch.arange(chunk, total, chunk, device=ends.device)
    cuts = torch.searchsorted(ends, marks).tolist()
    bounds = sorted({0, *cuts, len(ends)})
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def _pairs(start: Tensor, degree: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Sources and targets of all pairs whose target lies in ``[first, last)``."""
    degree = degree[first:last]
    target = torch.repeat_interleave(degree)  # [P], counted from first
    ends = degree.cumsum(0)
    shift = start[first:last] - (ends - degree)  # [T], from a pair's number to its source
    target = target + first if first else target
    source = torch.arange(len(target), device=target.device) + shift[target - first]
    return source + (source >= target), target
