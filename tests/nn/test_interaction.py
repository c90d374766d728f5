import pytest
import torch
from helpers import TOL, all_pairs, dense, randomize, ssp
from torch import nn
from torch.testing import assert_close

from pyg_schnet.nn import FilterNetwork, GaussianSmearing, InteractionBlock

BASIS = GaussianSmearing(0.0, 4.0, 6)
EDGES = all_pairs(4)[:, 1:]


def block(dtype=torch.float64, **options):
    torch.manual_seed(4)
    made = InteractionBlock(5, 6, 7, 4.0, **options).to(dtype)
    randomize(made)
    return made


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    d = 0.5 + 4 * torch.rand(EDGES.size(1), generator=generator, dtype=torch.float64)
    return x.to(dtype), d.to(dtype)


@pytest.mark.parametrize("filter_activation", ["linear", "ssp"])
def test_matches_the_formula_in_its_docstring(filter_activation, dtype):
    interaction = block(dtype, filter_activation=filter_activation)
    x, d = inputs(dtype)
    convolved = interaction.conv(x, EDGES, d, BASIS(d)).tolist()
    want = [dense(interaction.lin, [ssp(v) for v in row]) for row in convolved]
    got = interaction(x, EDGES, d, BASIS(d))
    assert_close(got, torch.tensor(want, dtype=dtype), **TOL[dtype])


def test_options_reach_the_convolution():
    interaction = block(filter_activation="ssp", cutoff_fn="hard", normalize="neighbors")
    assert len(interaction.conv.nn) == 4
    assert repr(interaction.conv.cutoff_fn) == "HardCutoff(cutoff=4)"
    assert interaction.conv.aggr == "mean"


def test_cutoff_none_switches_the_cutoff_function_off():
    x, d = inputs()
    torch.manual_seed(4)
    open_block = InteractionBlock(5, 6, 7, None).double()
    randomize(open_block)
    want = block(cutoff_fn="none")(x, EDGES, d, BASIS(d))
    assert_close(open_block(x, EDGES, d, BASIS(d)), want)


def test_first_and_second_derivatives():
    interaction, (x, d) = block(), inputs()
    x.requires_grad_(True)
    d.requires_grad_(True)

    def run(x, d):
        return interaction(x, EDGES, d, BASIS(d))

    assert torch.autograd.gradcheck(run, (x, d))
    assert torch.autograd.gradgradcheck(run, (x, d))


def test_blocks_can_share_one_filter_network():
    shared = FilterNetwork(6, 7)
    first, second = block(filter_network=shared), block(filter_network=shared)
    assert first.conv.nn is second.conv.nn


def test_filter_network_of_another_kind_keeps_its_weights_on_reset():
    own = nn.Sequential(nn.Linear(6, 7), nn.Tanh())
    interaction = block(filter_network=own)
    weight = own[0].weight.detach().clone()
    interaction.reset_parameters()
    assert torch.equal(own[0].weight, weight)
