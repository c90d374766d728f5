import math

import pytest
import torch
from helpers import TOL
from torch.testing import assert_close
from torch_geometric.nn.models.schnet import GaussianSmearing as PyGGaussianSmearing

from pyg_schnet.nn import GaussianSmearing


def test_matches_the_formula_in_its_docstring(dtype):
    start, stop, num, gamma = 0.5, 4.1, 7, 3.3
    d = torch.tensor([0.0, 0.7, 2.2, 4.1, 6.0], dtype=dtype)
    spacing = (stop - start) / (num - 1)
    want = [
        [math.exp(-gamma * (v - start - k * spacing) ** 2) for k in range(num)] for v in d.tolist()
    ]
    got = GaussianSmearing(start, stop, num, gamma)(d)
    assert_close(got, torch.tensor(want, dtype=dtype), **TOL[dtype])


def test_default_width_is_that_of_pyg():
    d = torch.rand(9) * 6
    assert_close(GaussianSmearing(0.0, 5.0, 20)(d), PyGGaussianSmearing(0.0, 5.0, 20)(d))


@pytest.mark.parametrize(
    ("stop", "spacing", "count"),
    [(20.0, 0.1, 200), (30.0, 0.1, 300), (5.05, 0.1, 51), (0.3, 0.1, 3)],
)
def test_grid_of_the_papers_has_the_count_of_the_authors_code(stop, spacing, count):
    basis = GaussianSmearing.from_spacing(stop, spacing, gamma=10.0)
    assert basis.offset.numel() == count
    assert float(basis.offset[0]) == 0.0
    assert float(basis.offset[-1]) == stop
    assert float(basis.gamma) == 10.0


def test_grid_stays_exact_when_the_model_goes_to_float32_and_back():
    basis = GaussianSmearing(0.0, 5.0, 50, gamma=1 / 3)
    d = torch.rand(5, dtype=torch.float64)
    before = basis(d)
    cast = basis.float().half().double()
    assert torch.equal(cast(d), before)


def test_first_and_second_derivatives():
    d = torch.tensor([0.3, 1.9, 5.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(GaussianSmearing(0.0, 5.0, 4), d)
    assert torch.autograd.gradgradcheck(GaussianSmearing(0.0, 5.0, 4), d)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_gaussians": 1}, "num_gaussians must be at least 2.*got 1"),
        ({"start": 5.0, "stop": 5.0}, "start < stop"),
        ({"stop": math.inf}, "finite"),
        ({"gamma": 0.0}, "gamma must be positive.*got 0.0"),
        ({"gamma": math.nan}, "gamma must be positive"),
    ],
)
def test_refuses_what_is_no_grid(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        GaussianSmearing(**arguments)


def test_refuses_a_spacing_that_is_not_positive():
    with pytest.raises(ValueError, match="spacing must be positive"):
        GaussianSmearing.from_spacing(5.0, 0.0)


def test_repr_names_the_grid():
    assert repr(GaussianSmearing(0.0, 5.0, 6)) == (
        "GaussianSmearing(0..5, num_gaussians=6, gamma=0.5)"
    )
