"""Dense layers of many rows, as operators."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pyg_schnet.ops.backends import choose_backend, kernel
from pyg_schnet.ops.library import Operator

# Multiply-adds from which the compiled product makes up for the longer way to it.
_LARGE = 2**21
_LANES = 16


def _product_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, ...]:
    a, b, backend = ctx.inputs
    if u is None:
        return None, None
    by_a = _matmul(u, b.t(), backend) if ctx.needed[0] else None
    by_b = _matmul(u.t(), a.t(), backend) if ctx.needed[1] else None
    return by_a, by_b


def _biased_product_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, ...]:
    a, b, _, backend = ctx.inputs
    if u is None:
        return None, None, None
    by_a = _matmul(u, b.t(), backend) if ctx.needed[0] else None
    by_b = _matmul(u.t(), a.t(), backend) if ctx.needed[1] else None
    return by_a, by_b, u.sum(0) if ctx.needed[2] else None


_PRODUCT = Operator(
    "product(Tensor a, Tensor b, str backend) -> Tensor",
    lambda a, b, backend: a.new_empty(a.size(0), b.size(0)),
    _product_backward,
    2,
)
_BIASED_PRODUCT = Operator(
    "biased_product(Tensor a, Tensor b, Tensor bias, str backend) -> Tensor",
    lambda a, b, bias, backend: a.new_empty(a.size(0), b.size(0)),
    _biased_product_backward,
    3,
)


def _matmul(a: Tensor, b: Tensor, backend: str) -> Tensor:
    """``a @ b.T``, (n, m) from (n, k) and (m, k)."""
    if a.size(0) * a.size(1) * b.size(0) < _LARGE or b.size(0) % _LANES:
        return a @ b.t()
    return _PRODUCT(a, b, backend)


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""``x @ weight.T + bias``, as :func:`torch.nn.functional.linear`.

    Args:
        x: (N, in).
        weight: (out, in).
        bias: (out,) or None.

    Example:
        >>> dense(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[11.]])
    """
    if (
        torch.compiler.is_compiling()
        or x.dim() != 2
        or x.size(0) * weight.numel() < _LARGE
        or weight.size(0) % _LANES
        or x.size(1) != weight.size(1)
        or (bias is not None and bias.shape != weight.shape[:1])
        or not x.dtype == weight.dtype == torch.float32
        or torch.is_autocast_enabled(x.device.type)
        or choose_backend(x.device, x.dtype) != "cpu"
        or not kernel("cpu", "product_wins")()
    ):
        return functional.linear(x, weight, bias)
    if bias is None:
        return _PRODUCT(x, weight, "cpu")
    return _BIASED_PRODUCT(x, weight, bias, "cpu")
