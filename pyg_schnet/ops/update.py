"""What follows the convolution of an interaction block: dense, shifted softplus, dense."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pyg_schnet.ops.activation import ssp, ssp_slope
from pyg_schnet.ops.backends import choose_backend, kernel
from pyg_schnet.ops.library import Operator

_LANES = {torch.float32: 16, torch.float64: 8}


def _update_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, ...]:
    y, w1, b1, w2, b2, backend = ctx.inputs
    if u is None:
        return (None,) * 5
    if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        wants_weights = any(ctx.needed[1:])
        made = kernel(backend, "update_backward")(u, y, w1, b1, w2, wants_weights)
        return tuple(g if need else None for g, need in zip(made, ctx.needed, strict=True))
    # To be differentiated again.
    inner = functional.linear(y, w1, b1)
    back = (u @ w2) * ssp_slope(inner)
    return back @ w1, back.t() @ y, back.sum(0), u.t() @ ssp(inner), u.sum(0)


_UPDATE = Operator(
    "update(Tensor y, Tensor w1, Tensor b1, Tensor w2, Tensor b2, str backend) -> Tensor",
    lambda y, w1, b1, w2, b2, backend: y.new_empty(y.size(0), w2.size(0)),
    _update_backward,
    5,
)


def update(y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    r"""Two dense layers with a shifted softplus between them.

    .. math::
        W_2\,\mathrm{ssp}(W_1 y + b_1) + b_2

    Schütt et al., NeurIPS 2017, figure 2 (middle).

    Args:
        y: (N, F).
        w1: (H, F).
        b1: (H,).
        w2: (C, H).
        b2: (C,).

    Returns:
        (N, C).

    Example:
        >>> w, b = torch.eye(2), torch.zeros(2)
        >>> update(torch.zeros(3, 2), w, b, w, b).shape
        torch.Size([3, 2])
    """
    lanes = _LANES.get(y.dtype, 0)
    if (
        not lanes
        or y.size(1) % lanes
        or w1.size(0) % lanes
        or w2.size(0) % lanes
        or not y.dtype == w1.dtype == b1.dtype == w2.dtype == b2.dtype
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled(y.device.type)
        or choose_backend(y.device, y.dtype) != "cpu"
        or not kernel("cpu", "product_wins")()
    ):
        return functional.linear(ssp(functional.linear(y, w1, b1)), w2, b2)
    return _UPDATE(y, w1, b1, w2, b2, "cpu")
