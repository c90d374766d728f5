import math

import torch
from helpers import TOL
from torch.testing import assert_close

from pyg_schnet.nn import ShiftedSoftplus


def test_matches_the_formula_in_its_docstring(dtype):
    x = torch.linspace(-30.0, 19.0, 99, dtype=dtype)
    want = [math.log(0.5 * math.exp(v) + 0.5) for v in x.tolist()]
    assert_close(ShiftedSoftplus()(x), torch.tensor(want, dtype=dtype), **TOL[dtype])


def test_is_zero_at_zero_with_slope_one_half():
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    y = ShiftedSoftplus()(x)
    assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-16)
    assert_close(torch.autograd.grad(y.sum(), x)[0], torch.full_like(y, 0.5))


def test_identity_above_twenty_is_off_by_less_than_stated():
    x = torch.linspace(20.0, 700.0, 2000, dtype=torch.float64)
    exact = torch.logaddexp(x, torch.zeros_like(x)) - math.log(2.0)
    assert (ShiftedSoftplus()(x) - exact).abs().max() < 2.1e-9


def test_first_and_second_derivatives():
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ShiftedSoftplus(), x)
    assert torch.autograd.gradgradcheck(ShiftedSoftplus(), x)
