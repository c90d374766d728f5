"""Products of matrices for dense layers, compiled for the CPU.

A dense layer of SchNet is a tall matrix times a small one. There MKL uses half the width of the
registers of some processors, and oneDNN copies transposed arguments; here each block of the result
stays in registers and nothing is copied.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from pyg_schnet.ops.backends.cpu.simd import (
    Vector,
    at_address,
    fetch_add,
    shifted,
    splat,
    store,
)
from pyg_schnet.ops.backends.cpu.threads import CHUNKS_PER_THREAD, Kernel, num_threads

_BLOCKS = (4, 2, 1)  # rows, and vectors of columns, of the result that are held in registers
_DEPTH = 128  # rows of a tall right factor that are read while they are in the cache
_SMALL = 2**17  # multiply-adds; below this one thread does it


@contextmanager
def _steps(builder: Any, counter: Any, size: int, end: Any) -> Iterator[Any]:
    """A loop in steps of ``size`` as long as a whole one fits before ``end``."""
    test, body, after = (builder.append_basic_block(name) for name in ("test", "body", "after"))
    builder.branch(test)
    builder.position_at_end(test)
    first = builder.load(counter)
    following = builder.add(first, ir.Constant(first.type, size))
    builder.cbranch(builder.icmp_signed("<=", following, end), body, after)
    builder.position_at_end(body)
    yield first
    builder.store(following, counter)
    builder.branch(test)
    builder.position_at_end(after)


class _Writer:
    """Writes the instructions of :func:`multiply_add`."""

    def __init__(self, context: Any, builder: Any, scalar: Any, args: Any) -> None:
        self.builder = builder
        self.a, self.a_row, self.a_depth, self.b, self.b_depth = args[:5]
        self.out, self.out_row, self.rows, self.columns, self.depth = args[5:]
        self.kind = context.get_value_type(Vector(scalar))
        self.align = scalar.bitwidth // 8
        self.integer = ir.IntType(64)

    def number(self, value: int) -> Any:
        return ir.Constant(self.integer, value)

    def vector_at(self, pointer: Any, place: int) -> Any:
        address = self.builder.gep(pointer, [self.number(place * self.kind.count)])
        return self.builder.bitcast(address, self.kind.as_pointer())

    def read(self, pointer: Any, place: int) -> Any:
        value = self.builder.load(self.vector_at(pointer, place))
        value.align = self.align
        return value

    def filled(self, number: Any) -> Any:
        empty = ir.Constant(self.kind, ir.Undefined)
        one = self.builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.kind.count), [0] * self.kind.count)
        return self.builder.shuffle_vector(one, empty, mask)

    def whole(self) -> None:
        builder = self.builder
        column = cgutils.alloca_once(builder, self.integer)
        row = cgutils.alloca_once(builder, self.integer)
        builder.store(self.number(0), column)
        for vectors in _BLOCKS:
            with _steps(builder, column, vectors * self.kind.count, self.columns) as c:
                builder.store(self.number(0), row)
                for height in _BLOCKS:
                    with _steps(builder, row, height, self.rows) as r:
                        self.block(r, c, height, vectors)

    def block(self, row: Any, column: Any, height: int, vectors: int) -> None:
        builder = self.builder
        made, own = [], []
        for r in range(height):
            place = builder.add(row, self.number(r))
            offset = builder.add(builder.mul(place, self.out_row), column)
            made.append(builder.gep(self.out, [offset]))
            own.append(builder.gep(self.a, [builder.mul(place, self.a_row)]))
        panel = builder.gep(self.b, [column])
        starts = [[self.read(made[r], v) for v in range(vectors)] for r in range(height)]

        before = builder.block
        loop, after = builder.append_basic_block("depth"), builder.append_basic_block("written")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(self.integer)
        sums = [[builder.phi(self.kind) for _ in range(vectors)] for _ in range(height)]
        line = builder.gep(panel, [builder.mul(k, self.b_depth)])
        factors = [self.read(line, v) for v in range(vectors)]
        offset = builder.mul(k, self.a_depth)
        results: list[list[Any]] = []
        for r in range(height):
            value = self.filled(builder.load(builder.gep(own[r], [offset])))
            results.append([])
            for v in range(vectors):
                product = builder.fmul(value, factors[v], flags=("contract",))
                results[r].append(builder.fadd(product, sums[r][v], flags=("contract",)))
                sums[r][v].add_incoming(starts[r][v], before)
                sums[r][v].add_incoming(results[r][v], loop)
        following = builder.add(k, self.number(1))
        k.add_incoming(self.number(0), before)
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, self.depth), loop, after)
        builder.position_at_end(after)
        for r in range(height):
            for v in range(vectors):
                builder.store(results[r][v], self.vector_at(made[r], v)).align = self.align


@intrinsic
def multiply_add(typingctx, a, a_row, a_depth, b, b_depth, out, out_row, rows, columns, depth):  # type: ignore[no-untyped-def]
    """``out[r, c] += sum_k a[r, k] b[k, c]``; strides of a are free, columns whole vectors."""
    integer = types.int64

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        _Writer(context, builder, sig.args[0].dtype, args).whole()
        return context.get_dummy_value()

    sizes = (integer,) * 3
    return types.void(a, integer, integer, a, integer, a, integer, *sizes), generate


@njit
def _rows(args, like, step):  # type: ignore[no-untyped-def]
    """Out = a b + bias for a tall a: chunks are ranges of its rows."""
    chunks = args[1]
    a, b = at_address(args[2], like), at_address(args[3], like)
    out, bias = at_address(args[4], like), at_address(args[5], like)
    rows, columns, depth = args[6], args[7], args[8]
    a_row, a_depth, b_depth, has_bias = args[9], args[10], args[11], args[12] != 0
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        # Whole blocks of rows for every chunk but the last.
        first = rows * chunk // chunks // 4 * 4
        last = rows if chunk + 1 == chunks else rows * (chunk + 1) // chunks // 4 * 4
        for r in range(first, last):
            made = shifted(out, r * columns)
            for c in range(columns):
                made[c] = bias[c] if has_bias else like
        if first < last:
            own, made = shifted(a, first * a_row), shifted(out, first * columns)
            multiply_add(
                own, a_row, a_depth, b, b_depth, made, columns, last - first, columns, depth
            )


@njit
def _depth(args, like, step):  # type: ignore[no-untyped-def]
    """Out = a b for a wide a and a tall b: chunks are ranges of the depth, with a sum each."""
    chunks = args[1]
    a, b = at_address(args[2], like), at_address(args[3], like)
    rows, columns, depth = args[6], args[7], args[8]
    a_row, a_depth, b_depth = args[9], args[10], args[11]
    zero = splat(like)
    while True:
        chunk = fetch_add(args, 1)
        if chunk >= chunks:
            return
        out = shifted(at_address(args[4], like), chunk * rows * columns)
        for c in range(0, rows * columns, step):
            store(out, c, zero)
        last = depth * (chunk + 1) // chunks
        for k in range(depth * chunk // chunks, last, _DEPTH):
            own, theirs = shifted(a, k * a_depth), shifted(b, k * b_depth)
            count = min(_DEPTH, last - k)
            multiply_add(own, a_row, a_depth, theirs, b_depth, out, columns, rows, columns, count)


def _rows_float32(args):  # type: ignore[no-untyped-def]
    _rows(args, np.float32(0), 16)


def _depth_float32(args):  # type: ignore[no-untyped-def]
    _depth(args, np.float32(0), 16)


_ROWS, _DEEP = Kernel(_rows_float32), Kernel(_depth_float32)


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b.T + bias`` in float32: a (n, k), b (m, k); m a multiple of 16."""
    rows, depth = a.shape
    columns = b.size(0)
    if depth == 0:  # the loop over the depth runs at least once
        out = a.new_zeros(rows, columns)
        return out if bias is None else out + bias
    b = b.t()  # [k, m]
    if b.stride(1) != 1:
        b = b.contiguous()
    if 1 not in a.stride():
        a = a.contiguous()
    work = rows * columns * depth
    threads = num_threads() if work > _SMALL else 1
    sizes = (rows, columns, depth, a.stride(0), a.stride(1), b.stride(0))
    if depth <= max(4 * rows, 4 * _DEPTH) or bias is not None:
        out = a.new_empty(rows, columns)
        chunks = 1 if threads == 1 else CHUNKS_PER_THREAD * threads
        bias = None if bias is None else bias.contiguous()
        address = 0 if bias is None else bias.data_ptr()
        _ROWS(
            chunks,
            threads,
            a.data_ptr(),
            b.data_ptr(),
            out.data_ptr(),
            address,
            *sizes,
            int(bias is not None),
        )
        return out
    parts = a.new_empty(threads, rows, columns)
    _DEEP(threads, threads, a.data_ptr(), b.data_ptr(), parts.data_ptr(), 0, *sizes)
    return parts[0] if threads == 1 else parts.sum(0)


def biased_product(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """``a @ b.T + bias``; as :func:`product`."""
    return product(a, b, bias)


@functools.cache
def wins() -> bool:
    """Whether the processor has the registers that the blocks are made for."""
    return bool(get_host_cpu_features().get("avx512f", False))
