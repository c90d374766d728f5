"""Shifted softplus as an operator, with derivatives of any order in one pass each."""

from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.backends import choose_backend
from pyg_schnet.ops.library import Operator


def _ssp_backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None]:
    x, backend = ctx.inputs
    if gradient is None:
        return (None,)
    return (_SSP_GRAD(gradient, x, 1, backend),)


def _ssp_grad_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    g, x, order, backend = ctx.inputs
    if u is None:
        return None, None
    by_g = _SSP_GRAD(u, x, order, backend) if ctx.needed[0] else None
    by_x = _SSP_GRAD(u * g, x, order + 1, backend) if ctx.needed[1] else None
    return by_g, by_x


_SSP = Operator(
    "ssp(Tensor x, str backend) -> Tensor", lambda x, backend: torch.empty_like(x), _ssp_backward, 1
)
_SSP_GRAD = Operator(
    "ssp_grad(Tensor g, Tensor x, int order, str backend) -> Tensor",
    lambda g, x, order, backend: torch.empty_like(x),
    _ssp_grad_backward,
    2,
)


def ssp(x: Tensor, backend: str = "auto") -> Tensor:
    r"""Shifted softplus of each element.

    .. math::
        \mathrm{ssp}(x) = \ln\left(\tfrac{1}{2} e^{x} + \tfrac{1}{2}\right)

    Schütt et al., NeurIPS 2017, section 4.1. Like torch's softplus it is the identity (minus ln 2)
    above 20.

    Args:
        x: Any shape, floating point.
        backend: See :func:`pyg_schnet.ops.choose_backend`.

    Example:
        >>> ssp(torch.zeros(2))
        tensor([0., 0.])
    """
    return _SSP(x, choose_backend(x.device, x.dtype, backend))


def ssp_slope(x: Tensor, backend: str = "auto") -> Tensor:
    r"""The derivative of shifted softplus, the logistic function of x.

    Args:
        x: Any shape, floating point.
        backend: See :func:`pyg_schnet.ops.choose_backend`.

    Example:
        >>> ssp_slope(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """
    return _SSP_GRAD(torch.ones_like(x), x, 1, choose_backend(x.device, x.dtype, backend))
