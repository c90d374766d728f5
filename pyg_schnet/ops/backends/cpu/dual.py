"""Energy, forces and the gradients of a loss on both, on the CPU: what surrounds the sweeps.

Sizes, addresses and memory for the compiled functions of :mod:`~.sweeps`.
"""

import ctypes
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyg_schnet.ops.backends.cpu import slots, sweeps
from pyg_schnet.ops.backends.cpu.convolutions import LINE, SPEED, TILE
from pyg_schnet.ops.backends.cpu.sweeps import EDGE, ELEMENTS
from pyg_schnet.ops.backends.cpu.threads import num_threads
from pyg_schnet.ops.spline import DEGREE, PREFILTER, REACH, ROWS, basis_polynomials

_BLOCK_ATOMS = 128  # atoms that a block need not exceed
_LEAST_ATOMS = 8  # atoms from which a block is large enough for the products
_SMALL = 10_000_000  # multiply-adds; below this, waking a second thread costs more than it brings
_JOBS_PER_THREAD = 1
_KEPT_BUFFERS = 2
_CUTOFFS = {"none": 0, "cosine": 1, "hard": 2}


@dataclass(frozen=True)
class _Piece:
    """A tensor in a flat array: where it begins, its size there, and its shape without padding."""

    start: int
    rows: int
    columns: int
    shape: tuple[int, ...]

    def of(self, flat: Tensor) -> Tensor:
        """The gradient that the flat array holds."""
        if len(self.shape) == 1:
            return flat[self.start : self.start + self.shape[0]]
        if self.shape == (self.rows, self.columns):
            return flat[self.start : self.start + self.rows * self.columns].view(self.shape)
        whole = flat[self.start : self.start + self.rows * self.columns]
        cut = whole.view(self.rows, self.columns)[: self.shape[0], : self.shape[1]]
        return cut.contiguous()


class _Plan:
    """Sizes of a network, filled up to whole vectors, and where its tensors lie in flat arrays.

    Copies of the weights are laid out for the kernels, (source, start, rows, columns, columns of
    the copy), the last negative for a transposed copy.
    """

    def __init__(self, shapes: tuple[tuple[int, ...], ...], tables: int, bits: int) -> None:
        self.step = 512 // bits
        own = shapes[4 * tables :]
        self.tables, self.layers = tables, (len(own) - 5) // 5
        h, f, g, r = own[0][-1], shapes[0][0], shapes[0][-1], own[-4][0]
        layer: tuple[tuple[int, ...], ...] = ((f, h), (h, f), (h,), (h, h), (h,))
        expected: tuple[tuple[int, ...], ...] = ((f, g), (f,), (f, f), (f,)) * tables
        expected += ((ELEMENTS, h), *layer * self.layers, (r, h), (r,), (1, r), (1,))
        if shapes != expected or tables not in (1, self.layers):
            raise ValueError(f"The weights do not make a SchNet: shapes {shapes}.")
        self.gaussians, self.gaussian_room = g, self._up(g)
        self.hidden, self.readout = self._up(h), self._up(r)
        self.filters = self._up(f, TILE)
        self.is_padded = (self.hidden, self.filters, self.readout) != (h, f, r)
        self._lay_out_copies()
        self._lay_out_gradients(shapes)

    def _up(self, size: int, vectors: int = 1) -> int:
        whole = vectors * self.step
        return -(-size // whole) * whole

    def _lay_out_copies(self) -> None:
        hidden, filters, readout = self.hidden, self.filters, self.readout
        wanted: list[tuple[int, int, int]] = []
        for n in range(0, 4 * self.tables, 4):
            wanted += [(n, filters, -self.gaussians), (n + 2, filters, -filters)]
            wanted += [(n + 2, filters, filters), (n + 1, 1, filters), (n + 3, 1, filters)]
        self.filter_size = sum(rows * abs(columns) for _, rows, columns in wanted)
        first = 4 * self.tables
        for n in range(first + 1, first + 1 + 5 * self.layers, 5):
            wanted += [(n, filters, -hidden), (n + 1, hidden, -filters), (n + 3, hidden, -hidden)]
            wanted += [(n, filters, hidden), (n + 1, hidden, filters), (n + 3, hidden, hidden)]
            wanted += [(n + 2, 1, hidden), (n + 4, 1, hidden)]
        n = first + 1 + 5 * self.layers
        wanted += [(n, readout, -hidden), (n, readout, hidden), (n + 1, 1, readout)]
        wanted += [(n + 2, 1, readout), (n + 3, 1, 16), (first, ELEMENTS, hidden)]
        self.copied = np.array([source for source, _, _ in wanted])
        sizes = [rows * abs(columns) for _, rows, columns in wanted]
        self.packed_size = sum(sizes)
        self.copies = np.zeros((len(wanted), 5), dtype=np.int64)
        self.copies[:, 1] = np.cumsum([0, *sizes[:-1]]) * (64 // self.step)
        for row, (_, rows, columns) in zip(self.copies, wanted, strict=True):
            row[4] = -rows if columns < 0 else columns

    def _lay_out_gradients(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        hidden, filters, readout, room = self.hidden, self.filters, self.readout, self.gaussian_room
        for row, source in zip(self.copies, self.copied, strict=True):
            row[2:4] = shapes[source] if len(shapes[source]) == 2 else (1, *shapes[source])
        first = 4 * self.tables
        wanted: list[tuple[int, int, int]] = []
        for n in range(first + 1, first + 1 + 5 * self.layers, 5):
            wanted += [(n, filters, hidden), (n + 1, hidden, filters), (n + 3, hidden, hidden)]
            wanted += [(n + 2, 1, hidden), (n + 4, 1, hidden)]
        n = first + 1 + 5 * self.layers
        wanted += [(n, readout, hidden), (n + 1, 1, readout), (n + 2, 1, readout), (n + 3, 1, 16)]
        wanted += [(first, ELEMENTS, hidden)]
        self.pieces, self.gradient_size = _pieces(wanted, shapes)
        wanted = []
        for n in range(0, first, 4):
            wanted += [(n, filters, room), (n + 1, 1, filters)]
            wanted += [(n + 2, filters, filters), (n + 3, 1, filters)]
        self.filter_pieces, self.filter_gradient_size = _pieces(wanted, shapes)

    def copies_of(self, weights: Sequence[Tensor], start: int) -> NDArray[np.int64]:
        """What to copy from where to where, in addresses."""
        copies = self.copies.copy()
        copies[:, 0] = np.array([t.data_ptr() for t in weights])[self.copied]
        copies[:, 1] += start
        return copies


def _pieces(
    wanted: list[tuple[int, int, int]], shapes: tuple[tuple[int, ...], ...]
) -> tuple[list[_Piece], int]:
    """One after the other, then in the order of the weights; and their size."""
    found, start = {}, 0
    for number, rows, columns in wanted:
        found[number] = _Piece(start, rows, columns, shapes[number])
        start += rows * columns
    return [found[number] for number in sorted(found)], start


_plan = functools.cache(_Plan)


class _Buffers:
    """Memory that is used again: fresh pages cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, numbers: int, dtype: torch.dtype) -> Tensor:
        """Memory for at least so many numbers; pops alone are safe among threads."""
        count = -(-numbers * dtype.itemsize // 8)
        while self._free:
            try:
                held = self._free.pop()
            except IndexError:
                break
            if held.numel() >= count:
                return held
        return torch.empty(count + count // 4, dtype=torch.int64)

    def give(self, buffer: Tensor) -> None:
        if len(self._free) < _KEPT_BUFFERS:
            self._free.append(buffer)


_RECORDS, _SCRATCHES, _PARTS = _Buffers(), _Buffers(), _Buffers()


@dataclass
class Record:
    """What the second call needs of the first, and the memory that holds it."""

    arguments: ctypes.Array
    plan: _Plan
    dtype: torch.dtype
    jobs: int
    threads: int
    kept: list[Tensor]
    buffer: Tensor
    home: _Buffers = _RECORDS

    def __del__(self) -> None:
        self.home.give(self.buffer)


@functools.cache
def _spline(step: float, dtype: torch.dtype) -> Tensor:
    """Polynomials of the six basis functions, then of their slopes, by rising powers of t."""
    out = torch.zeros(ROWS, LINE, dtype=torch.float64)
    for order in (0, 1):
        rows = torch.tensor(basis_polynomials(order), dtype=torch.float64) / step**order
        out[:, 8 * order : 8 * order + ROWS] = rows.T
    return out.to(dtype)


@functools.cache
def _taps(dtype: torch.dtype) -> Tensor:
    return torch.tensor([*PREFILTER[:0:-1], *PREFILTER], dtype=dtype)


@functools.cache
def _constants(step: float, cutoff: float, std: float, dtype: torch.dtype) -> Tensor:
    values = [step, 1.0 / step, cutoff, math.pi / cutoff, std]
    return torch.tensor(values, dtype=torch.float64).to(dtype)


def dual_values(
    weights: Sequence[Tensor],
    filter_weights: Sequence[Tensor],
    expanded: Tensor,
    ends_in_ssp: bool,
    z: Tensor,
    pos: Tensor,
    seed: Tensor,
    edges: Sequence[Tensor],
    both: bool,
    shift: Tensor | None,
    inverse_count: Tensor | None,
    cutoff_fn: str,
    cutoff: float,
    step: float,
    intervals: int,
    std: float,
    wants_forces: bool,
    virial: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Record]:
    """As :func:`pyg_schnet.ops.dual.values_and_forces`."""
    dtype, atoms = pos.dtype, pos.size(0)
    given = [t if t.is_contiguous() else t.contiguous() for t in (*filter_weights, *weights)]
    size = dtype.itemsize
    plan = _plan(tuple([tuple(t.shape) for t in given]), len(filter_weights) // 4, 8 * size)
    edge_index, in_ptr, in_order = (t.contiguous() for t in edges)
    num_edges, knots = edge_index.size(1), intervals + DEGREE
    missing = plan.gaussian_room - expanded.size(1)
    if missing:
        expanded = torch.nn.functional.pad(expanded, (0, missing))
    seed, z, pos, expanded = (t.contiguous() for t in (seed, z, pos, expanded))

    by_hidden, by_filter = plan.layers * atoms * plan.hidden, plan.layers * atoms * plan.filters
    by_sample = plan.tables * (knots + 2 * REACH) * plan.filters
    sizes = {
        slots.LINES: num_edges * LINE,
        slots.GEOMETRY: num_edges * EDGE,
        slots.X: by_hidden + atoms * plan.hidden,
        slots.H: by_filter,
        slots.Y: by_filter,
        slots.SLOPE: by_hidden,
        slots.A: by_hidden,
        slots.HEAD_SLOPE: atoms * plan.readout,
        slots.HEAD: atoms * plan.readout,
        slots.TABLE: plan.tables * knots * plan.filters,
        slots.FILTER_WEIGHTS: plan.packed_size,
        slots.FILTER_SLOPE: by_sample,
        slots.FILTER_HIDDEN: by_sample,
        slots.FILTER_VALUES: 2 * by_sample,
    }
    if wants_forces:
        sizes |= {
            slots.GX: by_hidden + atoms * plan.hidden,
            slots.GA: by_hidden,
            slots.GQ: by_hidden,
            slots.GY: by_filter,
            slots.GH: by_filter,
            slots.GP: atoms * plan.readout,
            slots.BARS: num_edges * plan.step,
            slots.SPEEDS: num_edges * SPEED,
        }
    integers = (slots.SOURCE, slots.TARGET, slots.KNOT, slots.BLOCKS)
    numbers = sum(sizes.values()) + (3 * num_edges + atoms + 2) * (8 // size)
    buffer = _RECORDS.take(numbers + 16 * (len(sizes) + 1), dtype)
    g = (ctypes.c_int64 * slots.NUM_ARGUMENTS)()
    address = -(-buffer.data_ptr() // 64) * 64
    for name, count in sizes.items():
        g[name] = address
        address += -(-count * size // 64) * 64
    for name in integers:
        g[name] = address
        address += 8 * num_edges
    if plan.is_padded:
        ctypes.memset(g[slots.FILTER_WEIGHTS], 0, plan.packed_size * size)
    g[slots.PACKED] = g[slots.FILTER_WEIGHTS] + plan.filter_size * size

    work = 18 * plan.layers * atoms * plan.hidden * max(plan.hidden, plan.filters)
    threads = num_threads() if work > _SMALL else 1
    wanted = 1 if threads == 1 else _JOBS_PER_THREAD * threads
    energy = pos.new_empty(atoms)
    forces = torch.empty_like(pos) if wants_forces else None
    by_atom = pos.new_empty(atoms, 3, 3) if virial else None
    copies = plan.copies_of(given, g[slots.FILTER_WEIGHTS])
    for name, value in (
        (slots.ATOMS, atoms),
        (slots.EDGES, num_edges),
        (slots.LAYERS, plan.layers),
        (slots.HIDDEN, plan.hidden),
        (slots.FILTERS, plan.filters),
        (slots.READOUT, plan.readout),
        (slots.KNOTS, knots),
        (slots.INTERVALS, intervals),
        (slots.TABLES, plan.tables),
        (slots.GAUSSIANS, plan.gaussians),
        (slots.GAUSSIAN_ROOM, plan.gaussian_room),
        (slots.ENDS_IN_SSP, int(ends_in_ssp)),
        (slots.BOTH, int(both)),
        (slots.CUTOFF, _CUTOFFS[cutoff_fn]),
        (slots.BLOCK_ATOMS, min(_BLOCK_ATOMS, max(_LEAST_ATOMS, atoms // wanted))),
        (slots.COPIES, copies.ctypes.data),
        (slots.NUM_COPIES, len(copies)),
    ):
        g[name] = value
    tensors = {
        slots.CONSTANTS: _constants(step, cutoff, std, dtype),
        slots.SPLINE: _spline(step, dtype),
        slots.TAPS: _taps(dtype),
        slots.EDGE_INDEX: edge_index,
        slots.IN_PTR: in_ptr,
        slots.IN_ORDER: in_order,
        slots.SHIFT: shift,
        slots.POS: pos,
        slots.Z: z,
        slots.SEED: seed,
        slots.INVERSE_COUNT: inverse_count,
        slots.EXPANDED: expanded,
    }
    # Results are not kept: those of an autograd.Function hold the record in turn.
    results = {slots.ENERGY: energy, slots.FORCES: forces, slots.VIRIAL: by_atom}
    for name, tensor in (tensors | results).items():
        g[name] = 0 if tensor is None else tensor.data_ptr()
    arguments = ctypes.addressof(g)
    sweeps.PREPARE[dtype](1, 1, arguments)
    sweeps.TABLES_FORWARD[dtype](plan.tables, threads, arguments)
    jobs = max(1, min(wanted, g[slots.NUM_BLOCKS]))
    threads = min(threads, jobs)
    sweeps.FIRST[dtype](jobs, threads, arguments)
    kept = [t for t in tensors.values() if t is not None]
    return energy, forces, by_atom, Record(g, plan, dtype, jobs, threads, kept, buffer)


def dual_gradients(
    record: Record,
    weight: Tensor,
    direction: Tensor | None,
    strain: Tensor | None,
    molecule: Tensor | None,
) -> list[Tensor]:
    """As :func:`pyg_schnet.ops.dual.parameter_gradients`."""
    g, plan, dtype, jobs = record.arguments, record.plan, record.dtype, record.jobs
    layers, hidden, filters, readout = plan.layers, plan.hidden, plan.filters, plan.readout
    per_atom = 2 * hidden + 2 * filters + readout
    if direction is not None:
        per_atom += (3 * layers + 1) * hidden + 2 * layers * filters + 2 * readout
    scratch_size = g[slots.MAX_BLOCK] * per_atom
    table_size = plan.tables * g[slots.KNOTS] * filters
    filter_scratch = 2 * plan.tables * (g[slots.KNOTS] + 2 * REACH) * filters
    scratch = _SCRATCHES.take(max(jobs * scratch_size, filter_scratch) + 16, dtype)
    made_size = plan.gradient_size + table_size
    # The result of one job is handed out; those of several are added up, and their memory kept.
    parts = _PARTS.take(jobs * made_size + 16, dtype) if jobs > 1 else None
    if parts is None:
        made = torch.empty(1, made_size, dtype=dtype)
    else:
        skipped = -parts.data_ptr() % 64 // dtype.itemsize
        made = parts.view(dtype)[skipped : skipped + jobs * made_size].view(jobs, made_size)
    given = {
        slots.WEIGHT: weight,
        slots.DIRECTION: direction,
        slots.STRAIN: strain,
        slots.MOLECULE: None if strain is None else molecule,
    }
    kept = {name: t.contiguous() for name, t in given.items() if t is not None}
    for name in given:
        g[name] = kept[name].data_ptr() if name in kept else 0
    g[slots.GRADIENTS], g[slots.GRADIENT_SIZE] = made.data_ptr(), made.size(1)
    g[slots.SCRATCH], g[slots.SCRATCH_SIZE] = -(-scratch.data_ptr() // 64) * 64, scratch_size
    sweeps.SECOND[dtype](jobs, record.threads, ctypes.addressof(g))
    flat = made[0]
    if parts is not None:
        flat = made.sum(0)
        _PARTS.give(parts)

    filter_made = torch.empty(plan.filter_gradient_size, dtype=dtype)
    g[slots.FILTER_GRADIENTS] = filter_made.data_ptr()
    g[slots.GRADIENTS] = flat.data_ptr() + plan.gradient_size * dtype.itemsize
    sweeps.TABLES_BACK[dtype](plan.tables, record.threads, ctypes.addressof(g))
    _SCRATCHES.give(scratch)
    gradients = [piece.of(filter_made) for piece in plan.filter_pieces]
    return gradients + [piece.of(flat) for piece in plan.pieces]
