"""Knots and weights of distances on every backend, and their derivatives."""

import pytest
import torch
from ops.test_form import BACKENDS
from torch import Tensor
from torch.testing import assert_close

from pyg_schnet.ops import Grid, spline_weights
from pyg_schnet.ops.backends import kernel
from pyg_schnet.ops.spline import DEGREE, ROWS, basis_polynomials

GRID = Grid.covering(3.0, 0.21)
INSIDE = torch.linspace(0.0, GRID.end, 61, dtype=torch.float64)[:-1]


def weights_by_hand(d: float, order: int) -> tuple[int, list[float]]:
    knot = int(d / GRID.step)
    t = d / GRID.step - knot
    scale = GRID.step**-order
    rows = basis_polynomials(order)
    return knot, [scale * sum(a * t**q for q, a in enumerate(row)) for row in rows]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", range(6))
def test_knots_and_weights_inside_the_grid(backend, order, dtype):
    d = INSIDE.to(dtype)
    scale = torch.rand(d.numel(), dtype=dtype)
    knot, weights = spline_weights(scale, d, GRID, backend, order=order)
    assert knot.dtype == torch.int32 and weights.dtype == dtype
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    largest = float(torch.tensor(basis_polynomials(order)).abs().max()) / GRID.step**order
    for e, (distance, c) in enumerate(zip(d.tolist(), scale.tolist())):
        want_knot, want = weights_by_hand(distance, order)
        assert int(knot[e]) == want_knot
        assert_close(
            weights[e].double(),
            c * torch.tensor(want, dtype=torch.float64),
            rtol=0,
            atol=tolerance * largest,
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_at_both_ends_and_beyond(backend, dtype):
    d = torch.tensor([0.0, GRID.end, GRID.end + 1e-3, 1e3, torch.inf], dtype=dtype)
    one = torch.ones_like(d)
    knot, weights = spline_weights(one, d, GRID, backend)
    last = GRID.intervals - 1
    assert knot.tolist() == [0, last, last, last, last]
    first = torch.tensor([1, 26, 66, 26, 1, 0], dtype=dtype) / 120
    assert_close(weights[0], first)
    for row in weights[1:]:
        assert_close(row, first.flip(0))
    for order in range(1, 6):
        _, slopes = spline_weights(one, d, GRID, backend, order=order)
        assert not slopes[2:].any()
        if order < DEGREE:
            sign = (-1) ** order
            assert_close(slopes[1], sign * slopes[0].flip(0))
    _, none = spline_weights(one, d, GRID, backend, order=6)
    assert not none.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_reads_an_existing_row_and_stays_nan(backend, dtype):
    d = torch.tensor([0.3, torch.nan, 0.3], dtype=dtype)
    knot, weights = spline_weights(torch.ones_like(d), d, GRID, backend)
    assert knot.tolist() == [1, 0, 1]
    assert weights[1, :5].isnan().all()
    assert not weights[[0, 2]].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 9000])
def test_any_number_of_edges_and_any_layout_in_memory(backend, count):
    d = 3 * torch.rand(2, count, dtype=torch.float64)
    c = torch.rand(count, 2, dtype=torch.float64)
    knot, weights = spline_weights(c[:, 0], d[1], GRID, backend)
    assert knot.shape == (count,) and weights.shape == (count, ROWS)
    want = spline_weights(c[:, 0].contiguous(), d[1].contiguous(), GRID, "reference")
    assert torch.equal(knot, want[0])
    assert_close(weights, want[1], rtol=1e-12, atol=1e-14)
    torch.set_num_threads(2)
    try:
        again = spline_weights(c[:, 0], d[1], GRID, backend)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(again[0], knot) and torch.equal(again[1], weights)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_derivatives_in_the_factor_and_in_the_distance(backend, order):
    d = (INSIDE[1::7] + 0.01).requires_grad_()
    c = torch.rand(d.numel(), dtype=torch.float64, requires_grad=True)

    def weights(c: Tensor, d: Tensor) -> Tensor:
        return spline_weights(c, d, GRID, backend, order=order)[1]

    assert torch.autograd.gradcheck(weights, (c, d), atol=1e-4)
    assert torch.autograd.gradgradcheck(weights, (c, d), atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_of_a_table_up_to_the_sixth(backend):
    table = torch.randn(GRID.num_knots, dtype=torch.float64)
    d = (INSIDE[::7] + 0.013).requires_grad_()
    one = torch.ones_like(d)
    knot, weights = spline_weights(one, d, GRID, backend)
    rows = table[knot.long().view(-1, 1) + torch.arange(ROWS)]
    value = (weights * rows).sum(1)
    for order in range(1, 6):
        (value,) = torch.autograd.grad(value.sum(), d, create_graph=True)
        want = (spline_weights(one, d, GRID, "reference", order=order)[1] * rows).sum(1)
        assert_close(value, want, rtol=1e-9, atol=1e-6)
    if value.requires_grad:
        assert not torch.autograd.grad(value.sum(), d)[0].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_digits_of_a_distance_far_along_a_fine_grid_are_kept(backend):
    """t = d/h - k in float32 would lose three digits here; (d - k h)/h does not."""
    grid = Grid.covering(20.0, 0.004)
    d = torch.linspace(18.0, 19.9, 500)
    _, got = spline_weights(torch.ones_like(d), d, grid, backend)
    _, want = spline_weights(torch.ones_like(d).double(), d.double(), grid, "reference")
    assert_close(got.double(), want, rtol=0, atol=5e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_over_rows_are_the_transpose_of_the_weights(backend, dtype):
    d = 3.2 * torch.rand(53, dtype=dtype)
    c, g = torch.randn(53, dtype=dtype), torch.randn(53, ROWS, dtype=dtype)
    for order in range(7):
        arguments = (d, order, GRID.step, GRID.intervals)
        weights = kernel(backend, "spline")(c, *arguments)
        sums = kernel(backend, "spline_dot")(g, *arguments)
        assert_close((weights * g).sum(1), c * sums, rtol=1e-4, atol=1e-4 * GRID.step**-order)


def test_refuses_a_factor_for_another_number_of_edges():
    for c, d in ((torch.ones(3), torch.ones(4)), (torch.ones(3, 1), torch.ones(3, 1))):
        with pytest.raises(ValueError, match=r"c and d must both have shape \(E,\), got"):
            spline_weights(c, d, GRID)
