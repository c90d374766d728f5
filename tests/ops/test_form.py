"""The multilinear form against loops over edges, on every backend, and its derivatives."""

import importlib.util
import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pyg_schnet.ops import Graph, Grid, cfconv, library, spline_weights
from pyg_schnet.ops.backends import kernel, reference

BACKENDS = ["reference"]
if importlib.util.find_spec("torch_scatter"):
    BACKENDS.append("scatter")
if importlib.util.find_spec("numba"):
    BACKENDS.append("cpu")
# The operator as torch.compile calls it, and the function behind it.
WAYS = [(name, way) for name in BACKENDS for way in ("function", "operator")]
SLOTS = {"b": 1, "x": 2, "y": 4, "w": 8}
FEATURES = (1, 10, 17, 64, 130)
KNOTS = 9
needs_cpu = pytest.mark.skipif("cpu" not in BACKENDS, reason="numba is not installed")


def pairs_of(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """All pairs (source > target) within blocks of nodes, but for the last of each large block."""
    pairs, first = [], 0
    for size in sizes:
        inside = [(first + j, first + i) for i in range(size) for j in range(i + 1, size)]
        pairs += inside[:-1] if len(inside) > 3 else inside
        first += size
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


# Edges (source, target), number of sources, number of targets, first nodes of blocks.
GRAPHS = {
    "unsorted, with isolated nodes": ([(4, 0), (1, 2), (0, 2), (3, 0), (0, 4), (2, 1)], 7, 7, []),
    "bipartite": ([(0, 5), (2, 5), (1, 0), (2, 3), (0, 3)], 3, 8, []),
    "bipartite, more sources": ([(6, 1), (0, 0), (4, 1), (2, 1)], 8, 2, []),
    "empty": ([], 3, 4, []),
    "one edge": ([(1, 0)], 2, 2, []),
    "self loops": ([(0, 0), (1, 0), (1, 1), (2, 2), (2, 2)], 3, 3, []),
    "repeated edges": ([(1, 0), (1, 0), (0, 1), (1, 0), (0, 1)], 2, 2, []),
    "hub": ([(j % 5, 1) for j in range(23)], 5, 3, []),
    "pairs": (pairs_of((3, 1, 5, 2)), 11, 11, [0, 3, 4, 9, 11]),
    "one pair": ([(1, 0)], 2, 2, [0, 2]),
}


def case(
    name: str, features: int, tabulated: bool, dtype: torch.dtype = torch.float64
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], int]:
    """Factors (b, x, y, w); knot, edges, their orders and blocks; number of knots."""
    edges, sources, targets, blocks = GRAPHS[name]
    made = torch.Generator().manual_seed(features)
    index = torch.tensor(edges, dtype=torch.long).view(-1, 2).T.contiguous()
    count = index.size(1)
    rows = KNOTS if tabulated else count

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made, dtype=torch.float64).to(dtype)

    factors = (
        random(count, 6 if tabulated else 1),
        random(sources, features),
        random(targets, features),
        random(rows, features),
    )
    knot = torch.randint(0, KNOTS - 5, (count if tabulated else 0,), generator=made)
    order = (*reference.csr(index[1], targets), *reference.csr(index[0], sources))
    rest = (knot.int(), index, *order, torch.tensor(blocks, dtype=torch.long))
    return factors, rest, KNOTS if tabulated else 0


def run(way: tuple[str, str], factors: tuple, rest: tuple, knots: int, opened: int) -> tuple:
    backend, how = way
    if how == "operator":
        return torch.ops.pyg_schnet.form(*factors, *rest, knots, opened, backend)
    return kernel(backend, "form")(*factors, *rest, knots, opened)


def by_loops(factors: tuple[Tensor, ...], rest: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """All four open slots, one edge and one table row after the other."""
    b, x, y, w = factors
    knot, index, blocks = rest[0], rest[1], rest[-1]
    out_b, out_x, out_y, out_w = (torch.zeros_like(factor) for factor in factors)
    for e, (source, target) in enumerate(index.T.tolist()):
        directions = [(source, target)]
        if blocks.numel():
            directions.append((target, source))
        for m, (j, i) in itertools.product(range(b.size(1)), directions):
            row = e if b.size(1) == 1 else int(knot[e]) + m
            out_b[e, m] += sum(
                p * q * r for p, q, r in zip(x[j].tolist(), y[i].tolist(), w[row].tolist())
            )
            out_x[j] += b[e, m] * y[i] * w[row]
            out_y[i] += b[e, m] * x[j] * w[row]
            out_w[row] += b[e, m] * x[j] * y[i]
    return out_b, out_x, out_y, out_w


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("tabulated", [True, False], ids=["table", "given"])
def test_every_backend_and_set_of_open_slots_agrees_with_loops(name, tabulated):
    for features in FEATURES:
        factors, rest, knots = case(name, features, tabulated)
        wanted = by_loops(factors, rest)
        # Rounding is relative to the terms of a sum, whatever is left of them.
        terms = by_loops(tuple(factor.abs() for factor in factors), rest)
        single = tuple(factor.float() for factor in factors)
        for way, opened in itertools.product(WAYS, range(1, 16)):
            got = run(way, factors, rest, knots, opened)
            rounded = run(way, single, rest, knots, opened)
            slots = zip(SLOTS.items(), got, rounded, wanted, terms)
            for (slot, bit), one, other, want, term in slots:
                where = f"{way} F={features} opened={opened} slot {slot}"
                if not opened & bit:
                    assert one.numel() == 0, where
                    continue
                assert one.dtype == torch.float64 and other.dtype == torch.float32
                assert_close(one, want, rtol=1e-11, atol=1e-12, msg=where)
                assert bool(((other.double() - want).abs() <= 1e-6 * term).all()), where


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["unsorted, with isolated nodes", "pairs"])
@pytest.mark.parametrize("tabulated", [True, False], ids=["table", "given"])
def test_layout_in_memory_does_not_matter(way, name, tabulated):
    factors, rest, knots = case(name, 17, tabulated)
    wanted = run(way, factors, rest, knots, 15)
    spread = tuple(
        torch.stack([factor, factor + 1], -1)[..., 0].T.contiguous().T for factor in factors
    )
    assert not any(factor.is_contiguous() for factor in spread if factor.size(1) > 1)
    knot, index, *order = rest
    apart = torch.stack([knot, knot + 1], 1)[:, 0]
    got = run(way, spread, (apart, index.T.contiguous().T, *order), knots, 15)
    for one, want in zip(got, wanted):
        assert torch.equal(one, want)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tabulated", [True, False], ids=["table", "given"])
def test_an_expanded_gradient_is_read_rightly(way, tabulated):
    (b, x, y, w), rest, knots = case("hub", 10, tabulated)
    ones = torch.ones(1, 1, dtype=torch.float64).expand_as(y)
    got = run(way, (b, x, ones, w), rest, knots, 11)
    for one, want in zip(got, run(way, (b, x, ones.contiguous(), w), rest, knots, 11)):
        assert torch.equal(one, want)


def large_case(undirected: bool, tabulated: bool) -> tuple:
    """Enough numbers for several threads."""
    sizes = (9,) * 40
    pairs = torch.tensor(pairs_of(sizes)).T
    nodes, count = 9 * 40, pairs.size(1)
    torch.manual_seed(1)
    order = (*reference.csr(pairs[1], nodes), *reference.csr(pairs[0], nodes))
    blocks = torch.arange(0, nodes + 1, 45) if undirected else torch.zeros(0, dtype=torch.long)
    knots = KNOTS if tabulated else 0
    factors = (
        torch.randn(count, 6 if tabulated else 1),
        torch.randn(nodes, 64),
        torch.randn(nodes, 64),
        torch.randn(knots or count, 64),
    )
    knot = torch.randint(0, KNOTS - 5, (count if tabulated else 0,), dtype=torch.int32)
    return factors, (knot, pairs, *order, blocks), knots


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("undirected", [False, True], ids=["directed", "pairs"])
@pytest.mark.parametrize("tabulated", [True, False], ids=["table", "given"])
def test_repeats_are_equal_to_the_bit_and_threads_change_rounding_only(
    backend, undirected, tabulated
):
    factors, rest, knots = large_case(undirected, tabulated)
    one = run((backend, "function"), factors, rest, knots, 15)
    torch.set_num_threads(2)
    try:
        two = run((backend, "function"), factors, rest, knots, 15)
        for _ in range(5):
            again = run((backend, "function"), factors, rest, knots, 15)
            assert all(torch.equal(a, b) for a, b in zip(two, again))
    finally:
        torch.set_num_threads(1)
    for a, b in zip(one, two):
        assert_close(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["unsorted, with isolated nodes", "pairs"])
@pytest.mark.parametrize("tabulated", [True, False], ids=["table", "given"])
def test_a_nan_stays_with_those_who_meet_it(way, name, tabulated):
    (b, x, y, w), rest, knots = case(name, 17, tabulated)
    spoilt = x.clone()
    spoilt[2, 5] = torch.nan
    got = run(way, (b, spoilt, y, w), rest, knots, 15)
    wanted = by_loops((b, spoilt, y, w), rest)
    for one, want in zip(got, wanted):
        assert torch.equal(one.isnan(), want.isnan())
        assert_close(one, want, equal_nan=True)
    assert not got[1].isnan().any() and int(got[2].isnan().sum()) < 5
    assert not got[2][:, :5].isnan().any() and not got[2][:, 6:].isnan().any()


GRID = Grid.covering(2.0, 0.5)


def graph_of(backend: str, undirected: bool) -> tuple[Graph, int]:
    edges = [(1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (1, 2), (4, 3), (3, 4)]
    if not undirected:
        edges = [(4, 0), (1, 2), (0, 2), (3, 0), (0, 4), (2, 2)]
    graph = Graph.of(
        torch.tensor(edges).T, 5, dtype=torch.float64, backend=backend, undirected=undirected
    )
    assert graph.is_undirected == (undirected and backend == "cpu")
    return graph, graph.edge_index.size(1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("undirected", [False, True], ids=["directed", "pairs"])
@pytest.mark.parametrize("tabulated", [True, False], ids=["table", "given"])
def test_first_and_second_derivatives_of_every_slot(backend, undirected, tabulated):
    graph, edges = graph_of(backend, undirected)
    x = torch.randn(5, 2, dtype=torch.float64)
    w = torch.randn(KNOTS if tabulated else edges, 2, dtype=torch.float64)
    b = torch.randn(edges, 6 if tabulated else 1, dtype=torch.float64)
    knot = torch.randint(0, KNOTS - 5, (edges,), dtype=torch.int32) if tabulated else None
    inputs = {"x": x, "w": w, "b": b}
    for asked in (("x",), ("w",), ("b",), ("x", "w", "b")):
        leaves = {k: v.clone().requires_grad_(k in asked) for k, v in inputs.items()}

        def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return cfconv(x, w, b, graph, knot)

        arguments = tuple(leaves[name] for name in "xwb")
        assert torch.autograd.gradcheck(function, arguments), asked
        if asked == ("x", "w", "b"):
            assert torch.autograd.gradgradcheck(function, arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_third_derivative_in_the_distance(backend):
    graph, edges = graph_of(backend, False)
    x = torch.randn(5, 3, dtype=torch.float64)
    w = torch.randn(GRID.num_knots, 3, dtype=torch.float64)
    d = torch.linspace(0.13, 1.9, edges, dtype=torch.float64).requires_grad_()

    def curvature(d: Tensor) -> Tensor:
        knot, b = spline_weights(torch.ones_like(d), d, GRID, backend)
        energy = cfconv(x, w, b, graph, knot).square().sum()
        (slope,) = torch.autograd.grad(energy, d, create_graph=True)
        return torch.autograd.grad(slope.sin().sum(), d, create_graph=True)[0]

    assert torch.autograd.gradcheck(curvature, (d,), atol=1e-4)


@pytest.fixture
def opened(monkeypatch):
    """Sets of open slots in the order in which kernels are called."""
    sets = []

    def counted(backend: str, name: str):
        function = kernel(backend, name)
        if name != "form":
            return function

        def record(*arguments):
            sets.append(arguments[-1])
            return function(*arguments)

        return record

    monkeypatch.setattr(library, "kernel", counted)
    return sets


@needs_cpu
def test_only_gradients_that_are_asked_for_are_computed(opened):
    graph, edges = graph_of("cpu", False)
    leaves = {
        "x": torch.randn(5, 2, dtype=torch.float64, requires_grad=True),
        "w": torch.randn(edges, 2, dtype=torch.float64, requires_grad=True),
        "b": torch.randn(edges, dtype=torch.float64, requires_grad=True),
    }
    for name, leaf in leaves.items():
        # Behind another operation each, as in a network: torch does not tell which leaves it wants.
        out = cfconv(*(2 * value for value in leaves.values()), graph)
        torch.autograd.grad(out.sum(), leaf)
        assert opened == [SLOTS["y"], SLOTS[name]]
        opened.clear()
    out = cfconv(*(2 * value for value in leaves.values()), graph)
    torch.autograd.grad(out.sum(), [leaves["x"], leaves["b"]])
    assert opened == [SLOTS["y"], SLOTS["x"] | SLOTS["b"]]
    opened.clear()
    cfconv(*leaves.values(), graph).sum().backward()
    assert opened == [SLOTS["y"], SLOTS["x"] | SLOTS["b"] | SLOTS["w"]]


@needs_cpu
def test_forces_do_not_compute_the_gradient_of_the_filters(opened):
    graph, edges = graph_of("cpu", False)
    table = torch.nn.Parameter(torch.randn(GRID.num_knots, 2, dtype=torch.float64))
    x = torch.randn(5, 2, dtype=torch.float64)
    d = torch.rand(edges, dtype=torch.float64, requires_grad=True)
    knot, b = spline_weights(torch.ones_like(d), d, GRID)
    # The table lies behind another operation, as it does behind a filter network.
    torch.autograd.grad(cfconv(x, 2 * table, b, graph, knot).sum(), d)
    assert opened == [SLOTS["y"], SLOTS["b"]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("undirected", [False, True], ids=["directed", "pairs"])
def test_batched_gradients_and_transforms_of_torch_func(backend, undirected):
    graph, edges = graph_of(backend, undirected)
    x = torch.randn(5, 3, dtype=torch.float64)
    w = torch.randn(GRID.num_knots, 3, dtype=torch.float64)
    d = 0.1 + 1.8 * torch.rand(edges, dtype=torch.float64)

    def energy(d: Tensor) -> Tensor:
        knot, b = spline_weights(torch.ones_like(d), d, GRID, backend)
        return cfconv(x, w, b, graph, knot).square().sum()

    leaf = d.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(leaf), leaf, create_graph=True)
    rows = [torch.autograd.grad(s, leaf, retain_graph=True)[0] for s in slope]
    curvature = torch.stack(rows)
    one_by_one = torch.autograd.functional.hessian(energy, d)
    assert_close(curvature, one_by_one, rtol=1e-9, atol=1e-9)
    (batched,) = torch.autograd.grad(
        slope, leaf, torch.eye(edges, dtype=torch.float64), is_grads_batched=True
    )
    assert_close(batched, curvature, rtol=1e-9, atol=1e-9)
    assert_close(torch.func.grad(energy)(d), slope, rtol=1e-9, atol=1e-9)
    assert_close(torch.func.hessian(energy)(d), curvature, rtol=1e-9, atol=1e-9)
    direction = torch.randn(edges, dtype=torch.float64)
    value, along = torch.func.jvp(energy, (d,), (direction,))
    assert_close(value, energy(d))
    assert_close(along, (slope * direction).sum(), rtol=1e-9, atol=1e-9)
    many = torch.stack([d, d.flip(0)])
    assert_close(torch.func.vmap(energy)(many), torch.stack([energy(one) for one in many]))


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (((5, 2), (4, 2), (6, 1)), r"cfconv on 6 edges needs .* w of \(6, 2\)"),
        (((5, 2), (6, 3), (6, 1)), r"w of \(6, 2\), one column for each feature of x"),
        (((5, 2), (6, 2), (6, 6)), r"b of shape \(6, 1\) .*got \(6, 6\)"),
        (((4, 2), (6, 2), (6,)), "The graph has 5 sources, but x has 4 rows"),
    ],
)
def test_refuses_shapes_that_do_not_fit(shapes, sentence):
    graph, _ = graph_of("reference", False)
    with pytest.raises(ValueError, match=sentence):
        cfconv(*(torch.zeros(shape) for shape in shapes), graph)


def test_refuses_knots_that_are_not_one_int32_for_each_edge():
    graph, edges = graph_of("reference", False)
    x, w, b = torch.zeros(5, 2), torch.zeros(KNOTS, 2), torch.zeros(edges, 6)
    for knot in (torch.zeros(edges, dtype=torch.long), torch.zeros(edges - 1, dtype=torch.int32)):
        with pytest.raises(ValueError, match=r"knot must be int32 of shape \(6,\)"):
            cfconv(x, w, b, graph, knot)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_dtypes_are_promoted_and_half_precision_works(backend):
    graph, edges = graph_of(backend, False)
    x, w, b = torch.randn(5, 2), torch.randn(edges, 2), torch.rand(edges)
    want = cfconv(x.double(), w.double(), b.double(), graph)
    assert_close(cfconv(x, w.double(), b, graph), want, rtol=1e-6, atol=1e-6)
    half = cfconv(x.bfloat16(), w.bfloat16(), b.bfloat16(), graph)
    assert half.dtype == torch.bfloat16
    assert_close(half.double(), want, rtol=0.05, atol=0.05)
