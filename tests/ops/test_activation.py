"""Shifted softplus on every backend: extreme values and derivatives of any order."""

import math

import pytest
import torch
from ops.test_form import BACKENDS
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from pyg_schnet.ops import ssp
from pyg_schnet.ops.backends import kernel

EXTREME = [-1e4, -745.0, -104.0, -88.0, -30.0, -17.0, -1e-3, 1e-3, 1.0, 19.9, 20.0]
ABOVE = [20.1, 88.0, 710.0, 1e4]
TINY = [1e-30, -1e-30, 1e-38, -1e-8, 1e-8]
pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def test_equals_softplus_minus_ln_2_at_extreme_values(backend, dtype):
    x = torch.tensor(EXTREME + ABOVE + TINY, dtype=dtype)
    want = functional.softplus(x.double()) - math.log(2.0)
    tolerance = 2e-7 if dtype == torch.float32 else 1e-15
    assert_close(ssp(x, backend).double(), want, rtol=tolerance, atol=tolerance)


def test_is_zero_at_zero_to_the_bit(backend, dtype):
    zeros = torch.tensor([0.0, -0.0] * 20, dtype=dtype)
    assert not ssp(zeros, backend).any()


def test_is_the_identity_minus_ln_2_above_20(backend, dtype):
    x = torch.tensor(ABOVE, dtype=dtype)
    assert_close(ssp(x, backend), x - math.log(2.0), rtol=1e-7, atol=0)
    for order in range(1, 6):
        want = torch.full_like(x, float(order == 1))
        assert torch.equal(kernel(backend, "ssp_grad")(torch.ones_like(x), x, order), want)


def test_nan_and_infinity(backend, dtype):
    x = torch.tensor([torch.nan, torch.inf, -torch.inf] + [1.0] * 20, dtype=dtype)
    y = ssp(x, backend)
    assert y[0].isnan() and y[1] == torch.inf
    assert_close(float(y[2]), -math.log(2.0), rtol=1e-6, atol=0)
    assert y[3:].isfinite().all()
    for order in range(1, 6):
        slope = kernel(backend, "ssp_grad")(torch.ones_like(x), x, order)
        assert slope[0].isnan()
        assert slope[1] == float(order == 1) and slope[2].abs() < 1e-30
        assert slope[3:].isfinite().all()


@pytest.mark.parametrize("count", [0, 1, 7, 16, 33, 100_000])
def test_any_number_of_elements_shape_and_layout(backend, count, dtype):
    x = torch.randn(count, 2, 3, dtype=dtype)
    want = functional.softplus(x) - math.log(2.0)
    for view in (x, x.transpose(0, 2), x[:, 0]):
        assert ssp(view, backend).shape == view.shape
    assert_close(ssp(x, backend), want, rtol=1e-6, atol=1e-6)
    assert_close(ssp(x.transpose(0, 2), backend), want.transpose(0, 2), rtol=1e-6, atol=1e-6)
    assert_close(ssp(x[:, 0], backend), want[:, 0], rtol=1e-6, atol=1e-6)


def softplus_derivatives(x: Tensor, highest: int) -> list[Tensor]:
    """By automatic differentiation of ln(1 + e^x) written out, in float64."""
    x = x.double().requires_grad_()
    value = torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)
    found = []
    for _ in range(highest):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        found.append(value.detach())
    return found


def test_derivatives_up_to_the_fifth(backend, dtype):
    x = torch.cat([torch.linspace(-19.0, 19.0, 78), torch.tensor([-80.0])]).to(dtype)
    x = x[x != 0].requires_grad_()
    value = ssp(x, backend)
    for want in softplus_derivatives(x.detach(), 5):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        tolerance = 5e-6 if dtype == torch.float32 else 1e-12
        assert_close(value.double(), want, rtol=0, atol=tolerance)


def test_automatic_and_finite_differences_agree(backend):
    x = torch.tensor([[-3.0, -0.2, 0.0], [0.4, 5.0, 30.0]], dtype=torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ssp(x, backend), (x,))
    assert torch.autograd.gradgradcheck(lambda x: ssp(x, backend), (x,))


def test_repeats_are_equal_to_the_bit_and_threads_change_rounding_only(backend, dtype):
    x = torch.randn(70_000, dtype=dtype)
    one = ssp(x, backend)
    torch.set_num_threads(2)
    try:
        two = ssp(x, backend)
        assert torch.equal(ssp(x, backend), two)
    finally:
        torch.set_num_threads(1)
    assert_close(two, one, rtol=1e-6, atol=1e-7)


def test_half_precision(backend):
    x = torch.tensor([-1.0, 0.0, 2.0])
    for dtype in (torch.float16, torch.bfloat16):
        if backend == "cpu":
            with pytest.raises(ValueError, match=f"float32 and float64, not {dtype}"):
                ssp(x.to(dtype), backend)
            continue
        got = ssp(x.to(dtype), backend)
        assert got.dtype == dtype
        assert_close(got.float(), ssp(x), rtol=0.02, atol=0.02)
    assert ssp(x.half()).dtype == torch.float16
