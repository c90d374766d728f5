"""Batches by index arithmetic on a data set that already lies in memory in one piece.

PyG's collation of 32 small graphs costs milliseconds of Python; a gather costs microseconds.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch_geometric.data import Batch, InMemoryDataset

from pyg_schnet.graph import neighbor_edges


class MoleculeTable:
    """Molecules as concatenated tensors.

    Args:
        z: (N,) atomic numbers of all molecules.
        pos: (N, 3) positions, Å.
        ptr: (M + 1,) first atom of each molecule.
        y: (M, T) targets, float64.

    Raises:
        ValueError: If lengths do not fit, or positions or targets are not finite.
    """

    def __init__(self, z: Tensor, pos: Tensor, ptr: Tensor, y: Tensor) -> None:
        if int(ptr[-1]) != z.numel() or pos.shape != (z.numel(), 3) or len(y) != len(ptr) - 1:
            raise ValueError(
                f"The table does not fit together: z {tuple(z.shape)}, pos {tuple(pos.shape)}, "
                f"{len(ptr) - 1} molecules ending at atom {int(ptr[-1])}, y {tuple(y.shape)}."
            )
        for name, values in (("pos", pos), ("y", y)):
            if not torch.isfinite(values).all():
                row = int((~torch.isfinite(values)).flatten(1).any(1).nonzero()[0])
                raise ValueError(f"{name} has a NaN or infinite value in row {row}; remove it.")
        self.z, self.pos, self.ptr, self.y = z, pos, ptr, y
        self.num_atoms = ptr.diff()

    @classmethod
    def from_dataset(
        cls, dataset: InMemoryDataset, dtype: torch.dtype = torch.float32
    ) -> "MoleculeTable":
        """Take ``z``, ``pos`` and ``y`` of every molecule, in the order of the whole data set.

        Args:
            dataset: With its rows in storage order (not a shuffled or indexed view).
            dtype: Of the positions.

        Raises:
            ValueError: If it is an indexed view.
        """
        if dataset._indices is not None:
            raise ValueError(
                "Give the whole data set and choose rows by a Split, not a view of it."
            )
        data, slices = dataset._data, dataset.slices
        return cls(data.z.long(), data.pos.to(dtype), slices["z"], data.y.double())

    def __len__(self) -> int:
        return self.num_atoms.numel()

    def composition(self) -> Tensor:
        """Atoms of each element in each molecule, (M, 100) float64."""
        counts = torch.zeros(len(self), 100, dtype=torch.float64)
        molecule = torch.repeat_interleave(torch.arange(len(self)), self.num_atoms)
        return counts.index_put_(
            (molecule, self.z), torch.ones((), dtype=torch.float64), accumulate=True
        )

    def batch(self, rows: Tensor, cutoff: float | None) -> Batch:
        """The molecules ``rows`` as one PyG batch with edges.

        Args:
            rows: (B,) molecules, in this order.
            cutoff: Of the edges, Å; None for all pairs within a molecule.

        Returns:
            A ``Batch`` with z, pos, batch, ptr, y (B, T), edge_index, and ``rows``.
        """
        counts = self.num_atoms[rows]
        ptr = torch.zeros(len(rows) + 1, dtype=torch.long)
        torch.cumsum(counts, 0, out=ptr[1:])
        batch = torch.repeat_interleave(torch.arange(len(rows)), counts)
        atoms = torch.arange(int(ptr[-1])) + (self.ptr[rows] - ptr[:-1])[batch]
        out = Batch()
        out.z, out.pos, out.y = self.z[atoms], self.pos[atoms], self.y[rows]
        out.batch, out.ptr, out.rows = batch, ptr, rows
        out.edge_index, _ = neighbor_edges(out.pos, cutoff, batch=batch, validate=False)
        out._num_graphs = len(rows)
        return out


class EpochlessLoader:
    """Shuffled batches without end; step ``n`` is the same batch in every run with the same seed.

    Each pass over the rows is a new permutation, seeded by (seed, number of the pass); an
    incomplete last batch of a pass is left out. Starting at a step instead of at an epoch is what
    lets a run resume bit for bit.

    Args:
        table: The molecules.
        rows: (n,) rows to draw from.
        batch_size: Molecules in a batch; at most n are used.
        cutoff: Of the edges, Å; None for all pairs.
        seed: Of the permutations.
        start: First step.
    """

    def __init__(
        self,
        table: MoleculeTable,
        rows: Tensor,
        batch_size: int,
        cutoff: float | None,
        seed: int = 0,
        start: int = 0,
    ) -> None:
        self.table, self.rows, self.cutoff, self.seed = table, rows, cutoff, seed
        self.batch_size = min(batch_size, rows.numel())
        self.start = start
        self.batches_per_pass = rows.numel() // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        step, order, current = self.start, self.rows, -1
        while True:
            number, place = divmod(step, self.batches_per_pass)
            if number != current:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
                order = self.rows[torch.randperm(self.rows.numel(), generator=generator)]
                current = number
            first = place * self.batch_size
            yield self.table.batch(order[first : first + self.batch_size], self.cutoff)
            step += 1


class OrderedLoader:
    """Every row once, in order, in batches: for validation and test.

    Args:
        table: The molecules.
        rows: (n,) rows.
        batch_size: Molecules in a batch; the last may be smaller.
        cutoff: Of the edges, Å; None for all pairs.
    """

    def __init__(
        self, table: MoleculeTable, rows: Tensor, batch_size: int, cutoff: float | None
    ) -> None:
        self.table, self.rows, self.batch_size, self.cutoff = table, rows, batch_size, cutoff

    def __len__(self) -> int:
        return -(-self.rows.numel() // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self.rows.split(self.batch_size):
            yield self.table.batch(rows, self.cutoff)
