"""The sweeps of training on forces, compiled for the CPU.

Four sweeps over the layers of a SchNet, one block of atoms that no edge leaves after the other, so
that what one sweep leaves is still in the cache when the next one needs it. The first call runs the
sweeps of values and of adjoints, the second those of tangents and of the adjoints' tangents; see
:mod:`pyg_schnet.ops.dual` for the formulas.
"""

import numpy as np
import torch
from numba import njit

from pyg_schnet.ops.backends.cpu import slots
from pyg_schnet.ops.backends.cpu.convolutions import (
    LINE,
    SLOPES,
    SPEED,
    convolve,
    convolve_back,
    convolve_gradients,
    convolve_tangent,
    convolve_tangent_back,
)
from pyg_schnet.ops.backends.cpu.rows import (
    activate,
    add_columns,
    add_outer,
    add_product,
    bend,
    copy,
    fill,
    fill_rows,
    multiply,
    scale_rows,
)
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
from pyg_schnet.ops.backends.cpu.tables import tables_back_pass, tables_pass
from pyg_schnet.ops.backends.cpu.threads import Kernel

EDGE = 8  # numbers of an edge: direction, length, its adjoint, three unused
ELEMENTS = 100  # rows of the embedding


@njit
def _prepare_pass(args, like):  # type: ignore[no-untyped-def]
    """Edges in the order of their targets, blocks that none leaves, and copies of the weights."""
    g = at_address(args[2], np.int64(0))
    integer = np.int64(0)
    atoms, edges = g[slots.ATOMS], g[slots.EDGES]
    index, order = at_address(g[slots.EDGE_INDEX], integer), at_address(g[slots.IN_ORDER], integer)
    source, target = at_address(g[slots.SOURCE], integer), at_address(g[slots.TARGET], integer)
    blocks = at_address(g[slots.BLOCKS], integer)
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
        if i + 1 == atoms or (reach == i and size >= g[slots.BLOCK_ATOMS]):
            count += 1
            blocks[count] = i + 1
            largest = max(largest, size)
    g[slots.NUM_BLOCKS], g[slots.MAX_BLOCK] = count, largest
    copies = at_address(g[slots.COPIES], integer)
    for n in range(g[slots.NUM_COPIES]):
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
def _geometry(g, first, last, constants, like, step):  # type: ignore[no-untyped-def]
    """Directions, lengths and spline weights of the edges of a block."""
    integer = np.int64(0)
    source, target = at_address(g[slots.SOURCE], integer), at_address(g[slots.TARGET], integer)
    order, knot = at_address(g[slots.IN_ORDER], integer), at_address(g[slots.KNOT], integer)
    pos, shift = at_address(g[slots.POS], like), at_address(g[slots.SHIFT], like)
    spline = at_address(g[slots.SPLINE], like)
    lines, geometry = at_address(g[slots.LINES], like), at_address(g[slots.GEOMETRY], like)
    spacing, inverse, cutoff, wave = constants[0], constants[1], constants[2], constants[3]
    one, half, kind = type(like)(1), type(like)(0.5), g[slots.CUTOFF]
    for e in range(first, last):
        j, i, own = 3 * source[e], 3 * target[e], shifted(geometry, e * EDGE)
        r0, r1, r2 = pos[j] - pos[i], pos[j + 1] - pos[i + 1], pos[j + 2] - pos[i + 2]
        if g[slots.SHIFT] != 0:
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
            k = np.int64(min(u, type(like)(g[slots.INTERVALS] - 1)))
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
    atoms, layers, hidden = g[slots.ATOMS], g[slots.LAYERS], g[slots.HIDDEN]
    filters, readout, both = g[slots.FILTERS], g[slots.READOUT], g[slots.BOTH] != 0
    n = last - first
    hf, hh = hidden * filters, hidden * hidden
    constants, packed = at_address(g[slots.CONSTANTS], like), at_address(g[slots.PACKED], like)
    x, h = at_address(g[slots.X], like), at_address(g[slots.H], like)
    y, a = at_address(g[slots.Y], like), at_address(g[slots.A], like)
    slope, lines = at_address(g[slots.SLOPE], like), at_address(g[slots.LINES], like)
    source, ptr = at_address(g[slots.SOURCE], integer), at_address(g[slots.IN_PTR], integer)
    knot, z = at_address(g[slots.KNOT], integer), at_address(g[slots.Z], integer)
    size = 4 * hf + 2 * hh + 2 * hidden
    head = shifted(packed, layers * size)
    first_weight, last_weight = head, shifted(head, 2 * hidden * readout + readout)
    head_bias = shifted(head, 2 * hidden * readout)
    embedding = shifted(last_weight, readout + 16)
    for i in range(first, last):
        copy(shifted(x, i * hidden), shifted(embedding, z[i] * hidden), hidden, step)
    for layer in range(layers):
        own = shifted(packed, layer * size)
        by_hidden = (layer * atoms + first) * hidden
        by_filter = (layer * atoms + first) * filters
        here = shifted(x, by_hidden)
        made_h, made_y = shifted(h, by_filter), shifted(y, by_filter)
        fill(made_h, n * filters, step, like)
        add_product(here, own, made_h, n, hidden, filters)
        fill(made_y, n * filters, step, like)
        table = at_address(g[slots.TABLE], like)
        if g[slots.TABLES] > 1:
            table = shifted(table, layer * g[slots.KNOTS] * filters)
        whole_h, whole_y = shifted(h, layer * atoms * filters), shifted(y, layer * atoms * filters)
        convolve(
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
            g[slots.KNOTS],
            both,
            step,
        )
        if g[slots.INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[slots.INVERSE_COUNT], like), first)
            scale_rows(made_y, inverse, n, filters, step)
        q, activated = shifted(slope, by_hidden), shifted(a, by_hidden)
        fill_rows(q, shifted(own, 4 * hf + 2 * hh), n, hidden, step)
        add_product(made_y, shifted(own, hf), q, n, filters, hidden)
        activate(q, activated, q, n * hidden, step, like)
        following, bias = (
            shifted(x, by_hidden + atoms * hidden),
            shifted(own, 4 * hf + 2 * hh + hidden),
        )
        for r in range(n):
            for c in range(0, hidden, step):
                store(following, r * hidden + c, add(load(here, r * hidden + c), load(bias, c)))
        add_product(activated, shifted(own, 2 * hf), following, n, hidden, hidden)
    p = shifted(at_address(g[slots.HEAD_SLOPE], like), first * readout)
    activated = shifted(at_address(g[slots.HEAD], like), first * readout)
    fill_rows(p, head_bias, n, readout, step)
    final = shifted(x, (layers * atoms + first) * hidden)
    add_product(final, first_weight, p, n, hidden, readout)
    activate(p, activated, p, n * readout, step, like)
    energy, deviation = at_address(g[slots.ENERGY], like), constants[4]
    for r in range(n):
        value = splat(like)
        for c in range(0, readout, step):
            value = fma(load(activated, r * readout + c), load(last_weight, c), value)
        energy[first + r] = (total(value) + last_weight[readout]) * deviation


@njit
def _adjoints(g, first, last, begin, end, like, step):  # type: ignore[no-untyped-def]
    """Second sweep: the derivative of the total energy in everything, down to the positions."""
    integer = np.int64(0)
    atoms, layers, hidden = g[slots.ATOMS], g[slots.LAYERS], g[slots.HIDDEN]
    filters, readout, both = g[slots.FILTERS], g[slots.READOUT], g[slots.BOTH] != 0
    n = last - first
    hf, hh = hidden * filters, hidden * hidden
    constants, packed = at_address(g[slots.CONSTANTS], like), at_address(g[slots.PACKED], like)
    h, slope = at_address(g[slots.H], like), at_address(g[slots.SLOPE], like)
    gx, ga, gq = (
        at_address(g[slots.GX], like),
        at_address(g[slots.GA], like),
        at_address(g[slots.GQ], like),
    )
    gy, gh = at_address(g[slots.GY], like), at_address(g[slots.GH], like)
    lines, geometry = at_address(g[slots.LINES], like), at_address(g[slots.GEOMETRY], like)
    source, target = at_address(g[slots.SOURCE], integer), at_address(g[slots.TARGET], integer)
    ptr, bars = at_address(g[slots.IN_PTR], integer), at_address(g[slots.BARS], like)
    knot = at_address(g[slots.KNOT], integer)
    size = 4 * hf + 2 * hh + 2 * hidden
    head = shifted(packed, layers * size)
    last_weight = shifted(head, 2 * hidden * readout + readout)
    seed, deviation = at_address(g[slots.SEED], like), constants[4]
    bent = shifted(at_address(g[slots.HEAD_SLOPE], like), first * readout)
    gp = shifted(at_address(g[slots.GP], like), first * readout)
    for r in range(n):
        factor = splat(seed[first + r] * deviation)
        for c in range(0, readout, step):
            value = mul(factor, load(last_weight, c))
            store(gp, r * readout + c, mul(load(bent, r * readout + c), value))
    above = shifted(gx, (layers * atoms + first) * hidden)
    fill(above, n * hidden, step, like)
    add_product(gp, shifted(head, hidden * readout), above, n, readout, hidden)
    fill(shifted(bars, begin * step), (end - begin) * step, step, like)
    for layer in range(layers - 1, -1, -1):
        own = shifted(packed, layer * size)
        by_hidden = (layer * atoms + first) * hidden
        by_filter = (layer * atoms + first) * filters
        made_a, made_q = shifted(ga, by_hidden), shifted(gq, by_hidden)
        made_y, made_h = shifted(gy, by_filter), shifted(gh, by_filter)
        fill(made_a, n * hidden, step, like)
        add_product(above, shifted(own, 4 * hf + hh), made_a, n, hidden, hidden)
        multiply(made_a, shifted(slope, by_hidden), made_q, n * hidden, step)
        fill(made_y, n * filters, step, like)
        add_product(made_q, shifted(own, 3 * hf + hh), made_y, n, hidden, filters)
        if g[slots.INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[slots.INVERSE_COUNT], like), first)
            scale_rows(made_y, inverse, n, filters, step)
        fill(made_h, n * filters, step, like)
        table = at_address(g[slots.TABLE], like)
        if g[slots.TABLES] > 1:
            table = shifted(table, layer * g[slots.KNOTS] * filters)
        whole = layer * atoms * filters
        convolve_back(
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
            g[slots.KNOTS],
            both,
            step,
        )
        if layer > 0:
            below = shifted(gx, by_hidden)
            copy(below, above, n * hidden, step)
            add_product(made_h, shifted(own, 2 * hf + hh), below, n, filters, hidden)
            above = below
    forces, virial = at_address(g[slots.FORCES], like), at_address(g[slots.VIRIAL], like)
    for c in range(3 * first, 3 * last):
        forces[c] = like
    if g[slots.VIRIAL] != 0:
        for c in range(9 * first, 9 * last):
            virial[c] = like
    for e in range(begin, end):
        j, i, edge = 3 * source[e], 3 * target[e], shifted(geometry, e * EDGE)
        edge[4] = total(load(bars, e * step))
        for axis in range(3):
            push = edge[4] * edge[axis]
            forces[j + axis] -= push
            forces[i + axis] += push
            if g[slots.VIRIAL] != 0:
                for other in range(3):
                    virial[3 * i + 3 * axis + other] += push * edge[3] * edge[other]


@njit
def _tangents(g, scratch, first, last, begin, end, like, step):  # type: ignore[no-untyped-def]
    """Third sweep: how the features change as the atoms move along the direction."""
    integer = np.int64(0)
    atoms, layers, hidden = g[slots.ATOMS], g[slots.LAYERS], g[slots.HIDDEN]
    filters, readout, both = g[slots.FILTERS], g[slots.READOUT], g[slots.BOTH] != 0
    n, room = last - first, g[slots.MAX_BLOCK]
    hf, hh = hidden * filters, hidden * hidden
    packed = at_address(g[slots.PACKED], like)
    h, slope = at_address(g[slots.H], like), at_address(g[slots.SLOPE], like)
    lines, geometry = at_address(g[slots.LINES], like), at_address(g[slots.GEOMETRY], like)
    source, target = at_address(g[slots.SOURCE], integer), at_address(g[slots.TARGET], integer)
    ptr, speeds = at_address(g[slots.IN_PTR], integer), at_address(g[slots.SPEEDS], like)
    knot, molecule = at_address(g[slots.KNOT], integer), at_address(g[slots.MOLECULE], integer)
    direction, strain = at_address(g[slots.DIRECTION], like), at_address(g[slots.STRAIN], like)
    for e in range(begin, end):
        j, i, edge = source[e], target[e], shifted(geometry, e * EDGE)
        speed = like
        for axis in range(3):
            change = direction[3 * j + axis] - direction[3 * i + axis]
            if g[slots.STRAIN] != 0:
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
    fill(xd, n * hidden, step, like)
    for layer in range(layers):
        own = shifted(packed, layer * size)
        by_hidden, by_filter = layer * room * hidden, layer * room * filters
        here, following = shifted(xd, by_hidden), shifted(xd, by_hidden + room * hidden)
        made_h, made_y = shifted(hd, by_filter), shifted(yd, by_filter)
        made_q, made_a = shifted(qd, by_hidden), shifted(ad, by_hidden)
        fill(made_h, n * filters, step, like)
        if layer > 0:
            add_product(here, own, made_h, n, hidden, filters)
        fill(made_y, n * filters, step, like)
        table = at_address(g[slots.TABLE], like)
        if g[slots.TABLES] > 1:
            table = shifted(table, layer * g[slots.KNOTS] * filters)
        # The scratch holds the atoms of this block alone.
        convolve_tangent(
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
            g[slots.KNOTS],
            both,
            step,
        )
        if g[slots.INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[slots.INVERSE_COUNT], like), first)
            scale_rows(made_y, inverse, n, filters, step)
        fill(made_q, n * hidden, step, like)
        add_product(made_y, shifted(own, hf), made_q, n, filters, hidden)
        bent = shifted(slope, (layer * atoms + first) * hidden)
        multiply(made_q, bent, made_a, n * hidden, step)
        copy(following, here, n * hidden, step)
        add_product(made_a, shifted(own, 2 * hf), following, n, hidden, hidden)
    fill(pd, n * readout, step, like)
    head = shifted(packed, layers * size)
    add_product(shifted(xd, layers * room * hidden), head, pd, n, hidden, readout)
    bent = shifted(at_address(g[slots.HEAD_SLOPE], like), first * readout)
    multiply(pd, bent, rd, n * readout, step)


@njit
def _gradients(g, scratch, made, first, last, like, step):  # type: ignore[no-untyped-def]
    """Fourth sweep: adjoints of the loss, and from them the gradients of the weights."""
    integer = np.int64(0)
    atoms, layers, hidden = g[slots.ATOMS], g[slots.LAYERS], g[slots.HIDDEN]
    filters, readout, both = g[slots.FILTERS], g[slots.READOUT], g[slots.BOTH] != 0
    n, room = last - first, g[slots.MAX_BLOCK]
    hf, hh = hidden * filters, hidden * hidden
    constants, packed = at_address(g[slots.CONSTANTS], like), at_address(g[slots.PACKED], like)
    x, h, y = (
        at_address(g[slots.X], like),
        at_address(g[slots.H], like),
        at_address(g[slots.Y], like),
    )
    a, slope = at_address(g[slots.A], like), at_address(g[slots.SLOPE], like)
    gx, ga, gq = (
        at_address(g[slots.GX], like),
        at_address(g[slots.GA], like),
        at_address(g[slots.GQ], like),
    )
    gy, gh = at_address(g[slots.GY], like), at_address(g[slots.GH], like)
    lines, speeds = at_address(g[slots.LINES], like), at_address(g[slots.SPEEDS], like)
    source, ptr = at_address(g[slots.SOURCE], integer), at_address(g[slots.IN_PTR], integer)
    knot, z = at_address(g[slots.KNOT], integer), at_address(g[slots.Z], integer)
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
    seed, weight = at_address(g[slots.SEED], like), at_address(g[slots.WEIGHT], like)
    bent = shifted(at_address(g[slots.HEAD_SLOPE], like), first * readout)
    activated = shifted(at_address(g[slots.HEAD], like), first * readout)
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
    add_columns(pb, made_bias, n, readout, step)
    add_outer(pb, shifted(x, (layers * atoms + first) * hidden), made_head, n, readout, hidden)
    gp = shifted(at_address(g[slots.GP], like), first * readout)
    add_outer(gp, shifted(xd, layers * room * hidden), made_head, n, readout, hidden)
    fill(xb, n * hidden, step, like)
    add_product(pb, shifted(head, hidden * readout), xb, n, readout, hidden)
    for layer in range(layers - 1, -1, -1):
        own, made_own = shifted(packed, layer * size), shifted(made, layer * made_size)
        by_hidden, by_filter = layer * room * hidden, layer * room * filters
        whole_hidden, whole_filter = layer * atoms * hidden, layer * atoms * filters
        here_hidden, here_filter = whole_hidden + first * hidden, whole_filter + first * filters
        add_columns(xb, shifted(made_own, 2 * hf + hh + hidden), n, hidden, step)
        made_c = shifted(made_own, 2 * hf)
        add_outer(xb, shifted(a, here_hidden), made_c, n, hidden, hidden)
        above = shifted(gx, here_hidden + atoms * hidden)
        add_outer(above, shifted(ad, by_hidden), made_c, n, hidden, hidden)
        fill(qb, n * hidden, step, like)
        add_product(xb, shifted(own, 4 * hf + hh), qb, n, hidden, hidden)
        bend(
            qb,
            shifted(slope, here_hidden),
            shifted(qd, by_hidden),
            shifted(ga, here_hidden),
            n * hidden,
            step,
            like,
        )
        add_columns(qb, shifted(made_own, 2 * hf + hh), n, hidden, step)
        made_v = shifted(made_own, hf)
        add_outer(qb, shifted(y, here_filter), made_v, n, hidden, filters)
        add_outer(shifted(gq, here_hidden), shifted(yd, by_filter), made_v, n, hidden, filters)
        fill(yb, n * filters, step, like)
        add_product(qb, shifted(own, 3 * hf + hh), yb, n, hidden, filters)
        if g[slots.INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[slots.INVERSE_COUNT], like), first)
            scale_rows(yb, inverse, n, filters, step)
        fill(hb, n * filters, step, like)
        table, made_table = at_address(g[slots.TABLE], like), made_tables
        if g[slots.TABLES] > 1:
            table = shifted(table, layer * g[slots.KNOTS] * filters)
            made_table = shifted(made_tables, layer * g[slots.KNOTS] * filters)
        back = -first * filters
        convolve_tangent_back(
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
            g[slots.KNOTS],
            both,
            step,
        )
        add_outer(hb, shifted(x, here_hidden), made_own, n, filters, hidden)
        if layer > 0:
            add_outer(
                shifted(gh, here_filter), shifted(xd, by_hidden), made_own, n, filters, hidden
            )
        add_product(hb, shifted(own, 2 * hf + hh), xb, n, filters, hidden)
    for r in range(n):
        sums = shifted(made_embedding, z[first + r] * hidden)
        for c in range(0, hidden, step):
            store(sums, c, add(load(sums, c), load(xb, r * hidden + c)))


@njit
def _gradients_of_values(g, scratch, made, first, last, like, step):  # type: ignore[no-untyped-def]
    """The fourth sweep where the loss depends on energies alone, so that nothing moves."""
    integer = np.int64(0)
    atoms, layers, hidden = g[slots.ATOMS], g[slots.LAYERS], g[slots.HIDDEN]
    filters, readout, both = g[slots.FILTERS], g[slots.READOUT], g[slots.BOTH] != 0
    n, room = last - first, g[slots.MAX_BLOCK]
    hf, hh = hidden * filters, hidden * hidden
    constants, packed = at_address(g[slots.CONSTANTS], like), at_address(g[slots.PACKED], like)
    x, h, y = (
        at_address(g[slots.X], like),
        at_address(g[slots.H], like),
        at_address(g[slots.Y], like),
    )
    a, slope = at_address(g[slots.A], like), at_address(g[slots.SLOPE], like)
    lines = at_address(g[slots.LINES], like)
    source, ptr = at_address(g[slots.SOURCE], integer), at_address(g[slots.IN_PTR], integer)
    knot, z = at_address(g[slots.KNOT], integer), at_address(g[slots.Z], integer)
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
    deviation, weight = constants[4], at_address(g[slots.WEIGHT], like)
    bent = shifted(at_address(g[slots.HEAD_SLOPE], like), first * readout)
    activated = shifted(at_address(g[slots.HEAD], like), first * readout)
    for r in range(n):
        by_energy = weight[first + r] * deviation
        energy = splat(by_energy)
        for c in range(0, readout, step):
            place = r * readout + c
            store(pb, place, mul(load(bent, place), mul(energy, load(last_weight, c))))
            store(made_last, c, fma(energy, load(activated, place), load(made_last, c)))
        made_last[readout] += by_energy
    add_columns(pb, made_bias, n, readout, step)
    add_outer(pb, shifted(x, (layers * atoms + first) * hidden), made_head, n, readout, hidden)
    fill(xb, n * hidden, step, like)
    add_product(pb, shifted(head, hidden * readout), xb, n, readout, hidden)
    for layer in range(layers - 1, -1, -1):
        own, made_own = shifted(packed, layer * size), shifted(made, layer * made_size)
        whole_hidden, whole_filter = layer * atoms * hidden, layer * atoms * filters
        here_hidden, here_filter = whole_hidden + first * hidden, whole_filter + first * filters
        add_columns(xb, shifted(made_own, 2 * hf + hh + hidden), n, hidden, step)
        add_outer(xb, shifted(a, here_hidden), shifted(made_own, 2 * hf), n, hidden, hidden)
        fill(qb, n * hidden, step, like)
        add_product(xb, shifted(own, 4 * hf + hh), qb, n, hidden, hidden)
        multiply(qb, shifted(slope, here_hidden), qb, n * hidden, step)
        add_columns(qb, shifted(made_own, 2 * hf + hh), n, hidden, step)
        add_outer(qb, shifted(y, here_filter), shifted(made_own, hf), n, hidden, filters)
        fill(yb, n * filters, step, like)
        add_product(qb, shifted(own, 3 * hf + hh), yb, n, hidden, filters)
        if g[slots.INVERSE_COUNT] != 0:
            inverse = shifted(at_address(g[slots.INVERSE_COUNT], like), first)
            scale_rows(yb, inverse, n, filters, step)
        fill(hb, n * filters, step, like)
        table, made_table = at_address(g[slots.TABLE], like), made_tables
        if g[slots.TABLES] > 1:
            table = shifted(table, layer * g[slots.KNOTS] * filters)
            made_table = shifted(made_tables, layer * g[slots.KNOTS] * filters)
        convolve_gradients(
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
            g[slots.KNOTS],
            both,
            step,
        )
        add_outer(hb, shifted(x, here_hidden), made_own, n, filters, hidden)
        add_product(hb, shifted(own, 2 * hf + hh), xb, n, filters, hidden)
    for r in range(n):
        sums = shifted(made_embedding, z[first + r] * hidden)
        for c in range(0, hidden, step):
            store(sums, c, add(load(sums, c), load(xb, r * hidden + c)))


@njit
def _first_call(args, like, step):  # type: ignore[no-untyped-def]
    g = at_address(args[2], np.int64(0))
    integer, jobs = np.int64(0), args[1]
    blocks, ptr = at_address(g[slots.BLOCKS], integer), at_address(g[slots.IN_PTR], integer)
    count = g[slots.NUM_BLOCKS]
    constants = at_address(g[slots.CONSTANTS], like)
    while True:
        job = fetch_add(args, 1)
        if job >= jobs:
            return
        for block in range(count * job // jobs, count * (job + 1) // jobs):
            first, last = blocks[block], blocks[block + 1]
            begin, end = ptr[first], ptr[last]
            _geometry(g, begin, end, constants, like, step)
            _values(g, first, last, like, step)
            if g[slots.FORCES] != 0:
                _adjoints(g, first, last, begin, end, like, step)


@njit
def _second_call(args, like, step):  # type: ignore[no-untyped-def]
    g = at_address(args[2], np.int64(0))
    integer, jobs = np.int64(0), args[1]
    blocks, ptr = at_address(g[slots.BLOCKS], integer), at_address(g[slots.IN_PTR], integer)
    count = g[slots.NUM_BLOCKS]
    while True:
        job = fetch_add(args, 1)
        if job >= jobs:
            return
        made = shifted(at_address(g[slots.GRADIENTS], like), job * g[slots.GRADIENT_SIZE])
        scratch = shifted(at_address(g[slots.SCRATCH], like), job * g[slots.SCRATCH_SIZE])
        fill(made, g[slots.GRADIENT_SIZE], step, like)
        for block in range(count * job // jobs, count * (job + 1) // jobs):
            first, last = blocks[block], blocks[block + 1]
            begin, end = ptr[first], ptr[last]
            if g[slots.DIRECTION] != 0:
                _tangents(g, scratch, first, last, begin, end, like, step)
                _gradients(g, scratch, made, first, last, like, step)
            else:
                _gradients_of_values(g, scratch, made, first, last, like, step)


def _prepare_float32(args):  # type: ignore[no-untyped-def]
    _prepare_pass(args, np.float32(0))


def _prepare_float64(args):  # type: ignore[no-untyped-def]
    _prepare_pass(args, np.float64(0))


def _tables_float32(args):  # type: ignore[no-untyped-def]
    tables_pass(args, np.float32(0), 16)


def _tables_float64(args):  # type: ignore[no-untyped-def]
    tables_pass(args, np.float64(0), 8)


def _tables_back_float32(args):  # type: ignore[no-untyped-def]
    tables_back_pass(args, np.float32(0), 16)


def _tables_back_float64(args):  # type: ignore[no-untyped-def]
    tables_back_pass(args, np.float64(0), 8)


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
