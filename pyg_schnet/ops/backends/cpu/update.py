"""Two dense layers with a shifted softplus between them, and their gradient, compiled for the CPU.

A few rows pass all steps while they are in the cache; nothing between the layers is stored.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pyg_schnet.ops.backends.cpu.dense import ssp_slope_vector, ssp_vector
from pyg_schnet.ops.backends.cpu.product import multiply_add
from pyg_schnet.ops.backends.cpu.simd import (
    add,
    at_address,
    fetch_add,
    load,
    mul,
    shifted,
    splat,
    store,
)
from pyg_schnet.ops.backends.cpu.threads import CHUNKS_PER_THREAD, Kernel, num_threads

_GROUP = 32  # rows that pass the steps together
_SMALL = 2**17  # multiply-adds; below this one thread does it


@njit(inline="always")
def _filled(out, rows, size, bias, step):  # type: ignore[no-untyped-def]
    for r in range(rows):
        for c in range(0, size, step):
            store(out, r * size + c, load(bias, c))


@njit
def _forward(args, like, step):  # type: ignore[no-untyped-def]
    """Out = ssp(y W1^T + b1) W2^T + b2; weights transposed."""
    chunks = args[1]
    y, out = at_address(args[2], like), at_address(args[3], like)
    w1, b1 = at_address(args[4], like), at_address(args[5], like)
    w2, b2 = at_address(args[6], like), at_address(args[7], like)
    rows, into, hidden, onto = args[8], args[9], args[10], args[11]
    buffer = np.zeros(_GROUP * hidden + step, dtype=type(like))
    inner = at_address((buffer.ctypes.data + 63) // 64 * 64, like)
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        last = rows * (chunk + 1) // chunks
        for first in range(rows * chunk // chunks, last, _GROUP):
            count = min(_GROUP, last - first)
            _filled(inner, count, hidden, b1, step)
            own = shifted(y, first * into)
            multiply_add(own, into, 1, w1, hidden, inner, hidden, count, hidden, into)
            for place in range(0, count * hidden, step):
                store(inner, place, ssp_vector(load(inner, place), like))
            made = shifted(out, first * onto)
            _filled(made, count, onto, b2, step)
            multiply_add(inner, hidden, 1, w2, onto, made, onto, count, onto, hidden)


@njit
def _backward(args, like, step):  # type: ignore[no-untyped-def]
    """Gradients of y and, in one part for each chunk, of W1, b1, W2 and b2."""
    chunks = args[1]
    y, u = at_address(args[2], like), at_address(args[3], like)
    w1_back, w1 = at_address(args[4], like), at_address(args[5], like)
    b1, w2 = at_address(args[6], like), at_address(args[7], like)
    by_y = at_address(args[8], like)
    rows, into, hidden, onto = args[10], args[11], args[12], args[13]
    wants_weights = args[14] != 0
    size = hidden * into + hidden + onto * hidden + onto
    zero = splat(like)
    buffer = np.zeros(3 * _GROUP * hidden + step, dtype=type(like))
    before = at_address((buffer.ctypes.data + 63) // 64 * 64, like)
    after, back = shifted(before, _GROUP * hidden), shifted(before, 2 * _GROUP * hidden)
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        by_w1 = at_address(args[9], like)
        if wants_weights:
            by_w1 = shifted(by_w1, chunk * size)
            for place in range(0, size, step):
                store(by_w1, place, zero)
        by_b1 = shifted(by_w1, hidden * into)
        by_w2 = shifted(by_b1, hidden)
        by_b2 = shifted(by_w2, onto * hidden)
        last = rows * (chunk + 1) // chunks
        for first in range(rows * chunk // chunks, last, _GROUP):
            count = min(_GROUP, last - first)
            own, given = shifted(y, first * into), shifted(u, first * onto)
            _filled(before, count, hidden, b1, step)
            multiply_add(own, into, 1, w1, hidden, before, hidden, count, hidden, into)
            for place in range(0, count * hidden, step):
                store(back, place, zero)
            multiply_add(given, onto, 1, w2, hidden, back, hidden, count, hidden, onto)
            for place in range(0, count * hidden, step):
                value = load(before, place)
                if wants_weights:
                    store(after, place, ssp_vector(value, like))
                store(back, place, mul(load(back, place), ssp_slope_vector(value, 1, like)))
            made = shifted(by_y, first * into)
            for place in range(0, count * into, step):
                store(made, place, zero)
            multiply_add(back, hidden, 1, w1_back, into, made, into, count, into, hidden)
            if wants_weights:
                multiply_add(given, 1, onto, after, hidden, by_w2, hidden, onto, hidden, count)
                multiply_add(back, 1, hidden, own, into, by_w1, into, hidden, into, count)
                for r in range(count):
                    for c in range(0, hidden, step):
                        store(by_b1, c, add(load(by_b1, c), load(back, r * hidden + c)))
                    for c in range(0, onto, step):
                        store(by_b2, c, add(load(by_b2, c), load(given, r * onto + c)))


def _forward_float32(args):  # type: ignore[no-untyped-def]
    _forward(args, np.float32(0), 16)


def _forward_float64(args):  # type: ignore[no-untyped-def]
    _forward(args, np.float64(0), 8)


def _backward_float32(args):  # type: ignore[no-untyped-def]
    _backward(args, np.float32(0), 16)


def _backward_float64(args):  # type: ignore[no-untyped-def]
    _backward(args, np.float64(0), 8)


_FORWARD = {torch.float32: Kernel(_forward_float32), torch.float64: Kernel(_forward_float64)}
_BACKWARD = {torch.float32: Kernel(_backward_float32), torch.float64: Kernel(_backward_float64)}


def _threads(rows: int, *weights: Tensor) -> int:
    return num_threads() if rows * sum(w.numel() for w in weights) > _SMALL else 1


def update(y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """As :func:`pyg_schnet.ops.backends.reference.update`; sizes are whole vectors."""
    y = y.contiguous()
    rows = y.size(0)
    hidden, into = w1.shape
    out = y.new_empty(rows, w2.size(0))
    threads = _threads(rows, w1, w2)
    first, second = w1.t().contiguous(), w2.t().contiguous()
    _FORWARD[y.dtype](
        1 if threads == 1 else CHUNKS_PER_THREAD * threads,
        threads,
        y.data_ptr(),
        out.data_ptr(),
        first.data_ptr(),
        b1.data_ptr(),
        second.data_ptr(),
        b2.data_ptr(),
        rows,
        into,
        hidden,
        w2.size(0),
    )
    return out


def update_backward(
    u: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, wants_weights: bool
) -> tuple[Tensor, ...]:
    """Gradients of y, W1, b1, W2 and b2; empty ones of the weights if they are not wanted."""
    u, y, w1, w2 = u.contiguous(), y.contiguous(), w1.contiguous(), w2.contiguous()
    rows = y.size(0)
    (hidden, into), onto = w1.shape, w2.size(0)
    by_y = torch.empty_like(y)
    threads = _threads(rows, w1, w2)
    sizes = (hidden * into, hidden, onto * hidden, onto)
    parts = y.new_empty(threads if wants_weights else 0, sum(sizes))
    first = w1.t().contiguous()
    _BACKWARD[y.dtype](
        threads,
        threads,
        y.data_ptr(),
        u.data_ptr(),
        w1.data_ptr(),
        first.data_ptr(),
        b1.data_ptr(),
        w2.data_ptr(),
        by_y.data_ptr(),
        parts.data_ptr(),
        rows,
        into,
        hidden,
        onto,
        int(wants_weights),
    )
    if not wants_weights:
        return by_y, *(y.new_empty(0) for _ in sizes)
    total = parts[0] if threads == 1 else parts.sum(0)
    by_w1, by_b1, by_w2, by_b2 = total.split(sizes)
    return by_y, by_w1.view(hidden, into), by_b1, by_w2.view(onto, hidden), by_b2
