"""Tables of the filters from their networks, and the way back for gradients."""

import numpy as np
from numba import njit

from pyg_schnet.ops.backends.cpu import slots
from pyg_schnet.ops.backends.cpu.convolutions import TILE
from pyg_schnet.ops.backends.cpu.product import multiply_add
from pyg_schnet.ops.backends.cpu.rows import (
    activate,
    add_columns,
    add_outer,
    add_product,
    fill,
    fill_rows,
    multiply,
)
from pyg_schnet.ops.backends.cpu.simd import at_address, fetch_add, fma, load, shifted, splat, store
from pyg_schnet.ops.spline import REACH


@njit
def _place(knot, feature, knots, step):  # type: ignore[no-untyped-def]
    """Where a vector of a table begins: tile after tile, each with all knots."""
    wide = TILE * step
    return feature // wide * wide * knots + knot * wide + feature % wide


@njit
def tables_pass(args, like, step):  # type: ignore[no-untyped-def]
    """Filter networks at the knots, and the coefficients of the splines through them."""
    g = at_address(args[2], np.int64(0))
    filters, gaussians, room = g[slots.FILTERS], g[slots.GAUSSIANS], g[slots.GAUSSIAN_ROOM]
    knots, samples = g[slots.KNOTS], g[slots.KNOTS] + 2 * REACH
    expanded, taps = at_address(g[slots.EXPANDED], like), at_address(g[slots.TAPS], like)
    weight_size = gaussians * filters + 2 * filters * filters + 2 * filters
    while True:
        number = fetch_add(args, 1)
        if number >= args[1]:
            return
        first = shifted(at_address(g[slots.FILTER_WEIGHTS], like), number * weight_size)
        last = shifted(first, gaussians * filters)
        first_bias = shifted(last, 2 * filters * filters)
        last_bias = shifted(first_bias, filters)
        size = samples * filters
        slope = shifted(at_address(g[slots.FILTER_SLOPE], like), number * size)
        hidden = shifted(at_address(g[slots.FILTER_HIDDEN], like), number * size)
        values = shifted(at_address(g[slots.FILTER_VALUES], like), 2 * number * size)
        fill_rows(slope, first_bias, samples, filters, step)
        multiply_add(expanded, room, 1, first, filters, slope, filters, samples, filters, gaussians)
        activate(slope, hidden, slope, size, step, like)
        fill_rows(values, last_bias, samples, filters, step)
        add_product(hidden, last, values, samples, filters, filters)
        if g[slots.ENDS_IN_SSP] != 0:
            activate(values, values, shifted(values, size), size, step, like)
        table = shifted(at_address(g[slots.TABLE], like), number * knots * filters)
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
def tables_back_pass(args, like, step):  # type: ignore[no-untyped-def]
    """Gradients of the tables to those of the filter networks."""
    g = at_address(args[2], np.int64(0))
    filters, gaussians, room = g[slots.FILTERS], g[slots.GAUSSIANS], g[slots.GAUSSIAN_ROOM]
    knots, samples = g[slots.KNOTS], g[slots.KNOTS] + 2 * REACH
    expanded, taps = at_address(g[slots.EXPANDED], like), at_address(g[slots.TAPS], like)
    weight_size = gaussians * filters + 2 * filters * filters + 2 * filters
    made_size = filters * room + filters * filters + 2 * filters
    size = samples * filters
    while True:
        number = fetch_add(args, 1)
        if number >= args[1]:
            return
        last = shifted(at_address(g[slots.FILTER_WEIGHTS], like), number * weight_size)
        last = shifted(last, gaussians * filters + filters * filters)
        slope = shifted(at_address(g[slots.FILTER_SLOPE], like), number * size)
        hidden = shifted(at_address(g[slots.FILTER_HIDDEN], like), number * size)
        values = shifted(at_address(g[slots.FILTER_VALUES], like), 2 * number * size)
        table = shifted(at_address(g[slots.GRADIENTS], like), number * knots * filters)
        bar = shifted(at_address(g[slots.SCRATCH], like), 2 * number * size)
        inner = shifted(bar, size)
        made = shifted(at_address(g[slots.FILTER_GRADIENTS], like), number * made_size)
        fill(made, made_size, step, like)
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
        if g[slots.ENDS_IN_SSP] != 0:
            multiply(bar, shifted(values, size), bar, size, step)
        add_columns(bar, made_last_bias, samples, filters, step)
        add_outer(bar, hidden, made_last, samples, filters, filters)
        fill(inner, size, step, like)
        add_product(bar, last, inner, samples, filters, filters)
        multiply(inner, slope, inner, size, step)
        add_columns(inner, made_bias, samples, filters, step)
        add_outer(inner, expanded, made, samples, filters, room)
