import pytest
import torch
from helpers import TOL, cosine, dense, randomize, small_schnet
from torch import nn
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.nn.models.schnet import CFConv as PyGCFConv

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.nn import CFConv, CosineCutoff, FilterNetwork, GaussianSmearing
from pyg_schnet.nn.tabulated import FilterTable
from pyg_schnet.ops import Graph

CUTOFF = 3.0
BASIS = GaussianSmearing(0.0, CUTOFF, 6)
# One-way edges, uneven in-degrees, a node without edges and one edge beyond the cutoff: a swap of
# sources and targets shows.
EDGES = torch.tensor([[1, 2, 3, 0, 3, 2], [0, 0, 0, 1, 1, 3]])
DISTANCE = [0.9, 1.4, 2.5, 2.9, 3.6, 0.4]


def convolution(dtype=torch.float64, **options):
    torch.manual_seed(3)
    conv = CFConv(4, 5, 7, FilterNetwork(6, 7), CUTOFF, **options).to(dtype)
    randomize(conv)
    return conv


def inputs(dtype=torch.float64, num_nodes=5):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(num_nodes, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.tensor(DISTANCE, dtype=dtype)


def slow_convolution(conv, x, edge_index, d, num_targets, weight, normalize):
    h = [dense(conv.lin1, row) for row in x.tolist()]
    filters = conv.nn(BASIS(d)).tolist()
    rows = []
    for i in range(num_targets):
        total, count = [0.0] * conv.num_filters, 0
        for e, (j, target) in enumerate(edge_index.T.tolist()):
            if target != i:
                continue
            count += 1
            for k in range(conv.num_filters):
                total[k] += h[j][k] * filters[e][k] * weight(float(d[e]))
        if normalize and count:
            total = [value / count for value in total]
        rows.append(dense(conv.lin2, total))
    return torch.tensor(rows, dtype=x.dtype)


@pytest.mark.parametrize("normalize", [None, "neighbors"])
@pytest.mark.parametrize("cutoff_fn", ["cosine", "hard", "none"])
def test_matches_the_formula_in_its_docstring(cutoff_fn, normalize, dtype):
    conv = convolution(dtype, cutoff_fn=cutoff_fn, normalize=normalize)
    x, d = inputs(dtype)
    weight = {
        "cosine": lambda v: cosine(v, CUTOFF),
        "hard": lambda v: float(v < CUTOFF),
        "none": lambda v: 1.0,
    }[cutoff_fn]
    want = slow_convolution(conv, x, EDGES, d, 5, weight, normalize)
    assert_close(conv(x, EDGES, d, BASIS(d)), want, **TOL[dtype])


def test_equals_pyg_inside_the_cutoff():
    conv, (x, d) = convolution(), inputs()
    theirs = PyGCFConv(4, 5, 7, conv.nn, CUTOFF).double()
    theirs.load_state_dict(conv.state_dict())
    near = d < CUTOFF
    edges, d = EDGES[:, near], d[near]
    assert_close(conv(x, edges, d, BASIS(d)), theirs(x, edges, d, BASIS(d)), rtol=1e-9, atol=1e-11)


def test_order_of_edges_does_not_matter():
    conv, (x, d) = convolution(), inputs()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = conv(x, EDGES[:, order], d[order], BASIS(d[order]))
    assert_close(shuffled, conv(x, EDGES, d, BASIS(d)), **TOL[torch.float64])


def test_message_and_its_slope_vanish_at_the_cutoff():
    conv = convolution()
    with torch.no_grad():
        conv.lin2.bias.zero_()
    x = inputs()[0][:2]
    d = torch.tensor([CUTOFF - 1e-6], dtype=torch.float64, requires_grad=True)
    y = conv(x, torch.tensor([[0], [1]]), d, BASIS(d))
    assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-5)
    (slope,) = torch.autograd.grad(y.abs().sum(), d)
    assert_close(slope, torch.zeros_like(d), rtol=0, atol=1e-4)


@pytest.mark.parametrize("cutoff_fn", ["cosine", "hard"])
def test_given_edges_beyond_the_cutoff_carry_nothing(cutoff_fn):
    conv, (x, _) = convolution(cutoff_fn=cutoff_fn), inputs()
    d = torch.full((6,), 1.7 * CUTOFF, dtype=torch.float64)
    assert_close(conv(x, EDGES, d, BASIS(d)), conv.lin2.bias.expand(5, -1))


@pytest.mark.parametrize("normalize", [None, "neighbors"])
def test_nodes_without_edges_get_the_bias_alone(normalize):
    conv, (x, _) = convolution(normalize=normalize), inputs()
    none = torch.zeros(0, dtype=torch.float64)
    y = conv(x, torch.zeros(2, 0, dtype=torch.long), none, BASIS(none))
    assert_close(y, conv.lin2.bias.expand(5, -1))


def test_bipartite_graph_reads_features_of_sources_only(dtype):
    conv = convolution(dtype)
    x, _ = inputs(dtype, num_nodes=3)
    edge_index = torch.tensor([[0, 2, 1, 2], [5, 5, 0, 3]])
    d = torch.tensor([1.0, 1.1, 0.6, 2.0], dtype=dtype)
    want = slow_convolution(conv, x, edge_index, d, 7, lambda v: cosine(v, CUTOFF), None)
    targets = torch.full((7, 9), torch.nan, dtype=dtype)
    assert_close(conv((x, targets), edge_index, d, BASIS(d)), want, **TOL[dtype])
    assert_close(conv((x, None), edge_index, d, BASIS(d), size=(3, 7)), want, **TOL[dtype])
    assert_close(conv((x, None), edge_index, d, BASIS(d)), want[:6], **TOL[dtype])


def test_bipartite_graph_without_edges_and_targets_is_empty():
    conv, (x, _) = convolution(), inputs()
    none = torch.zeros(0, dtype=torch.float64)
    y = conv((x, None), torch.zeros(2, 0, dtype=torch.long), none, BASIS(none))
    assert y.shape == (0, 5)


@pytest.mark.parametrize("normalize", [None, "neighbors"])
def test_first_and_second_derivatives(normalize):
    conv, (x, d) = convolution(normalize=normalize), inputs()
    x.requires_grad_(True)
    d.requires_grad_(True)

    def run(x, d):
        return conv(x, EDGES, d, BASIS(d))

    assert torch.autograd.gradcheck(run, (x, d))
    assert torch.autograd.gradgradcheck(run, (x, d))


def test_gradient_of_every_parameter_is_that_of_finite_differences():
    conv, (x, d) = convolution(), inputs()
    names, values = zip(*conv.named_parameters(), strict=True)

    def run(*parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(conv, state, (x, EDGES, d, BASIS(d)))

    leaves = tuple(value.detach().clone().requires_grad_(True) for value in values)
    assert torch.autograd.gradcheck(run, leaves)


def test_filters_come_from_any_module_of_any_edge_feature():
    conv = CFConv(4, 5, 7, nn.Linear(2, 7), cutoff=None)
    x, edge_attr = torch.randn(5, 4), torch.randn(6, 2)
    d = torch.full((6,), 1e3)
    h, w = conv.lin1(x), conv.nn(edge_attr)
    want = torch.zeros(5, 7).index_add(0, EDGES[1], h[EDGES[0]] * w)
    assert_close(conv(x, EDGES, d, edge_attr), conv.lin2(want))


def test_cutoff_function_may_be_a_module_of_your_own():
    x, d = inputs()
    own = convolution(cutoff_fn=CosineCutoff(CUTOFF))
    assert_close(own(x, EDGES, d, BASIS(d)), convolution()(x, EDGES, d, BASIS(d)))


def test_filter_of_the_wrong_width_is_refused_with_both_shapes():
    conv, (x, d) = CFConv(4, 5, 7, FilterNetwork(6, 8), CUTOFF).double(), inputs()
    with pytest.raises(ValueError, match=r"num_filters=7 per edge, \(6, 7\), but gave \(6, 8\)"):
        conv(x, EDGES, d, BASIS(d))


def test_filter_for_another_number_of_edges_is_refused():
    conv, (x, d) = convolution(), inputs()
    with pytest.raises(ValueError, match=r"but gave \(1, 7\)"):
        conv(x, EDGES, d, BASIS(d[:1]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"normalize": "mean"}, "normalize must be None or 'neighbors', got 'mean'"),
        ({"cutoff_fn": "tanh"}, "cutoff_fn must be"),
    ],
)
def test_refuses_unknown_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        convolution(**options)


def test_reset_draws_new_dense_layers_and_leaves_the_filter_network():
    conv = convolution()
    old = {name: value.clone() for name, value in conv.state_dict().items()}
    conv.reset_parameters()
    assert not torch.equal(conv.lin1.weight, old["lin1.weight"])
    assert not conv.lin2.bias.any()
    assert torch.equal(conv.nn[0].weight, old["nn.0.weight"])


def test_repr_names_the_sizes():
    assert repr(convolution()) == "CFConv(4, 5, num_filters=7, cutoff=3.0)"


class Doubled(CFConv):
    """Overrides ``message``, so that PyG's own way is taken."""

    def message(self, x_j, w):
        return 2 * super().message(x_j, w)


def hooked(kind):
    def hook(conv, *rest):
        return None

    def build(**options):
        conv = convolution(**options)
        getattr(conv, f"register_{kind}_hook")(hook)
        return conv

    return build


def explained(**options):
    conv = convolution(**options)
    conv.explain = True
    conv._apply_sigmoid = False
    conv._edge_mask = torch.ones(6, dtype=torch.float64)
    conv._loop_mask = torch.ones(6, dtype=torch.bool)
    return conv


def overridden(**options):
    conv = convolution(**options)
    conv.__class__ = Doubled
    with torch.no_grad():
        conv.lin1.weight.mul_(0.5)
    return conv


UNFUSED = {
    "message hook": hooked("message_forward"),
    "message pre-hook": hooked("message_forward_pre"),
    "propagate hook": hooked("propagate_forward"),
    "aggregate hook": hooked("aggregate_forward"),
    "explainer": explained,
    "subclass": overridden,
}


@pytest.mark.parametrize("normalize", [None, "neighbors"])
@pytest.mark.parametrize("way", UNFUSED)
def test_single_messages_give_what_the_fused_operator_gives(way, normalize):
    fused, single = convolution(normalize=normalize), UNFUSED[way](normalize=normalize)
    assert fused.is_fused() and not single.is_fused()
    x, d = inputs()
    for given, edges in ((x, EDGES), ((x, None), EDGES), ((x[:4], torch.zeros(6, 9)), EDGES)):
        values = []
        for conv in (fused, single):
            leaf = d.clone().requires_grad_()
            y = conv(given, edges, leaf, BASIS(leaf))
            values.append((y, *torch.autograd.grad(y.sin().sum(), [leaf, conv.lin2.weight])))
        for one, other in zip(*values):
            assert_close(one, other, **TOL[torch.float64])


@pytest.mark.parametrize("normalize", [None, "neighbors"])
@pytest.mark.parametrize("way", UNFUSED)
def test_single_messages_can_be_made_of_rows_of_a_table(way, normalize):
    x, d = inputs()
    table = FilterTable(BASIS, [convolution().nn], CUTOFF)
    outputs = []
    for conv in (convolution(normalize=normalize), UNFUSED[way](normalize=normalize)):
        filters = table.look_up(d, conv.cutoff_fn(d))[0]
        outputs.append(conv(x, EDGES, d, filters))
    assert_close(outputs[1], outputs[0], **TOL[torch.float64])
    exact = convolution(normalize=normalize)(x, EDGES, d, BASIS(d))
    assert_close(outputs[0], exact, rtol=1e-8, atol=1e-8)


def test_a_hook_sees_and_changes_the_messages():
    conv, (x, d) = convolution(), inputs()
    seen = []

    def hook(conv, given, messages):
        seen.append(messages.shape)
        return 0 * messages

    conv.register_message_forward_hook(hook)
    assert_close(conv(x, EDGES, d, BASIS(d)), conv.lin2.bias.expand(5, -1))
    assert seen == [(6, 7)]


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant checks)")
def test_sparse_matrices_give_what_their_edges_give(layout):
    conv, (x, d) = convolution(), inputs()
    # Row i of the transposed adjacency holds the sources of target i; here EDGES are so sorted.
    adjacency = torch.zeros(5, 5, dtype=torch.float64)
    adjacency[EDGES[1], EDGES[0]] = 1.0
    matrix = adjacency.to_sparse() if layout == torch.sparse_coo else adjacency.to_sparse_csr()
    order = (EDGES[1] * 5 + EDGES[0]).argsort()
    want = conv(x, EDGES[:, order], d[order], BASIS(d[order]))
    for given in (x, (x, None)):
        found = conv(given, matrix, d[order], BASIS(d[order]))
        assert_close(found, want, **TOL[torch.float64])


def test_a_sorted_graph_can_be_given_for_several_layers():
    conv, (x, d) = convolution(normalize="neighbors"), inputs()
    graph = Graph.of(EDGES, 5, dtype=torch.float64)
    want = conv(x, EDGES, d, BASIS(d))
    assert_close(conv(x, graph, d, BASIS(d)), want, **TOL[torch.float64])


@pytest.mark.parametrize("normalize", [None, "neighbors"])
@pytest.mark.parametrize("way", UNFUSED)
def test_an_undirected_graph_stands_for_both_directions(way, normalize):
    pytest.importorskip("numba")
    x, _ = inputs()
    edges = torch.tensor([[1, 2, 0, 2, 0, 1, 4, 3], [0, 0, 1, 1, 2, 2, 3, 4]])
    graph = Graph.of(edges, 5, dtype=torch.float64, undirected=True)
    assert graph.is_undirected
    d = torch.tensor([0.9, 1.4, 0.9, 2.5, 1.4, 2.5, 0.4, 0.4], dtype=torch.float64)
    pairs = d[edges[0] > edges[1]]
    want = convolution(normalize=normalize)(x, edges, d, BASIS(d))
    for build in (convolution, UNFUSED[way]):
        conv = build(normalize=normalize)
        if way == "explainer" and build is not convolution:
            conv._edge_mask, conv._loop_mask = torch.ones(8), torch.ones(8, dtype=torch.bool)
        assert_close(conv(x, graph, pairs, BASIS(pairs)), want, **TOL[torch.float64])


def test_edge_index_may_be_pygs_own_class():
    conv, (x, d) = convolution(), inputs()
    want = conv(x, EDGES, d, BASIS(d))
    edge_index = EdgeIndex(EDGES, sparse_size=(5, 5))
    assert torch.equal(conv(x, edge_index, d, BASIS(d)), want)
    conv.register_message_forward_hook(lambda *rest: None)
    assert_close(conv(x, edge_index, d, BASIS(d)), want, **TOL[torch.float64])


def test_edge_index_of_schnet_may_be_pygs_own_class(ch3oh):
    model = small_schnet()
    edge_index, _ = neighbor_edges(ch3oh.pos, model.cutoff)
    wrapped = EdgeIndex(edge_index, sparse_size=(6, 6))
    want = model(ch3oh.z, ch3oh.pos, edge_index=edge_index)
    assert torch.equal(model(ch3oh.z, ch3oh.pos, edge_index=wrapped), want)


def largest_allocation(function):
    """Bytes of the largest tensor that is allocated while ``function`` runs."""
    function()
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]")


@pytest.mark.parametrize("order", ["energy", "gradient"])
def test_no_row_per_edge_is_stored_with_a_table(order):
    pytest.importorskip("numba")
    nodes, edges, filters = 50, 4000, 64
    conv = CFConv(8, 8, filters, FilterNetwork(6, filters), CUTOFF)
    edge_index = torch.randint(nodes, (2, edges))
    graph = Graph.of(edge_index, nodes)
    table = FilterTable(BASIS, [conv.nn], CUTOFF)
    x, d = torch.randn(nodes, 8), CUTOFF * torch.rand(edges)

    def run(by_table):
        leaf = d.clone().requires_grad_()
        features = table.look_up(leaf, conv.cutoff_fn(leaf))[0] if by_table else BASIS(leaf)
        y = conv(x, graph, leaf, features)
        if order == "gradient":
            torch.autograd.grad(y.sum(), [leaf, *conv.parameters()])

    per_edge = edges * filters * 4
    assert largest_allocation(lambda: run(True)) < per_edge / 4
    assert largest_allocation(lambda: run(False)) >= per_edge
