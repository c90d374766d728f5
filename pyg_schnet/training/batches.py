"""Batches by index arithmetic on a data set that already lies in memory in one piece.

PyG's collation of 32 small graphs is most of a millisecond of Python. Here edges are searched once
for the whole data set, and a batch is copied together by one compiled loop (CPU, where Numba is
installed) or a dozen of torch's operators (any device).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, InMemoryDataset

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.training.batch_loops import fill, fill_shifts, measure
from pyg_schnet.training.stored_edges import StoredEdges, store_edges

_PLAIN = (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8)


class MoleculeTable:
    """Molecules or crystals as concatenated tensors, on any one device.

    Edges of a cutoff are searched when it is first asked for, and kept (of the last two cutoffs):
    two bytes for each edge, so the 37 million at 5 Å of the whole QM9 take 74 MB beside the 50 MB
    of its atoms; five bytes where structures are periodic. The positions must not be changed
    afterwards.

    Args:
        z: (N,) atomic numbers of all molecules.
        pos: (N, 3) positions, Å.
        ptr: (M + 1,) first atom of each molecule.
        y: (M, T) targets, float64.
        forces: (N, 3) eV/Å in the dtype of ``pos``, or None.
        cell: (M, 3, 3) lattice vectors as rows, Å; None where nothing is periodic.
        pbc: (M, 3) booleans; None with a cell: periodic along all its vectors.
        mapped_to: The tensors are views of files, perhaps larger than the memory, and batches shall
            be of this dtype. Then nothing is converted, looked at or kept in whole: every batch
            searches its own edges, and constants are fitted to a part of the structures.

    Raises:
        ValueError: If lengths do not fit, or positions, targets or forces are not finite.

    >>> z, ptr = torch.tensor([1, 1, 8]), torch.tensor([0, 2, 3])
    >>> table = MoleculeTable(z, torch.eye(3), ptr, torch.zeros(2, 1).double())
    >>> table.batch(torch.tensor([1, 0]), cutoff=5.0).edge_index.tolist()
    [[2, 1], [1, 2]]
    """

    def __init__(
        self,
        z: Tensor,
        pos: Tensor,
        ptr: Tensor,
        y: Tensor,
        forces: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        *,
        mapped_to: torch.dtype | None = None,
    ) -> None:
        if int(ptr[-1]) != z.numel() or pos.shape != (z.numel(), 3) or len(y) != len(ptr) - 1:
            raise ValueError(
                f"The table does not fit together: z {tuple(z.shape)}, pos {tuple(pos.shape)}, "
                f"{len(ptr) - 1} molecules ending at atom {int(ptr[-1])}, y {tuple(y.shape)}."
            )
        if forces is not None and forces.shape != pos.shape:
            raise ValueError(
                f"forces must have the shape of pos, {tuple(pos.shape)}, got {tuple(forces.shape)}."
            )
        if cell is not None and cell.shape != (len(y), 3, 3):
            raise ValueError(
                f"cell must have one row per structure, ({len(y)}, 3, 3), got {tuple(cell.shape)}."
            )
        self.is_mapped = mapped_to is not None
        self.dtype = pos.dtype if mapped_to is None else mapped_to
        for name, values in (("pos", pos), ("y", y), ("forces", forces), ("cell", cell)):
            if self.is_mapped:  # and was looked at when it was written
                break
            if values is not None and not torch.isfinite(values).all():
                row = int((~torch.isfinite(values)).flatten(1).any(1).nonzero()[0])
                raise ValueError(f"{name} has a NaN or infinite value in row {row}; remove it.")
        self.z, self.pos, self.y = z.contiguous(), pos.contiguous(), y.contiguous()
        self.forces = None if forces is None else forces.to(pos.dtype).contiguous()
        self.cell, self.pbc = None, None
        if cell is not None:
            repeats = torch.ones(len(y), 3, dtype=torch.bool) if pbc is None else pbc
            self.cell, self.pbc = cell.to(pos.dtype).contiguous(), repeats.to(z.device).contiguous()
        # On the CPU whatever the device: the sizes of a batch are known without asking a GPU.
        self.ptr = ptr.long().cpu().contiguous()
        self.num_atoms = self.ptr.diff()
        self._stored: dict[float | None, StoredEdges | None] = {}

    @classmethod
    def from_dataset(
        cls, dataset: InMemoryDataset, dtype: torch.dtype = torch.float32
    ) -> MoleculeTable:
        """Take every molecule, in the order of the whole data set.

        Taken are ``z``, ``pos``, the targets ``y`` or else ``energy``, ``forces`` where there are
        any, and ``cell`` and ``pbc`` where any structure is periodic.

        Args:
            dataset: With its rows in storage order (not a shuffled or indexed view).
            dtype: Of positions, cells and forces.

        Raises:
            ValueError: If it is an indexed view or has no targets.
        """
        if dataset._indices is not None:
            raise ValueError(
                "Give the whole data set and choose rows by a Split, not a view of it."
            )
        data, slices = dataset._data, dataset.slices
        y, forces = data.get("y"), data.get("forces")
        if y is None:
            if data.get("energy") is None:
                raise ValueError("The data set has neither y nor energy to learn.")
            y = data.energy.view(-1, 1)
        cell, pbc = data.get("cell"), data.get("pbc")
        if cell is None or (pbc is not None and not bool(pbc.any())):
            cell = pbc = None
        if data.z.dtype == torch.uint8:  # only files hold elements in one byte
            ptr = slices["z"]
            return cls(data.z, data.pos, ptr, y.double(), forces, cell, pbc, mapped_to=dtype)
        forces = None if forces is None else forces.to(dtype)
        pos = data.pos.to(dtype)
        return cls(data.z.long(), pos, slices["z"], y.double(), forces, cell, pbc)

    @classmethod
    def joined(cls, tables: Sequence[MoleculeTable]) -> MoleculeTable:
        """One table of all molecules of several, in their order.

        Args:
            tables: On one device, with the same targets; all with forces, or none, and all with
                cells, or none.

        Raises:
            ValueError: If some have forces or cells and others have not.
        """
        forces = [table.forces for table in tables if table.forces is not None]
        if forces and len(forces) < len(tables):
            raise ValueError("Some of the tables have forces and others have not; join like ones.")
        cells = [table.cell for table in tables if table.cell is not None]
        if cells and len(cells) < len(tables):
            raise ValueError("Some of the tables have cells and others have not; join like ones.")
        num_atoms = torch.cat([table.num_atoms for table in tables])
        return cls(
            torch.cat([table.z.long() for table in tables]),
            torch.cat([table.pos for table in tables]),
            torch.cat([num_atoms.new_zeros(1), num_atoms.cumsum(0)]),
            torch.cat([table.y for table in tables]),
            torch.cat(forces) if forces else None,
            torch.cat(cells) if cells else None,
            torch.cat([table.pbc for table in tables if table.pbc is not None]) if cells else None,
        )

    def __len__(self) -> int:
        return self.num_atoms.numel()

    def composition(self, rows: Tensor | None = None) -> Tensor:
        """Atoms of each element in each molecule of ``rows`` (all: None), (M, 100) float64."""
        rows = torch.arange(len(self)) if rows is None else rows.cpu()
        sizes = self.num_atoms[rows]
        molecule = torch.repeat_interleave(torch.arange(len(rows)), sizes)
        shift = self.ptr[:-1][rows] - (sizes.cumsum(0) - sizes)
        atoms = torch.arange(len(molecule)) + shift[molecule]
        device = self.z.device
        counts = torch.zeros(len(rows), 100, dtype=torch.float64, device=device)
        return counts.index_put_(
            (molecule.to(device), self.z[atoms.to(device)].long()),
            torch.ones((), dtype=torch.float64, device=device),
            accumulate=True,
        )

    def batch(self, rows: Tensor, cutoff: float | None) -> Batch:
        """The molecules ``rows`` as one PyG batch with edges.

        Args:
            rows: (B,) molecules, in this order. On the CPU, a table on a GPU is not waited for.
            cutoff: Of the edges, Å; None for all pairs within a molecule.

        Returns:
            A ``Batch`` with z, pos, batch, ptr, y (B, T), edge_index sorted by target, then
            source, ``rows``, and ``forces``, or ``cell`` (B, 3, 3), ``pbc`` (B, 3) and
            ``cell_shift`` (E, 3), where the table has them. ``to_data_list`` takes it apart again.

        Raises:
            IndexError: If there is no such molecule.
        """
        return self.batches(rows[None], cutoff)[0]

    def batches(self, rows: Tensor, cutoff: float | None) -> list[Batch]:
        """Several batches of one size, ``rows`` (G, B); together they cost less than one by one.

        Args:
            rows: Molecules of each batch.
            cutoff: As for :meth:`batch`.
        """
        if cutoff not in self._stored:
            while len(self._stored) > 1:
                del self._stored[next(iter(self._stored))]
            lattices = None
            if self.cell is not None and self.pbc is not None:
                lattices = self.cell, self.pbc
            self._stored[cutoff] = (
                None if self.is_mapped else store_edges(self.pos, self.num_atoms, cutoff, lattices)
            )
        edges = self._stored[cutoff]
        rows = rows.to("cpu", torch.long).contiguous()
        loops = _compiled() if self._is_plain() and edges is not None else None
        if loops is not None:
            assert edges is not None
            return self._copy(rows, edges, *loops)
        return [self._index(one, edges, cutoff) for one in rows]

    def _is_plain(self) -> bool:
        """Whether the compiled loops can read the tensors."""
        # Forces are like positions.
        tensors = (self.z, self.pos, self.y)
        return self.y.dim() == 2 and all(
            t.device.type == "cpu" and t.dtype in _PLAIN for t in tensors
        )

    def _copy(
        self,
        rows: Tensor,
        edges: StoredEdges,
        sum_up: Callable,
        copy_in: Callable,
        copy_shifts: Callable,
    ) -> list[Batch]:
        """Batches by the compiled loops, each quantity of all of them in one piece of memory."""
        index, table_ptr, first = rows.numpy(), self.ptr.numpy(), edges.first.numpy()
        groups, size = index.shape
        ptr = np.empty((groups, 2, size + 1), np.int64)
        bad = sum_up(index, table_ptr, edges.count.numpy(), ptr)
        if bad >= 0:
            raise _no_such_row(int(rows.flatten()[bad]), len(self))
        # Where the atoms and the edges of each batch begin, [G + 1, 2]: at a cache line, so that
        # the arithmetic on a batch does not depend on its place among the others.
        sizes = ptr[:, :, -1]
        begin = np.zeros((groups + 1, 2), np.int64)
        (-(-sizes // 16) * 16).cumsum(0, out=begin[1:])
        num_atoms, num_edges = begin[-1].tolist()
        known = self.pos[:0] if self.forces is None else self.forces
        table = self.z.numpy(), self.pos.numpy().ravel(), known.numpy().ravel(), self.y.numpy()
        z = self.z.new_empty(num_atoms).numpy()
        pos = self.pos.new_empty(3 * num_atoms).numpy()
        forces = self.pos.new_empty(3 * num_atoms if len(known) else 0).numpy()
        y = np.empty((groups, size, self.y.shape[1]), table[3].dtype)
        batch, edge_index = (rows.new_empty(n).numpy() for n in (num_atoms, 2 * num_edges))
        stored = first, edges.pairs, 8 * edges.local.element_size()
        out = z, pos, forces, y, batch, edge_index
        copy_in(index, table_ptr, stored, table, ptr, begin, out)
        shifts = None
        if edges.shift is not None:
            shifts = np.empty(3 * num_edges, np.int32)
            copy_shifts(index, first, edges.shift.numpy().ravel(), ptr, begin, shifts)
        made = []
        for k, ((a, e), (n, m)) in enumerate(zip(begin.tolist(), sizes.tolist(), strict=False)):
            # From NumPy, because views of one tensor would share autograd's count of changes.
            offsets, edge_offsets = (torch.from_numpy(of) for of in ptr[k])
            more = {}
            if self.forces is not None:
                more["forces"] = _triples(forces, a, n), offsets
            if shifts is not None:
                more |= self._lattices(rows[k], _triples(shifts, e, m), edge_offsets)
            made.append(
                _assemble(
                    torch.from_numpy(z[a : a + n]),
                    _triples(pos, a, n),
                    torch.from_numpy(y[k]),
                    torch.from_numpy(batch[a : a + n]),
                    offsets,
                    rows[k],
                    torch.from_numpy(edge_index[2 * e : 2 * (e + m)].reshape(2, -1)),
                    offsets,
                    edge_offsets,
                    more,
                )
            )
        return made

    def _lattices(
        self, rows: Tensor, shift: Tensor, edge_ptr: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Cells, periodicity and shifts of a batch, with where the part of each structure begins.

        ``rows`` are on the device of the table.
        """
        assert self.cell is not None and self.pbc is not None
        each = _counted(len(rows) + 1)
        return {
            "cell": (self.cell[rows].to(self.dtype), each),
            "pbc": (self.pbc[rows], each),
            "cell_shift": (shift, edge_ptr),
        }

    def _index(self, rows: Tensor, edges: StoredEdges | None, cutoff: float | None) -> Batch:
        """A batch by torch's operators; they wait for a GPU only where edges are not stored."""
        device = self.z.device
        outside = ((rows < -len(self)) | (rows >= len(self))).nonzero()
        if len(outside):
            raise _no_such_row(int(rows[outside[0, 0]]), len(self))
        num_atoms = self.num_atoms[rows]
        num_edges = edges.count[rows] if edges is not None else torch.zeros_like(rows)
        end, edge_end = num_atoms.cumsum(0), num_edges.cumsum(0)
        start, edge_start = end - num_atoms, edge_end - num_edges
        shift = self.ptr[:-1][rows] - start
        edge_shift = edges.first[rows] - edge_start if edges is not None else edge_start
        # One transfer for all that the device has to know.
        known = torch.stack([rows, num_atoms, start, shift, num_edges, edge_shift]).to(
            device, non_blocking=True
        )
        there, atoms_there, start_there, shift, edges_there, edge_shift = known
        total = int(end[-1]) if len(rows) else 0
        batch = torch.repeat_interleave(atoms_there, output_size=total)
        atoms = torch.arange(total, device=device) + shift[batch]
        z, pos, y = self.z[atoms], self.pos[atoms], self.y[there]
        if self.is_mapped:
            z, pos = z.long(), pos.to(self.dtype)
        cell_shift = None
        if edges is None:
            cell = None if self.cell is None else self.cell[there].to(self.dtype)
            pbc = None if self.pbc is None else self.pbc[there]
            edge_index, cell_shift = neighbor_edges(pos, cutoff, batch, cell, pbc, validate=False)
            cell_shift = cell_shift.int()
            num_edges = torch.bincount(batch[edge_index[1]], minlength=len(rows)).cpu()
            edge_end = num_edges.cumsum(0)
        else:
            total_edges = int(edge_end[-1]) if len(rows) else 0
            graph = torch.repeat_interleave(edges_there, output_size=total_edges)
            chosen = torch.arange(total_edges, device=device) + edge_shift[graph]
            edge_index = graph.new_empty(2, total_edges)
            torch.add(edges.local[chosen].T, start_there[graph], out=edge_index)
            if edges.shift is not None:
                cell_shift = edges.shift[chosen].int()
        zero = end.new_zeros(1)
        host_ptr, edge_ptr = torch.cat([zero, end]), torch.cat([zero, edge_end])
        ptr = host_ptr.to(device, non_blocking=True)
        more = {}
        if self.forces is not None:
            more["forces"] = self.forces[atoms].to(self.dtype), host_ptr
        if self.cell is not None:
            assert cell_shift is not None
            more |= self._lattices(there, cell_shift, edge_ptr)
        return _assemble(z, pos, y, batch, ptr, there, edge_index, host_ptr, edge_ptr, more)


def model_inputs(
    batch: Batch,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """What a model takes: z, pos, batch, edge_index, cell and cell_shift (None for molecules)."""
    known = batch.z, batch.pos, batch.batch, batch.edge_index
    return (*known, batch.get("cell"), batch.get("cell_shift"))


def _no_such_row(row: int, count: int) -> IndexError:
    return IndexError(f"rows has {row}, but the table has {count} structures, counted from 0.")


@functools.lru_cache(8)
def _counted(stop: int) -> Tensor:
    return torch.arange(stop)


@functools.cache
def _empty_batch() -> Batch:
    return Batch()


def _triples(flat: np.ndarray, first: int, count: int) -> Tensor:
    """Rows of a matrix with three columns that lies in memory as one vector."""
    return torch.from_numpy(flat[3 * first : 3 * (first + count)].reshape(-1, 3))


def _assemble(
    z: Tensor,
    pos: Tensor,
    y: Tensor,
    batch: Tensor,
    ptr: Tensor,
    rows: Tensor,
    edge_index: Tensor,
    host_ptr: Tensor,
    edge_ptr: Tensor,
    more: dict[str, tuple[Tensor, Tensor]],
) -> Batch:
    """The PyG object. Its constructor takes longer than all the copying; a copy of one does not.

    ``more`` holds other attributes, each with where the part of each structure begins.
    """
    out = copy.copy(_empty_batch())
    out._store._mapping.update(
        z=z, pos=pos, y=y, batch=batch, ptr=ptr, rows=rows, edge_index=edge_index
    )
    count = y.shape[0]
    each = _counted(count + 1)
    # What takes the batch apart again: where each molecule's part begins, and what to subtract.
    out._store.__dict__.update(
        _num_graphs=count,
        _slice_dict=dict(z=host_ptr, pos=host_ptr, y=each, rows=each, edge_index=edge_ptr),
        _inc_dict=dict(z=None, pos=None, y=None, rows=None, edge_index=host_ptr),
    )
    for name, (values, begin) in more.items():
        out._store._mapping[name] = values
        out._store._slice_dict[name] = begin
        out._store._inc_dict[name] = None
    return out


@functools.cache
def _compiled() -> tuple[Callable, Callable, Callable] | None:
    """The loops, compiled when first used and cached on disk; None without Numba."""
    try:
        from numba import njit
    except ImportError:
        return None
    first, second, third = (njit(f, cache=True, nogil=True) for f in (measure, fill, fill_shifts))
    return first, second, third
