"""Heads that make something of one number per atom are trained by the sweeps too."""

import pytest
import torch
from helpers import random_molecule
from torch.testing import assert_close
from torch_geometric.data import Batch

from pyg_schnet import SchNet
from pyg_schnet.models.sweep_rules import applies, applies_to_atoms, by_autograd
from pyg_schnet.models.sweeps import learned_by_atoms

HEADS = {
    "dipole": {"head": "dipole"},
    "vector": {"head": "dipole", "head_options": {"magnitude": False, "neutral": True}},
    "extent": {"head": "spatial_extent", "head_options": {"own": False}},
    "polarizability": {"head": "polarizability", "mean": 1.5, "std": 0.3},
}
TOL = {torch.float64: (1e-9, 1e-11), torch.float32: (1e-4, 1e-5)}


def model(dtype=torch.float64, **options):
    net = SchNet(12, 20, 2, 10, 4.0, filters="tabulated", seed=1, **options).to(dtype)
    net.readout.scale.fill_(0.7)
    return net


def molecules(dtype=torch.float64):
    return Batch.from_data_list([random_molecule(n, n, dtype) for n in (5, 9, 1, 12)])


def value_and_slopes(net, data):
    out = net(data.z, data.pos, data.batch, num_graphs=5)
    return out, torch.autograd.grad(out.square().sum(), list(net.parameters()))


@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_autograd(name, dtype):
    net, data = model(dtype, **HEADS[name]), molecules(dtype)
    assert applies_to_atoms(net, data.pos, num_graphs=5) and not applies(net, data.pos)
    out, slopes = value_and_slopes(net, data)
    with by_autograd():
        want, wanted = value_and_slopes(net, data)
    rtol, atol = TOL[dtype]
    assert_close(out, want, rtol=rtol, atol=atol)
    largest = max(float(slope.abs().max()) for slope in wanted)
    for one, other in zip(slopes, wanted, strict=True):
        assert_close(one, other, rtol=rtol, atol=atol * largest)


@pytest.mark.parametrize("name", HEADS)
def test_second_derivatives_are_left_to_autograd(name):
    net, data = model(**HEADS[name]), molecules()

    def hessian_times_one():
        out = net(data.z, data.pos, data.batch, num_graphs=5).square().sum()
        (slope,) = torch.autograd.grad(out, net.readout.lin1.weight, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), net.embedding.weight)[0]

    got = hessian_times_one()
    with by_autograd():
        assert_close(got, hessian_times_one(), rtol=1e-8, atol=1e-10)


def test_numbers_of_atoms_are_those_of_the_head():
    net, data = model(dipole=True), molecules()
    got = learned_by_atoms(net, data.z, data.pos, data.batch, num_graphs=5)
    assert_close(got, net.atomwise(data.z, data.pos, data.batch), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "spatial_extent"},
        {"head": "polarizability", "head_options": {"tensor": True}},
        {"head": "softmax"},
        {"head": "set2set"},
    ],
    ids=str,
)
def test_other_heads_are_not_of_this_kind(options):
    assert not applies_to_atoms(model(**options), molecules().pos)
