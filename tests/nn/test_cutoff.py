import math

import pytest
import torch
from helpers import TOL
from torch.testing import assert_close

from pyg_schnet.nn import CosineCutoff, HardCutoff, NoCutoff, cutoff_function

CUTOFF = 4.5


def test_cosine_matches_the_formula_in_its_docstring(dtype):
    d = torch.linspace(0.0, 3 * CUTOFF, 50, dtype=dtype)
    want = [0.5 * (math.cos(math.pi * v / CUTOFF) + 1) if v < CUTOFF else 0.0 for v in d.tolist()]
    assert_close(CosineCutoff(CUTOFF)(d), torch.tensor(want, dtype=dtype), **TOL[dtype])


def test_hard_matches_the_formula_in_its_docstring(dtype):
    d = torch.linspace(0.0, 3 * CUTOFF, 50, dtype=dtype)
    want = torch.tensor([1.0 if v < CUTOFF else 0.0 for v in d.tolist()], dtype=dtype)
    assert torch.equal(HardCutoff(CUTOFF)(d), want)


def test_none_is_one_everywhere(dtype):
    d = torch.tensor([0.0, 1e6], dtype=dtype)
    assert torch.equal(NoCutoff()(d), torch.ones(2, dtype=dtype))


@pytest.mark.parametrize("function", [CosineCutoff(CUTOFF), HardCutoff(CUTOFF)])
def test_weight_is_exactly_zero_at_and_beyond_the_cutoff(function, dtype):
    d = torch.tensor([CUTOFF, 1.5 * CUTOFF, 2 * CUTOFF, 100.0], dtype=dtype)
    assert torch.equal(function(d), torch.zeros_like(d))


def test_cosine_has_no_slope_at_and_beyond_the_cutoff():
    d = torch.tensor([CUTOFF - 1e-7, CUTOFF, 1.5 * CUTOFF], dtype=torch.float64)
    d.requires_grad_(True)
    (slope,) = torch.autograd.grad(CosineCutoff(CUTOFF)(d).sum(), d)
    assert_close(slope, torch.zeros_like(d), rtol=0, atol=1e-6)
    assert float(slope[2]) == 0.0


def test_first_and_second_derivatives():
    d = torch.tensor([0.1, 2.0, 4.4, 6.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(CosineCutoff(CUTOFF), d)
    assert torch.autograd.gradgradcheck(CosineCutoff(CUTOFF), d)


@pytest.mark.parametrize(
    ("name", "kind"), [("cosine", CosineCutoff), ("hard", HardCutoff), ("none", NoCutoff)]
)
def test_functions_are_found_by_name(name, kind):
    assert type(cutoff_function(name, CUTOFF)) is kind


def test_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="'cosine', 'hard' or 'none', got 'mollifier'"):
        cutoff_function("mollifier", CUTOFF)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("kind", [CosineCutoff, HardCutoff])
def test_refuses_a_cutoff_that_is_no_distance(kind, cutoff):
    with pytest.raises(ValueError, match="cutoff must be a positive, finite distance"):
        kind(cutoff)


def test_repr_names_the_cutoff():
    assert repr(HardCutoff(5.0)) == "HardCutoff(cutoff=5)"
