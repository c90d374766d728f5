"""Convolutions over the pairs of a block, in the forms that the compiled sweeps need.

Filters are read off a table in tiles: so many vectors of features of all knots, tile after tile.
Names are those of :mod:`pyg_schnet.ops.dual`; one that ends in an underscore holds the second
vector of the tile.
"""

from numba import njit

from pyg_schnet.ops.backends.cpu.simd import add, fma, load, mul, shifted, splat, store

TILE = 2  # vectors of features that are convolved at a time, so that their table stays in the cache
SLOPES = 8  # where those of the slopes begin in a line
LINE = 16  # numbers of a pair: six weights, two unused, six slopes, two unused
SPEED = 8  # numbers of a pair: how fast its six weights change, two unused


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
def convolve(h, out, table, lines, knot, source, ptr, first, last, size, knots, both, step):  # type: ignore[no-untyped-def]
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
def convolve_back(  # type: ignore[no-untyped-def]
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
def convolve_tangent(  # type: ignore[no-untyped-def]
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
def convolve_tangent_back(  # type: ignore[no-untyped-def]
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
def convolve_gradients(  # type: ignore[no-untyped-def]
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
