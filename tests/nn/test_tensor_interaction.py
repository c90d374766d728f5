"""The tensor layer and fading atoms against formulas written out, and its linear form as cfconv."""

import math

import pytest
import torch
from helpers import TOL, all_pairs, distances, methanol, randomize, small_schnet
from torch.testing import assert_close

from pyg_schnet.nn import CFConv, FractionalAtoms, GaussianSmearing, TensorInteraction
from pyg_schnet.ops import Graph

F64 = TOL[torch.float64]
BASIS = GaussianSmearing(-1.0, 5.0, 9)


def layer(seed=0, **options) -> TensorInteraction:
    torch.manual_seed(seed)
    made = TensorInteraction(5, 7, 9, **options).double()
    randomize(made)
    return made


def case():
    """Features, edges of methanol without one of the two edges of a pair, distances."""
    pos = methanol().pos
    edge_index = all_pairs(6)[:, 1:]  # one one-way edge: catches swapped source and target
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, edge_index, distances(pos, edge_index)


def affine(weight, bias, vector):
    return [
        b + sum(w * v for w, v in zip(row, vector, strict=True))
        for row, b in zip(weight, bias, strict=True)
    ]


def by_hand(made, x, edge_index, d, presence=None):
    """The formula of the docstring, edge by edge in plain numbers."""
    atom, distance, out = made.lin_atom, made.lin_distance, made.lin_out
    sums = [[0.0] * made.hidden_channels for _ in range(x.size(0))]
    spacing = 6.0 / 8
    for e, (j, i) in enumerate(edge_index.T.tolist()):
        length = float(d[e])
        gaussians = [
            math.exp(-((length + 1.0 - k * spacing) ** 2) / (2 * spacing**2)) for k in range(9)
        ]
        of_x = affine(atom.weight.tolist(), atom.bias.tolist(), x[j].tolist())
        of_d = affine(distance.weight.tolist(), distance.bias.tolist(), gaussians)
        product = [a * b for a, b in zip(of_x, of_d, strict=True)]
        message = affine(out.weight.tolist(), [0.0] * 5, product)
        if made.activation == "tanh":
            message = [math.tanh(m) for m in message]
        factor = 1.0 if presence is None else float(presence[j])
        if made.cutoff is not None and str(made.cutoff_fn).startswith("Cosine"):
            inside = length < made.cutoff
            factor *= 0.5 * (math.cos(math.pi * length / made.cutoff) + 1) if inside else 0.0
        sums[i] = [s + factor * m for s, m in zip(sums[i], message, strict=True)]
    return torch.tensor(sums, dtype=torch.float64)


@pytest.mark.parametrize("activation", ["tanh", "linear"])
@pytest.mark.parametrize("cutoff", [None, 2.2])
@pytest.mark.parametrize("fading", [False, True], ids=["whole", "fading"])
def test_matches_the_formula_in_its_docstring(activation, cutoff, fading):
    cutoff_fn = "none" if cutoff is None else "cosine"
    made = layer(activation=activation, cutoff=cutoff, cutoff_fn=cutoff_fn)
    x, edge_index, d = case()
    presence = torch.linspace(0.0, 1.0, 6, dtype=torch.float64) if fading else None
    want = by_hand(made, x, edge_index, d, presence)
    assert_close(made(x, edge_index, d, BASIS(d), presence), want, **F64)
    graph = Graph.of(edge_index, 6, dtype=torch.float64)
    assert_close(made(x, graph, d, BASIS(d), presence), want, **F64)


@pytest.mark.parametrize("activation", ["tanh", "linear"])
def test_pairs_stand_for_both_of_their_edges(activation):
    made, x = layer(activation=activation), case()[0].repeat(2, 1)
    one = all_pairs(6)
    both = torch.cat([one, one + 6], 1)
    graph = Graph.of(both, 12, dtype=torch.float64, undirected=True)
    pos = torch.cat([methanol().pos, 1.1 * methanol().pos])
    presence = torch.linspace(0.2, 1.0, 12, dtype=torch.float64)
    d, of_pairs = distances(pos, both), distances(pos, graph.edge_index)
    want = made(x, both, d, BASIS(d), presence)
    assert_close(made(x, graph, of_pairs, BASIS(of_pairs), presence), want, **F64)


@pytest.mark.parametrize("activation", ["tanh", "linear"])
def test_looking_at_messages_changes_no_number(activation):
    made, (x, edge_index, d) = layer(activation=activation), case()
    presence = torch.linspace(0.2, 1.0, 6, dtype=torch.float64)
    want = made(x, edge_index, d, BASIS(d), presence)
    seen = []
    made.register_message_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    assert_close(made(x, edge_index, d, BASIS(d), presence), want, **F64)
    assert seen == [(29, 5)]


def test_linear_layer_is_a_continuous_filter_convolution():
    """Thesis, equations 4.11 to 4.13: a one beside the features takes the bias up."""
    made, (x, edge_index, d) = layer(activation="linear", cutoff=3.0, cutoff_fn="cosine"), case()
    filters = torch.nn.Linear(9, 7).double()
    conv = CFConv(6, 5, 7, filters, 3.0).double()
    with torch.no_grad():
        conv.lin1.weight.copy_(torch.cat([made.lin_atom.weight, made.lin_atom.bias[:, None]], 1))
        filters.load_state_dict(made.lin_distance.state_dict())
        conv.lin2.weight.copy_(made.lin_out.weight)
        conv.lin2.bias.zero_()
    one = torch.ones(6, 1, dtype=torch.float64)
    want = conv(torch.cat([x, one], 1), edge_index, d, BASIS(d))
    assert float(want.detach().abs().max()) > 0.1
    assert_close(made(x, edge_index, d, BASIS(d)), want, **F64)
    made.activation = "tanh"
    assert not torch.allclose(made(x, edge_index, d, BASIS(d)), want, rtol=1e-3)


@pytest.mark.parametrize("activation", ["tanh", "linear"])
@pytest.mark.parametrize("block", [2**16, 4], ids=["whole", "blocks"])
def test_gradients(activation, block):
    """To second order, since forces are trained on; also where messages are computed anew."""
    made = layer(activation=activation, cutoff=4.0, cutoff_fn="cosine")
    made.edges_per_block = block
    pos, edge_index = methanol().pos[:4], all_pairs(4)[:, 1:]

    def call(x, pos, presence, weight):
        d = distances(pos, edge_index)
        parameters = {**dict(made.named_parameters()), "lin_distance.weight": weight}
        inputs = (x, edge_index, d, BASIS(d), presence)
        return torch.func.functional_call(made, parameters, inputs)

    x = case()[0][:4].requires_grad_()
    presence = torch.tensor([0.2, 0.5, 0.9, 1.0], dtype=torch.float64, requires_grad=True)
    weight = made.lin_distance.weight.detach().clone().requires_grad_()
    inputs = (x, pos.clone().requires_grad_(), presence, weight)
    assert torch.autograd.gradcheck(call, inputs, atol=1e-6)
    assert torch.autograd.gradgradcheck(call, inputs, atol=1e-6, gen_non_contig_grad_outputs=True)


def test_blocks_of_edges_change_no_number_and_no_gradient():
    made, (x, edge_index, d) = layer(), case()
    x.requires_grad_()
    results = []
    for block in (2**16, 5):
        made.edges_per_block = block
        out = made(x, edge_index, d, BASIS(d))
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *made.parameters()])])
    for one, other in zip(*results, strict=True):
        assert_close(one, other, **F64)


def test_no_edges_and_no_atoms_give_nothing():
    made = layer()
    none, empty = torch.empty(2, 0, dtype=torch.long), torch.empty(0, dtype=torch.float64)
    x = case()[0]
    assert not made(x, none, empty, BASIS(empty)).any()
    assert made(x[:0], none, empty, BASIS(empty)).shape == (0, 5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"activation": "relu"}, "activation must be 'tanh' or 'linear', got 'relu'"),
        ({"cutoff_fn": "cosine"}, "cutoff_fn='cosine' needs a cutoff in Å"),
        ({"cutoff_fn": "soft", "cutoff": 3.0}, "cutoff_fn must be 'cosine', 'hard' or 'none'"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TensorInteraction(5, 7, 9, **options)


def whole(n=6):
    return torch.ones(n, dtype=torch.float64)


@pytest.mark.parametrize(
    ("fractional", "sentence"),
    [
        ({"presence": whole(5)}, r"presence must be one floating point number per atom, shape \(6"),
        ({"presence": whole().long()}, "presence must be one floating point number per atom"),
        (
            {"other": whole(), "fraction": whole()},
            "other must be one integer per atom",
        ),
    ],
)
def test_fractional_atoms_of_the_wrong_kind_are_refused(fractional, sentence):
    data = methanol()
    with pytest.raises(ValueError, match=sentence):
        small_schnet()(data.z, data.pos, fractional=FractionalAtoms(**fractional))


def test_fractions_need_elements_to_go_to():
    with pytest.raises(ValueError, match="belong together.* but other is None"):
        FractionalAtoms(fraction=whole())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"normalize": "neighbors"}, "Atoms cannot fade from a model with normalize='neighbors'"),
        ({"dipole": True}, "not from a Dipole"),
    ],
)
def test_models_from_which_atoms_cannot_fade_say_so(options, sentence):
    data = methanol()
    with pytest.raises(ValueError, match=sentence):
        small_schnet(**options)(data.z, data.pos, fractional=FractionalAtoms(presence=whole()))
