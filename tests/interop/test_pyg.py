import pytest
import torch
from helpers import methanol, random_molecule, randomize, small_schnet, water
from torch import nn
from torch.testing import assert_close
from torch_geometric.data import Batch
from torch_geometric.nn import MeanAggregation
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import SchNet
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_lengths
from pyg_schnet.interop import from_pyg, to_pyg

SIZES = {"hidden_channels": 16, "num_filters": 12, "num_interactions": 3, "num_gaussians": 10}
ATOMREF = torch.linspace(-5.0, 5.0, 100).view(100, 1)
CASES = {
    "plain": {},
    "atomref": {"atomref": ATOMREF},
    "mean_std": {"mean": -4.25, "std": 2.5},
    "mean_readout": {"readout": "mean", "mean": 0.5, "std": 1.5, "atomref": ATOMREF},
    "dipole": {"dipole": True},
    "sum": {"readout": "sum"},
}
every_case = pytest.mark.parametrize("case", CASES)
# Not closer, because PyG rounds ln 2 in its activation to float32.
RELATIVE = 1e-6


class EveryNeighbor(nn.Module):
    def forward(self, pos, batch):
        edge_index, _ = neighbor_edges(pos, 5.0, batch=batch)
        return edge_index, edge_lengths(pos, edge_index)


def pyg_model(case, dtype=torch.float64):
    torch.manual_seed(2)
    model = PyGSchNet(**SIZES, cutoff=5.0, interaction_graph=EveryNeighbor(), **CASES[case])
    randomize(model)
    return model.to(dtype).eval()


def molecules(dtype=torch.float64):
    data = [water(dtype), methanol(dtype), random_molecule(20, 1, dtype)]
    return Batch.from_data_list(data)


def predict(model, batch):
    batch.pos.requires_grad_(True)
    out = model(batch.z, batch.pos, batch.batch)
    (gradient,) = torch.autograd.grad(out.sum(), batch.pos)
    return out.detach(), gradient


def assert_same_predictions(first, second, dtype=torch.float64, relative=RELATIVE):
    outputs, forces = predict(first, molecules(dtype))
    want_outputs, want_forces = predict(second, molecules(dtype))
    assert want_forces.abs().max() > 1e-3
    for got, want in ((outputs, want_outputs), (forces, want_forces)):
        atol = relative * float(want.abs().max())
        assert_close(got, want, rtol=relative, atol=atol, check_dtype=False)


@every_case
def test_converted_model_has_pygs_outputs_and_forces(case):
    theirs = pyg_model(case)
    ours = from_pyg(theirs)
    assert_same_predictions(ours, theirs)
    assert repr(ours) == repr(theirs)
    assert not ours.training and from_pyg(theirs.train()).training


@every_case
def test_converted_float32_model_has_pygs_outputs(case):
    theirs = pyg_model(case, torch.float32)
    ours = from_pyg(theirs)
    assert ours.embedding.weight.dtype == torch.float32
    assert_same_predictions(ours, theirs, torch.float32, relative=1e-5)


@every_case
def test_state_dict_of_pyg_loads_into_the_same_arguments(case):
    theirs = pyg_model(case)
    ours = SchNet(**SIZES, cutoff=5.0, **CASES[case], seed=8).double().eval()
    report = ours.load_state_dict(theirs.state_dict())
    assert not report.missing_keys and not report.unexpected_keys
    assert_same_predictions(ours, theirs)


def test_state_dict_of_pyg_loads_inside_another_module():
    theirs, ours = nn.ModuleDict({"net": pyg_model("atomref")}), nn.ModuleDict()
    ours["net"] = SchNet(**SIZES, cutoff=5.0).double().eval()
    ours.load_state_dict(theirs.state_dict())
    assert_same_predictions(ours["net"], theirs["net"])


def test_state_dict_given_is_not_changed():
    theirs = pyg_model("plain")
    state = theirs.state_dict()
    names = list(state)
    SchNet(**SIZES, cutoff=5.0).double().load_state_dict(state)
    assert list(state) == names


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("dipole", [False, True])
def test_the_same_seed_draws_the_same_weights_as_pyg(seed, dipole):
    torch.manual_seed(seed)
    theirs = PyGSchNet(**SIZES, cutoff=5.0, interaction_graph=EveryNeighbor(), dipole=dipole)
    torch.manual_seed(seed)
    ours = SchNet(**SIZES, cutoff=5.0, dipole=dipole)
    want, got = theirs.state_dict(), dict(ours.named_parameters())
    for name, value in got.items():
        assert torch.equal(value, want[name.removeprefix("readout.")]), name
    # PyG's grid of Gaussians is a float32 one, ours is not: not the last digits of float64.
    assert_same_predictions(ours.double(), theirs.double(), relative=1e-5)


@every_case
def test_round_trip_through_pyg_keeps_every_weight(case):
    ours = from_pyg(pyg_model(case))
    again = from_pyg(to_pyg(ours))
    for name, value in ours.state_dict().items():
        assert_close(again.state_dict()[name], value, rtol=1e-12, atol=0), name
    assert_same_predictions(again, ours)


@pytest.mark.parametrize("options", [{}, {"dipole": True}, {"gamma": 3.7}, {"readout": "mean"}])
def test_exported_model_has_our_outputs_and_forces(options):
    constants = {} if "dipole" in options else {"mean": 2.0, "std": 3.0, "atomref": ATOMREF}
    ours = small_schnet(**options, **constants)
    theirs = to_pyg(ours)
    assert type(theirs) is PyGSchNet and not theirs.training
    assert_same_predictions(theirs, ours)


def test_width_of_the_gaussians_survives_the_way_through_pyg():
    ours = small_schnet(gamma=3.7)
    again = from_pyg(to_pyg(ours))
    assert float(again.distance_expansion.gamma) == 3.7
    assert_same_predictions(again, ours)


def test_exported_model_is_independent_of_ours():
    ours = small_schnet()
    theirs = to_pyg(ours)
    with torch.no_grad():
        theirs.embedding.weight.zero_()
    assert ours.embedding.weight.any()


@pytest.mark.parametrize("case", ["mean_std", "dipole"])
def test_scale_of_a_pretrained_model_is_taken_along_and_back(case):
    theirs = pyg_model(case)
    theirs.scale = 1.0 / 27.2114
    ours = from_pyg(theirs)
    assert_same_predictions(ours, theirs)
    assert_same_predictions(to_pyg(ours), theirs)


def test_pretrained_models_shape_of_pyg_converts():
    # from_qm9_pretrained sets these attributes after construction and drops the unused atomref.
    theirs = pyg_model("atomref")
    theirs.atomref = None
    theirs.readout = MeanAggregation()
    theirs.mean, theirs.std, theirs.scale = 1.25, 0.5, 1.0
    assert_same_predictions(from_pyg(theirs), theirs)


def test_trained_atomref_becomes_a_constant():
    theirs = pyg_model("atomref")
    with torch.no_grad():
        theirs.atomref.weight.add_(torch.randn(100, 1).double())
    ours = from_pyg(theirs)
    assert_same_predictions(ours, theirs)
    assert not any("atomref" in name for name, _ in ours.named_parameters())


def test_dipole_model_with_an_unused_atomref_converts():
    torch.manual_seed(2)
    graph = EveryNeighbor()
    theirs = PyGSchNet(
        **SIZES, cutoff=5.0, interaction_graph=graph, dipole=True, atomref=ATOMREF
    ).double()
    assert_same_predictions(from_pyg(theirs), theirs)


def test_interaction_graph_of_your_own_is_taken_along():
    theirs = pyg_model("plain")
    assert from_pyg(theirs).interaction_graph is theirs.interaction_graph


def test_built_in_interaction_graph_becomes_our_search():
    ours = from_pyg(PyGSchNet(**SIZES))
    assert ours.interaction_graph is None and ours.max_num_neighbors is None


def test_cosine_differs_from_pyg_beyond_the_cutoff_only():
    theirs = pyg_model("plain")
    conv, far = theirs.interactions[0].conv, torch.tensor([7.5]).double()
    ours = from_pyg(theirs).interactions[0].conv
    x, edge = torch.randn(2, 16).double(), torch.tensor([[0], [1]])
    rbf = theirs.distance_expansion(far)
    assert (conv(x, edge, far, rbf) - conv.lin2.bias).abs().max() > 1e-4
    assert_close(ours(x, edge, far, rbf), ours.lin2.bias.expand(2, -1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"filter_activation": "ssp"}, "has filter_activation='linear' only.*has 'ssp'"),
        ({"cutoff_fn": "none"}, "has cutoff_fn='cosine' only.*has 'none'"),
        ({"normalize": "neighbors"}, "has normalize=None only.*has 'neighbors'"),
        ({"shared_filters": True}, "has shared_filters=False only.*has True"),
    ],
)
def test_what_pyg_lacks_is_not_exported(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_pyg(small_schnet(**options))


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="from_pyg takes a torch_geometric.nn.SchNet, got Linear"):
        from_pyg(nn.Linear(2, 2))
