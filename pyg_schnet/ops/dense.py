"""Dense layers by the faster of the two libraries that torch carries on the CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pyg_schnet.ops.library import Operator

# Multiply-adds from which oneDNN pays: it uses the widest registers on processors of any maker (MKL
# on AMD's does not), but a call costs 10 µs more.
_LARGE = 2**22


def _product_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    a, b, _ = ctx.inputs
    if u is None:
        return None, None
    by_a = _matmul(u, b.t()) if ctx.needed[0] else None
    by_b = _matmul(u.t(), a.t()) if ctx.needed[1] else None
    return by_a, by_b


_PRODUCT = Operator(
    "product(Tensor a, Tensor b, str backend) -> Tensor",
    lambda a, b, backend: a.new_empty(a.size(0), b.size(0)),
    _product_backward,
    2,
)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T``, (n, m) from (n, k) and (m, k)."""
    if a.size(0) * a.size(1) * b.size(0) < _LARGE:
        return a @ b.t()
    return _PRODUCT(a, b, "cpu")


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
    large = x.dim() == 2 and x.size(0) * weight.numel() >= _LARGE
    if (
        torch.compiler.is_compiling()
        or not large
        or x.device.type != "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or not _has_onednn()
    ):
        return functional.linear(x, weight, bias)
    out = _PRODUCT(x, weight, "cpu")
    return out if bias is None else out + bias


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    )
