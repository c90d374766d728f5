"""Short vectors of floats inside Numba functions.

LLVM does not vectorise loops over eight arrays by itself, because it cannot rule out that they
overlap. These primitives say what is meant: 512 bits at a time, which LLVM splits on processors
with shorter registers.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

REGISTER_BITS = 512
_IR = {32: ir.FloatType(), 64: ir.DoubleType()}


def lanes(bits: int) -> int:
    """Numbers of ``bits`` bits in one vector."""
    return REGISTER_BITS // bits


class Vector(types.Type):
    """A vector of ``scalar`` that lives in a register."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        super().__init__(name=f"Vector({scalar})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:  # type: ignore[no-untyped-def]
        super().__init__(dmm, fe_type, _vector_type(fe_type.scalar))


def _vector_type(scalar: types.Float) -> ir.VectorType:
    return ir.VectorType(_IR[scalar.bitwidth], lanes(scalar.bitwidth))


def _splat(builder, value, vector_type):  # type: ignore[no-untyped-def]
    empty = ir.Constant(vector_type, ir.Undefined)
    one = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
    first = ir.Constant(ir.VectorType(ir.IntType(32), vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(one, empty, first)


@intrinsic
def at_address(typingctx, address, like):  # type: ignore[no-untyped-def]
    """The pointer to numbers of the type of ``like`` at an integer address."""
    signature = types.CPointer(like)(types.int64, like)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return signature, generate


@intrinsic
def shifted(typingctx, pointer, count):  # type: ignore[no-untyped-def]
    """The pointer ``count`` numbers further on."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.intp), generate


@intrinsic
def load(typingctx, pointer, first):  # type: ignore[no-untyped-def]
    """The vector that begins at ``pointer[first]``."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        scalar = sig.args[0].dtype
        place = builder.gep(args[0], [args[1]])
        place = builder.bitcast(place, _vector_type(scalar).as_pointer())
        value = builder.load(place)
        value.align = scalar.bitwidth // 8
        return value

    return Vector(pointer.dtype)(pointer, types.intp), generate


@intrinsic
def store(typingctx, pointer, first, vector):  # type: ignore[no-untyped-def]
    """Write ``vector`` to ``pointer[first]`` and on."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        scalar = sig.args[0].dtype
        place = builder.gep(args[0], [args[1]])
        place = builder.bitcast(place, _vector_type(scalar).as_pointer())
        builder.store(args[2], place).align = scalar.bitwidth // 8
        return context.get_dummy_value()

    return types.void(pointer, types.intp, vector), generate


@intrinsic
def splat(typingctx, number):  # type: ignore[no-untyped-def]
    """The vector of one number."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _splat(builder, args[0], _vector_type(sig.args[0]))

    return Vector(number)(number), generate


@intrinsic
def add(typingctx, a, b):  # type: ignore[no-untyped-def]
    """``a + b``."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.fadd(args[0], args[1])

    return a(a, b), generate


@intrinsic
def mul(typingctx, a, b):  # type: ignore[no-untyped-def]
    """``a * b``."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.fmul(args[0], args[1])

    return a(a, b), generate


@intrinsic
def fma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """``a * b + c``."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        product = builder.fmul(args[0], args[1], flags=("contract",))
        return builder.fadd(product, args[2], flags=("contract",))

    return a(a, b, c), generate


@intrinsic
def total(typingctx, vector):  # type: ignore[no-untyped-def]
    """The sum of the numbers of a vector."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind = _vector_type(sig.args[0].scalar)
        bits = sig.args[0].scalar.bitwidth
        name = f"llvm.vector.reduce.fadd.v{kind.count}f{bits}"
        function_type = ir.FunctionType(kind.element, [kind.element, kind])
        reduce = cgutils.get_or_insert_function(builder.module, function_type, name)
        start = ir.Constant(kind.element, -0.0)
        return builder.call(reduce, [start, args[0]], fastmath=("reassoc",))

    return vector.scalar(vector), generate


@intrinsic
def fetch_add(typingctx, pointer, amount):  # type: ignore[no-untyped-def]
    """Add to ``pointer[0]``, as one indivisible step among threads; what it held before."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.atomic_rmw("add", args[0], args[1], "monotonic")

    return types.int64(types.CPointer(types.int64), types.int64), generate


@intrinsic
def sub(typingctx, a, b):  # type: ignore[no-untyped-def]
    """``a - b``."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.fsub(args[0], args[1])

    return a(a, b), generate


@intrinsic
def div(typingctx, a, b):  # type: ignore[no-untyped-def]
    """``a / b``."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.fdiv(args[0], args[1])

    return a(a, b), generate


@intrinsic
def where_less(typingctx, a, b, yes, no):  # type: ignore[no-untyped-def]
    """``yes`` where ``a < b``, else ``no``; a NaN is not less."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return a(a, b, yes, no), generate


@intrinsic
def floor(typingctx, a):  # type: ignore[no-untyped-def]
    """The largest whole number that is not above."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind = _vector_type(sig.args[0].scalar)
        name = f"llvm.floor.v{kind.count}f{sig.args[0].scalar.bitwidth}"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), name
        )
        return builder.call(function, [args[0]])

    return a(a), generate


@intrinsic
def power_of_two(typingctx, n):  # type: ignore[no-untyped-def]
    """``2^n`` for whole numbers that give a normal number."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        bits = sig.args[0].scalar.bitwidth
        kind = _vector_type(sig.args[0].scalar)
        bias, mantissa = (127, 23) if bits == 32 else (1023, 52)
        integers = ir.VectorType(ir.IntType(bits), kind.count)
        exponent = builder.fptosi(args[0], integers)
        exponent = builder.add(exponent, ir.Constant(integers, [bias] * kind.count))
        exponent = builder.shl(exponent, ir.Constant(integers, [mantissa] * kind.count))
        return builder.bitcast(exponent, kind)

    return n(n), generate


def polynomial_of(single: tuple[float, ...], double: tuple[float, ...]):  # type: ignore[no-untyped-def]
    """A primitive that evaluates a polynomial of a vector of float32 or float64.

    Coefficients are in rising powers; float64 usually needs more of them.
    """

    @intrinsic
    def polynomial(typingctx, x):  # type: ignore[no-untyped-def]
        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            kind = _vector_type(sig.args[0].scalar)
            coefficients = single if sig.args[0].scalar.bitwidth == 32 else double
            value = ir.Constant(kind, [coefficients[-1]] * kind.count)
            for a in coefficients[-2::-1]:
                product = builder.fmul(value, args[0], flags=("contract",))
                constant = ir.Constant(kind, [a] * kind.count)
                value = builder.fadd(product, constant, flags=("contract",))
            return value

        return x(x), generate

    return polynomial
