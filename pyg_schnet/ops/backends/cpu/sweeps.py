"""The sweeps of training on forces, compiled for the CPU.

Four sweeps over the layers of a SchNet, one block of atoms that no edge leaves after the other, so
that what one sweep leaves is still in the cache when the next one needs it. The first call runs the
sweeps of values and of adjoints, the second those of tangents and of the adjoints' tangents; see
:mod:`pyg_schnet.ops.dual` for the formulas.
"""

import numpy as np
import torch
from numba import njit

from pyg_schnet.ops.backends.cpu.dense import ssp_slope_vector, ssp_vector
from pyg_schnet.ops.backends.cpu.product import multiply_add
from pyg_schnet.ops.backends.cpu.simd import (
    add,
    at_address,
    fetch_add,
    fma,
    load,
    mul,
    shifted,
    splat,
    store,
    sub,
    total,
)
from pyg_schnet.ops.backends.cpu.threads import Kernel
from pyg_schnet.ops.spline import REACH

LINE = 16  # numbers of an edge: six weights, two unused, six slopes, two unused
EDGE = 8  # numbers of an edge: direction, length, its adjoint, its tangent, two unused
_DEPTH = 128  # atoms that a gradient of weights is summed over while they are in the cache
ELEMENTS = 100  # rows of the embedding

# Places in the list of sizes and addresses that the kernels are given.
(
    ATOMS,
    EDGES,
    LAYERS,
    HIDDEN,
    FILTERS,
    READOUT,
    KNOTS,
    INTERVALS,
    TABLES,
    BOTH,
    CUTOFF,
    NUM_BLOCKS,
    MAX_BLOCK,
    BLOCK_ATOMS,
    CONSTANTS,
    SPLINE,
    EDGE_INDEX,
    IN_PTR,
    IN_ORDER,
    SHIFT,
    POS,
    Z,
    SEED,
    INVERSE_COUNT,
    TABLE,
    PACKED,
    COPIES,
    NUM_COPIES,
    BLOCKS,
    SOURCE,
    TARGET,
    KNOT,
    LINES,
    GEOMETRY,
    X,
    H,
    Y,
    SLOPE,
    A,
    GX,
    GA,
    GQ,
    GY,
    GH,
    HEAD_SLOPE,
    HEAD,
    GP,
    ENERGY,
    FORCES,
    VIRIAL,
    WEIGHT,
    DIRECTION,
    STRAIN,
    MOLECULE,
    GRADIENTS,
    GRADIENT_SIZE,
    SCRATCH,
    SCRATCH_SIZE,
    GAUSSIANS,
    GAUSSIAN_ROOM,
    ENDS_IN_SSP,
    TAPS,
    EXPANDED,
    FILTER_WEIGHTS,
    FILTER_SLOPE,
    FILTER_HIDDEN,
    FILTER_VALUES,
    FILTER_GRADIENTS,
    NUM_ARGUMENTS,
) = range(69)


@njit
def _fill(out, count, step, like):  # type: ignore[no-untyped-def]
    zero = splat(like)
    for c in range(0, count, step):
        store(out, c, zero)


@njit
def _fill_rows(out, bias, rows, columns, step):  # type: ignore[no-untyped-def]
    for r in range(rows):
        made = shifted(out, r * columns)
        for c in range(0, columns, step):
            store(made, c, load(bias, c))


@njit
def _copy(out, x, count, step):  # type: ignore[no-untyped-def]
    for c in range(0, count, step):
        store(out, c, load(x, c))


@njit
def _product(a, b, out, rows, depth, columns):  # type: ignore[no-untyped-def]
    """Out += a b."""
    multiply_add(a, depth, 1, b, columns, out, columns, rows, columns, depth)


@njit
def _outer(a, b, out, atoms, rows, columns):  # type: ignore[no-untyped-def]
    """Out += a^T b, summed over atoms."""
    for k in range(0, atoms, _DEPTH):
        own, theirs = shifted(a, k * rows), shifted(b, k * columns)
        count = min(_DEPTH, atoms - k)
        multiply_add(own, 1, rows, theirs, columns, out, columns, rows, columns, count)


@njit
def _add_columns(a, out, rows, columns, step):  # type: ignore[no-untyped-def]
    """Out += the sum of the rows of a."""
    for c in range(0, columns, step):
        value = load(out, c)
        for r in range(rows):
            value = add(value, load(a, r * columns + c))
        store(out, c, value)


@njit
def _scale_rows(a, scale, rows, columns, step):  # type: ignore[no-untyped-def]
    for r in range(rows):
        factor, row = splat(scale[r]), shifted(a, r * columns)
        for c in range(0, columns, step):
            store(row, c, mul(factor, load(row, c)))


@njit
def _activate(q, a, slope, count, step, like):  # type: ignore[no-untyped-def]
    """A = ssp(q), slope = ssp'(q)."""
    for c in range(0, count, step):
        value = load(q, c)
        store(a, c, ssp_vector(value, like))
        store(slope, c, ssp_slope_vector(value, 1, like))


@njit
def _multiply(a, b, out, count, step):  # type: ignore[no-untyped-def]
    for c in range(0, count, step):
        store(out, c, mul(load(a, c), load(b, c)))


@njit
def _bend(bar, slope, tangent, adjoint, count, step, like):  # type: ignore[no-untyped-def]
    """Bar = s bar + s (1 - s) tangent adjoint, since ssp'' = s (1 - s)."""
    one = splat(type(like)(1))
    for c in range(0, count, step):
        s = load(slope, c)
        bent = mul(mul(sub(one, s), load(tangent, c)), load(adjoint, c))
        store(bar, c, mul(s, add(load(bar, c), bent)))


@njit
def _convolve(h, out, table, lines, knot, source, target, first, last, size, both, step):  # type: ignore[no-untyped-def]
    """y_i += w h_j."""
    for e in range(first, last):
        j, i = source[e] * size, target[e] * size
        hi, hj, yi, yj = shifted(h, i), shifted(h, j), shifted(out, i), shifted(out, j)
        t0 = shifted(table, knot[e] * size)
        t1, t2 = shifted(t0, size), shifted(t0, 2 * size)
        t3, t4, t5 = shifted(t0, 3 * size), shifted(t0, 4 * size), shifted(t0, 5 * size)
        b = shifted(lines, e * LINE)
        b0, b1, b2 = splat(b[0]), splat(b[1]), splat(b[2])
        b3, b4, b5 = splat(b[3]), splat(b[4]), splat(b[5])
        for f in range(0, size, step):
            low = fma(b2, load(t2, f), fma(b1, load(t1, f), mul(b0, load(t0, f))))
            high = fma(b5, load(t5, f), fma(b4, load(t4, f), mul(b3, load(t3, f))))
            w = add(low, high)
            store(yi, f, fma(w, load(hj, f), load(yi, f)))
            if both:
                store(yj, f, fma(w, load(hi, f), load(yj, f)))


@njit
def _convolve_back(  # type: ignore[no-untyped-def]
    h, gy, gh, table, lines, geometry, knot, source, target, first, last, size, both, step, like
):
    """gh_j += w gy_i, and the adjoint of the length += sum of w' h_j gy_i."""
    for e in range(first, last):
        j, i = source[e] * size, target[e] * size
        hi, hj, yi, yj = shifted(h, i), shifted(h, j), shifted(gy, i), shifted(gy, j)
        gi, gj = shifted(gh, i), shifted(gh, j)
        t0 = shifted(table, knot[e] * size)
        t1, t2 = shifted(t0, size), shifted(t0, 2 * size)
        t3, t4, t5 = shifted(t0, 3 * size), shifted(t0, 4 * size), shifted(t0, 5 * size)
        b = shifted(lines, e * LINE)
        b0, b1, b2 = splat(b[0]), splat(b[1]), splat(b[2])
        b3, b4, b5 = splat(b[3]), splat(b[4]), splat(b[5])
        s0, s1, s2 = splat(b[8]), splat(b[9]), splat(b[10])
        s3, s4, s5 = splat(b[11]), splat(b[12]), splat(b[13])
        bar = splat(like)
        for f in range(0, size, step):
            row0, row1, row2 = load(t0, f), load(t1, f), load(t2, f)
            row3, row4, row5 = load(t3, f), load(t4, f), load(t5, f)
            low = fma(b2, row2, fma(b1, row1, mul(b0, row0)))
            w = add(low, fma(b5, row5, fma(b4, row4, mul(b3, row3))))
            low = fma(s2, row2, fma(s1, row1, mul(s0, row0)))
            slope = add(low, fma(s5, row5, fma(s4, row4, mul(s3, row3))))
            value_i = load(yi, f)
            product = mul(load(hj, f), value_i)
            store(gj, f, fma(w, value_i, load(gj, f)))
            if both:
                value_j = load(yj, f)
                product = fma(load(hi, f), value_j, product)
                store(gi, f, fma(w, value_j, load(gi, f)))
            bar = fma(slope, product, bar)
        geometry[e * EDGE + 4] += total(bar)


@njit
def _convolve_tangent(  # type: ignore[no-untyped-def]
    h, hd, out, table, lines, geometry, knot, source, target, first, last, size, both, step
):
    """The tangent of y_i: y'_i += w' d' h_j + w h'_j."""
    for e in range(first, last):
        j, i = source[e] * size, target[e] * size
        hi, hj, di, dj = shifted(h, i), shifted(h, j), shifted(hd, i), shifted(hd, j)
        yi, yj = shifted(out, i), shifted(out, j)
        t0 = shifted(table, knot[e] * size)
        t1, t2 = shifted(t0, size), shifted(t0, 2 * size)
        t3, t4, t5 = shifted(t0, 3 * size), shifted(t0, 4 * size), shifted(t0, 5 * size)
        b = shifted(lines, e * LINE)
        b0, b1, b2 = splat(b[0]), splat(b[1]), splat(b[2])
        b3, b4, b5 = splat(b[3]), splat(b[4]), splat(b[5])
        speed = geometry[e * EDGE + 5]
        s0, s1, s2 = splat(speed * b[8]), splat(speed * b[9]), splat(speed * b[10])
        s3, s4, s5 = splat(speed * b[11]), splat(speed * b[12]), splat(speed * b[13])
        for f in range(0, size, step):
            row0, row1, row2 = load(t0, f), load(t1, f), load(t2, f)
            row3, row4, row5 = load(t3, f), load(t4, f), load(t5, f)
            low = fma(b2, row2, fma(b1, row1, mul(b0, row0)))
            w = add(low, fma(b5, row5, fma(b4, row4, mul(b3, row3))))
            low = fma(s2, row2, fma(s1, row1, mul(s0, row0)))
            wd = add(low, fma(s5, row5, fma(s4, row4, mul(s3, row3))))
            store(yi, f, fma(w, load(dj, f), fma(wd, load(hj, f), load(yi, f))))
            if both:
                store(yj, f, fma(w, load(di, f), fma(wd, load(hi, f), load(yj, f))))


@njit
def _convolve_tangent_back(  # type: ignore[no-untyped-def]
    h,
    hd,
    gy,
    yb,
    hb,
    made,
    table,
    lines,
    geometry,
    knot,
    source,
    target,
    first,
    last,
    size,
    both,
    step,
):
    """hb_j += w yb_i + w' d' gy_i, and the gradient of the table."""
    for e in range(first, last):
        j, i = source[e] * size, target[e] * size
        hi, hj, di, dj = shifted(h, i), shifted(h, j), shifted(hd, i), shifted(hd, j)
        gi, gj, yi, yj = shifted(gy, i), shifted(gy, j), shifted(yb, i), shifted(yb, j)
        bi, bj = shifted(hb, i), shifted(hb, j)
        t0, m0 = shifted(table, knot[e] * size), shifted(made, knot[e] * size)
        t1, t2 = shifted(t0, size), shifted(t0, 2 * size)
        t3, t4, t5 = shifted(t0, 3 * size), shifted(t0, 4 * size), shifted(t0, 5 * size)
        m1, m2 = shifted(m0, size), shifted(m0, 2 * size)
        m3, m4, m5 = shifted(m0, 3 * size), shifted(m0, 4 * size), shifted(m0, 5 * size)
        b = shifted(lines, e * LINE)
        b0, b1, b2 = splat(b[0]), splat(b[1]), splat(b[2])
        b3, b4, b5 = splat(b[3]), splat(b[4]), splat(b[5])
        speed = geometry[e * EDGE + 5]
        s0, s1, s2 = splat(speed * b[8]), splat(speed * b[9]), splat(speed * b[10])
        s3, s4, s5 = splat(speed * b[11]), splat(speed * b[12]), splat(speed * b[13])
        for f in range(0, size, step):
            row0, row1, row2 = load(t0, f), load(t1, f), load(t2, f)
            row3, row4, row5 = load(t3, f), load(t4, f), load(t5, f)
            low = fma(b2, row2, fma(b1, row1, mul(b0, row0)))
            w = add(low, fma(b5, row5, fma(b4, row4, mul(b3, row3))))
            low = fma(s2, row2, fma(s1, row1, mul(s0, row0)))
            wd = add(low, fma(s5, row5, fma(s4, row4, mul(s3, row3))))
            value, bar, adjoint = load(hj, f), load(yi, f), load(gi, f)
            by_value = fma(load(dj, f), adjoint, mul(value, bar))
            by_slope = mul(value, adjoint)
            store(bj, f, fma(wd, adjoint, fma(w, bar, load(bj, f))))
            if both:
                value, bar, adjoint = load(hi, f), load(yj, f), load(gj, f)
                by_value = fma(load(di, f), adjoint, fma(value, bar, by_value))
                by_slope = fma(value, adjoint, by_slope)
                store(bi, f, fma(wd, adjoint, fma(w, bar, load(bi, f))))
            store(m0, f, fma(s0, by_slope, fma(b0, by_value, load(m0, f))))
            store(m1, f, fma(s1, by_slope, fma(b1, by_value, load(m1, f))))
            store(m2, f, fma(s2, by_slope, fma(b2, by_value, load(m2, f))))
            store(m3, f, fma(s3, by_slope, fma(b3, by_value, load(m3, f))))
            store(m4, f, fma(s4, by_slope, fma(b4, by_value, load(m4, f))))
            store(m5, f, fma(s5, by_slope, fma(b5, by_value, load(m5, f))))


@njit
def _convolve_gradients(  # type: ignore[no-untyped-def]
    h, yb, hb, made, table, lines, knot, source, target, first, last, size, both, step
):
    """hb_j += w yb_i, and the gradient of the table."""
    for e in range(first, last):
        j, i = source[e] * size, target[e] * size
        hi, hj, yi, yj = shifted(h, i), shifted(h, j), shifted(yb, i), shifted(yb, j)
        bi, bj = shifted(hb, i), shifted(hb, j)
        t0, m0 = shifted(table, knot[e] * size), shifted(made, knot[e] * size)
        t1, t2 = shifted(t0, size), shifted(t0, 2 * size)
        t3, t4, t5 = shifted(t0, 3 * size), shifted(t0, 4 * size), shifted(t0, 5 * size)
        m1, m2 = shifted(m0, size), shifted(m0, 2 * size)
        m3, m4, m5 = shifted(m0, 3 * size), shifted(m0, 4 * size), shifted(m0, 5 * size)
        b = shifted(lines, e * LINE)
        b0, b1, b2 = splat(b[0]), splat(b[1]), splat(b[2])
        b3, b4, b5 = splat(b[3]), splat(b[4]), splat(b[5])
        for f in range(0, size, step):
            low = fma(b2, load(t2, f), fma(b1, load(t1, f), mul(b0, load(t0, f))))
            w = add(low, fma(b5, load(t5, f), fma(b4, load(t4, f), mul(b3, load(t3, f)))))
            bar = load(yi, f)
            product = mul(load(hj, f), bar)
            store(bj, f, fma(w, bar, load(bj, f)))
            if both:
                bar = load(yj, f)
                product = fma(load(hi, f), bar, product)
                store(bi, f, fma(w, bar, load(bi, f)))
            store(m0, f, fma(b0, product, load(m0, f)))
            store(m1, f, fma(b1, product, load(m1, f)))
            store(m2, f, fma(b2, product, load(m2, f)))
            store(m3, f, fma(b3, product, load(m3, f)))
            store(m4, f, fma(b4, product, load(m4, f)))
            store(m5, f, fma(b5, product, load(m5, f)))


@njit
def _prepare_pass(args, like):  # type: ignore[no-untyped-def]
    """Edges in the order of their targets, blocks that none leaves, and copies of the weights."""
    g = at_address(args[2], np.int64(0))
    integer = np.int64(0)
    atoms, edges = g[ATOMS], g[EDGES]
    index, order = at_address(g[EDGE_INDEX], integer), at_address(g[IN_ORDER], integer)
    source, target = at_address(g[SOURCE], integer), at_address(g[TARGET], integer)
    blocks = at_address(g[BLOCKS], integer)
    # blocks[1:] first holds how far the edges of each atom reach.
    for i in range(atoms):
        blocks[1 + i] = i
    for place in range(edges):
        e = order[place]
        j, i = index[e], index[edges + e]
        source[place], target[place] = j, i
        low, high = min(i, j), max(i, j)
        blocks[1 + low] = max(blocks[1 + low], high)
    blocks[0] = 0
    count, reach, largest = 0, np.int64(-1), np.int64(0)
    for i in range(atoms):
        reach = max(reach, blocks[1 + i])
        size = i + 1 - blocks[count]
        if i + 1 == atoms or (reach == i and size >= g[BLOCK_ATOMS]):
            count += 1
            blocks[count] = i + 1
            largest = max(largest, size)
    g[NUM_BLOCKS], g[MAX_BLOCK] = count, largest
    copies = at_address(g[COPIES], integer)
    for n in range(g[NUM_COPIES]):
        own, made = at_address(copies[5 * n], like), at_address(copies[5 * n + 1], like)
        rows, columns, stride = copies[5 * n + 2], copies[5 * n + 3], copies[5 * n + 4]
        if stride > 0:
            for r in range(rows):
                for c in range(columns):
                    made[r * stride + c] = own[r * columns + c]
        else:
            for c in range(columns):
                for r in range(rows):
                    made[r - c * stride] = own[r * columns + c]


@njit
def _tables_pass(args, like, step):  # type: ignore[no-untyped-def]
    """Filter networks at the knots, and the coefficients of the splines through them."""
    g = at_address(args[2], np.int64(0))
    filters, gaussians, room = g[FILTERS], g[GAUSSIANS], g[GAUSSIAN_ROOM]
    knots, samples = g[KNOTS], g[KNOTS] + 2 * REACH
    expanded, taps = at_address(g[EXPANDED], like), at_address(g[TAPS], like)
    weight_size = gaussians * filters + 2 * filters * filters + 2 * filters
    while True:
        number = fetch_add(args, 1)
        if number >= args[1]:
            return
        first = shifted(at_address(g[FILTER_WEIGHTS], like), number * weight_size)
        last = shifted(first, gaussians * filters)
        first_bias = shifted(last, 2 * filters * filters)
        last_bias = shifted(first_bias, filters)
        size = samples * filters
        slope = shifted(at_address(g[FILTER_SLOPE], like), number * size)
        hidden = shifted(at_address(g[FILTER_HIDDEN], like), number * size)
        values = shifted(at_address(g[FILTER_VALUES], like), 2 * number * size)
        _fill_rows(slope, first_bias, samples, filters, step)
        multiply_add(expanded, room, 1, first, filters, slope, filters, samples, filters, gaussians)
        _activate(slope, hidden, slope, size, step, like)
        _fill_rows(values, last_bias, samples, filters, step)
        _product(hidden, last, values, samples, filters, filters)
        if g[ENDS_IN_SSP] != 0:
            _activate(values, values, shifted(values, size), size, step, like)
        table = shifted(at_address(g[TABLE], like), number * knots * filters)
        for k in range(knots):
            for f in range(0, filters, step):
                value = splat(like)
                for r in range(2 * REACH + 1):
                    value = fma(splat(taps[r]), load(values, (k + r) * filters + f), value)
                store(table, k * filters + f, value)


@njit
def _tables_back_pass(args, like, step):  # type: ignore[no-untyped-def]
    """Gradients of the tables to those of the filter networks."""
    g = at_address(args[2], np.int64(0))
    filters, gaussians, room = g[FILTERS], g[GAUSSIANS], g[GAUSSIAN_ROOM]
    knots, samples = g[KNOTS], g[KNOTS] + 2 * REACH
    expanded, taps = at_address(g[EXPANDED], like), at_address(g[TAPS], like)
    weight_size = gaussians * filters + 2 * filters * filters + 2 * filters
    made_size = filters * room + filters * filters + 2 * filters
    size = samples * filters
    while True:
        number = fetch_add(args, 1)
        if number >= args[1]:
            return
        last = shifted(at_address(g[FILTER_WEIGHTS], like), number * weight_size)
        last = shifted(last, gaussians * filters + filters * filters)
        slope = shifted(at_address(g[FILTER_SLOPE], like), number * size)
        hidden = shifted(at_address(g[FILTER_HIDDEN], like), number * size)
        values = shifted(at_address(g[FILTER_VALUES], like), 2 * number * size)
        table = shifted(at_address(g[GRADIENTS], like), number * knots * filters)
        bar = shifted(at_address(g[SCRATCH], like), 2 * number * size)
        inner = shifted(bar, size)
        made = shifted(at_address(g[FILTER_GRADIENTS], like), number * made_size)
        _fill(made, made_size, step, like)
        made_bias = shifted(made, filters * room)
        made_last = shifted(made_bias, filters)
        made_last_bias = shifted(made_last, filters * filters)
        for k in range(samples):
            low, high = max(0, k - knots + 1), min(2 * REACH, k)
            for f in range(0, filters, step):
                value = splat(like)
                for r in range(low, high + 1):
                    value = fma(splat(taps[r]), load(table, (k - r) * filters + f), value)
                store(bar, k * filters + f, value)
        if g[ENDS_IN_SSP] != 0:
            _multiply(bar, shifted(values, size), bar, size, step)
        _add_columns(bar, made_last_bias, samples, filters, step)
        _outer(bar, hidden, made_last, samples, filters, filters)
        _fill(inner, size, step, like)
        _product(bar, last, inner, samples, filters, filters)
        _multiply(inner, slope, inner, size, step)
        _add_columns(inner, made_bias, samples, filters, step)
        _outer(inner, expanded, made, samples, filters, room)


@njit
def _geometry(g, first, last, constants, like, step):  # type: ignore[no-untyped-def]
    """Directions, lengths and spline weights of the edges of a block."""
    integer = np.int64(0)
    source, target = at_address(g[SOURCE], integer), at_address(g[TARGET], integer)
    order, knot = at_address(g[IN_ORDER], integer), at_address(g[KNOT], integer)
    pos, shift = at_address(g[POS], like), at_address(g[SHIFT], like)
    spline = at_address(g[SPLINE], like)
    lines, geometry = at_address(g[LINES], like), at_address(g[GEOMETRY], like)
    spacing, inverse, cutoff, wave = constants[0], constants[1], constants[2], constants[3]
    one, half, kind = type(like)(1), type(like)(0.5), g[CUTOFF]
    for e in range(first, last):
        j, i, own = 3 * source[e], 3 * target[e], shifted(geometry, e * EDGE)
        r0, r1, r2 = pos[j] - pos[i], pos[j + 1] - pos[i + 1], pos[j + 2] - pos[i + 2]
        if g[SHIFT] != 0:
            s = 3 * order[e]
            r0, r1, r2 = r0 + shift[s], r1 + shift[s + 1], r2 + shift[s + 2]
        d = np.sqrt(r0 * r0 + r1 * r1 + r2 * r2)
        # Two atoms on one point have no direction, and push each other nowhere.
        by_length = one / d if d != like else like
        own[0], own[1], own[2], own[3], own[4] = (
            r0 * by_length,
            r1 * by_length,
            r2 * by_length,
            d,
            like,
        )
        c, slope = one, like
        if kind == 1:
            c = like
            if not d >= cutoff:
                c = half * (np.cos(d * wave) + one)
                slope = -half * wave * np.sin(d * wave)
        elif kind == 2 and not d < cutoff:
            c = like
        u = np.floor(d * inverse)
        k = np.int64(0)
        if u > like:  # not so for a NaN
            k = np.int64(min(u, type(like)(g[INTERVALS] - 1)))
        knot[e] = k
        t = (d - type(like)(k) * spacing) * inverse
        inside = one
        if t > one:
            t, inside = one, like
        line, at = shifted(lines, e * LINE), splat(t)
        for part in range(0, LINE, step):
            value = load(spline, 5 * LINE + part)
            for q in range(4, -1, -1):
                value = fma(value, at, load(spline, q * LINE + part))
            store(line, part, value)
        for m in range(6):
            line[8 + m] = c * inside * line[8 + m] + slope * line[m]
            line[m] = c * line[m]


@njit
def _values(g, first, last, begin, end, like, step):  # type: ignore[no-untyped-def]
    """First sweep: features, activations and energies of the atoms of a block."""
    integer = np.int64(0)
    atoms, layers, hidden = g[ATOMS], g[LAYERS], g[HIDDEN]
    filters, readout, both = g[FILTERS], g[READOUT], g[BOTH] != 0
    n = last - first
    hf, hh = hidden * filters, hidden * hidden
    constants, packed = at_address(g[CONSTANTS], like), at_address(g[PACKED], like)
    x, h = at_address(g[X], like), at_address(g[H], like)
    y, a = at_address(g[Y], like), at_address(g[A], like)
    slope, lines = at_address(g[SLOPE], like), at_address(g[LINES], like)
    source, target = at_address(g[SOURCE], integer), at_address(g[TARGET], integer)
    knot, z = at_address(g[KNOT], integer), at_address(g[Z], integer)
    size = 4 * hf + 2 * hh + 2 * hidden
    head = shifted(packed, layers * size)
    first_weight, last_weight = head, shifted(head, 2 * hidden * readout + readout)
    head_bias = shifted(head, 2 * hidden * readout)
    embedding = shifted(last_weight, readout + 16)
    for i in range(first, last):
        _copy(shifted(x, i * hidden), shifted(embedding, z[i] * hidden), hidden, step)
    for layer in range(layers):
        own = shifted(packed, layer * size)
        by_hidden = (layer * atoms + first) * hidden
        by_filter = (layer * atoms + first) * filters
        here = shifted(x, by_hidden)
        made_h, made_y = shifted(h, by_filter), shifted(y, by_filter)
        _fill(made_h, n * filters, step, like)
        _product(here, own, made_h, n, hidden, filters)
        _fill(made_y, n * filters, step, like)
        table = at_address(g[TABLE], like)
        if g[TABLES] > 1:
            table = shifted(table, layer * g[KNOTS] * filters)
        whole_h, whole_y = shifted(h, layer * atoms * filters), shifted(y, layer * atoms * filters)
        _convolve(
            whole_h, whole_y, table, lines, knot, source, target, begin, end, filters, both, step
        )
        if g[INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[INVERSE_COUNT], like), first)
            _scale_rows(made_y, inverse, n, filters, step)
        q, activated = shifted(slope, by_hidden), shifted(a, by_hidden)
        _fill_rows(q, shifted(own, 4 * hf + 2 * hh), n, hidden, step)
        _product(made_y, shifted(own, hf), q, n, filters, hidden)
        _activate(q, activated, q, n * hidden, step, like)
        following, bias = (
            shifted(x, by_hidden + atoms * hidden),
            shifted(own, 4 * hf + 2 * hh + hidden),
        )
        for r in range(n):
            for c in range(0, hidden, step):
                store(following, r * hidden + c, add(load(here, r * hidden + c), load(bias, c)))
        _product(activated, shifted(own, 2 * hf), following, n, hidden, hidden)
    p = shifted(at_address(g[HEAD_SLOPE], like), first * readout)
    activated = shifted(at_address(g[HEAD], like), first * readout)
    _fill_rows(p, head_bias, n, readout, step)
    final = shifted(x, (layers * atoms + first) * hidden)
    _product(final, first_weight, p, n, hidden, readout)
    _activate(p, activated, p, n * readout, step, like)
    energy, deviation = at_address(g[ENERGY], like), constants[4]
    for r in range(n):
        value = splat(like)
        for c in range(0, readout, step):
            value = fma(load(activated, r * readout + c), load(last_weight, c), value)
        energy[first + r] = (total(value) + last_weight[readout]) * deviation


@njit
def _adjoints(g, first, last, begin, end, like, step):  # type: ignore[no-untyped-def]
    """Second sweep: the derivative of the total energy in everything, down to the positions."""
    integer = np.int64(0)
    atoms, layers, hidden = g[ATOMS], g[LAYERS], g[HIDDEN]
    filters, readout, both = g[FILTERS], g[READOUT], g[BOTH] != 0
    n = last - first
    hf, hh = hidden * filters, hidden * hidden
    constants, packed = at_address(g[CONSTANTS], like), at_address(g[PACKED], like)
    h, slope = at_address(g[H], like), at_address(g[SLOPE], like)
    gx, ga, gq = at_address(g[GX], like), at_address(g[GA], like), at_address(g[GQ], like)
    gy, gh = at_address(g[GY], like), at_address(g[GH], like)
    lines, geometry = at_address(g[LINES], like), at_address(g[GEOMETRY], like)
    source, target = at_address(g[SOURCE], integer), at_address(g[TARGET], integer)
    knot = at_address(g[KNOT], integer)
    size = 4 * hf + 2 * hh + 2 * hidden
    head = shifted(packed, layers * size)
    last_weight = shifted(head, 2 * hidden * readout + readout)
    seed, deviation = at_address(g[SEED], like), constants[4]
    bent = shifted(at_address(g[HEAD_SLOPE], like), first * readout)
    gp = shifted(at_address(g[GP], like), first * readout)
    for r in range(n):
        factor = splat(seed[first + r] * deviation)
        for c in range(0, readout, step):
            value = mul(factor, load(last_weight, c))
            store(gp, r * readout + c, mul(load(bent, r * readout + c), value))
    above = shifted(gx, (layers * atoms + first) * hidden)
    _fill(above, n * hidden, step, like)
    _product(gp, shifted(head, hidden * readout), above, n, readout, hidden)
    for layer in range(layers - 1, -1, -1):
        own = shifted(packed, layer * size)
        by_hidden = (layer * atoms + first) * hidden
        by_filter = (layer * atoms + first) * filters
        made_a, made_q = shifted(ga, by_hidden), shifted(gq, by_hidden)
        made_y, made_h = shifted(gy, by_filter), shifted(gh, by_filter)
        _fill(made_a, n * hidden, step, like)
        _product(above, shifted(own, 4 * hf + hh), made_a, n, hidden, hidden)
        _multiply(made_a, shifted(slope, by_hidden), made_q, n * hidden, step)
        _fill(made_y, n * filters, step, like)
        _product(made_q, shifted(own, 3 * hf + hh), made_y, n, hidden, filters)
        if g[INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[INVERSE_COUNT], like), first)
            _scale_rows(made_y, inverse, n, filters, step)
        _fill(made_h, n * filters, step, like)
        table = at_address(g[TABLE], like)
        if g[TABLES] > 1:
            table = shifted(table, layer * g[KNOTS] * filters)
        whole = layer * atoms * filters
        _convolve_back(
            shifted(h, whole),
            shifted(gy, whole),
            shifted(gh, whole),
            table,
            lines,
            geometry,
            knot,
            source,
            target,
            begin,
            end,
            filters,
            both,
            step,
            like,
        )
        if layer > 0:
            below = shifted(gx, by_hidden)
            _copy(below, above, n * hidden, step)
            _product(made_h, shifted(own, 2 * hf + hh), below, n, filters, hidden)
            above = below
    forces, virial = at_address(g[FORCES], like), at_address(g[VIRIAL], like)
    for c in range(3 * first, 3 * last):
        forces[c] = like
    if g[VIRIAL] != 0:
        for c in range(9 * first, 9 * last):
            virial[c] = like
    for e in range(begin, end):
        j, i, edge = 3 * source[e], 3 * target[e], shifted(geometry, e * EDGE)
        for axis in range(3):
            push = edge[4] * edge[axis]
            forces[j + axis] -= push
            forces[i + axis] += push
            if g[VIRIAL] != 0:
                for other in range(3):
                    virial[3 * i + 3 * axis + other] += push * edge[3] * edge[other]


@njit
def _tangents(g, scratch, first, last, begin, end, like, step):  # type: ignore[no-untyped-def]
    """Third sweep: how the features change as the atoms move along the direction."""
    integer = np.int64(0)
    atoms, layers, hidden = g[ATOMS], g[LAYERS], g[HIDDEN]
    filters, readout, both = g[FILTERS], g[READOUT], g[BOTH] != 0
    n, room = last - first, g[MAX_BLOCK]
    hf, hh = hidden * filters, hidden * hidden
    packed = at_address(g[PACKED], like)
    h, slope = at_address(g[H], like), at_address(g[SLOPE], like)
    lines, geometry = at_address(g[LINES], like), at_address(g[GEOMETRY], like)
    source, target = at_address(g[SOURCE], integer), at_address(g[TARGET], integer)
    knot, molecule = at_address(g[KNOT], integer), at_address(g[MOLECULE], integer)
    direction, strain = at_address(g[DIRECTION], like), at_address(g[STRAIN], like)
    for e in range(begin, end):
        j, i, edge = source[e], target[e], shifted(geometry, e * EDGE)
        speed = like
        for axis in range(3):
            change = direction[3 * j + axis] - direction[3 * i + axis]
            if g[STRAIN] != 0:
                for other in range(3):
                    deformation = strain[9 * molecule[i] + 3 * other + axis]
                    change += edge[3] * edge[other] * deformation
            speed += edge[axis] * change
        edge[5] = speed
    size = 4 * hf + 2 * hh + 2 * hidden
    xd, hd = scratch, shifted(scratch, (layers + 1) * room * hidden)
    yd = shifted(hd, layers * room * filters)
    qd = shifted(yd, layers * room * filters)
    ad = shifted(qd, layers * room * hidden)
    pd = shifted(ad, layers * room * hidden)
    rd = shifted(pd, room * readout)
    _fill(xd, n * hidden, step, like)
    for layer in range(layers):
        own = shifted(packed, layer * size)
        by_hidden, by_filter = layer * room * hidden, layer * room * filters
        here, following = shifted(xd, by_hidden), shifted(xd, by_hidden + room * hidden)
        made_h, made_y = shifted(hd, by_filter), shifted(yd, by_filter)
        made_q, made_a = shifted(qd, by_hidden), shifted(ad, by_hidden)
        _fill(made_h, n * filters, step, like)
        if layer > 0:
            _product(here, own, made_h, n, hidden, filters)
        _fill(made_y, n * filters, step, like)
        table = at_address(g[TABLE], like)
        if g[TABLES] > 1:
            table = shifted(table, layer * g[KNOTS] * filters)
        # The scratch holds the atoms of this block alone.
        _convolve_tangent(
            shifted(h, layer * atoms * filters),
            shifted(made_h, -first * filters),
            shifted(made_y, -first * filters),
            table,
            lines,
            geometry,
            knot,
            source,
            target,
            begin,
            end,
            filters,
            both,
            step,
        )
        if g[INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[INVERSE_COUNT], like), first)
            _scale_rows(made_y, inverse, n, filters, step)
        _fill(made_q, n * hidden, step, like)
        _product(made_y, shifted(own, hf), made_q, n, filters, hidden)
        bent = shifted(slope, (layer * atoms + first) * hidden)
        _multiply(made_q, bent, made_a, n * hidden, step)
        _copy(following, here, n * hidden, step)
        _product(made_a, shifted(own, 2 * hf), following, n, hidden, hidden)
    _fill(pd, n * readout, step, like)
    head = shifted(packed, layers * size)
    _product(shifted(xd, layers * room * hidden), head, pd, n, hidden, readout)
    bent = shifted(at_address(g[HEAD_SLOPE], like), first * readout)
    _multiply(pd, bent, rd, n * readout, step)


@njit
def _gradients(g, scratch, made, first, last, begin, end, like, step):  # type: ignore[no-untyped-def]
    """Fourth sweep: adjoints of the loss, and from them the gradients of the weights."""
    integer = np.int64(0)
    atoms, layers, hidden = g[ATOMS], g[LAYERS], g[HIDDEN]
    filters, readout, both = g[FILTERS], g[READOUT], g[BOTH] != 0
    n, room = last - first, g[MAX_BLOCK]
    hf, hh = hidden * filters, hidden * hidden
    constants, packed = at_address(g[CONSTANTS], like), at_address(g[PACKED], like)
    x, h, y = at_address(g[X], like), at_address(g[H], like), at_address(g[Y], like)
    a, slope = at_address(g[A], like), at_address(g[SLOPE], like)
    gx, ga, gq = at_address(g[GX], like), at_address(g[GA], like), at_address(g[GQ], like)
    gy, gh = at_address(g[GY], like), at_address(g[GH], like)
    lines, geometry = at_address(g[LINES], like), at_address(g[GEOMETRY], like)
    source, target = at_address(g[SOURCE], integer), at_address(g[TARGET], integer)
    knot, z = at_address(g[KNOT], integer), at_address(g[Z], integer)
    size, made_size = 4 * hf + 2 * hh + 2 * hidden, 2 * hf + hh + 2 * hidden
    head, made_head = shifted(packed, layers * size), shifted(made, layers * made_size)
    last_weight = shifted(head, 2 * hidden * readout + readout)
    made_bias = shifted(made_head, hidden * readout)
    made_last = shifted(made_bias, readout)
    made_embedding = shifted(made_last, readout + 16)
    made_tables = shifted(made_embedding, ELEMENTS * hidden)
    xd, hd = scratch, shifted(scratch, (layers + 1) * room * hidden)
    yd = shifted(hd, layers * room * filters)
    qd = shifted(yd, layers * room * filters)
    ad = shifted(qd, layers * room * hidden)
    pd = shifted(ad, layers * room * hidden)
    rd = shifted(pd, room * readout)
    pb = shifted(rd, room * readout)
    xb = shifted(pb, room * readout)
    qb = shifted(xb, room * hidden)
    yb = shifted(qb, room * hidden)
    hb = shifted(yb, room * filters)
    one, deviation = splat(type(like)(1)), constants[4]
    seed, weight = at_address(g[SEED], like), at_address(g[WEIGHT], like)
    bent = shifted(at_address(g[HEAD_SLOPE], like), first * readout)
    activated = shifted(at_address(g[HEAD], like), first * readout)
    for r in range(n):
        by_energy = weight[first + r] * deviation
        by_change = seed[first + r] * deviation
        energy, change = splat(by_energy), splat(by_change)
        for c in range(0, readout, step):
            place, factor = r * readout + c, load(last_weight, c)
            s = load(bent, place)
            tangent = mul(mul(sub(one, s), load(pd, place)), mul(change, factor))
            store(pb, place, mul(s, fma(energy, factor, tangent)))
            sums = fma(change, load(rd, place), load(made_last, c))
            store(made_last, c, fma(energy, load(activated, place), sums))
        made_last[readout] += by_energy
    _add_columns(pb, made_bias, n, readout, step)
    _outer(pb, shifted(x, (layers * atoms + first) * hidden), made_head, n, readout, hidden)
    gp = shifted(at_address(g[GP], like), first * readout)
    _outer(gp, shifted(xd, layers * room * hidden), made_head, n, readout, hidden)
    _fill(xb, n * hidden, step, like)
    _product(pb, shifted(head, hidden * readout), xb, n, readout, hidden)
    for layer in range(layers - 1, -1, -1):
        own, made_own = shifted(packed, layer * size), shifted(made, layer * made_size)
        by_hidden, by_filter = layer * room * hidden, layer * room * filters
        whole_hidden, whole_filter = layer * atoms * hidden, layer * atoms * filters
        here_hidden, here_filter = whole_hidden + first * hidden, whole_filter + first * filters
        _add_columns(xb, shifted(made_own, 2 * hf + hh + hidden), n, hidden, step)
        made_c = shifted(made_own, 2 * hf)
        _outer(xb, shifted(a, here_hidden), made_c, n, hidden, hidden)
        above = shifted(gx, here_hidden + atoms * hidden)
        _outer(above, shifted(ad, by_hidden), made_c, n, hidden, hidden)
        _fill(qb, n * hidden, step, like)
        _product(xb, shifted(own, 4 * hf + hh), qb, n, hidden, hidden)
        _bend(
            qb,
            shifted(slope, here_hidden),
            shifted(qd, by_hidden),
            shifted(ga, here_hidden),
            n * hidden,
            step,
            like,
        )
        _add_columns(qb, shifted(made_own, 2 * hf + hh), n, hidden, step)
        made_v = shifted(made_own, hf)
        _outer(qb, shifted(y, here_filter), made_v, n, hidden, filters)
        _outer(shifted(gq, here_hidden), shifted(yd, by_filter), made_v, n, hidden, filters)
        _fill(yb, n * filters, step, like)
        _product(qb, shifted(own, 3 * hf + hh), yb, n, hidden, filters)
        if g[INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[INVERSE_COUNT], like), first)
            _scale_rows(yb, inverse, n, filters, step)
        _fill(hb, n * filters, step, like)
        table, made_table = at_address(g[TABLE], like), made_tables
        if g[TABLES] > 1:
            table = shifted(table, layer * g[KNOTS] * filters)
            made_table = shifted(made_tables, layer * g[KNOTS] * filters)
        back = -first * filters
        _convolve_tangent_back(
            shifted(h, whole_filter),
            shifted(hd, by_filter + back),
            shifted(gy, whole_filter),
            shifted(yb, back),
            shifted(hb, back),
            made_table,
            table,
            lines,
            geometry,
            knot,
            source,
            target,
            begin,
            end,
            filters,
            both,
            step,
        )
        _outer(hb, shifted(x, here_hidden), made_own, n, filters, hidden)
        if layer > 0:
            _outer(shifted(gh, here_filter), shifted(xd, by_hidden), made_own, n, filters, hidden)
        _product(hb, shifted(own, 2 * hf + hh), xb, n, filters, hidden)
    for r in range(n):
        sums = shifted(made_embedding, z[first + r] * hidden)
        for c in range(0, hidden, step):
            store(sums, c, add(load(sums, c), load(xb, r * hidden + c)))


@njit
def _gradients_of_values(g, scratch, made, first, last, begin, end, like, step):  # type: ignore[no-untyped-def]
    """The fourth sweep where the loss depends on energies alone, so that nothing moves."""
    integer = np.int64(0)
    atoms, layers, hidden = g[ATOMS], g[LAYERS], g[HIDDEN]
    filters, readout, both = g[FILTERS], g[READOUT], g[BOTH] != 0
    n, room = last - first, g[MAX_BLOCK]
    hf, hh = hidden * filters, hidden * hidden
    constants, packed = at_address(g[CONSTANTS], like), at_address(g[PACKED], like)
    x, h, y = at_address(g[X], like), at_address(g[H], like), at_address(g[Y], like)
    a, slope = at_address(g[A], like), at_address(g[SLOPE], like)
    lines = at_address(g[LINES], like)
    source, target = at_address(g[SOURCE], integer), at_address(g[TARGET], integer)
    knot, z = at_address(g[KNOT], integer), at_address(g[Z], integer)
    size, made_size = 4 * hf + 2 * hh + 2 * hidden, 2 * hf + hh + 2 * hidden
    head, made_head = shifted(packed, layers * size), shifted(made, layers * made_size)
    last_weight = shifted(head, 2 * hidden * readout + readout)
    made_bias = shifted(made_head, hidden * readout)
    made_last = shifted(made_bias, readout)
    made_embedding = shifted(made_last, readout + 16)
    made_tables = shifted(made_embedding, ELEMENTS * hidden)
    pb, xb = scratch, shifted(scratch, room * readout)
    qb = shifted(xb, room * hidden)
    yb = shifted(qb, room * hidden)
    hb = shifted(yb, room * filters)
    deviation, weight = constants[4], at_address(g[WEIGHT], like)
    bent = shifted(at_address(g[HEAD_SLOPE], like), first * readout)
    activated = shifted(at_address(g[HEAD], like), first * readout)
    for r in range(n):
        by_energy = weight[first + r] * deviation
        energy = splat(by_energy)
        for c in range(0, readout, step):
            place = r * readout + c
            store(pb, place, mul(load(bent, place), mul(energy, load(last_weight, c))))
            store(made_last, c, fma(energy, load(activated, place), load(made_last, c)))
        made_last[readout] += by_energy
    _add_columns(pb, made_bias, n, readout, step)
    _outer(pb, shifted(x, (layers * atoms + first) * hidden), made_head, n, readout, hidden)
    _fill(xb, n * hidden, step, like)
    _product(pb, shifted(head, hidden * readout), xb, n, readout, hidden)
    for layer in range(layers - 1, -1, -1):
        own, made_own = shifted(packed, layer * size), shifted(made, layer * made_size)
        whole_hidden, whole_filter = layer * atoms * hidden, layer * atoms * filters
        here_hidden, here_filter = whole_hidden + first * hidden, whole_filter + first * filters
        _add_columns(xb, shifted(made_own, 2 * hf + hh + hidden), n, hidden, step)
        _outer(xb, shifted(a, here_hidden), shifted(made_own, 2 * hf), n, hidden, hidden)
        _fill(qb, n * hidden, step, like)
        _product(xb, shifted(own, 4 * hf + hh), qb, n, hidden, hidden)
        _multiply(qb, shifted(slope, here_hidden), qb, n * hidden, step)
        _add_columns(qb, shifted(made_own, 2 * hf + hh), n, hidden, step)
        _outer(qb, shifted(y, here_filter), shifted(made_own, hf), n, hidden, filters)
        _fill(yb, n * filters, step, like)
        _product(qb, shifted(own, 3 * hf + hh), yb, n, hidden, filters)
        if g[INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[INVERSE_COUNT], like), first)
            _scale_rows(yb, inverse, n, filters, step)
        _fill(hb, n * filters, step, like)
        table, made_table = at_address(g[TABLE], like), made_tables
        if g[TABLES] > 1:
            table = shifted(table, layer * g[KNOTS] * filters)
            made_table = shifted(made_tables, layer * g[KNOTS] * filters)
        _convolve_gradients(
            shifted(h, whole_filter),
            shifted(yb, -first * filters),
            shifted(hb, -first * filters),
            made_table,
            table,
            lines,
            knot,
            source,
            target,
            begin,
            end,
            filters,
            both,
            step,
        )
        _outer(hb, shifted(x, here_hidden), made_own, n, filters, hidden)
        _product(hb, shifted(own, 2 * hf + hh), xb, n, filters, hidden)
    for r in range(n):
        sums = shifted(made_embedding, z[first + r] * hidden)
        for c in range(0, hidden, step):
            store(sums, c, add(load(sums, c), load(xb, r * hidden + c)))


@njit
def _first_call(args, like, step):  # type: ignore[no-untyped-def]
    g = at_address(args[2], np.int64(0))
    integer, jobs = np.int64(0), args[1]
    blocks, ptr = at_address(g[BLOCKS], integer), at_address(g[IN_PTR], integer)
    constants = at_address(g[CONSTANTS], like)
    while True:
        job = fetch_add(args, 1)
        if job >= jobs:
            return
        for block in range(g[NUM_BLOCKS] * job // jobs, g[NUM_BLOCKS] * (job + 1) // jobs):
            first, last = blocks[block], blocks[block + 1]
            begin, end = ptr[first], ptr[last]
            _geometry(g, begin, end, constants, like, step)
            _values(g, first, last, begin, end, like, step)
            if g[FORCES] != 0:
                _adjoints(g, first, last, begin, end, like, step)


@njit
def _second_call(args, like, step):  # type: ignore[no-untyped-def]
    g = at_address(args[2], np.int64(0))
    integer, jobs = np.int64(0), args[1]
    blocks, ptr = at_address(g[BLOCKS], integer), at_address(g[IN_PTR], integer)
    while True:
        job = fetch_add(args, 1)
        if job >= jobs:
            return
        made = shifted(at_address(g[GRADIENTS], like), job * g[GRADIENT_SIZE])
        scratch = shifted(at_address(g[SCRATCH], like), job * g[SCRATCH_SIZE])
        _fill(made, g[GRADIENT_SIZE], step, like)
        for block in range(g[NUM_BLOCKS] * job // jobs, g[NUM_BLOCKS] * (job + 1) // jobs):
            first, last = blocks[block], blocks[block + 1]
            begin, end = ptr[first], ptr[last]
            if g[DIRECTION] != 0:
                _tangents(g, scratch, first, last, begin, end, like, step)
                _gradients(g, scratch, made, first, last, begin, end, like, step)
            else:
                _gradients_of_values(g, scratch, made, first, last, begin, end, like, step)


def _prepare_float32(args):  # type: ignore[no-untyped-def]
    _prepare_pass(args, np.float32(0))


def _prepare_float64(args):  # type: ignore[no-untyped-def]
    _prepare_pass(args, np.float64(0))


def _tables_float32(args):  # type: ignore[no-untyped-def]
    _tables_pass(args, np.float32(0), 16)


def _tables_float64(args):  # type: ignore[no-untyped-def]
    _tables_pass(args, np.float64(0), 8)


def _tables_back_float32(args):  # type: ignore[no-untyped-def]
    _tables_back_pass(args, np.float32(0), 16)


def _tables_back_float64(args):  # type: ignore[no-untyped-def]
    _tables_back_pass(args, np.float64(0), 8)


def _first_float32(args):  # type: ignore[no-untyped-def]
    _first_call(args, np.float32(0), 16)


def _first_float64(args):  # type: ignore[no-untyped-def]
    _first_call(args, np.float64(0), 8)


def _second_float32(args):  # type: ignore[no-untyped-def]
    _second_call(args, np.float32(0), 16)


def _second_float64(args):  # type: ignore[no-untyped-def]
    _second_call(args, np.float64(0), 8)


PREPARE = {torch.float32: Kernel(_prepare_float32), torch.float64: Kernel(_prepare_float64)}
TABLES_FORWARD = {torch.float32: Kernel(_tables_float32), torch.float64: Kernel(_tables_float64)}
TABLES_BACK = {
    torch.float32: Kernel(_tables_back_float32),
    torch.float64: Kernel(_tables_back_float64),
}
FIRST = {torch.float32: Kernel(_first_float32), torch.float64: Kernel(_first_float64)}
SECOND = {torch.float32: Kernel(_second_float32), torch.float64: Kernel(_second_float64)}
