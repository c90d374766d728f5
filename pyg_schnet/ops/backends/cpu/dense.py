"""Shifted softplus and the prefilter of tables, compiled for the CPU."""

import functools
import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pyg_schnet.ops.backends import reference
from pyg_schnet.ops.backends.cpu.simd import (
    add,
    at_address,
    div,
    fetch_add,
    floor,
    fma,
    load,
    mul,
    polynomial_of,
    power_of_two,
    shifted,
    splat,
    store,
    sub,
    where_less,
)
from pyg_schnet.ops.backends.cpu.threads import CHUNKS_PER_THREAD, Kernel, num_threads
from pyg_schnet.ops.spline import PREFILTER, REACH

_SMALL = 2**13  # numbers; below this one thread does it
_LN2 = math.log(2.0)
_LN2_HIGH = 0.693359375  # with few digits, so that n * _LN2_HIGH is exact
_LN2_LOW = -2.12194440054690583e-4

# e^r on |r| <= ln(2)/2, and artanh(s)/s in s^2 <= 1/9, to the last digit of each dtype.
_exp_series = polynomial_of(
    tuple(1.0 / math.factorial(q) for q in range(8)),
    tuple(1.0 / math.factorial(q) for q in range(14)),
)
_artanh_series = polynomial_of(
    tuple(1.0 / (2 * q + 1) for q in range(8)), tuple(1.0 / (2 * q + 1) for q in range(17))
)


@njit(inline="always")
def _exp_of_minus_abs(x, like):  # type: ignore[no-untyped-def]
    """e^-|x|; a NaN stays one."""
    zero, least = splat(like), splat(type(like)(-80.0))
    x = where_less(zero, x, sub(zero, x), x)
    x = where_less(x, least, least, x)
    n = floor(fma(x, splat(type(like)(1.0 / _LN2)), splat(type(like)(0.5))))
    r = fma(n, splat(type(like)(-_LN2_HIGH)), x)
    r = fma(n, splat(type(like)(-_LN2_LOW)), r)
    return mul(_exp_series(r), power_of_two(n))


@njit(inline="always")
def ssp_vector(x, like):  # type: ignore[no-untyped-def]
    """Shifted softplus as max(x, 0) + ln((1 + e)/2), e = e^-|x|, the logarithm by an artanh.

    Halving within the logarithm makes it exact at 0.
    """
    zero, one = splat(like), splat(type(like)(1.0))
    e = _exp_of_minus_abs(x, like)
    e = where_less(splat(type(like)(20.0)), x, zero, e)
    s = div(sub(e, one), add(e, splat(type(like)(3.0))))
    log = mul(add(s, s), _artanh_series(mul(s, s)))
    return add(where_less(x, zero, zero, x), log)


@njit(inline="always")
def ssp_slope_vector(x, order, like):  # type: ignore[no-untyped-def]
    """Its derivative of an order from 1 to 3: s, s(1-s), s(1-s)(1-2s) with s the logistic of x."""
    zero, one = splat(like), splat(type(like)(1.0))
    e = _exp_of_minus_abs(x, like)
    r = div(one, add(one, e))
    s = where_less(x, zero, mul(e, r), r)
    above = one
    if order > 1:
        s = mul(s, sub(one, s)) if order == 2 else mul(mul(s, sub(one, s)), sub(one, add(s, s)))
        above = zero
    return where_less(splat(type(like)(20.0)), x, above, s)


@njit
def _elementwise(args, like, step):  # type: ignore[no-untyped-def]
    chunks, n, order = args[1], args[5], args[6]
    x, out = at_address(args[2], like), at_address(args[3], like)
    g = at_address(args[4], like)
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        first, last = n * chunk // chunks, n * (chunk + 1) // chunks
        whole = first + (last - first) // step * step
        for i in range(first, whole, step):
            if order == 0:
                store(out, i, ssp_vector(load(x, i), like))
            else:
                store(out, i, mul(load(g, i), ssp_slope_vector(load(x, i), order, like)))
        if whole < last:
            rest = np.zeros(step, dtype=type(like))
            for i in range(whole, last):
                rest[i - whole] = x[i]
            place = at_address(rest.ctypes.data, like)
            if order == 0:
                store(place, 0, ssp_vector(load(place, 0), like))
            else:
                store(place, 0, ssp_slope_vector(load(place, 0), order, like))
            for i in range(whole, last):
                out[i] = rest[i - whole] if order == 0 else g[i] * rest[i - whole]


def _elementwise_float32(args):  # type: ignore[no-untyped-def]
    _elementwise(args, np.float32(0), 16)


def _elementwise_float64(args):  # type: ignore[no-untyped-def]
    _elementwise(args, np.float64(0), 8)


_ELEMENTWISE = {
    torch.float32: Kernel(_elementwise_float32),
    torch.float64: Kernel(_elementwise_float64),
}


def _chunks(numbers: int) -> tuple[int, int]:
    threads = num_threads() if numbers > _SMALL else 1
    return (1 if threads == 1 else CHUNKS_PER_THREAD * threads), threads


def ssp(x: Tensor) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.ssp`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    addresses = (x.data_ptr(), out.data_ptr(), 0)
    _ELEMENTWISE[x.dtype](*_chunks(x.numel()), *addresses, x.numel(), 0)
    return out


def ssp_grad(g: Tensor, x: Tensor, order: int) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.ssp_grad`."""
    if order > 3:
        return reference.ssp_grad(g, x, order)
    g, x = g.contiguous(), x.contiguous()
    out = torch.empty_like(x)
    addresses = (x.data_ptr(), out.data_ptr(), g.data_ptr())
    _ELEMENTWISE[x.dtype](*_chunks(x.numel()), *addresses, x.numel(), order)
    return out


@njit
def _prefilter(args, like, step):  # type: ignore[no-untyped-def]
    """Each chunk is a range of output rows of the layers laid end to end."""
    values, out = at_address(args[2], like), at_address(args[3], like)
    taps = at_address(args[4], like)
    chunks, layers, rows_in, rows_out, size = args[1], args[5], args[6], args[7], args[8]
    reach, first_tap = args[9], args[10]
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        total = layers * rows_out
        for row in range(total * chunk // chunks, total * (chunk + 1) // chunks):
            layer, k = row // rows_out, row % rows_out
            made = shifted(out, row * size)
            whole = size // step * step
            for f in range(0, whole, step):
                store(made, f, splat(like))
            for f in range(whole, size):
                made[f] = like
            for r in range(2 * reach + 1):
                source = k + r - first_tap
                if source < 0 or source >= rows_in:
                    continue
                tap = taps[r]
                read = shifted(values, (layer * rows_in + source) * size)
                for f in range(0, whole, step):
                    store(made, f, fma(splat(tap), load(read, f), load(made, f)))
                for f in range(whole, size):
                    made[f] += tap * read[f]


def _prefilter_float32(args):  # type: ignore[no-untyped-def]
    _prefilter(args, np.float32(0), 16)


def _prefilter_float64(args):  # type: ignore[no-untyped-def]
    _prefilter(args, np.float64(0), 8)


_PREFILTER = {
    torch.float32: Kernel(_prefilter_float32),
    torch.float64: Kernel(_prefilter_float64),
}


@functools.cache
def _taps(dtype: torch.dtype) -> Tensor:
    return torch.tensor([*PREFILTER[:0:-1], *PREFILTER], dtype=dtype)


def prefilter(values: Tensor, transposed: bool) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.prefilter`."""
    values = values.contiguous()
    rows_in, size = values.shape[-2:]
    rows_out = rows_in + 2 * REACH if transposed else rows_in - 2 * REACH
    out = values.new_empty(*values.shape[:-2], rows_out, size)
    layers = math.prod(values.shape[:-2])
    _PREFILTER[values.dtype](
        *_chunks(out.numel()),
        values.data_ptr(),
        out.data_ptr(),
        _taps(values.dtype).data_ptr(),
        layers,
        rows_in,
        rows_out,
        size,
        REACH,
        2 * REACH if transposed else 0,
    )
    return out
