"""Positions relative to the centre of mass of each molecule."""

import torch
from torch import Tensor

from pyg_schnet.nn.pooling import pool


def atomic_masses() -> Tensor:
    """Standard atomic weights by atomic number as ASE knows them, (119,), u, float64."""
    from ase.data import atomic_masses as known

    return torch.tensor(known, dtype=torch.float64)


def from_centre_of_mass(pos: Tensor, mass: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    r"""Positions from the centre of mass of their molecule.

    .. math::
        \mathbf r_i - \mathbf r_0, \qquad
        \mathbf r_0 = \frac{\sum_i m_i\,\mathbf r_i}{\sum_i m_i}

    Args:
        pos: Positions (N, 3), Å, of whole molecules: no atom moved to the other side of a cell.
        mass: (N,), in any unit.
        batch: Molecule of each atom (N,).
        num_graphs: Number of molecules, B.

    Returns:
        (N, 3), Å.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
        >>> mass, batch = torch.tensor([3.0, 1.0]), torch.zeros(2, dtype=torch.long)
        >>> from_centre_of_mass(pos, mass, batch, 1)[:, 2].tolist()
        [-1.0, 3.0]
    """
    weight = mass.to(pos.dtype).view(-1, 1)
    total = pool(weight, batch, num_graphs, "add")
    centre = pool(weight * pos, batch, num_graphs, "add") / total.clamp(min=1e-12)
    return pos - centre.index_select(0, batch)
