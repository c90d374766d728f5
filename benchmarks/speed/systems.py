"""The structures that the benchmarks run on, made here so that nothing need be downloaded."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_schnet.graph import neighbor_edges


@dataclass(frozen=True)
class System:
    """Structures with their edges.

    Attributes:
        z: (N,) atomic numbers.
        pos: (N, 3), Å, float32.
        batch: (N,).
        edge_index: (2, E).
        cell: (1, 3, 3) or None.
        cell_shift: (E, 3) or None.
    """

    z: Tensor
    pos: Tensor
    batch: Tensor
    edge_index: Tensor
    cell: Tensor | None = None
    cell_shift: Tensor | None = None

    @property
    def num_graphs(self) -> int:
        """Number of structures."""
        return int(self.batch[-1]) + 1

    def to(self, device: str) -> "System":
        """The same on another device."""
        moved = {k: v if v is None else v.to(device) for k, v in vars(self).items()}
        return System(**moved)


def molecules(count: int, atoms: int = 18, cutoff: float | None = 5.0) -> System:
    """Random molecules of QM9's size and density, edges within ``cutoff`` (None: all pairs)."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3) * 1.6
    pos = torch.cat([grid[torch.randperm(27, generator=generator)[:atoms]] for _ in range(count)])
    pos = pos + 0.1 * torch.randn(pos.shape, generator=generator)
    z = torch.tensor([1, 6, 7, 8])[torch.randint(0, 4, (len(pos),), generator=generator)]
    batch = torch.arange(count).repeat_interleave(atoms)
    return System(z, pos, batch, neighbor_edges(pos, cutoff, batch=batch)[0])


def ethanols(count: int) -> System:
    """Ethanol, each copy distorted in its own way; all pairs."""
    from ase.build import molecule

    atoms = molecule("CH3CH2OH")
    generator = torch.Generator().manual_seed(0)
    pos = torch.tensor(atoms.positions, dtype=torch.float32).repeat(count, 1)
    pos = pos + 0.05 * torch.randn(pos.shape, generator=generator)
    batch = torch.arange(count).repeat_interleave(len(atoms))
    edge_index = neighbor_edges(pos, None, batch=batch)[0]
    return System(torch.tensor(atoms.numbers).repeat(count).long(), pos, batch, edge_index)


def fullerene_c20() -> System:
    """The dodecahedron of 20 carbon atoms with bonds of 1.45 Å; all pairs."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    for a in (-1 / golden, 1 / golden):
        for b in (-golden, golden):
            corners += [(0, a, b), (a, b, 0), (b, 0, a)]
    pos = torch.tensor(corners, dtype=torch.float32) * (1.45 * golden / 2)
    z, batch = torch.full((20,), 6), torch.zeros(20, dtype=torch.long)
    return System(z, pos, batch, neighbor_edges(pos, None)[0])


def silicon(cells: int = 8, cutoff: float = 5.0) -> System:
    """Diamond silicon, 8 atoms in each of ``cells``³ cubic cells, slightly disordered."""
    from ase.build import bulk

    atoms = bulk("Si", cubic=True) * (cells, cells, cells)
    generator = torch.Generator().manual_seed(0)
    pos = torch.tensor(atoms.positions, dtype=torch.float32)
    pos = pos + 0.05 * torch.randn(pos.shape, generator=generator)
    cell = torch.tensor(atoms.cell.array, dtype=torch.float32).view(1, 3, 3)
    edge_index, cell_shift = neighbor_edges(pos, cutoff, cell=cell)
    z, batch = torch.full((len(atoms),), 14), torch.zeros(len(atoms), dtype=torch.long)
    return System(z, pos, batch, edge_index, cell, cell_shift)
