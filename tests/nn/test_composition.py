"""Convolutions within PyG's machinery: to_hetero, and the masks of explainers."""

import pytest
import torch
from helpers import TOL, methanol
from torch import nn
from torch.testing import assert_close
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import to_hetero

from pyg_schnet import DTNN, SchNet
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.nn import CFConv, FilterNetwork

KINDS = ["a", "b"]
RELATIONS = [("a", "sees", "a"), ("b", "sees", "a"), ("a", "hears", "b")]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = CFConv(3, 4, 5, FilterNetwork(2, 5), cutoff=1.0)
        self.lin = nn.Linear(4, 2)

    def forward(self, x, edge_index, edge_weight, edge_attr):
        return self.lin(self.conv(x, edge_index, edge_weight, edge_attr).tanh())


def two_kinds():
    x = {kind: torch.randn(6, 3, dtype=torch.float64) for kind in KINDS}
    edges = {relation: torch.randint(6, (2, 9)) for relation in RELATIONS}
    d = {relation: torch.rand(9, dtype=torch.float64) for relation in RELATIONS}
    seen = {relation: torch.rand(9, 2, dtype=torch.float64) for relation in RELATIONS}
    return x, edges, d, seen


def test_to_hetero_is_a_convolution_for_each_relation_and_their_sum():
    model = to_hetero(Network().double(), (KINDS, RELATIONS), aggr="sum")
    x, edges, d, seen = two_kinds()
    out = model(x, edges, d, seen)
    for kind in KINDS:
        total = 0.0
        for relation in RELATIONS:
            if relation[2] == kind:
                conv = model.conv["__".join(relation)]
                w = conv.nn(seen[relation]) * 0.5 * (torch.cos(torch.pi * d[relation]) + 1)[:, None]
                source, target = edges[relation]
                rows = conv.lin1(x[relation[0]])[source] * w
                summed = torch.zeros(6, 5, dtype=torch.float64).index_add(0, target, rows)
                total = total + conv.lin2(summed)
        assert_close(out[kind], model.lin[kind](total.tanh()), **TOL[torch.float64])


def test_copies_of_to_hetero_are_trained_apart():
    model = to_hetero(Network(), (KINDS, RELATIONS))
    first, second = (model.conv["__".join(relation)] for relation in RELATIONS[:2])
    assert not torch.equal(first.lin1.weight, second.lin1.weight)
    known = {id(parameter) for parameter in first.parameters()}
    assert not known & {id(parameter) for parameter in second.parameters()}


@pytest.mark.parametrize(
    "model",
    [
        SchNet(8, 8, 2, 10, 5.0, seed=0),
        SchNet(8, 8, 2, 10, 5.0, seed=0, filters="tabulated"),
        DTNN(8, 8, 2, num_gaussians=10, cutoff=5.0, seed=0),
        DTNN(8, 8, 2, num_gaussians=10, cutoff=5.0, seed=0, activation="linear"),
    ],
    ids=["schnet", "tabulated", "dtnn", "linear dtnn"],
)
def test_a_mask_without_the_edges_of_an_atom_leaves_it_alone(model):
    model, atoms, out = model.double().eval(), methanol(), 2
    edge_index, _ = neighbor_edges(atoms.pos, 5.0)
    whole = model(atoms.z, atoms.pos, edge_index=edge_index)
    set_masks(model, (edge_index != out).all(0).double(), edge_index, apply_sigmoid=False)
    masked = model(atoms.z, atoms.pos, edge_index=edge_index)
    clear_masks(model)
    rest = torch.arange(6) != out
    without = model(atoms.z[rest], atoms.pos[rest])
    alone = model(atoms.z[~rest], atoms.pos[~rest])
    assert_close(masked, without + alone, rtol=1e-6, atol=1e-7)
    assert abs(float((masked - whole).detach())) > 1e-3
    assert_close(model(atoms.z, atoms.pos, edge_index=edge_index), whole)
