"""Every function of a backend against the reference, and both derivatives of the convolution."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pyg_schnet.ops import Graph, Grid, cfconv, edge_difference, spline_weights, ssp
from pyg_schnet.ops.backends import kernel, reference

# The largest error, relative to the largest number.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
GRID = Grid.covering(2.0, 0.13)
# Sources, targets, edges: isolated nodes, one edge, none, more edges into a node than a tile has.
GRAPHS = {"some": (10, 9, 30), "one": (3, 2, 1), "none": (3, 4, 0), "hub": (3, 2, 80)}
ALL = tuple(range(1, 16))
# Graph, features (no power of two, one, more than one tile), sets of open slots.
FORMS = (
    ("some", 20, ALL),
    ("some", 5, (4, 10, 15)),
    ("some", 1, (15,)),
    ("some", 150, (5, 15)),
    ("one", 5, (5, 15)),
    ("none", 5, (5, 15)),
    ("hub", 20, (3, 5, 8, 13)),
)


def _error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape, f"shape {tuple(got.shape)} for {tuple(expected.shape)}"
    assert got.dtype == expected.dtype, f"{got.dtype} for {expected.dtype}"
    if not got.numel():
        return 0.0
    scale = expected.nan_to_num(0.0).abs().max().clamp(min=1e-3)
    same = (got == expected) | (got.isnan() & expected.isnan())
    return float(torch.where(same, 0.0, (got - expected).abs() / scale).nan_to_num(1e9).max())


def _random(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device="cpu").to(device)


def _edges(name: str, device: str) -> tuple[Tensor, int, int]:
    sources, targets, edges = GRAPHS[name]
    # The last node of each side has no edge, unless it is the only one.
    source = torch.randint(max(sources - 1, 1), (edges,))
    target = torch.randint(max(targets - 1, 1), (edges,))
    return torch.stack([source, target]).to(device), sources, targets


def forms(
    backend: str,
    dtype: torch.dtype,
    device: str,
    graph: str,
    features: int,
    sets: tuple[int, ...],
    tabulated: bool,
) -> Iterator[tuple[str, float]]:
    edge_index, sources, targets = _edges(graph, device)
    edges = edge_index.size(1)
    order = (*kernel(backend, "csr")(edge_index[1], targets),)
    order += (*kernel(backend, "csr")(edge_index[0], sources),)
    truth = (*reference.csr(edge_index[1], targets), *reference.csr(edge_index[0], sources))
    yield "csr", max(_error(a, b) for a, b in zip(order, truth))

    directed = edge_index.new_empty(0)
    knots = GRID.num_knots if tabulated else 0
    made = {"dtype": dtype, "device": device}
    b = _random(edges, 6 if tabulated else 1, **made)
    x, y = _random(sources, features, **made), _random(targets, features, **made)
    w = _random(knots or edges, features, **made)
    knot = torch.randint(GRID.intervals, (edges if tabulated else 0,), dtype=torch.int32).to(device)
    for opened in sets:
        # A factor that nothing needs is empty; the gradient of a sum is one number, expanded.
        inputs = (
            b,
            x[:0] if opened == 2 else x,
            y[:0] if opened == 4 else y[:1].expand(targets, -1),
            w[:0] if opened == 8 else w,
        )
        arguments = (*inputs, knot, edge_index, *order, directed, knots, opened)
        got, expected = kernel(backend, "form")(*arguments), reference.form(*arguments)
        for slot, one, other in zip("bxyw", got, expected):
            yield f"form opened={opened} slot {slot}", _error(one, other)


def per_edge(backend: str, dtype: torch.dtype, device: str) -> Iterator[tuple[str, float]]:
    made = {"dtype": dtype, "device": device}
    special = torch.tensor(
        [0.0, GRID.step, GRID.end, GRID.end + 0.01, 50.0, 0.5 * GRID.step, float("nan")], **made
    )
    for d in (torch.cat([special, 2.2 * _random(40, **made).abs()]), special[:1], special[:0]):
        c, g = _random(d.numel(), **made), _random(d.numel(), 6, **made)
        grid = (GRID.step, GRID.intervals)
        yield "knots", _error(kernel(backend, "knots")(d, *grid), reference.knots(d, *grid))
        for order in range(7):
            for name, factor in (("spline", c), ("spline_dot", g)):
                arguments = (factor, d, order, *grid)
                got = kernel(backend, name)(*arguments)
                yield f"{name} order={order}", _error(got, getattr(reference, name)(*arguments))
    coarse = (GRID.step, 1)
    yield (
        "knots of one interval",
        _error(kernel(backend, "knots")(special, *coarse), reference.knots(special, *coarse)),
    )
    for graph in GRAPHS:
        edge_index, *_ = _edges(graph, device)
        nodes = max(GRAPHS[graph][:2])
        order = (*reference.csr(edge_index[1], nodes), *reference.csr(edge_index[0], nodes))
        pos, v = _random(nodes, 3, **made), _random(edge_index.size(1), 3, **made)
        for name, value in (("edge_difference", pos), ("edge_divergence", v)):
            arguments = (value, edge_index, *order)
            got = kernel(backend, name)(*arguments)
            yield f"{name} {graph}", _error(got, getattr(reference, name)(*arguments))


def dense(backend: str, dtype: torch.dtype, device: str) -> Iterator[tuple[str, float]]:
    made = {"dtype": dtype, "device": device}
    special = torch.tensor([0.0, 20.0, 20.5, -20.5, 300.0, -300.0, float("nan")], **made)
    for x in (torch.cat([special, 5 * _random(30, **made)]), _random(3, 7, **made), special[:0]):
        g = _random(*x.shape, **made)
        yield "ssp", _error(kernel(backend, "ssp")(x), reference.ssp(x))
        for order in range(1, 7):
            got = kernel(backend, "ssp_grad")(g, x, order)
            # In float32 the reference itself is no better than 2e-5 at the highest orders.
            expected = reference.ssp_grad(g.double(), x.double(), order).to(dtype)
            yield f"ssp_grad order={order}", _error(got, expected)
    for shape in ((23, 5), (2, 3, 9, 20), (2, 12, 70), (0, 12, 5)):
        for transposed in (False, True):
            values = _random(*shape, **made)
            got = kernel(backend, "prefilter")(values, transposed)
            yield f"prefilter {shape}", _error(got, reference.prefilter(values, transposed))


def derivatives(backend: str, device: str) -> Iterator[tuple[str, float]]:
    """First and second derivatives by automatic and by finite differences."""
    made = {"dtype": torch.float64, "device": device}
    edge_index = torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]], device=device)
    graph = Graph.of(edge_index, 3, dtype=torch.float64, backend=backend)
    grid = Grid.covering(2.0, 0.5)
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.3, 0.0], [1.3, 0.0, 0.4]], **made)
    x, w = _random(3, 2, **made), _random(grid.num_knots, 2, **made)

    def by_table(pos: Tensor, x: Tensor, w: Tensor) -> Tensor:
        d = edge_difference(pos, graph).norm(dim=1)
        knot, b = spline_weights(torch.ones_like(d), d, grid, backend)
        return ssp(cfconv(x, w, b, graph, knot), backend)

    def by_edge(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return cfconv(x, w, b, graph)

    cases = (
        ("table", by_table, (pos, x, w)),
        ("given", by_edge, (x, _random(4, 2, **made), _random(4, **made))),
    )
    for name, function, inputs in cases:
        inputs = tuple(value.requires_grad_() for value in inputs)
        torch.autograd.gradcheck(function, inputs, fast_mode=True)
        torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
        yield f"derivatives, {name}", 0.0


def main(device: str, backend: str) -> int:
    """Run all cases; the number of comparisons.

    Raises:
        AssertionError: If any is off; it names all that are.
    """
    torch.manual_seed(0)
    done, wrong = 0, []

    def check(where: str, cases: Iterator[tuple[str, float]], tolerance: float) -> None:
        nonlocal done
        for name, error in cases:
            done += 1
            if error > tolerance:
                wrong.append(f"{where} {name}: {error:.1e}")

    for dtype, tolerance in TOLERANCE.items():
        for graph, features, sets in FORMS:
            for tabulated in (True, False):
                where = f"{dtype} {graph} F={features} {'table' if tabulated else 'given'}"
                cases = forms(backend, dtype, device, graph, features, sets, tabulated)
                check(where, cases, tolerance)
        check(f"{dtype}", per_edge(backend, dtype, device), tolerance)
        check(f"{dtype}", dense(backend, dtype, device), tolerance)
    check("float64", derivatives(backend, device), 1e-12)
    assert not wrong, "\n".join(wrong)
    return done


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(main("cpu", "cuda"))
