"""From positions to what the convolution needs of an edge: its vector, and its spline weights."""

from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.backends import choose_backend
from pyg_schnet.ops.cfconv import Graph
from pyg_schnet.ops.library import Operator
from pyg_schnet.ops.spline import ROWS, Grid


def _spline_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    c, d, order, step, intervals, backend = ctx.inputs
    if u is None:
        return None, None
    rest = (step, intervals, backend)
    by_c = _SPLINE_DOT(u, d, order, *rest) if ctx.needed[0] else None
    by_d = c * _SPLINE_DOT(u, d, order + 1, *rest) if ctx.needed[1] else None
    return by_c, by_d


def _spline_dot_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    g, d, order, step, intervals, backend = ctx.inputs
    if u is None:
        return None, None
    rest = (step, intervals, backend)
    by_g = _SPLINE(u, d, order, *rest) if ctx.needed[0] else None
    by_d = u * _SPLINE_DOT(g, d, order + 1, *rest) if ctx.needed[1] else None
    return by_g, by_d


_SPLINE = Operator(
    "spline(Tensor c, Tensor d, int order, float step, int intervals, str backend) -> Tensor",
    lambda c, d, order, step, intervals, backend: d.new_empty(d.size(0), ROWS),
    _spline_backward,
    2,
)
_SPLINE_DOT = Operator(
    "spline_dot(Tensor g, Tensor d, int order, float step, int intervals, str backend) -> Tensor",
    lambda g, d, order, step, intervals, backend: torch.empty_like(d),
    _spline_dot_backward,
    2,
)
_KNOTS = Operator(
    "knots(Tensor d, float step, int intervals, str backend) -> Tensor",
    lambda d, step, intervals, backend: torch.empty_like(d, dtype=torch.int32),
)


def spline_weights(
    c: Tensor, d: Tensor, grid: Grid, backend: str = "auto", *, order: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Which six rows of a table each distance reads, and with what weights.

    .. math::
        k_e = \lfloor d_e / h \rfloor, \qquad b_{em} = c_e\, B^{(p)}_m(d_e / h - k_e)

    Beyond the end of the grid the spline goes on as a constant.

    Args:
        c: A factor for each edge, (E,), such as the cutoff function of d.
        d: Distances (E,), Å, not negative.
        grid: Of the table.
        backend: See :func:`pyg_schnet.ops.choose_backend`.
        order: p, the derivative in d that the weights shall give.

    Returns:
        k (E,) int32, and b (E, 6), differentiable in c and d to any order.

    Raises:
        ValueError: If ``c`` and ``d`` are not one number each for an edge.

    Example:
        >>> k, b = spline_weights(torch.ones(2), torch.tensor([0.0, 1.3]), Grid.covering(5.0, 0.25))
        >>> k.tolist(), b.sum(1)
        ([0, 5], tensor([1., 1.]))
    """
    if d.dim() != 1 or c.shape != d.shape:
        raise ValueError(
            f"c and d must both have shape (E,), got {tuple(c.shape)} and {tuple(d.shape)}."
        )
    name = choose_backend(d.device, d.dtype, backend)
    c = c.to(d.dtype)
    knot = _KNOTS(d.detach(), grid.step, grid.intervals, name)
    return knot, _SPLINE(c, d, order, grid.step, grid.intervals, name)


def _difference_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None]:
    if u is None:
        return (None,)
    _, *rest = ctx.inputs
    return (_DIVERGENCE(u, *rest),)


def _divergence_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None]:
    if u is None:
        return (None,)
    _, *rest = ctx.inputs
    return (_DIFFERENCE(u, *rest),)


_GRAPH = "Tensor edge_index, Tensor in_ptr, Tensor in_order, Tensor out_ptr, Tensor out_order"
_DIFFERENCE = Operator(
    f"edge_difference(Tensor pos, {_GRAPH}, str backend) -> Tensor",
    lambda pos, edge_index, *rest: pos.new_empty(edge_index.size(1), pos.size(1)),
    _difference_backward,
    1,
)
_DIVERGENCE = Operator(
    f"edge_divergence(Tensor v, {_GRAPH}, str backend) -> Tensor",
    lambda v, edge_index, in_ptr, *rest: v.new_empty(in_ptr.size(0) - 1, v.size(1)),
    _divergence_backward,
    1,
)


def edge_difference(pos: Tensor, graph: Graph) -> Tensor:
    r"""Position of the source minus that of the target, :math:`r_j - r_i`, (E, 3).

    The gradient sums by node without atomics, in an order that is always the same.

    Args:
        pos: (N, 3), Å.
        graph: The edges among the N nodes.

    Raises:
        ValueError: If ``pos`` has another shape.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]])
        >>> edge_difference(pos, Graph.of(torch.tensor([[1], [0]]), 2))
        tensor([[0.0000, 0.0000, 1.5000]])
    """
    nodes = graph.in_ptr.size(0) - 1
    if pos.dim() != 2 or pos.size(0) != nodes or pos.size(1) != 3:
        raise ValueError(
            f"pos must have shape ({nodes}, 3), one row for each node of the graph, got "
            f"{tuple(pos.shape)}."
        )
    return _DIFFERENCE(pos, graph.edge_index, *graph.order, graph.backend)
