"""The operators written in plain torch: any device, any dtype, the truth the others are held to."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from pyg_schnet.ops.spline import DEGREE, PREFILTER, REACH, ROWS, basis_polynomials

OPEN_B, OPEN_X, OPEN_Y, OPEN_W = 1, 2, 4, 8


def form(
    b: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor,
    knot: Tensor,
    edge_index: Tensor,
    in_ptr: Tensor,
    in_order: Tensor,
    out_ptr: Tensor,
    out_order: Tensor,
    blocks: Tensor,
    num_knots: int,
    opened: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The open slots of the form; see :mod:`pyg_schnet.ops.cfconv`.

    Where there are ``blocks``, each edge stands for both of its directions.
    """
    none = b.new_empty(0)
    source, target = edge_index[0], edge_index[1]
    both = blocks.numel() > 0
    sources, targets = out_ptr.numel() - 1, in_ptr.numel() - 1
    out_b = out_x = out_y = out_w = none
    if opened & (OPEN_X | OPEN_Y):
        filters = edge_filters(b, w, knot)  # [E, F]
        if opened & OPEN_Y:
            out_y = sum_rows(filters * x.index_select(0, source), target, targets)
            if both:
                out_y = out_y + sum_rows(filters * x.index_select(0, target), source, targets)
        if opened & OPEN_X:
            out_x = sum_rows(filters * y.index_select(0, target), source, sources)
            if both:
                out_x = out_x + sum_rows(filters * y.index_select(0, source), target, sources)
    if opened & (OPEN_B | OPEN_W):
        product = x.index_select(0, source) * y.index_select(0, target)  # [E, F]
        if both:
            product = product + x.index_select(0, target) * y.index_select(0, source)
        if opened & OPEN_B:
            rows = [w.index_select(0, knot + m) for m in range(b.size(1))] if num_knots else [w]
            out_b = torch.stack([(product * row).sum(1) for row in rows], 1)
        if opened & OPEN_W and num_knots:
            out_w = b.new_zeros(num_knots, product.size(1))
            for m in range(b.size(1)):
                out_w = out_w.index_add(0, knot + m, b[:, m : m + 1] * product)
        elif opened & OPEN_W:
            out_w = b * product
    return out_b, out_x, out_y, out_w


def edge_filters(b: Tensor, w: Tensor, knot: Tensor) -> Tensor:
    """The filter of each edge with its weight, (E, F)."""
    if b.size(1) == 1:
        return b * w
    out = b[:, :1] * w.index_select(0, knot)
    for m in range(1, b.size(1)):
        out = out + b[:, m : m + 1] * w.index_select(0, knot + m)
    return out


def sum_rows(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """Sum of the rows of ``values`` with the same index, (rows, F)."""
    return values.new_zeros(rows, values.size(1)).index_add(0, index, values)


def csr(index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Where the entries of each row begin, (rows + 1,), and their order, (E,).

    Raises:
        IndexError: If an index is negative or not below ``rows``; on CUDA torch stops the process.
    """
    order = torch.argsort(index, stable=True)
    try:
        counts = index.new_zeros(rows).index_add(0, index, torch.ones_like(index))
    except (IndexError, RuntimeError) as error:
        raise IndexError(
            f"edge_index must hold node numbers from 0 to {rows - 1}, got "
            f"{int(index.min())} to {int(index.max())}."
        ) from error
    return functional.pad(counts.cumsum(0), (1, 0)), order


def spline(c: Tensor, d: Tensor, order: int, step: float, intervals: int) -> Tensor:
    """Weights of the six table rows of each distance; see :func:`pyg_schnet.ops.spline_weights`."""
    return c.unsqueeze(1) * _basis(d, order, step, intervals)


def spline_dot(g: Tensor, d: Tensor, order: int, step: float, intervals: int) -> Tensor:
    """Sum over the six rows of ``g`` times the basis functions, (E,)."""
    return (g * _basis(d, order, step, intervals)).sum(1)


def knots(d: Tensor, step: float, intervals: int) -> Tensor:
    """First table row of each distance, (E,) int32."""
    return _knots(d, step, intervals).to(torch.int32)


def _knots(d: Tensor, step: float, intervals: int) -> Tensor:
    return torch.floor(d.detach() * (1.0 / step)).nan_to_num(0.0).clamp(0, intervals - 1)


def _basis(d: Tensor, order: int, step: float, intervals: int) -> Tensor:
    if order > DEGREE:
        return d.new_zeros(d.numel(), ROWS)
    t = (d - _knots(d, step, intervals) * step) * (1.0 / step)
    beyond = t > 1
    t = torch.where(beyond, torch.ones_like(t), t).unsqueeze(1)
    polynomials = torch.tensor(basis_polynomials(order), dtype=d.dtype, device=d.device)
    values = polynomials[:, DEGREE].expand(d.numel(), ROWS)
    for q in range(DEGREE - 1, -1, -1):
        values = values * t + polynomials[:, q]
    if order:
        values = torch.where(beyond.unsqueeze(1), torch.zeros_like(values), values)
    return values * (1.0 / step) ** order


def prefilter(values: Tensor, transposed: bool) -> Tensor:
    """Knot values (..., K + 8, F) to coefficients (..., K, F), or its transpose back."""
    if transposed:
        values = functional.pad(values, (0, 0, 2 * REACH, 2 * REACH))
    length = values.size(-2) - 2 * REACH
    out = PREFILTER[0] * values.narrow(-2, REACH, length)
    for r in range(1, REACH + 1):
        pair = values.narrow(-2, REACH - r, length) + values.narrow(-2, REACH + r, length)
        out = out + PREFILTER[r] * pair
    return out


def ssp(x: Tensor) -> Tensor:
    """Shifted softplus."""
    return functional.softplus(x) - math.log(2.0)


def ssp_grad(g: Tensor, x: Tensor, order: int) -> Tensor:
    """``g`` times the derivative of shifted softplus of an order from 1 on."""
    s = torch.sigmoid(x)
    # d/dx of a polynomial in s is that polynomial's derivative in s, times s (1 - s).
    polynomial = [0.0, 1.0]
    for _ in range(order - 1):
        slope = [q * a for q, a in enumerate(polynomial)][1:]
        polynomial = [0.0] * (len(slope) + 2)
        for q, a in enumerate(slope):
            polynomial[q + 1] += a
            polynomial[q + 2] -= a
    value = torch.zeros_like(s)
    for a in reversed(polynomial):
        value = value * s + a
    # torch's softplus is the identity above 20.
    above = 1.0 if order == 1 else 0.0
    return g * torch.where(x > 20, torch.full_like(value, above), value)


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T``."""
    return a @ b.t()


def biased_product(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """``a @ b.T + bias``."""
    return functional.linear(a, b, bias)


def update(y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """``ssp(y @ w1.T + b1) @ w2.T + b2``."""
    return functional.linear(ssp(functional.linear(y, w1, b1)), w2, b2)


def edge_difference(pos: Tensor, edge_index: Tensor, *order: Tensor) -> Tensor:
    """``pos[source] - pos[target]``, (E, 3)."""
    return pos.index_select(0, edge_index[0]) - pos.index_select(0, edge_index[1])


def edge_divergence(
    v: Tensor,
    edge_index: Tensor,
    in_ptr: Tensor,
    in_order: Tensor,
    out_ptr: Tensor,
    out_order: Tensor,
) -> Tensor:
    """The transpose of :func:`edge_difference`, (N, 3)."""
    rows = in_ptr.numel() - 1
    return sum_rows(v, edge_index[0], rows) - sum_rows(v, edge_index[1], rows)
