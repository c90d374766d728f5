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

SLOPES = 8  # where those of the slopes begin in a line
LINE = 16  # numbers of an edge: six weights, two unused, six slopes, two unused
EDGE = 8  # numbers of an edge: direction, length, its adjoint, three unused
SPEED = 8  # numbers of an edge: how fast its six weights change, two unused
_DEPTH = 128  # atoms that a gradient of weights is summed over while they are in the cache
TILE = 2  # vectors of features that are convolved at a time, so that their table stays in the cache
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
    BARS,
    SPEEDS,
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
) = range(71)


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
def _two(pointer, first, step):  # type: ignore[no-untyped-def]
    return load(pointer, first), load(pointer, first + step)


@njit
def _put(pointer, first, one, other, step):  # type: ignore[no-untyped-def]
    store(pointer, first, one)
    store(pointer, first + step, other)


@njit
def _blend(b, t, step):  # type: ignore[no-untyped-def]
    """Six rows of a table, each times its weight."""
    b0, b1, b2 = splat(b[0]), splat(b[1]), splat(b[2])
    b3, b4, b5 = splat(b[3]), splat(b[4]), splat(b[5])
    low = fma(b2, load(t, 4 * step), fma(b1, load(t, 2 * step), mul(b0, load(t, 0))))
    high = fma(b5, load(t, 10 * step), fma(b4, load(t, 8 * step), mul(b3, load(t, 6 * step))))
    t = shifted(t, step)
    more = fma(b2, load(t, 4 * step), fma(b1, load(t, 2 * step), mul(b0, load(t, 0))))
    rest = fma(b5, load(t, 10 * step), fma(b4, load(t, 8 * step), mul(b3, load(t, 6 * step))))
    return add(low, high), add(more, rest)


@njit
def _convolve(h, out, table, lines, knot, source, ptr, first, last, size, knots, both, step):  # type: ignore[no-untyped-def]
    """y_i += w h_j."""
    wide = TILE * step
    for f in range(0, size, wide):
        tile, x, y = shifted(table, f * knots), shifted(h, f), shifted(out, f)
        for i in range(first, last):
            hi, hi_ = _two(x, i * size, step)
            yi, yi_ = _two(y, i * size, step)
            for e in range(ptr[i], ptr[i + 1]):
                j = source[e] * size
                w, w_ = _blend(shifted(lines, e * LINE), shifted(tile, knot[e] * wide), step)
                hj, hj_ = _two(x, j, step)
                yi, yi_ = fma(w, hj, yi), fma(w_, hj_, yi_)
                if both:
                    yj, yj_ = _two(y, j, step)
                    _put(y, j, fma(w, hi, yj), fma(w_, hi_, yj_), step)
            _put(y, i * size, yi, yi_, step)


@njit
def _convolve_back(  # type: ignore[no-untyped-def]
    h, gy, gh, table, lines, bars, knot, source, ptr, first, last, size, knots, both, step
):
    """gh_j += w gy_i, and the adjoint of the length, not yet summed up: sum of w' h_j gy_i."""
    wide = TILE * step
    for f in range(0, size, wide):
        tile, x, y, g = shifted(table, f * knots), shifted(h, f), shifted(gy, f), shifted(gh, f)
        for i in range(first, last):
            hi, hi_ = _two(x, i * size, step)
            yi, yi_ = _two(y, i * size, step)
            gi, gi_ = _two(g, i * size, step)
            for e in range(ptr[i], ptr[i + 1]):
                j, t, b = source[e] * size, shifted(tile, knot[e] * wide), shifted(lines, e * LINE)
                w, w_ = _blend(b, t, step)
                slope, slope_ = _blend(shifted(b, SLOPES), t, step)
                hj, hj_ = _two(x, j, step)
                gj, gj_ = _two(g, j, step)
                product, product_ = mul(hj, yi), mul(hj_, yi_)
                _put(g, j, fma(w, yi, gj), fma(w_, yi_, gj_), step)
                if both:
                    yj, yj_ = _two(y, j, step)
                    product, product_ = fma(hi, yj, product), fma(hi_, yj_, product_)
                    gi, gi_ = fma(w, yj, gi), fma(w_, yj_, gi_)
                bar = fma(slope_, product_, load(bars, e * step))
                store(bars, e * step, fma(slope, product, bar))
            if both:
                _put(g, i * size, gi, gi_, step)


@njit
def _convolve_tangent(  # type: ignore[no-untyped-def]
    h, hd, out, table, lines, speeds, knot, source, ptr, first, last, size, knots, both, step
):
    """The tangent of y_i: y'_i += w' d' h_j + w h'_j."""
    wide = TILE * step
    for f in range(0, size, wide):
        tile, x, d, y = shifted(table, f * knots), shifted(h, f), shifted(hd, f), shifted(out, f)
        for i in range(first, last):
            hi, hi_ = _two(x, i * size, step)
            di, di_ = _two(d, i * size, step)
            yi, yi_ = _two(y, i * size, step)
            for e in range(ptr[i], ptr[i + 1]):
                j, t = source[e] * size, shifted(tile, knot[e] * wide)
                w, w_ = _blend(shifted(lines, e * LINE), t, step)
                v, v_ = _blend(shifted(speeds, e * SPEED), t, step)
                hj, hj_ = _two(x, j, step)
                dj, dj_ = _two(d, j, step)
                yi, yi_ = fma(w, dj, fma(v, hj, yi)), fma(w_, dj_, fma(v_, hj_, yi_))
                if both:
                    yj, yj_ = _two(y, j, step)
                    yj, yj_ = fma(w, di, fma(v, hi, yj)), fma(w_, di_, fma(v_, hi_, yj_))
                    _put(y, j, yj, yj_, step)
            _put(y, i * size, yi, yi_, step)


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
    speeds,
    knot,
    source,
    ptr,
    first,
    last,
    size,
    knots,
    both,
    step,
):
    """hb_j += w yb_i + w' d' gy_i, and the gradient of the table."""
    wide = TILE * step
    for f in range(0, size, wide):
        tile, made_tile = shifted(table, f * knots), shifted(made, f * knots)
        x, d, g = shifted(h, f), shifted(hd, f), shifted(gy, f)
        y, b = shifted(yb, f), shifted(hb, f)
        for i in range(first, last):
            hi, hi_ = _two(x, i * size, step)
            di, di_ = _two(d, i * size, step)
            gi, gi_ = _two(g, i * size, step)
            yi, yi_ = _two(y, i * size, step)
            bi, bi_ = _two(b, i * size, step)
            for e in range(ptr[i], ptr[i + 1]):
                j, place = source[e] * size, knot[e] * wide
                t, m = shifted(tile, place), shifted(made_tile, place)
                weights, speed = shifted(lines, e * LINE), shifted(speeds, e * SPEED)
                w, w_ = _blend(weights, t, step)
                v, v_ = _blend(speed, t, step)
                hj, hj_ = _two(x, j, step)
                dj, dj_ = _two(d, j, step)
                bj, bj_ = _two(b, j, step)
                by_value, by_value_ = fma(dj, gi, mul(hj, yi)), fma(dj_, gi_, mul(hj_, yi_))
                by_speed, by_speed_ = mul(hj, gi), mul(hj_, gi_)
                bj, bj_ = fma(v, gi, fma(w, yi, bj)), fma(v_, gi_, fma(w_, yi_, bj_))
                _put(b, j, bj, bj_, step)
                if both:
                    gj, gj_ = _two(g, j, step)
                    yj, yj_ = _two(y, j, step)
                    by_value = fma(di, gj, fma(hi, yj, by_value))
                    by_value_ = fma(di_, gj_, fma(hi_, yj_, by_value_))
                    by_speed, by_speed_ = fma(hi, gj, by_speed), fma(hi_, gj_, by_speed_)
                    bi, bi_ = fma(v, gj, fma(w, yj, bi)), fma(v_, gj_, fma(w_, yj_, bi_))
                for r in range(6):
                    weight, change, at = splat(weights[r]), splat(speed[r]), TILE * r * step
                    m0, m1 = _two(m, at, step)
                    m0 = fma(change, by_speed, fma(weight, by_value, m0))
                    m1 = fma(change, by_speed_, fma(weight, by_value_, m1))
                    _put(m, at, m0, m1, step)
            if both:
                _put(b, i * size, bi, bi_, step)


@njit
def _convolve_gradients(  # type: ignore[no-untyped-def]
    h, yb, hb, made, table, lines, knot, source, ptr, first, last, size, knots, both, step
):
    """hb_j += w yb_i, and the gradient of the table."""
    wide = TILE * step
    for f in range(0, size, wide):
        tile, made_tile = shifted(table, f * knots), shifted(made, f * knots)
        x, y, b = shifted(h, f), shifted(yb, f), shifted(hb, f)
        for i in range(first, last):
            hi, hi_ = _two(x, i * size, step)
            yi, yi_ = _two(y, i * size, step)
            bi, bi_ = _two(b, i * size, step)
            for e in range(ptr[i], ptr[i + 1]):
                j, place, weights = source[e] * size, knot[e] * wide, shifted(lines, e * LINE)
                m = shifted(made_tile, place)
                w, w_ = _blend(weights, shifted(tile, place), step)
                hj, hj_ = _two(x, j, step)
                bj, bj_ = _two(b, j, step)
                product, product_ = mul(hj, yi), mul(hj_, yi_)
                _put(b, j, fma(w, yi, bj), fma(w_, yi_, bj_), step)
                if both:
                    yj, yj_ = _two(y, j, step)
                    product, product_ = fma(hi, yj, product), fma(hi_, yj_, product_)
                    bi, bi_ = fma(w, yj, bi), fma(w_, yj_, bi_)
                for r in range(6):
                    weight, at = splat(weights[r]), TILE * r * step
                    m0, m1 = _two(m, at, step)
                    _put(m, at, fma(weight, product, m0), fma(weight, product_, m1), step)
            if both:
                _put(b, i * size, bi, bi_, step)


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
def _place(knot, feature, knots, step):  # type: ignore[no-untyped-def]
    """Where a vector of a table begins: tile after tile, each with all knots."""
    wide = TILE * step
    return feature // wide * wide * knots + knot * wide + feature % wide


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
                store(
                    table,
                    _place(k, f, knots, step),
                    value,
                )


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
                    place = _place(k - r, f, knots, step)
                    value = fma(splat(taps[r]), load(table, place), value)
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
        own[0], own[1], own[2], own[3] = r0 * by_length, r1 * by_length, r2 * by_length, d
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
def _values(g, first, last, like, step):  # type: ignore[no-untyped-def]
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
    source, ptr = at_address(g[SOURCE], integer), at_address(g[IN_PTR], integer)
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
            whole_h,
            whole_y,
            table,
            lines,
            knot,
            source,
            ptr,
            first,
            last,
            filters,
            g[KNOTS],
            both,
            step,
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
    ptr, bars = at_address(g[IN_PTR], integer), at_address(g[BARS], like)
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
    _fill(shifted(bars, begin * step), (end - begin) * step, step, like)
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
            bars,
            knot,
            source,
            ptr,
            first,
            last,
            filters,
            g[KNOTS],
            both,
            step,
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
        edge[4] = total(load(bars, e * step))
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
    ptr, speeds = at_address(g[IN_PTR], integer), at_address(g[SPEEDS], like)
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
        own, weights = shifted(speeds, e * SPEED), shifted(lines, e * LINE + SLOPES)
        for m in range(6):
            own[m] = speed * weights[m]
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
            speeds,
            knot,
            source,
            ptr,
            first,
            last,
            filters,
            g[KNOTS],
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
def _gradients(g, scratch, made, first, last, like, step):  # type: ignore[no-untyped-def]
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
    lines, speeds = at_address(g[LINES], like), at_address(g[SPEEDS], like)
    source, ptr = at_address(g[SOURCE], integer), at_address(g[IN_PTR], integer)
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
            speeds,
            knot,
            source,
            ptr,
            first,
            last,
            filters,
            g[KNOTS],
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
def _gradients_of_values(g, scratch, made, first, last, like, step):  # type: ignore[no-untyped-def]
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
    source, ptr = at_address(g[SOURCE], integer), at_address(g[IN_PTR], integer)
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
            ptr,
            first,
            last,
            filters,
            g[KNOTS],
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
            _values(g, first, last, like, step)
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
                _gradients(g, scratch, made, first, last, like, step)
            else:
                _gradients_of_values(g, scratch, made, first, last, like, step)


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
