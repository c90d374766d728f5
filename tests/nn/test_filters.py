import pytest
import torch
from helpers import TOL, dense, randomize, ssp
from torch.testing import assert_close

from pyg_schnet.nn import FilterNetwork


@pytest.mark.parametrize("activation", ["linear", "ssp"])
def test_matches_the_formula_in_its_docstring(activation, dtype):
    network = FilterNetwork(6, 5, activation).to(dtype)
    randomize(network)
    e = torch.randn(3, 6, dtype=dtype)
    want = []
    for row in e.tolist():
        out = dense(network[2], [ssp(v) for v in dense(network[0], row)])
        want.append([ssp(v) for v in out] if activation == "ssp" else out)
    assert_close(network(e), torch.tensor(want, dtype=dtype), **TOL[dtype])


@pytest.mark.parametrize("activation", ["linear", "ssp"])
def test_first_and_second_derivatives(activation):
    network = FilterNetwork(4, 3, activation).double()
    e = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, e)
    assert torch.autograd.gradgradcheck(network, e)


def test_reset_draws_new_weights_and_zero_biases():
    network = FilterNetwork(4, 3)
    randomize(network)
    old = network[0].weight.detach().clone()
    network.reset_parameters()
    assert not torch.equal(network[0].weight, old)
    assert not network[0].bias.any() and not network[2].bias.any()


def test_refuses_an_unknown_activation():
    with pytest.raises(ValueError, match="filter_activation must be 'linear' or 'ssp', got 'relu'"):
        FilterNetwork(4, 3, "relu")
