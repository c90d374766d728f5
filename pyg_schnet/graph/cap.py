"""A limit on the number of neighbours that leaves the graph symmetric and says what it cost."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from pyg_schnet.graph.layout import Edges


def keep_nearest(edges: Edges, num_atoms: int, cap: int) -> Edges:
    """Keep the ``cap`` nearest neighbours of each target, then only edges kept both ways.

    Of neighbours at the same distance, those earlier in the list stay. A symmetric graph stays
    symmetric, so that forces stay pairwise opposite; an atom may be left with less than ``cap``.

    Args:
        edges: Sorted, symmetric, with squared distances.
        num_atoms: N.
        cap: Most neighbours per atom.

    Returns:
        The edges that stay. Warns, once, of the number of those that do not.
    """
    degree = torch.bincount(edges.target, minlength=num_atoms)
    if not len(edges.target) or int(degree.max()) <= cap:
        return edges
    assert edges.squared is not None
    by_distance = _lexsort(edges.target, edges.squared)
    starts = degree.cumsum(0) - degree
    rank = torch.empty_like(by_distance)
    rank[by_distance] = (
        torch.arange(len(by_distance), device=rank.device) - starts[edges.target[by_distance]]
    )
    keep = rank < cap
    # The list is symmetric and sorted by (target, source, shift): sorted by (source, target,
    # -shift) instead, its edges come in the order of their reverses.
    columns = [] if edges.shift is None else list(-edges.shift.T)
    keep = keep & keep[_lexsort(edges.source, edges.target, *columns)]
    dropped = len(keep) - int(keep.sum())
    warnings.warn(
        f"max_num_neighbors={cap} dropped {dropped} of {len(keep)} edges (an atom has up to "
        f"{int(degree.max())} neighbours within the cutoff): energies are then not smooth; "
        f"pass max_num_neighbors=None to keep every edge, or a smaller cutoff",
        UserWarning,
        stacklevel=3,
    )
    kept = replace(
        edges, source=edges.source[keep], target=edges.target[keep], squared=edges.squared[keep]
    )
    return kept if edges.shift is None else replace(kept, shift=edges.shift[keep])


def _lexsort(*columns: Tensor) -> Tensor:
    """The order that sorts by the first column, ties by the next, and so on."""
    order = torch.argsort(columns[-1], stable=True)
    for column in reversed(columns[:-1]):
        order = order[torch.argsort(column[order], stable=True)]
    return order
