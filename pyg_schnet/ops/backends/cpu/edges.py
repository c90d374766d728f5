"""What is done once for each edge, compiled for the CPU: sorting, vectors, spline weights."""

import functools

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pyg_schnet.ops.backends.cpu.form import first_row
from pyg_schnet.ops.backends.cpu.simd import (
    at_address,
    fetch_add,
    floor,
    fma,
    load,
    mul,
    shifted,
    splat,
    store,
    sub,
    where_less,
)
from pyg_schnet.ops.backends.cpu.threads import CHUNKS_PER_THREAD, Kernel, num_threads
from pyg_schnet.ops.spline import DEGREE, ROWS, basis_polynomials

_SMALL = 2**12  # edges; below this one thread does it


def _chunks(edges: int) -> tuple[int, int]:
    threads = num_threads() if edges > _SMALL else 1
    return (1 if threads == 1 else CHUNKS_PER_THREAD * threads), threads


def _csr(args):  # type: ignore[no-untyped-def]
    """Counting sort, stable; args[6] becomes 1 where an index is out of range."""
    integer = np.int64(0)
    index, ptr = at_address(args[2], integer), at_address(args[3], integer)
    order, edges, rows = at_address(args[4], integer), args[5], args[7]
    for row in range(rows + 1):
        ptr[row] = 0
    is_sorted = True
    before = np.int64(0)
    for e in range(edges):
        row = index[e]
        if row < 0 or row >= rows:
            args[6] = 1
            return
        is_sorted = is_sorted and row >= before
        before = row
        ptr[row + 1] += 1
    for row in range(rows):
        ptr[row + 1] += ptr[row]
    if is_sorted:
        for e in range(edges):
            order[e] = e
        return
    for e in range(edges):
        row = index[e]
        order[ptr[row]] = e
        ptr[row] += 1
    for row in range(rows, 0, -1):
        ptr[row] = ptr[row - 1]
    ptr[0] = 0


_CSR = Kernel(_csr)


def csr(index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """As :func:`pyg_schnet.ops.backends.reference.csr`.

    Raises:
        IndexError: If an index is negative or not below ``rows``.
    """
    index = index.contiguous()
    ptr, order = index.new_empty(rows + 1), torch.empty_like(index)
    addresses = (index.data_ptr(), ptr.data_ptr(), order.data_ptr())
    if _CSR(1, 1, *addresses, index.numel(), 0, rows)[6]:
        raise IndexError(
            f"edge_index must hold node numbers from 0 to {rows - 1}, got "
            f"{int(index.min())} to {int(index.max())}."
        )
    return ptr, order


def _pairs(args):  # type: ignore[no-untyped-def]
    """Halves a symmetric edge list; args[11] becomes its number of blocks, 0 if it is not one.

    Edges must come by target, then source. The reverse of the edge j -> i, j > i, is met later, and
    for a fixed i in the order of j: one cursor for each node finds it.
    """
    integer = np.int64(0)
    index, pairs = at_address(args[2], integer), at_address(args[3], integer)
    in_ptr, out_ptr = at_address(args[4], integer), at_address(args[5], integer)
    out_order, cursor = at_address(args[6], integer), at_address(args[7], integer)
    blocks, edges, nodes = at_address(args[8], integer), args[9], args[10]
    half, wanted = edges // 2, args[12]
    count, met, e = 0, 0, 0
    reach, begun, num_blocks = np.int64(-1), 0, 0
    blocks[0] = 0
    for i in range(nodes):
        if reach < i and (count - begun) * wanted >= half and count > begun:
            num_blocks += 1
            blocks[num_blocks] = i
            begun = count
        in_ptr[i], out_ptr[i], cursor[i] = count, met, count
        before = np.int64(-1)
        while e < edges and index[edges + e] == i:
            j = index[e]
            if j <= before or j == i or j >= nodes:
                return
            before = j
            if j > i:
                if count == half:
                    return
                pairs[count], pairs[half + count] = j, i
                reach = max(reach, j)
                count += 1
            else:
                place = cursor[j]
                if place >= in_ptr[j + 1] or pairs[place] != i:
                    return
                out_order[met] = place
                cursor[j] = place + 1
                met += 1
            e += 1
    in_ptr[nodes], out_ptr[nodes] = count, met
    if e == edges and count == half and met == half:
        num_blocks += 1
        blocks[num_blocks] = nodes
        args[11] = num_blocks


_PAIRS = Kernel(_pairs)


def pairs(edge_index: Tensor, nodes: int) -> tuple[Tensor, ...] | None:
    """Each pair of nodes once, for a graph whose edges all have their reverse.

    Args:
        edge_index: (2, E), sorted by target, then source.
        nodes: Their number.

    Returns:
        The pairs (2, E/2) with source > target; pointers and order by target and by source, as
        :func:`csr`; and the first nodes of blocks that no pair leaves. None if the edges are not
        sorted, not symmetric, repeated or between a node and itself.
    """
    edges = edge_index.size(1)
    if edges % 2 or edges == 0:
        return None
    edge_index = edge_index.contiguous()
    half, chunks = edges // 2, CHUNKS_PER_THREAD * num_threads()
    found = edge_index.new_empty(2, half)
    in_ptr, out_ptr = edge_index.new_empty(nodes + 1), edge_index.new_empty(nodes + 1)
    out_order, cursor = edge_index.new_empty(half), edge_index.new_empty(nodes)
    blocks = edge_index.new_empty(chunks + 2)
    tensors = (edge_index, found, in_ptr, out_ptr, out_order, cursor, blocks)
    addresses = (t.data_ptr() for t in tensors)
    count = _PAIRS(1, 1, *addresses, edges, nodes, 0, chunks)[11]
    if not count:
        return None
    in_order = torch.arange(half)
    return found, in_ptr, in_order, out_ptr, out_order, blocks[: count + 1]


@njit
def _spline_pass(args, like, lanes):  # type: ignore[no-untyped-def]
    """Mode 0: weights c B_m(d). Mode 1: the sum of g_m B_m(d). Mode 2: knots."""
    chunks = args[1]
    scale, d = at_address(args[2], like), at_address(args[3], like)
    table, out = at_address(args[4], like), at_address(args[5], like)
    knot = at_address(args[5], np.int32(0))
    constants = at_address(args[6], like)
    edges, mode = args[7], args[9]
    step, inverse = splat(constants[0]), splat(constants[1])
    one, zero, end = splat(type(like)(1)), splat(like), splat(type(like)(args[8] - 1))
    beyond = zero if args[10] != 0 else one
    buffer = np.zeros(6 * lanes, dtype=type(like))
    place = at_address(buffer.ctypes.data, like)
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        first, last = edges * chunk // chunks, edges * (chunk + 1) // chunks
        for block in range(first, last, lanes):
            count = min(lanes, last - block)
            if count == lanes:
                distance = load(d, block)
            else:
                for e in range(count):
                    buffer[e] = d[block + e]
                distance = load(place, 0)
            u = floor(mul(distance, inverse))
            u = where_less(zero, u, u, zero)  # a NaN becomes 0 here, and stays in t
            u = where_less(u, end, u, end)
            if mode == 2:
                store(place, 0, u)
                for e in range(count):
                    knot[block + e] = np.int32(buffer[e])
                continue
            t = mul(sub(distance, mul(u, step)), inverse)
            # Beyond the end the spline is continued as a constant.
            slope_factor = where_less(one, t, beyond, one)
            t = where_less(one, t, one, t)
            for m in range(6):
                value = splat(table[30 + m])
                for q in range(24, -1, -6):
                    value = fma(value, t, splat(table[q + m]))
                store(place, lanes * m, mul(value, slope_factor))
            if mode == 0:
                for e in range(count):
                    c, made = scale[block + e], shifted(out, 6 * (block + e))
                    for m in range(6):
                        made[m] = c * buffer[lanes * m + e]
            else:
                for e in range(count):
                    g, value = shifted(scale, 6 * (block + e)), like
                    for m in range(6):
                        value += g[m] * buffer[lanes * m + e]
                    out[block + e] = value


def _spline_float32(args):  # type: ignore[no-untyped-def]
    _spline_pass(args, np.float32(0), 16)


def _spline_float64(args):  # type: ignore[no-untyped-def]
    _spline_pass(args, np.float64(0), 8)


_SPLINE = {torch.float32: Kernel(_spline_float32), torch.float64: Kernel(_spline_float64)}


@functools.cache
def _polynomials(order: int, step: float, dtype: torch.dtype) -> Tensor:
    """Powers of t by row, (6, 6), with 1/h^order."""
    rows = torch.tensor(basis_polynomials(order), dtype=torch.float64) / step**order
    return rows.T.contiguous().to(dtype)


@functools.cache
def _constants(step: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor([step, 1.0 / step], dtype=torch.float64).to(dtype)


def _run_spline(
    mode: int, scale: Tensor, d: Tensor, out: Tensor, order: int, step: float, intervals: int
) -> Tensor:
    chunks, threads = _chunks(d.numel())
    _SPLINE[d.dtype](
        chunks,
        threads,
        scale.data_ptr(),
        d.data_ptr(),
        _polynomials(order, step, d.dtype).data_ptr(),
        out.data_ptr(),
        _constants(step, d.dtype).data_ptr(),
        d.numel(),
        intervals,
        mode,
        order,
    )
    return out


def spline(c: Tensor, d: Tensor, order: int, step: float, intervals: int) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.spline`."""
    out = d.new_empty(d.numel(), ROWS)
    if order > DEGREE:
        return out.zero_()
    return _run_spline(0, c.contiguous(), d.contiguous(), out, order, step, intervals)


def spline_dot(g: Tensor, d: Tensor, order: int, step: float, intervals: int) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.spline_dot`."""
    out = d.new_empty(d.numel())
    if order > DEGREE:
        return out.zero_()
    return _run_spline(1, g.contiguous(), d.contiguous(), out, order, step, intervals)


def knots(d: Tensor, step: float, intervals: int) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.knots`."""
    d = d.contiguous()
    out = torch.empty(d.numel(), dtype=torch.int32)
    return _run_spline(2, d, d, out, 0, step, intervals)


@njit
def _difference(args, like):  # type: ignore[no-untyped-def]
    chunks, edges = args[1], args[5]
    pos, index = at_address(args[2], like), at_address(args[3], np.int64(0))
    out = at_address(args[4], like)
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        for e in range(edges * chunk // chunks, edges * (chunk + 1) // chunks):
            j, i = index[e], index[edges + e]
            for axis in range(3):
                out[3 * e + axis] = pos[3 * j + axis] - pos[3 * i + axis]


@njit
def _divergence(args, like):  # type: ignore[no-untyped-def]
    chunks = args[1]
    integer = np.int64(0)
    v, out = at_address(args[2], like), at_address(args[3], like)
    in_ptr, in_order = at_address(args[4], integer), at_address(args[5], integer)
    out_ptr, out_order = at_address(args[6], integer), at_address(args[7], integer)
    rows = args[8]
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        last = first_row(in_ptr, rows, chunk + 1, chunks)
        for i in range(first_row(in_ptr, rows, chunk, chunks), last):
            s0, s1, s2 = like, like, like
            for place in range(out_ptr[i], out_ptr[i + 1]):
                e = 3 * out_order[place]
                s0, s1, s2 = s0 + v[e], s1 + v[e + 1], s2 + v[e + 2]
            for place in range(in_ptr[i], in_ptr[i + 1]):
                e = 3 * in_order[place]
                s0, s1, s2 = s0 - v[e], s1 - v[e + 1], s2 - v[e + 2]
            out[3 * i], out[3 * i + 1], out[3 * i + 2] = s0, s1, s2


def _difference_float32(args):  # type: ignore[no-untyped-def]
    _difference(args, np.float32(0))


def _difference_float64(args):  # type: ignore[no-untyped-def]
    _difference(args, np.float64(0))


def _divergence_float32(args):  # type: ignore[no-untyped-def]
    _divergence(args, np.float32(0))


def _divergence_float64(args):  # type: ignore[no-untyped-def]
    _divergence(args, np.float64(0))


_DIFFERENCE = {
    torch.float32: Kernel(_difference_float32),
    torch.float64: Kernel(_difference_float64),
}
_DIVERGENCE = {
    torch.float32: Kernel(_divergence_float32),
    torch.float64: Kernel(_divergence_float64),
}


def edge_difference(pos: Tensor, edge_index: Tensor, *order: Tensor) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.edge_difference`."""
    pos, edge_index = pos.contiguous(), edge_index.contiguous()
    edges = edge_index.size(1)
    out = pos.new_empty(edges, 3)
    chunks, threads = _chunks(edges)
    addresses = (pos.data_ptr(), edge_index.data_ptr(), out.data_ptr())
    _DIFFERENCE[pos.dtype](chunks, threads, *addresses, edges)
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
    rows = in_ptr.numel() - 1
    out = v.new_empty(rows, 3)
    chunks, threads = _chunks(edge_index.size(1))
    sides = (t.data_ptr() for t in (in_ptr, in_order, out_ptr, out_order))
    _DIVERGENCE[v.dtype](chunks, threads, v.data_ptr(), out.data_ptr(), *sides, rows)
    return out
