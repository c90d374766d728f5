import copy
import inspect

import pytest
import torch
from helpers import TOL, all_pairs, dense, distances, methanol, small_schnet, ssp, water
from torch.testing import assert_close
from torch_geometric.data import Batch
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import SchNet
from pyg_schnet.graph import neighbor_edges

F64 = TOL[torch.float64]


@pytest.mark.parametrize("options", [{}, {"cutoff_fn": "none", "filter_activation": "ssp"}])
def test_matches_the_formula_in_its_docstring(options, ch3oh, dtype):
    data = methanol(dtype)
    model = small_schnet(dtype, **options)
    edge_index = all_pairs(6)
    d = distances(data.pos, edge_index)
    rbf = model.distance_expansion(d)
    x = [model.embedding.weight[z].tolist() for z in data.z.tolist()]
    for block in model.interactions:
        now = torch.tensor(x, dtype=dtype)
        change = block(now, edge_index, d, rbf).tolist()
        x = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(x, change, strict=True)]
    assert_close(model.features(data.z, data.pos), torch.tensor(x, dtype=dtype), **TOL[dtype])
    head, total = model.readout, 0.0
    for row in x:
        total += dense(head.lin2, [ssp(v) for v in dense(head.lin1, row)])[0]
    want = torch.tensor([[total]], dtype=dtype)
    assert_close(model(data.z, data.pos), want, **TOL[dtype])


def test_atomwise_contributions_sum_to_the_energy():
    batch = Batch.from_data_list([water(), methanol()])
    for readout in ("add", "mean"):
        model = small_schnet(readout=readout, mean=-4.0, std=2.0)
        e = model.atomwise(batch.z, batch.pos, batch.batch)
        assert e.shape == (9, 1)
        want = torch.stack([e[:3].sum(0), e[3:].sum(0)])
        if readout == "mean":
            want = want / torch.tensor([[3.0], [6.0]]).double()
        assert_close(model(batch.z, batch.pos, batch.batch), want, **F64)


def test_given_edges_give_what_found_edges_give(ch3oh, crystal):
    model = small_schnet()
    edge_index, _ = neighbor_edges(ch3oh.pos, model.cutoff)
    found = model(ch3oh.z, ch3oh.pos)
    assert_close(model(ch3oh.z, ch3oh.pos, None, edge_index), found, **F64)
    edge_index, shift = neighbor_edges(crystal.pos, model.cutoff, cell=crystal.cell)
    given = model(
        crystal.z, crystal.pos, edge_index=edge_index, cell=crystal.cell, cell_shift=shift
    )
    assert_close(given, model(crystal.z, crystal.pos, cell=crystal.cell), **F64)
    molecule = model(crystal.z, crystal.pos)
    assert (given - molecule).abs() > 1e-3


def test_pbc_switches_directions_off(crystal):
    model = small_schnet()
    off = torch.zeros(1, 3, dtype=torch.bool)
    open_energy = model(crystal.z, crystal.pos, cell=crystal.cell, pbc=off)
    assert_close(open_energy, model(crystal.z, crystal.pos), **F64)


def test_without_a_cutoff_function_all_pairs_interact_however_far():
    pos = torch.tensor([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]]).double()
    z = torch.tensor([6, 8])
    edge_index, d = small_schnet(cutoff_fn="none").edges(pos, torch.zeros(2, dtype=torch.long))
    assert edge_index.tolist() == [[1, 0], [0, 1]]
    assert_close(d, torch.tensor([50.0, 50.0]).double())
    edge_index, _ = small_schnet().edges(pos, torch.zeros_like(z))
    assert edge_index.numel() == 0


def test_interaction_graph_replaces_the_neighbour_search(ch3oh):
    calls = []

    def graph(pos, batch):
        calls.append(batch)
        edge_index = all_pairs(6)[:, :7]
        return edge_index, distances(pos, edge_index)

    model, plain = small_schnet(interaction_graph=graph), small_schnet()
    want = plain(ch3oh.z, ch3oh.pos, edge_index=all_pairs(6)[:, :7])
    assert_close(model(ch3oh.z, ch3oh.pos), want, **F64)
    assert len(calls) == 1 and calls[0].tolist() == [0] * 6
    given = model(ch3oh.z, ch3oh.pos, edge_index=all_pairs(6))
    assert_close(given, plain(ch3oh.z, ch3oh.pos), **F64)


def test_cap_on_neighbours_warns_of_what_it_drops(ch3oh):
    model = small_schnet(max_num_neighbors=2)
    with pytest.warns(UserWarning, match="2"):
        capped = model(ch3oh.z, ch3oh.pos)
    assert (capped - small_schnet()(ch3oh.z, ch3oh.pos)).abs() > 1e-4


def test_no_neighbour_is_dropped_by_default():
    generator = torch.Generator().manual_seed(0)
    pos = torch.rand(60, 3, generator=generator, dtype=torch.float64) * 3
    edge_index, _ = small_schnet(cutoff=10.0).edges(pos, torch.zeros(60, dtype=torch.long))
    assert edge_index.size(1) == 60 * 59


def test_molecules_without_atoms_at_the_end_are_counted_by_num_graphs(h2o):
    model, batch = small_schnet(), torch.tensor([1, 1, 1])
    out = model(h2o.z, h2o.pos, batch, num_graphs=4)
    assert out.shape == (4, 1)
    assert not out[[0, 2, 3]].any()
    assert_close(out[1:2], model(h2o.z, h2o.pos), **F64)


def test_no_atoms_at_all_give_no_molecule():
    model, z = small_schnet(), torch.zeros(0, dtype=torch.long)
    pos = torch.zeros(0, 3).double()
    assert model(z, pos).shape == (0, 1)
    assert not model(z, pos, num_graphs=2).any()


def test_unsorted_batch_gives_what_the_sorted_one_gives():
    batch = Batch.from_data_list([water(), methanol()])
    order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
    model = small_schnet()
    want = model(batch.z, batch.pos, batch.batch)
    assert_close(model(batch.z[order], batch.pos[order], batch.batch[order]), want, **F64)


def test_result_has_the_dtype_asked_for(h2o, dtype):
    data, model = water(dtype), small_schnet(dtype, mean=-1e4)
    assert model(data.z, data.pos).dtype == dtype
    assert model(data.z, data.pos, dtype=torch.float64).dtype == torch.float64


def test_energy_of_a_float32_model_is_exact_beside_a_large_offset():
    data = water(torch.float32)
    free = small_schnet(torch.float32)(data.z, data.pos, dtype=torch.float64)
    offset = small_schnet(torch.float32, mean=-12345.678901234)
    energy = offset(data.z, data.pos, dtype=torch.float64)
    assert_close(energy - 3 * -12345.678901234, free, rtol=0, atol=1e-8)


@pytest.mark.parametrize("integer", [torch.int32, torch.int16, torch.uint8])
def test_atomic_numbers_may_have_any_integer_dtype(integer, h2o):
    for options in ({}, {"dipole": True}):
        model = small_schnet(**options)
        assert_close(model(h2o.z.to(integer), h2o.pos), model(h2o.z, h2o.pos), **F64)


def test_dipole_turns_to_the_same_magnitude_anywhere(ch3oh):
    model = small_schnet(dipole=True)
    moved = model(ch3oh.z, ch3oh.pos + 11.0)
    assert moved.shape == (1, 1) and moved > 0
    assert_close(moved, model(ch3oh.z, ch3oh.pos), **F64)
    assert model.atomwise(ch3oh.z, ch3oh.pos).shape == (6, 1)


def test_seed_fixes_the_weights_and_leaves_the_generator_alone():
    torch.manual_seed(11)
    want = torch.rand(3)
    torch.manual_seed(11)
    first = SchNet(16, 16, 1, 10, seed=5)
    assert torch.equal(torch.rand(3), want)
    second, third = SchNet(16, 16, 1, 10, seed=5), SchNet(16, 16, 1, 10, seed=6)
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)
    assert not torch.equal(first.embedding.weight, third.embedding.weight)


def test_arguments_are_pygs_in_order_and_defaults_but_for_the_cap():
    theirs = inspect.signature(PyGSchNet).parameters
    ours = list(inspect.signature(SchNet).parameters.values())
    assert [p.name for p in ours[: len(theirs)]] == list(theirs)
    for parameter in ours[: len(theirs)]:
        want = None if parameter.name == "max_num_neighbors" else theirs[parameter.name].default
        assert parameter.default == want
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_config_makes_the_same_architecture():
    model = small_schnet(
        shared_filters=True, gamma=3.0, normalize="neighbors", readout="mean", cutoff_fn="hard"
    )
    again = SchNet(**model.config)
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    assert repr(again) == repr(model)


def test_config_of_a_function_is_refused():
    with pytest.raises(ValueError, match="interaction_graph cannot be written"):
        _ = small_schnet(interaction_graph=lambda pos, batch: None).config


def test_state_dict_loads_strictly_and_brings_the_constants_along(ch3oh):
    source = small_schnet(mean=-3.0, std=2.0, atomref=torch.arange(100.0), gamma=7.0)
    target = small_schnet(seed=9)
    target.load_state_dict(source.state_dict())
    assert_close(target(ch3oh.z, ch3oh.pos), source(ch3oh.z, ch3oh.pos), rtol=0, atol=0)


def test_deepcopy_is_independent_and_equal(ch3oh):
    model = small_schnet(shared_filters=True, mean=1.0)
    clone = copy.deepcopy(model)
    assert torch.equal(clone(ch3oh.z, ch3oh.pos), model(ch3oh.z, ch3oh.pos))
    assert clone.interactions[0].conv.nn is clone.interactions[1].conv.nn
    with torch.no_grad():
        clone.embedding.weight.zero_()
    assert model.embedding.weight.any()


def test_shared_filters_are_one_network():
    shared, apart = small_schnet(shared_filters=True), small_schnet()
    assert shared.interactions[0].conv.nn is shared.interactions[1].conv.nn
    assert apart.interactions[0].conv.nn is not apart.interactions[1].conv.nn
    count = sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in shared.parameters())
    assert count == sum(p.numel() for p in apart.interactions[0].conv.nn.parameters())


def test_reset_draws_new_weights_keeps_padding_zero_and_constants():
    model = small_schnet(mean=2.0)
    old = copy.deepcopy(model.state_dict())
    model.reset_parameters()
    for name in ("embedding.weight", "interactions.1.lin.weight", "readout.lin2.weight"):
        assert not torch.equal(model.state_dict()[name], old[name])
    assert not model.embedding.weight[0].any()
    assert not model.readout.lin2.bias.any()
    assert float(model.readout.mean) == 2.0


def test_padding_embedding_is_not_trained(h2o):
    model = small_schnet().train()
    z = torch.tensor([8, 1, 0])
    model(z, h2o.pos).sum().backward()
    assert not model.embedding.weight.grad[0].any()
    assert model.embedding.weight.grad[1].any()


def test_no_interactions_leave_the_embedding(h2o):
    model = small_schnet(num_interactions=0)
    assert torch.equal(model.features(h2o.z, h2o.pos), model.embedding(h2o.z))


def test_auto_filters_are_the_exact_ones(ch3oh):
    exact, auto = small_schnet(filters="exact"), small_schnet(filters="auto")
    assert_close(exact(ch3oh.z, ch3oh.pos), auto(ch3oh.z, ch3oh.pos), **F64)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hidden_channels": 1}, "hidden_channels must be at least 2, got 1"),
        ({"num_filters": 0}, "num_filters must be at least 1, got 0"),
        ({"num_interactions": -1}, "num_interactions must be at least 0, got -1"),
        ({"num_gaussians": 1}, "num_gaussians must be at least 2"),
        ({"cutoff": -1.0}, "cutoff must be a positive, finite distance in Å, got -1.0"),
        ({"readout": "max"}, "readout must be"),
        ({"filters": "fast"}, "filters must be 'exact', 'tabulated' or 'auto', got 'fast'"),
        ({"filter_activation": "relu"}, "filter_activation must be"),
        ({"cutoff_fn": "step"}, "cutoff_fn must be"),
        ({"normalize": True}, "normalize must be"),
        ({"gamma": -1.0}, "gamma must be positive"),
        ({"std": 0.0}, "std must be positive"),
        ({"atomref": torch.zeros(9)}, "atomref must have shape"),
    ],
)
def test_refuses_arguments_that_make_no_model(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SchNet(**{"num_interactions": 1, **options})


def test_repr_is_pygs():
    assert repr(small_schnet()) == (
        "SchNet(hidden_channels=12, num_filters=10, num_interactions=2, num_gaussians=8, "
        "cutoff=4.0)"
    )
