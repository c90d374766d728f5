"""The multilinear form and its open slots, compiled for the CPU.

One pass visits the edges of each row of a compressed sparse graph: rows are targets to open y, or
sources to open x. The slots b and w can be opened in the same pass, while the numbers are at hand.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pyg_schnet.ops.backends.cpu.simd import (
    add,
    at_address,
    fetch_add,
    fma,
    lanes,
    load,
    mul,
    shifted,
    splat,
    store,
    total,
)
from pyg_schnet.ops.backends.cpu.threads import CHUNKS_PER_THREAD, Kernel, num_threads

OPEN_B, OPEN_X, OPEN_Y, OPEN_W = 1, 2, 4, 8
_SMALL = 2**15  # numbers; below this, waking a second thread costs more than it brings


@njit(inline="always")
def first_row(ptr, rows, chunk, chunks):  # type: ignore[no-untyped-def]
    """First row of a chunk, chosen so that chunks have about equally many edges."""
    if chunk == 0:
        return 0
    if chunk == chunks:
        return rows
    edge = ptr[rows] * chunk // chunks
    low, high = 0, rows
    while low < high:
        middle = (low + high) // 2
        if ptr[middle] < edge:
            low = middle + 1
        else:
            high = middle
    return low


@njit
def _table_pass(args, like, step):  # type: ignore[no-untyped-def]
    """Filters from six rows of a table: one chunk of rows after the other."""
    chunks = args[1]
    integer, knot_like = np.int64(0), np.int32(0)
    ptr, order = at_address(args[2], integer), at_address(args[3], integer)
    others = at_address(args[4], integer)
    own, other = at_address(args[5], like), at_address(args[6], like)
    b, knot = at_address(args[7], like), at_address(args[8], knot_like)
    w = at_address(args[9], like)
    out, out_b = at_address(args[10], like), at_address(args[11], like)
    rows, size, num_knots = args[13], args[14], args[15]
    open_row, open_b, open_w = args[16] != 0, args[17] != 0, args[18] != 0
    zero = splat(like)
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        partial = at_address(args[12], like)
        if open_w:
            partial = shifted(partial, chunk * num_knots * size)
            for f in range(0, num_knots * size, step):
                store(partial, f, zero)
        last = first_row(ptr, rows, chunk + 1, chunks)
        for i in range(first_row(ptr, rows, chunk, chunks), last):
            sums, mine = shifted(out, i * size), shifted(own, i * size)
            if open_row:
                for f in range(0, size, step):
                    store(sums, f, zero)
            for place in range(ptr[i], ptr[i + 1]):
                e = order[place]
                theirs = shifted(other, others[e] * size)
                t0 = shifted(w, knot[e] * size)
                t1, t2 = shifted(t0, size), shifted(t0, 2 * size)
                t3, t4, t5 = shifted(t0, 3 * size), shifted(t0, 4 * size), shifted(t0, 5 * size)
                b0, b1, b2 = splat(b[6 * e]), splat(b[6 * e + 1]), splat(b[6 * e + 2])
                b3, b4, b5 = splat(b[6 * e + 3]), splat(b[6 * e + 4]), splat(b[6 * e + 5])
                if open_row and not open_b:
                    for f in range(0, size, step):
                        low = fma(b2, load(t2, f), fma(b1, load(t1, f), mul(b0, load(t0, f))))
                        high = fma(b5, load(t5, f), fma(b4, load(t4, f), mul(b3, load(t3, f))))
                        store(sums, f, fma(add(low, high), load(theirs, f), load(sums, f)))
                elif open_b:
                    g0, g1, g2, g3, g4, g5 = zero, zero, zero, zero, zero, zero
                    for f in range(0, size, step):
                        value = load(theirs, f)
                        product = mul(value, load(mine, f))
                        row0, row1, row2 = load(t0, f), load(t1, f), load(t2, f)
                        row3, row4, row5 = load(t3, f), load(t4, f), load(t5, f)
                        g0, g1, g2 = (
                            fma(product, row0, g0),
                            fma(product, row1, g1),
                            fma(product, row2, g2),
                        )
                        g3, g4, g5 = (
                            fma(product, row3, g3),
                            fma(product, row4, g4),
                            fma(product, row5, g5),
                        )
                        if open_row:
                            low = fma(b2, row2, fma(b1, row1, mul(b0, row0)))
                            high = fma(b5, row5, fma(b4, row4, mul(b3, row3)))
                            store(sums, f, fma(add(low, high), value, load(sums, f)))
                    out_b[6 * e], out_b[6 * e + 1], out_b[6 * e + 2] = (
                        total(g0),
                        total(g1),
                        total(g2),
                    )
                    out_b[6 * e + 3], out_b[6 * e + 4] = total(g3), total(g4)
                    out_b[6 * e + 5] = total(g5)
                if open_w:
                    s0 = shifted(partial, knot[e] * size)
                    s1, s2 = shifted(s0, size), shifted(s0, 2 * size)
                    s3, s4, s5 = shifted(s0, 3 * size), shifted(s0, 4 * size), shifted(s0, 5 * size)
                    for f in range(0, size, step):
                        product = mul(load(theirs, f), load(mine, f))
                        store(s0, f, fma(b0, product, load(s0, f)))
                        store(s1, f, fma(b1, product, load(s1, f)))
                        store(s2, f, fma(b2, product, load(s2, f)))
                        store(s3, f, fma(b3, product, load(s3, f)))
                        store(s4, f, fma(b4, product, load(s4, f)))
                        store(s5, f, fma(b5, product, load(s5, f)))


@njit
def _given_pass(args, like, step):  # type: ignore[no-untyped-def]
    """One row of filters for each edge: one chunk of rows after the other."""
    chunks = args[1]
    integer = np.int64(0)
    ptr, order = at_address(args[2], integer), at_address(args[3], integer)
    others = at_address(args[4], integer)
    own, other = at_address(args[5], like), at_address(args[6], like)
    b, w = at_address(args[7], like), at_address(args[9], like)
    out, out_b, out_w = (
        at_address(args[10], like),
        at_address(args[11], like),
        at_address(args[12], like),
    )
    rows, size = args[13], args[14]
    open_row, open_b, open_w = args[16] != 0, args[17] != 0, args[18] != 0
    zero = splat(like)
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        last = first_row(ptr, rows, chunk + 1, chunks)
        for i in range(first_row(ptr, rows, chunk, chunks), last):
            sums, mine = shifted(out, i * size), shifted(own, i * size)
            if open_row:
                for f in range(0, size, step):
                    store(sums, f, zero)
            for place in range(ptr[i], ptr[i + 1]):
                e = order[place]
                theirs, filters = shifted(other, others[e] * size), shifted(w, e * size)
                weight = splat(b[e])
                if open_row:
                    for f in range(0, size, step):
                        value = mul(weight, load(filters, f))
                        store(sums, f, fma(value, load(theirs, f), load(sums, f)))
                if open_b:
                    sum_e = zero
                    for f in range(0, size, step):
                        product = mul(load(theirs, f), load(mine, f))
                        sum_e = fma(product, load(filters, f), sum_e)
                    out_b[e] = total(sum_e)
                if open_w:
                    made = shifted(out_w, e * size)
                    for f in range(0, size, step):
                        product = mul(load(theirs, f), load(mine, f))
                        store(made, f, mul(weight, product))


@njit
def _pair_pass(args, like, step, tabulated):  # type: ignore[no-untyped-def]
    """Both directions of each edge at once, one block of nodes that no edge leaves after the other.

    The filter is read once for the two directions. x and y play the same part, so opening x is
    opening y with the other factor.
    """
    chunks = args[1]
    integer, knot_like = np.int64(0), np.int32(0)
    ptr, blocks = at_address(args[2], integer), at_address(args[3], integer)
    sources = at_address(args[4], integer)
    x, y = at_address(args[5], like), at_address(args[6], like)
    b, knot = at_address(args[7], like), at_address(args[8], knot_like)
    w = at_address(args[9], like)
    out_x, out_y = at_address(args[10], like), at_address(args[11], like)
    out_b = at_address(args[12], like)
    size, num_knots, opened = args[14], args[15], args[16]
    open_b, open_x = opened & 1 != 0, opened & 2 != 0
    open_y, open_w = opened & 4 != 0, opened & 8 != 0
    open_rows, open_sides = open_x or open_y, open_b or open_w
    zero = splat(like)
    buffer = np.zeros(2 * size, dtype=type(like))
    filters = at_address(buffer.ctypes.data, like)
    products = shifted(filters, size)
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        partial = at_address(args[13], like)
        if open_w and tabulated:
            partial = shifted(partial, chunk * num_knots * size)
            for f in range(0, num_knots * size, step):
                store(partial, f, zero)
        first, last = blocks[chunk], blocks[chunk + 1]
        if open_x:
            for f in range(first * size, last * size, step):
                store(out_x, f, zero)
        if open_y:
            for f in range(first * size, last * size, step):
                store(out_y, f, zero)
        for i in range(first, last):
            xi, yi = shifted(x, i * size), shifted(y, i * size)
            sum_xi, sum_yi = shifted(out_x, i * size), shifted(out_y, i * size)
            for e in range(ptr[i], ptr[i + 1]):
                j = sources[e] * size
                xj, yj = shifted(x, j), shifted(y, j)
                sum_xj, sum_yj = shifted(out_x, j), shifted(out_y, j)
                if open_sides:
                    for f in range(0, size, step):
                        product = mul(load(xi, f), load(yj, f))
                        store(products, f, fma(load(xj, f), load(yi, f), product))
                if tabulated:
                    t0 = shifted(w, knot[e] * size)
                    t1, t2 = shifted(t0, size), shifted(t0, 2 * size)
                    t3, t4, t5 = shifted(t0, 3 * size), shifted(t0, 4 * size), shifted(t0, 5 * size)
                    b0, b1, b2 = splat(b[6 * e]), splat(b[6 * e + 1]), splat(b[6 * e + 2])
                    b3, b4, b5 = splat(b[6 * e + 3]), splat(b[6 * e + 4]), splat(b[6 * e + 5])
                    if open_rows and not open_b:
                        for f in range(0, size, step):
                            low = fma(b2, load(t2, f), fma(b1, load(t1, f), mul(b0, load(t0, f))))
                            high = fma(b5, load(t5, f), fma(b4, load(t4, f), mul(b3, load(t3, f))))
                            store(filters, f, add(low, high))
                    elif open_b:
                        g0, g1, g2, g3, g4, g5 = zero, zero, zero, zero, zero, zero
                        for f in range(0, size, step):
                            product = load(products, f)
                            row0, row1, row2 = load(t0, f), load(t1, f), load(t2, f)
                            row3, row4, row5 = load(t3, f), load(t4, f), load(t5, f)
                            g0, g1 = fma(product, row0, g0), fma(product, row1, g1)
                            g2, g3 = fma(product, row2, g2), fma(product, row3, g3)
                            g4, g5 = fma(product, row4, g4), fma(product, row5, g5)
                            if open_rows:
                                low = fma(b2, row2, fma(b1, row1, mul(b0, row0)))
                                high = fma(b5, row5, fma(b4, row4, mul(b3, row3)))
                                store(filters, f, add(low, high))
                        out_b[6 * e], out_b[6 * e + 1] = total(g0), total(g1)
                        out_b[6 * e + 2], out_b[6 * e + 3] = total(g2), total(g3)
                        out_b[6 * e + 4], out_b[6 * e + 5] = total(g4), total(g5)
                    if open_w:
                        s0 = shifted(partial, knot[e] * size)
                        s1, s2 = shifted(s0, size), shifted(s0, 2 * size)
                        s3, s4, s5 = (
                            shifted(s0, 3 * size),
                            shifted(s0, 4 * size),
                            shifted(s0, 5 * size),
                        )
                        for f in range(0, size, step):
                            product = load(products, f)
                            store(s0, f, fma(b0, product, load(s0, f)))
                            store(s1, f, fma(b1, product, load(s1, f)))
                            store(s2, f, fma(b2, product, load(s2, f)))
                            store(s3, f, fma(b3, product, load(s3, f)))
                            store(s4, f, fma(b4, product, load(s4, f)))
                            store(s5, f, fma(b5, product, load(s5, f)))
                else:
                    weight, row = splat(b[e]), shifted(w, e * size)
                    sum_e = zero
                    for f in range(0, size, step):
                        value = load(row, f)
                        store(filters, f, mul(weight, value))
                        if open_b:
                            sum_e = fma(load(products, f), value, sum_e)
                    if open_b:
                        out_b[e] = total(sum_e)
                    if open_w:
                        made = shifted(partial, e * size)
                        for f in range(0, size, step):
                            store(made, f, mul(weight, load(products, f)))
                if open_y:
                    for f in range(0, size, step):
                        value = load(filters, f)
                        store(sum_yi, f, fma(value, load(xj, f), load(sum_yi, f)))
                        store(sum_yj, f, fma(value, load(xi, f), load(sum_yj, f)))
                if open_x:
                    for f in range(0, size, step):
                        value = load(filters, f)
                        store(sum_xi, f, fma(value, load(yj, f), load(sum_xi, f)))
                        store(sum_xj, f, fma(value, load(yi, f), load(sum_xj, f)))


def _table_pairs_float32(args):  # type: ignore[no-untyped-def]
    _pair_pass(args, np.float32(0), 16, True)


def _table_pairs_float64(args):  # type: ignore[no-untyped-def]
    _pair_pass(args, np.float64(0), 8, True)


def _given_pairs_float32(args):  # type: ignore[no-untyped-def]
    _pair_pass(args, np.float32(0), 16, False)


def _given_pairs_float64(args):  # type: ignore[no-untyped-def]
    _pair_pass(args, np.float64(0), 8, False)


def _table_float32(args):  # type: ignore[no-untyped-def]
    _table_pass(args, np.float32(0), 16)


def _table_float64(args):  # type: ignore[no-untyped-def]
    _table_pass(args, np.float64(0), 8)


def _given_float32(args):  # type: ignore[no-untyped-def]
    _given_pass(args, np.float32(0), 16)


def _given_float64(args):  # type: ignore[no-untyped-def]
    _given_pass(args, np.float64(0), 8)


_PASSES = {
    (True, torch.float32): Kernel(_table_float32),
    (True, torch.float64): Kernel(_table_float64),
    (False, torch.float32): Kernel(_given_float32),
    (False, torch.float64): Kernel(_given_float64),
}


_PAIRS = {
    (True, torch.float32): Kernel(_table_pairs_float32),
    (True, torch.float64): Kernel(_table_pairs_float64),
    (False, torch.float32): Kernel(_given_pairs_float32),
    (False, torch.float64): Kernel(_given_pairs_float64),
}


def form(
    b: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor,
    knot: Tensor,
    edge_index: Tensor,
    in_ptr: Tensor,
    in_order: Tensor,
    out_ptr: Tensor,
    out_order: Tensor,
    blocks: Tensor,
    num_knots: int,
    opened: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`pyg_schnet.ops.backends.reference.form`."""
    features = w.size(1)
    x, y, w = (_padded(t) for t in (x, y, w))
    size = w.size(1)
    b, knot, edge_index = b.contiguous(), knot.contiguous(), edge_index.contiguous()
    none = b.new_empty(0)
    sources, targets, edges = out_ptr.numel() - 1, in_ptr.numel() - 1, edge_index.size(1)
    tabulated, both = num_knots > 0, blocks.numel() > 0
    threads = num_threads() if edges * size > _SMALL else 1
    if both:
        chunks = blocks.numel() - 1
        threads = min(threads, chunks)
    elif threads == 1:
        chunks = 1
    else:
        chunks = threads if opened & OPEN_W and tabulated else CHUNKS_PER_THREAD * threads

    out_x = b.new_empty(sources, size) if opened & OPEN_X else none
    out_y = b.new_empty(targets, size) if opened & OPEN_Y else none
    out_b = torch.empty_like(b) if opened & OPEN_B else none
    out_w = none
    if opened & OPEN_W:
        out_w = b.new_empty((chunks, num_knots, size) if tabulated else (edges, size))
    if both:
        _PAIRS[tabulated, b.dtype](
            chunks,
            threads,
            in_ptr.data_ptr(),
            blocks.data_ptr(),
            edge_index.data_ptr(),
            x.data_ptr(),
            y.data_ptr(),
            b.data_ptr(),
            knot.data_ptr(),
            w.data_ptr(),
            out_x.data_ptr(),
            out_y.data_ptr(),
            out_b.data_ptr(),
            out_w.data_ptr(),
            size,
            num_knots,
            opened,
        )
    else:
        _directed(
            (b, x, y, w, knot, edge_index, in_ptr, in_order, out_ptr, out_order),
            (out_b, out_x, out_y, out_w),
            chunks,
            threads,
            num_knots,
            opened,
        )
    if opened & OPEN_W and tabulated:
        out_w = out_w[0] if chunks == 1 else out_w.sum(0)
    if size != features:
        out_x, out_y, out_w = (
            t[:, :features].contiguous() if t.dim() == 2 else t for t in (out_x, out_y, out_w)
        )
    return out_b, out_x, out_y, out_w


def _directed(
    given: tuple[Tensor, ...],
    made: tuple[Tensor, ...],
    chunks: int,
    threads: int,
    num_knots: int,
    opened: int,
) -> None:
    b, x, y, w, knot, edge_index, in_ptr, in_order, out_ptr, out_order = given
    out_b, out_x, out_y, out_w = made
    kernel, size = _PASSES[num_knots > 0, b.dtype], w.size(1)
    side = opened & (OPEN_B | OPEN_W)
    for slot in (OPEN_X, OPEN_Y):
        # b and w open beside x if that is open too, else in the pass over targets.
        here = side if slot == OPEN_X or not opened & OPEN_X else 0
        if not (opened & slot or (here and slot == OPEN_Y)):
            continue
        by_source = slot == OPEN_X
        ptr, order = (out_ptr, out_order) if by_source else (in_ptr, in_order)
        own, other, out = (x, y, out_x) if by_source else (y, x, out_y)
        others = edge_index[1 if by_source else 0]
        kernel(
            chunks,
            threads,
            ptr.data_ptr(),
            order.data_ptr(),
            others.data_ptr(),
            own.data_ptr(),
            other.data_ptr(),
            b.data_ptr(),
            knot.data_ptr(),
            w.data_ptr(),
            out.data_ptr(),
            out_b.data_ptr(),
            out_w.data_ptr(),
            ptr.numel() - 1,
            size,
            num_knots,
            int(bool(opened & slot)),
            here & OPEN_B,
            here & OPEN_W,
        )


def _padded(values: Tensor) -> Tensor:
    """Contiguous, with columns of zeros up to a whole number of vectors."""
    step = lanes(8 * values.element_size())
    missing = -values.size(1) % step
    if missing:
        return torch.nn.functional.pad(values, (0, missing))
    return values.contiguous()
