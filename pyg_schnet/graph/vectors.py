"""Vectors and lengths of edges, differentiable in positions and cell."""

import torch
from torch import Tensor


def edge_vectors(
    pos: Tensor,
    edge_index: Tensor,
    cell: Tensor | None = None,
    cell_shift: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    r"""The vector of each edge, from target to source.

    .. math::
        \mathbf r_{e} = \mathbf r_j + S_e\,C_{b(i)} - \mathbf r_i

    Args:
        pos: Positions (N, 3), Å.
        edge_index: (2, E): row 0 source j, row 1 target i.
        cell: Lattice vectors as rows, (3, 3) or (B, 3, 3), Å; None for molecules.
        cell_shift: (E, 3) integers S; None for molecules.
        batch: (N,) molecule of each atom; needed where ``cell`` holds more than one.

    Returns:
        (E, 3), Å.

    Raises:
        ValueError: If only one of ``cell`` and ``cell_shift`` is given for a periodic structure, or
            several cells come without ``batch``.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]])
        >>> edge_vectors(pos, torch.tensor([[1], [0]]))
        tensor([[0.0000, 0.0000, 1.5000]])
    """
    source, target = edge_index[0], edge_index[1]
    vectors = pos.index_select(0, source) - pos.index_select(0, target)  # [E, 3]
    if cell is None:
        return vectors
    return vectors + shift_vectors(edge_index, cell, cell_shift, batch, pos.dtype)


def shift_vectors(
    edge_index: Tensor,
    cell: Tensor,
    cell_shift: Tensor | None,
    batch: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """The lattice vector that belongs to each edge, (E, 3), Å; as :func:`edge_vectors`.

    Raises:
        ValueError: As :func:`edge_vectors`.

    Example:
        >>> edge_index, shift = torch.tensor([[0], [0]]), torch.tensor([[0, 0, 1]])
        >>> shift_vectors(edge_index, 3.0 * torch.eye(3), shift, None, torch.float32)
        tensor([[0., 0., 3.]])
    """
    if cell_shift is None:
        raise ValueError("cell is given without cell_shift; take both from neighbor_edges.")
    shift = cell_shift.to(dtype)
    cells = cell.view(-1, 3, 3)
    if cells.size(0) == 1:
        return shift @ cells[0]
    if batch is None:
        raise ValueError(
            f"cell holds {cells.size(0)} structures; batch must say which atom is in which."
        )
    per_edge = cells.index_select(0, batch.index_select(0, edge_index[1]))  # [E, 3, 3]
    return torch.bmm(shift.unsqueeze(1), per_edge).squeeze(1)


def edge_lengths(
    pos: Tensor,
    edge_index: Tensor,
    cell: Tensor | None = None,
    cell_shift: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    """The length of each edge (E,), Å; arguments as :func:`edge_vectors`.

    Example:
        >>> edge_lengths(torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]]), torch.tensor([[1], [0]]))
        tensor([5.])
    """
    return torch.linalg.vector_norm(edge_vectors(pos, edge_index, cell, cell_shift, batch), dim=-1)
