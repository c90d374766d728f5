"""Atoms without neighbours, and atoms on one point, in many crystals at once."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.datasets.crystal_structure import Crystal, Refused
from pyg_schnet.graph import neighbor_edges

SAME_POINT = 0.1
"""Å; no two nuclei of a crystal come as near."""
_ATOMS = 8192  # in one search, which bounds the memory for its edges


def check_neighbors(crystals: Sequence[Crystal], cutoff: float | None) -> list[Refused | None]:
    """Looks at the distances in each crystal.

    Positions and cells are rounded to float32 first, as they are stored, so that what has a
    neighbour here has one in training.

    Args:
        crystals: Any number, checked by :func:`~.crystal_structure.check`.
        cutoff: Å; None: atoms without neighbour are allowed.

    Returns:
        For each crystal, why it is refused, or None.
    """
    found: list[Refused | None] = []
    for group in _groups(crystals):
        try:
            found += _search(group, cutoff)
        except ValueError:
            found += [_search_one(crystal, cutoff) for crystal in group]
    return found


def _groups(crystals: Sequence[Crystal]) -> Iterator[list[Crystal]]:
    group: list[Crystal] = []
    atoms = 0
    for crystal in crystals:
        if group and atoms + len(crystal.z) > _ATOMS:
            yield group
            group, atoms = [], 0
        group.append(crystal)
        atoms += len(crystal.z)
    if group:
        yield group


def _search_one(crystal: Crystal, cutoff: float | None) -> Refused | None:
    try:
        return _search([crystal], cutoff)[0]
    except ValueError as error:
        return Refused("unreadable", str(error))


def _search(group: list[Crystal], cutoff: float | None) -> list[Refused | None]:
    sizes = torch.tensor([len(crystal.z) for crystal in group])
    batch = torch.repeat_interleave(torch.arange(len(group)), sizes)
    pos = torch.from_numpy(np.concatenate([crystal.pos for crystal in group])).float()
    cell = torch.from_numpy(np.stack([crystal.cell for crystal in group])).float()
    pbc = torch.from_numpy(np.stack([crystal.pbc for crystal in group]))
    edge_index, shift = neighbor_edges(
        pos, cutoff or 2 * SAME_POINT, batch, cell=cell, pbc=pbc, validate=False
    )
    source, target = edge_index
    images = torch.bmm(shift.to(pos.dtype)[:, None], cell[batch[target]])[:, 0]
    squared = (pos[source] + images - pos[target]).square().sum(1)
    first = sizes.cumsum(0) - sizes
    found: list[Refused | None] = [None] * len(group)
    if cutoff is not None:
        degree = torch.bincount(target, minlength=len(pos))
        for atom in (degree == 0).nonzero()[:, 0].flip(0).tolist():
            k, local = _place(atom, batch, first)
            what = f"atom {local} (Z = {group[k].z[local]}) has no neighbour within {cutoff:g} Å"
            found[k] = Refused("isolated atom", what)
    for edge in (squared < SAME_POINT**2).nonzero()[:, 0].flip(0).tolist():
        k, i = _place(int(target[edge]), batch, first)
        _, j = _place(int(source[edge]), batch, first)
        apart = float(squared[edge]) ** 0.5
        found[k] = Refused("atoms on one point", f"atoms {i} and {j} are {apart:.3g} Å apart")
    return found


def _place(atom: int, batch: Tensor, first: Tensor) -> tuple[int, int]:
    k = int(batch[atom])
    return k, atom - int(first[k])
