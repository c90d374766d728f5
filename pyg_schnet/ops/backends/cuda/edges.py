"""What is done once for each edge on CUDA: sorting, vectors, spline weights."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyg_schnet.ops.backends.cuda.launch import bits, launch, power_of_two, tiles, varying
from pyg_schnet.ops.spline import DEGREE, ROWS, basis_polynomials

_BLOCK = 128  # one for each thread: with more, layouts of loads and stores would differ
# All orders in one row: [order, m, power].
_POLYNOMIALS = tl.constexpr(
    tuple(a for order in range(DEGREE + 1) for row in basis_polynomials(order) for a in row)
)


def csr(index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """As :func:`pyg_schnet.ops.backends.reference.csr`, but without waiting for the device.

    An index that is negative or not below ``rows`` is found on the device, which then stops, since
    kernels would read beyond their arrays.
    """
    if index.numel():
        low, high = index.aminmax()
        torch._assert_async(
            (low >= 0) & (high < rows), f"edge_index must hold node numbers from 0 to {rows - 1}."
        )
    # Half the digits, half the passes of the radix sort.
    narrow = torch.int32 if rows < 2**31 else torch.int64
    ordered, order = torch.sort(index.to(narrow), stable=True)
    first = torch.arange(rows + 1, dtype=narrow, device=index.device)
    return torch.searchsorted(ordered, first), order


@triton.jit
def _number(whole, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    return whole.to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def _knot(d, inverse, last):  # type: ignore[no-untyped-def]
    """The knot as a float; 0 for a NaN, which stays in t."""
    u = tl.floor(d * inverse)
    u = tl.where(u > 0.0, u, 0.0)
    end = last.to(u.dtype)
    return tl.where(u < end, u, end)


@triton.jit
def _basis(t, ORDER: tl.constexpr, M: tl.constexpr):  # type: ignore[no-untyped-def]
    # Not a plain constant, so that a NaN stays one.
    value = t * 0.0 + _POLYNOMIALS[(ORDER * 6 + M) * 6 + 5 - ORDER]
    for q in tl.static_range(1, 6 - ORDER):
        value = value * t + _POLYNOMIALS[(ORDER * 6 + M) * 6 + 5 - ORDER - q]
    return value


@varying("edges", "step", "inverse", "scale", "last", pointers=("given", "d"))
def _spline(  # type: ignore[no-untyped-def]
    given,
    d,
    out,
    edges,
    step,
    inverse,
    scale,
    last,
    ORDER: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Weights c B_m(d), or with DOT the sum of g_m B_m(d)."""
    dtype: tl.constexpr = d.dtype.element_ty
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = e < edges
    distance = tl.load(d + e, mask=valid, other=0.0)
    reciprocal = _number(inverse, dtype)
    k = _knot(distance, reciprocal, last)
    t = (distance - k * _number(step, dtype)) * reciprocal
    beyond = t > 1.0
    # Beyond the end the spline is continued as a constant.
    t = tl.where(beyond, 1.0, t)
    factor = tl.zeros_like(t) + _number(scale, dtype)
    if ORDER > 0:
        factor = tl.where(beyond, 0.0, factor)
    if DOT:
        total = tl.zeros_like(t)
        for m in tl.static_range(6):
            g = tl.load(given + 6 * e + m, mask=valid, other=0.0)
            total += g * _basis(t, ORDER, m)
        tl.store(out + e, total * factor, mask=valid)
    else:
        factor *= tl.load(given + e, mask=valid, other=0.0)
        for m in tl.static_range(6):
            tl.store(out + 6 * e + m, factor * _basis(t, ORDER, m), mask=valid)


@varying("edges", "inverse", "last", pointers=("d",))
def _knots(d, out, edges, inverse, last, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = e < edges
    distance = tl.load(d + e, mask=valid, other=0.0)
    k = _knot(distance, _number(inverse, d.dtype.element_ty), last)
    tl.store(out + e, k.to(tl.int32), mask=valid)


def _run_spline(
    given: Tensor, d: Tensor, out: Tensor, order: int, step: float, intervals: int, dot: bool
) -> Tensor:
    if order > DEGREE:
        return out.zero_()
    edges = d.numel()
    numbers = (bits(step), bits(1.0 / step), bits((1.0 / step) ** order), intervals - 1)
    grid, given, d = (tiles(edges, _BLOCK),), given.contiguous(), d.contiguous()
    launch(_spline, grid, d, given, d, out, edges, *numbers, order, dot, _BLOCK, num_warps=4)
    return out


def spline(c: Tensor, d: Tensor, order: int, step: float, intervals: int) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.spline`."""
    return _run_spline(c, d, d.new_empty(d.numel(), ROWS), order, step, intervals, False)


def spline_dot(g: Tensor, d: Tensor, order: int, step: float, intervals: int) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.spline_dot`."""
    return _run_spline(g, d, d.new_empty(d.numel()), order, step, intervals, True)


def knots(d: Tensor, step: float, intervals: int) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.knots`."""
    d = d.contiguous()
    out = torch.empty(d.numel(), dtype=torch.int32, device=d.device)
    numbers = (d.numel(), bits(1.0 / step), intervals - 1)
    launch(_knots, (tiles(d.numel(), _BLOCK),), d, d, out, *numbers, _BLOCK, num_warps=4)
    return out


@varying("numbers", pointers=("pos", "sources", "targets"))
def _difference(pos, sources, targets, out, numbers, AXES: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = place < numbers
    e, axis = place // AXES, place % AXES
    j = tl.load(sources + e, mask=valid, other=0)
    i = tl.load(targets + e, mask=valid, other=0)
    value = tl.load(pos + j * AXES + axis, mask=valid, other=0.0)
    value -= tl.load(pos + i * AXES + axis, mask=valid, other=0.0)
    tl.store(out + place, value, mask=valid)


@triton.jit
def _row_sum(v, ptr, order, row, AXES: tl.constexpr, EDGES: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    axis = tl.arange(0, TILE)
    first = tl.load(ptr + row)
    last = tl.load(ptr + row + 1)
    total = tl.zeros([EDGES, TILE], dtype=v.dtype.element_ty)
    for block in range(first, last, EDGES):
        place = block + tl.arange(0, EDGES)
        valid = place < last
        e = tl.load(order + place, mask=valid, other=0)
        mask = valid[:, None] & (axis < AXES)[None, :]
        total += tl.load(v + e[:, None] * AXES + axis[None, :], mask=mask, other=0.0)
    return tl.sum(total, 0)


@varying(pointers=("v", "in_ptr", "in_order", "out_ptr", "out_order"))
def _divergence(  # type: ignore[no-untyped-def]
    v,
    out,
    in_ptr,
    in_order,
    out_ptr,
    out_order,
    AXES: tl.constexpr,
    EDGES: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    total = _row_sum(v, out_ptr, out_order, row, AXES, EDGES, TILE)
    total -= _row_sum(v, in_ptr, in_order, row, AXES, EDGES, TILE)
    axis = tl.arange(0, TILE)
    tl.store(out + row * AXES + axis, total, mask=axis < AXES)


def edge_difference(pos: Tensor, edge_index: Tensor, *order: Tensor) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.edge_difference`."""
    pos, edge_index = pos.contiguous(), edge_index.contiguous()
    axes = pos.size(1)
    out = pos.new_empty(edge_index.size(1), axes)
    factors = (pos, edge_index[0], edge_index[1], out, out.numel(), axes, _BLOCK)
    launch(_difference, (tiles(out.numel(), _BLOCK),), pos, *factors, num_warps=4)
    return out


def edge_divergence(
    v: Tensor,
    edge_index: Tensor,
    in_ptr: Tensor,
    in_order: Tensor,
    out_ptr: Tensor,
    out_order: Tensor,
) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.edge_divergence`."""
    v = v.contiguous()
    axes, rows = v.size(1), in_ptr.numel() - 1
    out = v.new_empty(rows, axes)
    sides = (axes, 32, power_of_two(axes))
    factors = (v, out, in_ptr, in_order, out_ptr, out_order)
    launch(_divergence, (rows,), v, *factors, *sides, num_warps=1)
    return out
