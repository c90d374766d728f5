"""Knot values of a table to the coefficients of its spline, as an operator."""

from typing import Any

from torch import Tensor

from pyg_schnet.ops.backends import choose_backend
from pyg_schnet.ops.library import Operator
from pyg_schnet.ops.spline import REACH


def _prefilter_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None]:
    values, transposed, backend = ctx.inputs
    return (None if u is None else _PREFILTER(u, not transposed, backend),)


def _prefilter_fake(values, transposed, backend):  # type: ignore[no-untyped-def]
    rows = values.size(-2) + (2 if transposed else -2) * REACH
    return values.new_empty(*values.shape[:-2], rows, values.size(-1))


_PREFILTER = Operator(
    "prefilter(Tensor values, bool transposed, str backend) -> Tensor",
    _prefilter_fake,
    _prefilter_backward,
    1,
)


def table_coefficients(values: Tensor, backend: str = "auto") -> Tensor:
    r"""Coefficients of the spline through (very nearly) the knot values.

    .. math::
        C_k = \sum_{r=-4}^{4} q_{|r|}\, v_{k+r}

    The nine taps q are the series of the inverse of the discrete B-spline: as good as
    interpolation, but local, and a transposed convolution is its exact gradient.

    Args:
        values: (..., K + 8, F), at :meth:`pyg_schnet.ops.Grid.samples`.
        backend: See :func:`pyg_schnet.ops.choose_backend`.

    Returns:
        (..., K, F).

    Example:
        >>> from pyg_schnet.ops import Grid
        >>> grid = Grid.covering(5.0, 0.25)
        >>> table_coefficients(grid.samples().view(-1, 1)).shape[0] == grid.num_knots
        True
    """
    return _PREFILTER(values, False, choose_backend(values.device, values.dtype, backend))
