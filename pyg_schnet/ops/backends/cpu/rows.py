"""Rows of atoms: what the compiled sweeps do with them between two convolutions."""

from numba import njit

from pyg_schnet.ops.backends.cpu.dense import ssp_slope_vector, ssp_vector
from pyg_schnet.ops.backends.cpu.product import multiply_add
from pyg_schnet.ops.backends.cpu.simd import add, load, mul, shifted, splat, store, sub

_DEPTH = 128  # atoms that a gradient of weights is summed over while they are in the cache


@njit
def fill(out, count, step, like):  # type: ignore[no-untyped-def]
    """Out = 0."""
    zero = splat(like)
    for c in range(0, count, step):
        store(out, c, zero)


@njit
def fill_rows(out, bias, rows, columns, step):  # type: ignore[no-untyped-def]
    """Each row of out = bias."""
    for r in range(rows):
        made = shifted(out, r * columns)
        for c in range(0, columns, step):
            store(made, c, load(bias, c))


@njit
def copy(out, x, count, step):  # type: ignore[no-untyped-def]
    """Out = x."""
    for c in range(0, count, step):
        store(out, c, load(x, c))


@njit
def add_product(a, b, out, rows, depth, columns):  # type: ignore[no-untyped-def]
    """Out += a b."""
    multiply_add(a, depth, 1, b, columns, out, columns, rows, columns, depth)


@njit
def add_outer(a, b, out, atoms, rows, columns):  # type: ignore[no-untyped-def]
    """Out += a^T b, summed over atoms."""
    for k in range(0, atoms, _DEPTH):
        own, theirs = shifted(a, k * rows), shifted(b, k * columns)
        count = min(_DEPTH, atoms - k)
        multiply_add(own, 1, rows, theirs, columns, out, columns, rows, columns, count)


@njit
def add_columns(a, out, rows, columns, step):  # type: ignore[no-untyped-def]
    """Out += the sum of the rows of a."""
    for c in range(0, columns, step):
        value = load(out, c)
        for r in range(rows):
            value = add(value, load(a, r * columns + c))
        store(out, c, value)


@njit
def scale_rows(a, scale, rows, columns, step):  # type: ignore[no-untyped-def]
    """Each row of a *= its number in scale."""
    for r in range(rows):
        factor, row = splat(scale[r]), shifted(a, r * columns)
        for c in range(0, columns, step):
            store(row, c, mul(factor, load(row, c)))


@njit
def activate(q, a, slope, count, step, like):  # type: ignore[no-untyped-def]
    """A = ssp(q), slope = ssp'(q)."""
    for c in range(0, count, step):
        value = load(q, c)
        store(a, c, ssp_vector(value, like))
        store(slope, c, ssp_slope_vector(value, 1, like))


@njit
def multiply(a, b, out, count, step):  # type: ignore[no-untyped-def]
    """Out = a b, number by number."""
    for c in range(0, count, step):
        store(out, c, mul(load(a, c), load(b, c)))


@njit
def bend(bar, slope, tangent, adjoint, count, step, like):  # type: ignore[no-untyped-def]
    """Bar = s bar + s (1 - s) tangent adjoint, since ssp'' = s (1 - s)."""
    one = splat(type(like)(1))
    for c in range(0, count, step):
        s = load(slope, c)
        bent = mul(mul(sub(one, s), load(tangent, c)), load(adjoint, c))
        store(bar, c, mul(s, add(load(bar, c), bent)))
