"""Energy and forces of a whole SchNet in one compiled function, without autograd.

Forward and the reverse pass written by hand, as 2 T + 4 phases for T interactions. A phase visits
the atoms in chunks and touches only rows of its own, so chunks can be taken by any thread; the
threads wait for each other between phases only:

=============  =================================================================================
positions      copied to float64; has an atom moved too far for the list of edges?
edges          lengths, unit vectors, and the six spline weights with their slopes
forward l      convolution, dense layers and the next dense layer of each atom; after the last
               interaction also the readout and the reverse pass up to the convolution
reverse l      transposed convolution, dE/dd of each edge, transposed dense layers
forces         sums over the edges of each atom
molecules      energies and virials
=============  =================================================================================

Rows of features are padded with zeros to whole vectors; see :func:`padded`.
"""

import ctypes
import functools
import math
import os

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from pyg_schnet.ops.backends.cpu.dense import ssp_slope_vector, ssp_vector
from pyg_schnet.ops.backends.cpu.form import first_row
from pyg_schnet.ops.backends.cpu.product import multiply_add
from pyg_schnet.ops.backends.cpu.simd import (
    add,
    at_address,
    div,
    fetch_add,
    floor,
    fma,
    lanes,
    load,
    mul,
    polynomial_of,
    shifted,
    splat,
    store,
    sub,
    total,
    where_less,
)
from pyg_schnet.ops.backends.cpu.threads import _parallel

# Where each address or number lies in the array of arguments. Addresses of numbers in the dtype of
# the model, unless said otherwise.
(
    STATUS,  # out: 0, or MOVED or TOUCHING
    CHUNKS,
    COUNTERS,  # int64, zeros
    ATOMS,
    MOLECULES,
    INTERACTIONS,
    HIDDEN,  # padded sizes
    FILTERS,
    READOUT,
    # Input and output.
    POSITIONS,  # float64, or float32 where the next is 0
    POSITIONS_ARE_DOUBLE,
    ENERGY,  # float64
    FORCES,
    VIRIAL,  # float64, (B, 9); 0: not wanted
    # Edges into each atom: the six of a list, in this order.
    IN_PTR,  # int64 (N + 1,)
    IN_TARGET,  # int32 (E,)
    IN_SOURCE,
    IN_OFFSET,  # float64 (E, 3): lattice vectors; 0: none
    IN_LINES,  # (E, 16): six weights, six slopes, unit vector, length
    IN_KNOT,  # int32 (E,): first table row; -1: beyond the limit
    # Edges out of each atom, with vectors the other way; the same as those into it where each edge
    # has its reverse.
    OUT_PTR,
    OUT_SOURCE,
    OUT_TARGET,
    OUT_OFFSET,
    OUT_LINES,
    OUT_KNOT,
    PLACE,  # int32 (E,): of each edge into an atom among the edges out of atoms
    SYMMETRIC,  # 1 where both lists are one
    LIST_POSITIONS,  # float64: positions at the search; 0: the list is not to be checked
    SCALARS,  # float64, see below
    NORMALIZE,  # 0, 1: by the edges within the limit, 2: by all edges
    COSINE,  # 1 for the cosine cutoff
    INTERVALS,
    SPLINE,  # float64 (2, 6, 6): powers of t of the basis functions and of their slopes
    # Atoms.
    MOLECULE,  # int64
    ELEMENT,  # int64
    CONSTANT,  # float64 (100,): mean and atomref of each element
    # Weights.
    EMBEDDING,
    LAYERS,  # int64 (T, 9): addresses, see below
    READOUT_IN,
    READOUT_BIAS,
    READOUT_OUT,
    READOUT_BACK,
    ZEROS,
    # Work space.
    WORK_POSITIONS,  # float64 (N, 3)
    SLOPE,  # (E,): dE/dd of the edges out of each atom
    SHARE,  # (N,): one by the number of neighbours
    X,
    H,  # (T, N, F); the first is filled in beforehand
    SLOPES,  # (T, N, H)
    GX,
    GY,  # (2, N, F)
    ATOM_ENERGY,  # float64 (N,)
    ATOM_SEED,  # float64 (N,): dE of the molecule by dE of the atom
    ATOM_VIRIAL,  # float64 (N, 6)
    SCRATCH,  # for each thread
    SCRATCH_SIZE,
    SCRATCH_DOUBLE,  # float64, for each thread
    NUM_ARGUMENTS,
) = range(59)

# In SCALARS.
LIMIT, LIST_REACH, STEP, CUTOFF, STD, SCALE, READOUT_CONSTANT, NUM_SCALARS = range(8)

# In each row of LAYERS.
IN, MIDDLE, MIDDLE_BIAS, OUT, OUT_BIAS, IN_BACK, MIDDLE_BACK, OUT_BACK, TABLE = range(9)
NUM_LAYER_ADDRESSES = 9

MOVED, TOUCHING = 1, 2
LINE = 16  # numbers of an edge
GROUP = 32  # rows that go through the dense layers together
SCRATCH_DOUBLES = 32 * 8
COUNTER_STRIDE = 16  # so that no two counters share a cache line

_BLOCKS = (4, 2, 1)  # vectors of columns that a product holds in registers
_SPINS = 20_000  # some ten microseconds
_UNITS = lanes(64)  # float64 in a vector


def padded(size: int, bits: int) -> int:
    """``size`` rounded up to whole vectors of numbers of ``bits`` bits."""
    return -(-size // lanes(bits)) * lanes(bits)


def packed(matrix: NDArray) -> NDArray:
    """A matrix (in, out) with padded sizes, as panels of up to four vectors of columns.

    Panels follow each other, and in each the rows do, so that a product reads memory in order.
    """
    step = lanes(8 * matrix.itemsize)
    parts, first, last = [], 0, matrix.shape[1] // step
    while first < last:
        width = next(w for w in _BLOCKS if first + w <= last)
        parts.append(matrix[:, first * step : (first + width) * step].ravel())
        first += width
    return np.concatenate(parts)


@intrinsic
def _arrive(typingctx, pointer):  # type: ignore[no-untyped-def]
    """Count one more piece of finished work, whose results others may now read."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", args[0], one, "release")

    return types.int64(types.CPointer(types.int64)), generate


@intrinsic
def _seen(typingctx, pointer):  # type: ignore[no-untyped-def]
    """The count, and with it the results of what was counted."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.load_atomic(args[0], "acquire", 8)

    return types.int64(types.CPointer(types.int64)), generate


@intrinsic
def _sqrt(typingctx, a):  # type: ignore[no-untyped-def]
    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind = args[0].type
        name = f"llvm.sqrt.v{kind.count}f{sig.args[0].scalar.bitwidth}"
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.call(function, [args[0]])

    return a(a), generate


@njit
def _dense(a, depth, rows, w, bias, out, columns, accumulate, like, step):  # type: ignore[no-untyped-def]
    """``out = a w + bias``, or ``out += ...``: a (rows, depth), w packed, out (rows, columns)."""
    for r in range(rows):
        row = shifted(out, r * columns)
        for c in range(0, columns, step):
            value = load(bias, c)
            if accumulate:
                value = add(value, load(row, c))
            store(row, c, value)
    column = 0
    while column < columns:
        # As wide as the panels that packed() makes.
        width = _BLOCKS[0] * step
        while column + width > columns:
            width //= 2
        panel, made = shifted(w, column * depth), shifted(out, column)
        multiply_add(a, depth, 1, panel, width, made, columns, rows, width, depth)
        column += width


# sin(pi y)/y and cos(pi y) in y^2, for |y| <= 1/2.
_sine_series = polynomial_of(
    (0.0,), tuple((-1) ** q * math.pi ** (2 * q + 1) / math.factorial(2 * q + 1) for q in range(13))
)
_cosine_series = polynomial_of(
    (0.0,), tuple((-1) ** q * math.pi ** (2 * q) / math.factorial(2 * q) for q in range(13))
)

if os.name == "posix":
    _sleep = types.ExternalFunction("usleep", types.int32(types.uint32))
else:  # where kernels run on one thread, which never waits

    @njit
    def _sleep(microseconds):  # type: ignore[no-untyped-def]
        return microseconds


@njit
def _wait(counter, count):  # type: ignore[no-untyped-def]
    spins = 0
    while _seen(counter) < count:
        spins += 1
        if spins > _SPINS:
            # The thread waited for may have lost its core to another program: leave it this one.
            _sleep(np.uint32(1))


@njit
def _positions(args):  # type: ignore[no-untyped-def]
    """Positions in float64; sets the status where the list of edges does not serve them."""
    double, single = np.float64(0), np.float32(0)
    pos, kept = at_address(args[WORK_POSITIONS], double), at_address(args[LIST_POSITIONS], double)
    reach = at_address(args[SCALARS], double)[LIST_REACH]
    atoms = args[ATOMS]
    if args[POSITIONS_ARE_DOUBLE] != 0:
        given = at_address(args[POSITIONS], double)
        for k in range(3 * atoms):
            pos[k] = given[k]
    else:
        given_single = at_address(args[POSITIONS], single)
        for k in range(3 * atoms):
            pos[k] = np.float64(given_single[k])
    if args[LIST_POSITIONS] == 0:
        return
    for i in range(atoms):
        x, y = pos[3 * i] - kept[3 * i], pos[3 * i + 1] - kept[3 * i + 1]
        z = pos[3 * i + 2] - kept[3 * i + 2]
        # A NaN is to be noticed too.
        if not x * x + y * y + z * z <= reach:
            args[STATUS] = MOVED
            return


@njit
def _edges(args, side, first, last, work, like):  # type: ignore[no-untyped-def]
    """Everything that an edge needs to know, for the edges into (or out of) some atoms."""
    double, short = np.float64(0), np.int32(0)
    pos = at_address(args[WORK_POSITIONS], double)
    ptr = at_address(args[side], np.int64(0))
    own, other = at_address(args[side + 1], short), at_address(args[side + 2], short)
    offset, lines = at_address(args[side + 3], double), at_address(args[side + 4], like)
    knot, slope = at_address(args[side + 5], short), at_address(args[SLOPE], like)
    scalars, powers = at_address(args[SCALARS], double), at_address(args[SPLINE], double)
    periodic, cosine, checked = args[side + 3] != 0, args[COSINE] != 0, args[LIST_POSITIONS] != 0
    zero, one, half = splat(0.0), splat(1.0), splat(0.5)
    limit = scalars[LIMIT]
    step, inverse = splat(scalars[STEP]), splat(1.0 / scalars[STEP])
    end = splat(np.float64(args[INTERVALS] - 1))
    cutoff, per_cutoff = splat(scalars[CUTOFF]), splat(1.0 / scalars[CUTOFF])
    steepness = splat(-0.5 * math.pi / scalars[CUTOFF])
    x, y, z = shifted(work, 16 * _UNITS), shifted(work, 17 * _UNITS), shifted(work, 18 * _UNITS)
    place = shifted(work, 19 * _UNITS)
    length = shifted(work, 15 * _UNITS)
    for block in range(ptr[first], ptr[last], _UNITS):
        count = min(_UNITS, ptr[last] - block)
        for e in range(count):
            j, i = 3 * other[block + e], 3 * own[block + e]
            x[e], y[e], z[e] = pos[j] - pos[i], pos[j + 1] - pos[i + 1], pos[j + 2] - pos[i + 2]
        if periodic:
            for e in range(count):
                shift = shifted(offset, 3 * (block + e))
                x[e], y[e], z[e] = x[e] + shift[0], y[e] + shift[1], z[e] + shift[2]
        rx, ry, rz = load(x, 0), load(y, 0), load(z, 0)
        d = _sqrt(fma(rz, rz, fma(ry, ry, mul(rx, rx))))
        unit = where_less(zero, d, div(one, d), zero)
        u = floor(mul(d, inverse))
        u = where_less(zero, u, u, zero)
        u = where_less(u, end, u, end)
        t = mul(sub(d, mul(u, step)), inverse)
        # Beyond the end the spline is continued as a constant.
        rising = where_less(one, t, zero, one)
        t = where_less(one, t, one, t)
        f, df = one, zero
        if cosine:
            angle = sub(mul(where_less(d, cutoff, d, cutoff), per_cutoff), half)
            square = mul(angle, angle)
            f = mul(half, sub(one, mul(angle, _sine_series(square))))
            df = mul(steepness, _cosine_series(square))
        for m in range(6):
            value, change = splat(powers[30 + m]), splat(powers[66 + m])
            for q in range(24, -1, -6):
                value = fma(value, t, splat(powers[q + m]))
                change = fma(change, t, splat(powers[36 + q + m]))
            store(work, m * _UNITS, mul(f, value))
            slopes = fma(df, value, mul(f, mul(rising, change)))
            store(work, (6 + m) * _UNITS, slopes)
        store(work, 12 * _UNITS, mul(rx, unit))
        store(work, 13 * _UNITS, mul(ry, unit))
        store(work, 14 * _UNITS, mul(rz, unit))
        store(work, 15 * _UNITS, d)
        store(place, 0, u)
        for e in range(count):
            line = shifted(lines, LINE * (block + e))
            for m in range(LINE):
                line[m] = type(like)(work[m * _UNITS + e])
            slope[block + e] = like
            # A NaN is to be seen in the result.
            knot[block + e] = np.int32(-1) if length[e] >= limit else np.int32(place[e])
            if checked and length[e] == 0.0:
                args[STATUS] = TOUCHING
    if args[NORMALIZE] == 0 or side != IN_PTR:
        return
    shares = at_address(args[SHARE], like)
    for i in range(first, last):
        count = ptr[i + 1] - ptr[i]
        if args[NORMALIZE] == 1:
            count = 0
            for e in range(ptr[i], ptr[i + 1]):
                count += knot[e] >= 0
        shares[i] = type(like)(1.0 / max(count, 1))


@njit
def _divide(args, values, first, count, size, like, step):  # type: ignore[no-untyped-def]
    """Divide rows by the numbers of neighbours, where the model does."""
    if args[NORMALIZE] == 0:
        return
    shares = at_address(args[SHARE], like)
    for r in range(count):
        share, row = splat(shares[first + r]), shifted(values, r * size)
        for f in range(0, size, step):
            store(row, f, mul(share, load(row, f)))


@njit(inline="always")
def _mixed(t, size, f, b0, b1, b2, b3, b4, b5):  # type: ignore[no-untyped-def]
    """A vector of the filter of one edge."""
    low = mul(b0, load(t, f))
    high = mul(b1, load(t, size + f))
    low, high = fma(b2, load(t, 2 * size + f), low), fma(b3, load(t, 3 * size + f), high)
    low, high = fma(b4, load(t, 4 * size + f), low), fma(b5, load(t, 5 * size + f), high)
    return add(low, high)


@njit
def _convolve(lines, knot, source, first, last, h, table, size, out, like, step):  # type: ignore[no-untyped-def]
    """The sum of the messages to one target, from its edges ``first`` to ``last``."""
    zero = splat(like)
    f = 0
    while f + 4 * step <= size:
        s0, s1, s2, s3 = zero, zero, zero, zero
        for e in range(first, last):
            k = knot[e]
            if k < 0:
                continue
            line, t, x = shifted(lines, LINE * e), shifted(table, k * size), source[e] * size
            b0, b1, b2 = splat(line[0]), splat(line[1]), splat(line[2])
            b3, b4, b5 = splat(line[3]), splat(line[4]), splat(line[5])
            f1, f2, f3 = f + step, f + 2 * step, f + 3 * step
            s0 = fma(_mixed(t, size, f, b0, b1, b2, b3, b4, b5), load(h, x + f), s0)
            s1 = fma(_mixed(t, size, f1, b0, b1, b2, b3, b4, b5), load(h, x + f1), s1)
            s2 = fma(_mixed(t, size, f2, b0, b1, b2, b3, b4, b5), load(h, x + f2), s2)
            s3 = fma(_mixed(t, size, f3, b0, b1, b2, b3, b4, b5), load(h, x + f3), s3)
        store(out, f, s0)
        store(out, f + step, s1)
        store(out, f + 2 * step, s2)
        store(out, f + 3 * step, s3)
        f += 4 * step
    while f < size:
        s0 = zero
        for e in range(first, last):
            k = knot[e]
            if k < 0:
                continue
            line, t, x = shifted(lines, LINE * e), shifted(table, k * size), source[e] * size
            b0, b1, b2 = splat(line[0]), splat(line[1]), splat(line[2])
            b3, b4, b5 = splat(line[3]), splat(line[4]), splat(line[5])
            s0 = fma(_mixed(t, size, f, b0, b1, b2, b3, b4, b5), load(h, x + f), s0)
        store(out, f, s0)
        f += step


@njit
def _transpose(lines, knot, target, first, last, h, gy, table, size, out, slope, back, like, step):  # type: ignore[no-untyped-def]
    """What the edges out of one source send back to it, and dE/dd of each of them."""
    zero = splat(like)
    if back:
        for f in range(0, size, step):
            store(out, f, zero)
    for e in range(first, last):
        k = knot[e]
        if k < 0:
            continue
        line, t = shifted(lines, LINE * e), shifted(table, k * size)
        g = shifted(gy, target[e] * size)
        b0, b1, b2 = splat(line[0]), splat(line[1]), splat(line[2])
        b3, b4, b5 = splat(line[3]), splat(line[4]), splat(line[5])
        c0, c1, c2 = splat(line[6]), splat(line[7]), splat(line[8])
        c3, c4, c5 = splat(line[9]), splat(line[10]), splat(line[11])
        change = zero
        for f in range(0, size, step):
            row0, row1, row2 = load(t, f), load(t, size + f), load(t, 2 * size + f)
            row3, row4 = load(t, 3 * size + f), load(t, 4 * size + f)
            row5 = load(t, 5 * size + f)
            value = load(g, f)
            low = fma(c4, row4, fma(c2, row2, mul(c0, row0)))
            high = fma(c5, row5, fma(c3, row3, mul(c1, row1)))
            change = fma(add(low, high), mul(value, load(h, f)), change)
            if back:
                low = fma(b4, row4, fma(b2, row2, mul(b0, row0)))
                high = fma(b5, row5, fma(b3, row3, mul(b1, row1)))
                store(out, f, fma(add(low, high), value, load(out, f)))
        slope[e] += total(change)


@njit
def _dense_back(args, layer, first, count, work, like, step):  # type: ignore[no-untyped-def]
    """From dE/dx behind an interaction to dE/dy of its convolution, row by row."""
    hidden, filters, atoms = args[HIDDEN], args[FILTERS], args[ATOMS]
    addresses = shifted(at_address(args[LAYERS], np.int64(0)), layer * NUM_LAYER_ADDRESSES)
    none = at_address(args[ZEROS], like)
    gx = shifted(at_address(args[GX], like), first * hidden)
    slopes = shifted(at_address(args[SLOPES], like), (layer * atoms + first) * hidden)
    gy = shifted(at_address(args[GY], like), (layer % 2 * atoms + first) * filters)
    _dense(
        gx, hidden, count, at_address(addresses[OUT_BACK], like), none, work, hidden, 0, like, step
    )
    for k in range(0, count * hidden, step):
        store(work, k, mul(load(work, k), load(slopes, k)))
    _dense(
        work,
        hidden,
        count,
        at_address(addresses[MIDDLE_BACK], like),
        none,
        gy,
        filters,
        0,
        like,
        step,
    )
    _divide(args, gy, first, count, filters, like, step)


@njit
def _readout(args, first, count, work, like, step):  # type: ignore[no-untyped-def]
    """Energies of atoms and the way back to dE/dx."""
    double = np.float64(0)
    hidden, readout = args[HIDDEN], args[READOUT]
    x = shifted(at_address(args[X], like), first * hidden)
    gx = shifted(at_address(args[GX], like), first * hidden)
    weights = at_address(args[READOUT_OUT], like)
    constant, element = at_address(args[CONSTANT], double), at_address(args[ELEMENT], np.int64(0))
    energy, seed = at_address(args[ATOM_ENERGY], double), at_address(args[ATOM_SEED], double)
    scalars = at_address(args[SCALARS], double)
    bias = at_address(args[READOUT_BIAS], like)
    _dense(x, hidden, count, at_address(args[READOUT_IN], like), bias, work, readout, 0, like, step)
    for r in range(count):
        row, i = shifted(work, r * readout), first + r
        sums = splat(like)
        back = splat(type(like)(seed[i] * scalars[STD]))
        for k in range(0, readout, step):
            value, weight = load(row, k), load(weights, k)
            sums = fma(ssp_vector(value, like), weight, sums)
            store(row, k, mul(mul(weight, back), ssp_slope_vector(value, 1, like)))
        learned = (np.float64(total(sums)) + scalars[READOUT_CONSTANT]) * scalars[STD]
        energy[i] = learned + constant[element[i]]
    none = at_address(args[ZEROS], like)
    _dense(
        work, readout, count, at_address(args[READOUT_BACK], like), none, gx, hidden, 0, like, step
    )


@njit
def _forward(args, layer, first, last, work, like, step):  # type: ignore[no-untyped-def]
    """One interaction of some atoms; layer -1 is a model without any."""
    hidden, filters, atoms = args[HIDDEN], args[FILTERS], args[ATOMS]
    addresses = shifted(at_address(args[LAYERS], np.int64(0)), max(layer, 0) * NUM_LAYER_ADDRESSES)
    embedding, element = at_address(args[EMBEDDING], like), at_address(args[ELEMENT], np.int64(0))
    none = at_address(args[ZEROS], like)
    ptr = at_address(args[IN_PTR], np.int64(0))
    source, knot = at_address(args[IN_SOURCE], np.int32(0)), at_address(args[IN_KNOT], np.int32(0))
    lines = at_address(args[IN_LINES], like)
    h = shifted(at_address(args[H], like), max(layer, 0) * atoms * filters)
    second = shifted(work, GROUP * max(hidden, filters))
    for start in range(first, last, GROUP):
        count = min(GROUP, last - start)
        x = shifted(at_address(args[X], like), start * hidden)
        if layer <= 0:
            for r in range(count):
                own = shifted(embedding, element[start + r] * hidden)
                for k in range(0, hidden, step):
                    store(x, r * hidden + k, load(own, k))
        if layer >= 0:
            table = at_address(addresses[TABLE], like)
            for r in range(count):
                i = start + r
                y = shifted(work, r * filters)
                _convolve(lines, knot, source, ptr[i], ptr[i + 1], h, table, filters, y, like, step)
            _divide(args, work, start, count, filters, like, step)
            middle, bias = at_address(addresses[MIDDLE], like), addresses[MIDDLE_BIAS]
            _dense(
                work, filters, count, middle, at_address(bias, like), second, hidden, 0, like, step
            )
            slopes = shifted(at_address(args[SLOPES], like), (layer * atoms + start) * hidden)
            for k in range(0, count * hidden, step):
                value = load(second, k)
                store(slopes, k, ssp_slope_vector(value, 1, like))
                store(second, k, ssp_vector(value, like))
            out, bias = at_address(addresses[OUT], like), addresses[OUT_BIAS]
            _dense(second, hidden, count, out, at_address(bias, like), x, hidden, 1, like, step)
        if layer < args[INTERACTIONS] - 1:
            following = at_address(addresses[NUM_LAYER_ADDRESSES + IN], like)
            made = shifted(h, (atoms + start) * filters)
            _dense(x, hidden, count, following, none, made, filters, 0, like, step)
        else:
            _readout(args, start, count, work, like, step)
            if layer >= 0:
                _dense_back(args, layer, start, count, work, like, step)


@njit
def _reverse(args, layer, first, last, work, like, step):  # type: ignore[no-untyped-def]
    """The reverse of a convolution, and of the dense layers before it up to the next one."""
    hidden, filters, atoms = args[HIDDEN], args[FILTERS], args[ATOMS]
    addresses = shifted(at_address(args[LAYERS], np.int64(0)), layer * NUM_LAYER_ADDRESSES)
    table = at_address(addresses[TABLE], like)
    ptr, lines = at_address(args[OUT_PTR], np.int64(0)), at_address(args[OUT_LINES], like)
    target, knot = (
        at_address(args[OUT_TARGET], np.int32(0)),
        at_address(args[OUT_KNOT], np.int32(0)),
    )
    slope = at_address(args[SLOPE], like)
    h = shifted(at_address(args[H], like), layer * atoms * filters)
    gy = shifted(at_address(args[GY], like), layer % 2 * atoms * filters)
    none = at_address(args[ZEROS], like)
    for start in range(first, last, GROUP):
        count = min(GROUP, last - start)
        for r in range(count):
            j = start + r
            out, own = shifted(work, r * filters), shifted(h, j * filters)
            _transpose(
                lines,
                knot,
                target,
                ptr[j],
                ptr[j + 1],
                own,
                gy,
                table,
                filters,
                out,
                slope,
                layer > 0,
                like,
                step,
            )
        if layer > 0:
            gx = shifted(at_address(args[GX], like), start * hidden)
            back = at_address(addresses[IN_BACK], like)
            _dense(work, filters, count, back, none, gx, hidden, 1, like, step)
            _dense_back(args, layer - 1, start, count, work, like, step)


@njit
def _forces(args, first, last, like):  # type: ignore[no-untyped-def]
    """Forces on some atoms, and the virials of their edges."""
    forces, virial = at_address(args[FORCES], like), at_address(args[ATOM_VIRIAL], np.float64(0))
    in_ptr, out_ptr = at_address(args[IN_PTR], np.int64(0)), at_address(args[OUT_PTR], np.int64(0))
    knot, out_knot = at_address(args[IN_KNOT], np.int32(0)), at_address(args[OUT_KNOT], np.int32(0))
    lines, out_lines = at_address(args[IN_LINES], like), at_address(args[OUT_LINES], like)
    place, slope = at_address(args[PLACE], np.int32(0)), at_address(args[SLOPE], like)
    symmetric = args[SYMMETRIC] != 0
    for i in range(first, last):
        x, y, z = 0.0, 0.0, 0.0
        xx, yy, zz, yz, xz, xy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for e in range(in_ptr[i], in_ptr[i + 1]):
            if knot[e] < 0:
                continue
            line, g = shifted(lines, LINE * e), np.float64(slope[place[e]])
            a, b, c = np.float64(line[12]), np.float64(line[13]), np.float64(line[14])
            both = g + slope[e] if symmetric else g
            x, y, z = x + both * a, y + both * b, z + both * c
            g *= line[15]
            xx, yy, zz = xx + g * a * a, yy + g * b * b, zz + g * c * c
            yz, xz, xy = yz + g * b * c, xz + g * a * c, xy + g * a * b
        if not symmetric:
            for e in range(out_ptr[i], out_ptr[i + 1]):
                if out_knot[e] >= 0:
                    line, g = shifted(out_lines, LINE * e), np.float64(slope[e])
                    x, y, z = x + g * line[12], y + g * line[13], z + g * line[14]
        forces[3 * i] = type(like)(x)
        forces[3 * i + 1], forces[3 * i + 2] = type(like)(y), type(like)(z)
        if args[VIRIAL] != 0:
            own = shifted(virial, 6 * i)
            own[0], own[1], own[2], own[3], own[4], own[5] = xx, yy, zz, yz, xz, xy


@njit
def _molecules(args):  # type: ignore[no-untyped-def]
    """Sums over the atoms of each molecule."""
    double = np.float64(0)
    energy, virial = at_address(args[ENERGY], double), at_address(args[VIRIAL], double)
    of_atom, seed = at_address(args[ATOM_ENERGY], double), at_address(args[ATOM_SEED], double)
    parts = at_address(args[ATOM_VIRIAL], double)
    molecule = at_address(args[MOLECULE], np.int64(0))
    for b in range(args[MOLECULES]):
        energy[b] = 0.0
    for i in range(args[ATOMS]):
        energy[molecule[i]] += of_atom[i] * seed[i]
    if args[VIRIAL] == 0:
        return
    for k in range(9 * args[MOLECULES]):
        virial[k] = 0.0
    for i in range(args[ATOMS]):
        own, part = shifted(virial, 9 * molecule[i]), shifted(parts, 6 * i)
        own[0], own[4], own[8] = own[0] + part[0], own[4] + part[1], own[8] + part[2]
        own[5], own[2], own[1] = own[5] + part[3], own[2] + part[4], own[1] + part[5]
        own[7], own[6], own[3] = own[5], own[2], own[1]


@njit
def _counter(args, number):  # type: ignore[no-untyped-def]
    return shifted(at_address(args[COUNTERS], np.int64(0)), COUNTER_STRIDE * number)


@njit
def _evaluate(args, like, step):  # type: ignore[no-untyped-def]
    """All phases; each of the threads that call this takes chunks until none is left."""
    chunks, rows, layers = args[CHUNKS], args[ATOMS], args[INTERACTIONS]
    in_ptr, out_ptr = at_address(args[IN_PTR], np.int64(0)), at_address(args[OUT_PTR], np.int64(0))
    thread = fetch_add(_counter(args, 0), 1)
    work = shifted(at_address(args[SCRATCH], like), thread * args[SCRATCH_SIZE])
    doubles = shifted(at_address(args[SCRATCH_DOUBLE], np.float64(0)), thread * SCRATCH_DOUBLES)
    forward = max(layers, 1)
    for phase in range(forward + layers + 4):
        taken, finished = _counter(args, 2 * phase + 1), _counter(args, 2 * phase + 2)
        parts = 1 if phase == 0 or phase == forward + layers + 3 else chunks
        while True:
            chunk = fetch_add(taken, 1)
            if chunk >= parts:
                break
            by_source = forward + 2 <= phase < forward + layers + 2
            ptr = out_ptr if by_source else in_ptr
            first = first_row(ptr, rows, chunk, chunks)
            last = first_row(ptr, rows, chunk + 1, chunks)
            if phase == 0:
                _positions(args)
            elif phase == 1:
                _edges(args, IN_PTR, first, last, doubles, like)
                if args[SYMMETRIC] == 0:
                    first = first_row(out_ptr, rows, chunk, chunks)
                    last = first_row(out_ptr, rows, chunk + 1, chunks)
                    _edges(args, OUT_PTR, first, last, doubles, like)
            elif phase < forward + 2:
                _forward(args, phase - 2 if layers > 0 else -1, first, last, work, like, step)
            elif by_source:
                layer = forward + layers + 1 - phase
                _reverse(args, layer, first, last, work, like, step)
            elif phase == forward + layers + 2:
                _forces(args, first, last, like)
            else:
                _molecules(args)
            _arrive(finished)
        _wait(finished, parts)
        if phase <= 1 and args[STATUS] != 0:
            return


def num_counters(interactions: int) -> int:
    """Counters that an evaluation needs, each of COUNTER_STRIDE numbers."""
    return 2 * (max(interactions, 1) + interactions + 4) + 1


def _engine_float32(args):  # type: ignore[no-untyped-def]
    _evaluate(args, np.float32(0), 16)


def _engine_float64(args):  # type: ignore[no-untyped-def]
    _evaluate(args, np.float64(0), 8)


class Engine:
    """The compiled function for numbers of ``bits`` bits; called with an array of arguments."""

    def __init__(self, bits: int) -> None:
        function = _engine_float32 if bits == 32 else _engine_float64
        self._code = cfunc("void(CPointer(int64))", cache=True)(function)
        self._address = int(self._code.address or 0)
        self._serial = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._address)
        self._parallel = _parallel()

    def __call__(self, arguments: ctypes.Array, threads: int) -> None:
        """Evaluate with up to ``threads`` threads; counters must be zero."""
        if threads > 1 and self._parallel is not None:
            self._parallel(self._address, arguments, threads, 0)
        else:
            self._serial(arguments)


@functools.cache
def engine(bits: int) -> Engine:
    """The engine for float32 or float64, compiled when first asked for."""
    return Engine(bits)
