"""Shifted softplus and the prefilter of tables on CUDA."""

import math

import triton
import triton.language as tl
from torch import Tensor

from pyg_schnet.ops.backends import reference
from pyg_schnet.ops.backends.cuda.launch import launch, power_of_two, tiles
from pyg_schnet.ops.spline import PREFILTER, REACH

_BLOCK = 1024
_LN2 = tl.constexpr(math.log(2.0))
_TAPS = tl.constexpr((*PREFILTER[:0:-1], *PREFILTER))
_REACH = tl.constexpr(REACH)
_HIGHEST = 6  # order of the derivatives of shifted softplus that the kernel has


def _slopes() -> tuple[float, ...]:
    """Polynomials q_n in s, n = 0.._HIGHEST, each of _HIGHEST coefficients.

    With s the logistic function, the derivative of order n > 1 is s (1 - s) q_n(s): to
    differentiate a polynomial p(s) is to multiply p'(s) with s (1 - s).
    """
    rows = [[0.0] * _HIGHEST, [0.0] * _HIGHEST]
    polynomial = [0.0, 1.0]
    for _ in range(2, _HIGHEST + 1):
        slope = [q * a for q, a in enumerate(polynomial)][1:]
        rows.append(slope + [0.0] * (_HIGHEST - len(slope)))
        polynomial = [0.0] * (len(slope) + 2)
        for q, a in enumerate(slope):
            polynomial[q + 1] += a
            polynomial[q + 2] -= a
    return tuple(a for row in rows for a in row)


_SLOPES = tl.constexpr(_slopes())
_WIDTH = tl.constexpr(_HIGHEST)


@triton.jit
def _ssp(x, out, numbers, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = at < numbers
    value = tl.load(x + at, mask=valid, other=0.0)
    log = tl.log(1.0 + tl.exp(-tl.abs(value)))
    # torch's softplus is the identity above 20.
    log = tl.where(value > 20.0, 0.0, log)
    tl.store(out + at, tl.where(value > 0.0, value, 0.0) + (log - _LN2), mask=valid)


@triton.jit
def _ssp_grad(g, x, out, numbers, ORDER: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = at < numbers
    value = tl.load(x + at, mask=valid, other=0.0)
    e = tl.exp(-tl.abs(value))
    r = 1.0 / (1.0 + e)
    s = tl.where(value < 0.0, e * r, r)
    if ORDER == 1:
        slope = tl.where(value > 20.0, 1.0, s)
    else:
        slope = tl.zeros_like(s) + _SLOPES[ORDER * _WIDTH + ORDER - 2]
        for q in tl.static_range(1, ORDER - 1):
            slope = slope * s + _SLOPES[ORDER * _WIDTH + ORDER - 2 - q]
        # e r r is s (1 - s) without the difference, which loses digits.
        slope = tl.where(value > 20.0, 0.0, e * r * r * slope)
    tl.store(out + at, tl.load(g + at, mask=valid, other=0.0) * slope, mask=valid)


@triton.jit
def _prefilter(  # type: ignore[no-untyped-def]
    values,
    out,
    total,
    rows_in,
    rows_out,
    FEATURES: tl.constexpr,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Rows of all layers laid end to end; the taps of row k begin at k - FIRST."""
    f = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask = (row < total)[:, None] & (f < FEATURES)[None, :]
    layer, k = row // rows_out, row % rows_out
    made = tl.zeros([ROWS, TILE], dtype=out.dtype.element_ty)
    for r in tl.static_range(2 * _REACH + 1):
        source = k + (r - FIRST)
        present = mask & ((source >= 0) & (source < rows_in))[:, None]
        at = (layer * rows_in + source)[:, None] * FEATURES + f[None, :]
        made += _TAPS[r] * tl.load(values + at, mask=present, other=0.0)
    tl.store(out + row[:, None] * FEATURES + f[None, :], made, mask=mask)


def ssp(x: Tensor) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.ssp`."""
    x = x.contiguous()
    out = x.new_empty(x.shape)
    launch(_ssp, (tiles(x.numel(), _BLOCK),), x, x, out, x.numel(), _BLOCK, num_warps=4)
    return out


def ssp_grad(g: Tensor, x: Tensor, order: int) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.ssp_grad`."""
    if order > _HIGHEST:
        return reference.ssp_grad(g, x, order)
    g, x = g.contiguous(), x.contiguous()
    out = x.new_empty(x.shape)
    sides = (x.numel(), order, _BLOCK)
    launch(_ssp_grad, (tiles(x.numel(), _BLOCK),), x, g, x, out, *sides, num_warps=4)
    return out


def prefilter(values: Tensor, transposed: bool) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.prefilter`."""
    values = values.contiguous()
    rows_in, features = values.shape[-2:]
    rows_out = rows_in + 2 * REACH if transposed else rows_in - 2 * REACH
    out = values.new_empty(*values.shape[:-2], rows_out, features)
    total = math.prod(out.shape[:-1])
    tile = min(power_of_two(features), 64)
    rows = max(512 // tile, 1)
    sides = (features, 2 * REACH if transposed else 0, rows, tile)
    grid = (tiles(total, rows), tiles(features, tile))
    launch(_prefilter, grid, values, values, out, total, rows_in, rows_out, *sides, num_warps=4)
    return out
