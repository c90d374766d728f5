"""Sums and means over the atoms of each molecule."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pool(values: Tensor, batch: Tensor, num_graphs: int, readout: str | Sequence[str]) -> Tensor:
    """Sum or average ``values`` (N, C) over the atoms of each molecule, (num_graphs, C).

    An empty molecule gives zero.

    Args:
        values: One row per atom.
        batch: (N,) molecule of each atom.
        num_graphs: Number of molecules, B.
        readout: "add" or "mean", or one of them per column.

    Example:
        >>> pool(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([0, 1, 1]), 2, "mean")
        tensor([[1.],
                [4.]])
    """
    total = values.new_zeros(num_graphs, values.size(1)).index_add(0, batch, values)
    if readout == "add":
        return total
    counts = torch.bincount(batch, minlength=num_graphs).clamp(min=1)
    counts = counts.view(-1, 1).to(values.dtype)
    if readout == "mean":
        return total / counts
    averaged = torch.tensor([one == "mean" for one in readout], device=values.device)
    return total / torch.where(averaged, counts, torch.ones_like(counts))
