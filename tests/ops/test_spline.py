"""The quintic B-spline against scipy, and how its errors fall."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyg_schnet.ops import Grid, spline_weights, table_coefficients
from pyg_schnet.ops.spline import ROWS, STEP_UNIT, basis_polynomials

BSpline = pytest.importorskip("scipy.interpolate").BSpline
# The six pieces of one basis function lie on the knots -m .. 6 - m, seen from the interval 0 .. 1.
PLACES = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)


def value(powers: tuple[float, ...], t: float) -> float:
    return sum(a * t**q for q, a in enumerate(powers))


@pytest.mark.parametrize("order", range(6))
def test_basis_functions_are_those_of_scipy(order):
    for m, powers in enumerate(basis_polynomials(order)):
        element = BSpline.basis_element([j + m - 5 for j in range(7)], extrapolate=False)
        for t in PLACES[:-1].tolist():
            want = float(element.derivative(order)(t)) if order else float(element(t))
            assert value(powers, t) == pytest.approx(0.0 if math.isnan(want) else want, abs=1e-12)


def test_basis_functions_sum_to_one_and_their_derivatives_to_zero():
    for order in range(6):
        for t in PLACES.tolist():
            total = sum(value(powers, t) for powers in basis_polynomials(order))
            assert total == pytest.approx(float(order == 0), abs=1e-12)


def test_sixth_derivative_is_zero():
    assert basis_polynomials(6) == ((0.0,) * ROWS,) * ROWS


@pytest.mark.parametrize("order", range(5))
def test_each_derivative_is_the_slope_of_the_one_before(order):
    step = 1e-5
    for powers, slopes in zip(basis_polynomials(order), basis_polynomials(order + 1)):
        for t in (0.2, 0.7):
            rise = value(powers, t + step) - value(powers, t - step)
            assert rise / (2 * step) == pytest.approx(value(slopes, t), abs=1e-8)


def interpolated(function, grid: Grid, d: torch.Tensor, order: int = 0) -> torch.Tensor:
    coefficients = table_coefficients(function(grid.samples()).view(-1, 1))
    knot, weights = spline_weights(torch.ones_like(d), d, grid, order=order)
    rows = knot.long().view(-1, 1) + torch.arange(ROWS)
    return (weights * coefficients[rows, 0]).sum(1)


def test_polynomials_are_reproduced():
    """Up to degree five by a quintic spline; the nine taps are exact up to degree nine."""
    grid, d = Grid.covering(2.0, 0.25), torch.linspace(0, 2, 37, dtype=torch.float64)
    for degree in range(6):
        got = interpolated(lambda x, q=degree: x**q, grid, d)
        assert_close(got, d**degree, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("order", "power"), [(0, 6), (1, 5), (2, 4), (3, 3)])
def test_errors_fall_with_the_power_of_the_step_that_the_degree_promises(order, power):
    d = torch.linspace(0.0, 3.0, 997, dtype=torch.float64)
    want = torch.sin(2 * d + order * math.pi / 2) * 2.0**order
    errors = []
    for step in (0.25, 0.125, 0.0625):
        got = interpolated(lambda x: torch.sin(2 * x), Grid.covering(3.0, step), d, order)
        errors.append(float((got - want).abs().max()))
    for coarse, fine in zip(errors, errors[1:]):
        assert power - 0.35 < math.log2(coarse / fine) < power + 0.6


def test_coefficients_and_their_gradient_are_linear_and_local():
    grid = Grid.covering(1.0, 0.125)
    values = torch.randn(2, grid.num_knots + 8, 3, dtype=torch.float64, requires_grad=True)
    coefficients = table_coefficients(values)
    assert coefficients.shape == (2, grid.num_knots, 3)
    assert torch.autograd.gradcheck(table_coefficients, (values,))
    assert torch.autograd.gradgradcheck(table_coefficients, (values,))
    (slope,) = torch.autograd.grad(coefficients[0, 5, 1], values)
    touched = slope.nonzero()
    assert touched[:, 1].tolist() == list(range(5, 14))
    assert set(touched[:, 0].tolist()) == {0} and set(touched[:, 2].tolist()) == {1}


def test_coefficients_invert_the_spline_at_the_knots_up_to_high_order():
    """Sampled splines against (C[-2] + 26 C[-1] + 66 C[0] + 26 C[1] + C[2]) / 120."""
    grid = Grid.covering(2.0, 0.125)
    x = grid.samples()
    wave = torch.cos(1.5 * x).view(-1, 1)
    c = table_coefficients(wave)[:, 0]
    sampled = (c[:-4] + 26 * c[1:-3] + 66 * c[2:-2] + 26 * c[3:-1] + c[4:]) / 120
    # Sample k of the grid, at (k - 6) h, is the centre of coefficient k - 4.
    assert_close(sampled, wave[6:-6, 0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("step", [0.03, 0.1, 1.0, 2.0**-14])
@pytest.mark.parametrize("end", [0.7, 5.0])
def test_a_grid_covers_its_range_with_steps_exact_in_float32(step, end):
    grid = Grid.covering(end, step)
    assert end <= grid.end < end + grid.step
    assert step - STEP_UNIT < grid.step <= step
    assert grid.step / STEP_UNIT == int(grid.step / STEP_UNIT)
    for k in (1, grid.intervals // 2, grid.intervals):
        assert float(torch.tensor(grid.step) * k) == grid.step * k
    samples = grid.samples()
    assert samples.numel() == grid.num_knots + 8 and samples.dtype == torch.float64
    assert float(samples[6]) == 0.0
    assert float(samples[-7]) == grid.end


@pytest.mark.parametrize(
    ("end", "step"),
    [(5.0, 1e-5), (5.0, 0.0), (5.0, -0.1), (0.0, 0.1), (-1.0, 0.1), (math.nan, 0.1)],
)
def test_refuses_grids_without_extent_or_with_too_small_a_step(end, step):
    with pytest.raises(ValueError, match=r"A grid needs step >= 2\^-14 Å and end > 0, got"):
        Grid.covering(end, step)
