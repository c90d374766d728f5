"""Filters read off a spline against the networks themselves."""

import copy

import pytest
import torch
from helpers import TOL, random_molecule, small_schnet
from torch import Tensor, nn
from torch.testing import assert_close

from pyg_schnet import SchNet
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.interop import to_pyg
from pyg_schnet.models.sweep_rules import by_autograd
from pyg_schnet.nn import FilterNetwork, GaussianSmearing
from pyg_schnet.nn import tabulated as module
from pyg_schnet.nn.tabulated import TOLERANCE, FilterTable, fixed_filters
from pyg_schnet.ops import Grid

END = 4.0


def networks(count: int = 2, scale: float = 1.0, activation: str = "linear") -> list[FilterNetwork]:
    torch.manual_seed(2)
    made = [FilterNetwork(12, 7, activation) for _ in range(count)]
    for network in made:
        for layer in (network[0], network[2]):
            nn.init.normal_(layer.bias, std=0.3)
        network[0].weight.data *= scale
    return made


def table_of(scale: float = 1.0, activation: str = "linear", dtype=torch.float32) -> FilterTable:
    made = nn.ModuleList(networks(scale=scale, activation=activation)).to(dtype)
    return FilterTable(GaussianSmearing(0.0, END, 12), list(made), END)


def values_and_slopes(table: FilterTable, d: Tensor) -> tuple[Tensor, Tensor]:
    """Of the networks, (layers, E, F), in float64 by automatic differentiation."""
    pairs = []
    for network in table.networks:
        network = copy.deepcopy(network).double()
        pairs.append(
            torch.func.jvp(
                lambda d, network=network: network(table.basis(d)), (d,), (torch.ones_like(d),)
            )
        )
    return tuple(torch.stack(parts).detach() for parts in zip(*pairs))


def read_off(table: FilterTable, d: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the table, in the dtype of ``d``."""
    leaf = d.clone().requires_grad_()
    filters = [found.values() for found in table.look_up(leaf, torch.ones_like(leaf))]
    slopes = [
        torch.stack(
            [torch.autograd.grad(w[:, f].sum(), leaf, retain_graph=True)[0] for f in range(7)], 1
        )
        for w in filters
    ]
    return torch.stack(filters).detach(), torch.stack(slopes)


def relative(found: Tensor, wanted: Tensor) -> float:
    largest = wanted.abs().amax((1, 2))
    return float(((found - wanted).abs().amax((1, 2)) / largest).max())


def random_distances(count: int = 4000) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return END * torch.rand(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("activation", ["linear", "ssp"])
@pytest.mark.parametrize("step", [0.4, 0.2, 0.1])
def test_the_error_that_is_measured_is_the_error_there_is(step, activation):
    table, d = table_of(activation=activation, dtype=torch.float64), random_distances()
    grid = Grid.covering(END, step)
    stated = table.error(grid)
    table.grids[torch.float64] = grid
    exact, found = values_and_slopes(table, d), read_off(table, d)
    for said, one, other in zip(stated, found, exact):
        true = relative(one, other)
        assert 0.6 * true < said < 1.5 * true


@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("activation", ["linear", "ssp"])
def test_values_and_slopes_are_within_the_tolerance(scale, activation, dtype):
    table, d = table_of(scale, activation, dtype), random_distances().to(dtype)
    exact, found = values_and_slopes(table, d.double()), read_off(table, d)
    # Float32 adds its own rounding to what the grid leaves: 1e-7 of the coefficients, over h.
    rounding = (3e-6, 2e-4) if dtype == torch.float32 else (1e-13, 1e-12)
    for tolerance, extra, one, other in zip(TOLERANCE[dtype], rounding, found, exact):
        assert relative(one.double(), other) < 1.5 * tolerance + extra


def test_sharp_networks_get_a_finer_grid():
    steps = [table_of(scale).grid(torch.float32).step for scale in (1.0, 5.0, 20.0)]
    assert steps[0] > steps[1] > steps[2] > 2.0**-9
    table = table_of(20.0)
    for dtype, tolerance in TOLERANCE.items():
        errors = table.error(table.grid(dtype))
        assert all(error <= bar for error, bar in zip(errors, tolerance))
    assert table.grid(torch.float64).step < table.grid(torch.float32).step


def test_networks_too_sharp_for_any_grid_warn():
    with pytest.warns(UserWarning, match='change too fast for a table: .* use filters="exact"'):
        table_of(1e5)


def test_beyond_the_end_the_filters_stay_as_they_are():
    table = table_of(dtype=torch.float64)
    end = table.grid(torch.float64).end
    d = torch.tensor([end, end + 0.1, 100.0], dtype=torch.float64)
    values, slopes = read_off(table, d)
    assert_close(values[:, 1], values[:, 0])
    assert_close(values[:, 2], values[:, 0])
    assert not slopes[:, 1:].any()


@pytest.mark.parametrize("activation", ["linear", "ssp"])
def test_gradients_of_the_networks_are_those_of_exact_filters(activation):
    table = table_of(activation=activation, dtype=torch.float64)
    parameters = [p for network in table.networks for p in network.parameters()]
    d, weight = random_distances(50), torch.randn(2, 50, 7, dtype=torch.float64)
    scale = torch.rand(50, dtype=torch.float64)
    by_table = torch.stack([found.values() for found in table.look_up(d, scale)])
    exact = torch.stack([network(table.basis(d)) for network in table.networks])
    got = torch.autograd.grad((by_table * weight).sum(), parameters)
    want = torch.autograd.grad((exact * scale.view(-1, 1) * weight).sum(), parameters)
    for one, other in zip(got, want):
        assert_close(one, other, rtol=0, atol=1e-8 * float(other.abs().max()))


@pytest.fixture
def tables_made(monkeypatch):
    """Counts how often a kept table is computed."""
    calls = []
    whole = module.table_coefficients

    def counted(values: Tensor, *rest: str) -> Tensor:
        calls.append(values.dtype)
        return whole(values, *rest)

    monkeypatch.setattr(module, "table_coefficients", counted)
    return calls


def in_place(model: SchNet) -> None:
    with torch.no_grad():
        model.interactions[0].conv.nn[0].weight.mul_(1.01)


def behind_autograd(model: SchNet) -> None:
    bias = model.interactions[1].conv.nn[2].bias
    bias.data.copy_(bias.data + 0.1)


def optimizer_step(model: SchNet) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.tensor([8, 1]), torch.eye(3, dtype=model.embedding.weight.dtype)[:2]).backward()
    optimizer.step()


def load(model: SchNet) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["interactions.0.conv.nn.0.weight"] *= 1.1
    model.load_state_dict(state)


def replace(model: SchNet) -> None:
    layer = model.interactions[0].conv.nn[2]
    layer.weight = nn.Parameter(1.1 * layer.weight.detach())


def other_network(model: SchNet) -> None:
    dtype = model.embedding.weight.dtype
    model.interactions[1].conv.nn = FilterNetwork(8, 10).to(dtype)


@pytest.mark.parametrize(
    "change", [in_place, behind_autograd, optimizer_step, load, replace, other_network]
)
@pytest.mark.parametrize("how", ["no_grad", "fixed_filters", "inference_mode"])
def test_a_kept_table_is_renewed_when_weights_change(change, how, tables_made):
    context = {
        "no_grad": torch.no_grad,
        "fixed_filters": fixed_filters,
        "inference_mode": torch.inference_mode,
    }[how]
    model = small_schnet(filters="tabulated")
    data = random_molecule(8, 3)

    def energy(filters: str) -> Tensor:
        model.filters = filters
        with context():
            return model(data.z, data.pos).clone().detach()

    before = energy("tabulated")
    tables_made.clear()
    assert torch.equal(energy("tabulated"), before)
    assert not tables_made
    model.filters = "tabulated"
    change(model)
    after = energy("tabulated")
    assert tables_made and (after - before).abs() > 1e-6
    assert_close(after, energy("exact"), rtol=1e-9, atol=1e-9)


def test_a_kept_table_follows_the_dtype_of_the_model():
    model, data = small_schnet(filters="tabulated"), random_molecule(8, 3)
    with torch.no_grad():
        want = model(data.z, data.pos)
        single = model.float()(data.z, data.pos.float())
        assert_close(single.double(), want, rtol=1e-5, atol=1e-5)
        rounded = small_schnet(filters="exact").float().double()(data.z, data.pos)
        again = model.double()(data.z, data.pos)
        assert_close(again, rounded, rtol=1e-9, atol=1e-9)


def test_an_equal_model_after_a_copy_does_not_share_the_table():
    model, data = small_schnet(filters="tabulated"), random_molecule(8, 3)
    with torch.no_grad():
        before = model(data.z, data.pos)
        other = copy.deepcopy(model)
        in_place(other)
        other.filters = "exact"
        want = other(data.z, data.pos)
        other.filters = "tabulated"
        assert_close(other(data.z, data.pos), want, rtol=1e-9, atol=1e-9)
        assert torch.equal(model(data.z, data.pos), before)


class OwnBasis(GaussianSmearing):
    """Not known to be a function that the table may evaluate."""


@pytest.mark.parametrize("foreign", ["hook", "hook inside", "basis", "network"])
def test_foreign_modules_are_refused_or_evaluated_exactly(foreign):
    want = small_schnet(torch.float32, filters="exact")
    model = small_schnet(torch.float32, filters="auto")
    network = model.interactions[1].conv.nn
    if foreign == "basis":
        model.distance_expansion = OwnBasis(0.0, 4.0, 8)
    elif foreign == "network":
        model.interactions[1].conv.nn = nn.Sequential(*network)
    else:
        hooked = network if foreign == "hook" else network[0]
        hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
        hooked = want.interactions[1].conv.nn
        hooked = hooked if foreign == "hook" else hooked[0]
        hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    data = random_molecule(9, 1, torch.float32)
    with torch.no_grad():
        assert torch.equal(model(data.z, data.pos), want(data.z, data.pos))
        model.filters = "tabulated"
        with pytest.raises(ValueError, match="filters='tabulated' needs the package's own basis"):
            model(data.z, data.pos)


def tables_used(model: SchNet, count: int, monkeypatch) -> bool:
    used = []
    for name in ("look_up", "constant_grid"):  # layer by layer, or in the sweeps
        whole = getattr(FilterTable, name)
        monkeypatch.setattr(
            FilterTable, name, lambda *given, whole=whole: used.append(1) or whole(*given)
        )
    data = random_molecule(count, 0, model.embedding.weight.dtype)
    model(data.z, data.pos)
    return bool(used)


def test_auto_is_exact_in_float64_and_by_size_in_float32(monkeypatch):
    double, single = small_schnet(), small_schnet(torch.float32)
    assert not tables_used(double, 60, monkeypatch)
    with by_autograd():
        assert tables_used(single, 60, monkeypatch)
        assert not tables_used(single, 3, monkeypatch)
    with torch.no_grad():
        assert tables_used(single, 3, monkeypatch)
    with fixed_filters():
        assert tables_used(single, 3, monkeypatch)
    single.requires_grad_(False)
    assert tables_used(single, 3, monkeypatch)
    assert not tables_used(small_schnet(torch.float32, filters="exact"), 60, monkeypatch)


@pytest.mark.parametrize(
    ("options", "stretch"),
    [
        ({}, 1.0),
        ({}, 4.0),
        ({"cutoff_fn": "hard"}, 4.0),
        ({"cutoff_fn": "none"}, 1.0),
        ({"cutoff_fn": "none"}, 6.0),
        ({"shared_filters": True, "normalize": "neighbors"}, 1.0),
        ({"filter_activation": "ssp"}, 1.0),
        ({"gamma": 30.0}, 1.0),
    ],
)
def test_energies_and_forces_of_a_model(options, stretch):
    """Stretched molecules have given edges beyond the cutoff, or beyond the end of the grid."""
    data, results = random_molecule(9, 4), []
    edge_index, _ = neighbor_edges(data.pos, None)
    for filters in ("tabulated", "exact"):
        model = small_schnet(filters=filters, **options)
        pos = (stretch * data.pos).requires_grad_()
        energy = model(data.z, pos, edge_index=edge_index)
        results.append((energy, torch.autograd.grad(energy.sum(), pos)[0]))
    for one, other in zip(*results):
        assert_close(one, other, rtol=1e-7, atol=1e-8)


def molecules_like_qm9(count: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    sizes = torch.randint(14, 22, (count,), generator=torch.Generator().manual_seed(0))
    made = [random_molecule(int(size), seed) for seed, size in enumerate(sizes)]
    z = torch.cat([molecule.z for molecule in made])
    batch = torch.repeat_interleave(torch.arange(count), sizes)
    return z, torch.cat([molecule.pos for molecule in made]), batch


def test_float32_agrees_with_float64_as_well_as_the_plain_model_does():
    """Errors of tables, exact filters and PyG's SchNet, all in float32, against float64.

    Relative to the largest energy and the largest force: some energies happen to lie near zero.
    """
    z, pos, batch = molecules_like_qm9()
    pos = pos.float().double()
    edge_index, _ = neighbor_edges(pos, 5.0, batch=batch)
    model = SchNet(64, 64, 6, 50, 5.0, seed=0)

    def results(model: nn.Module, pos: Tensor, *edges: Tensor) -> tuple[Tensor, Tensor]:
        pos = pos.clone().requires_grad_()
        energy = model(z, pos, batch, *edges)
        (slope,) = torch.autograd.grad(energy.sum(), pos)
        return energy.detach().double(), slope.double()

    energy, forces = results(copy.deepcopy(model).double(), pos, edge_index)
    errors = {}
    for name in ("tabulated", "exact", "pyg"):
        if name != "pyg":
            model.filters = name
            found = results(model, pos.float(), edge_index)
        else:
            found = results(to_pyg(model), pos.float())
        errors[name] = (
            float((found[0] - energy).abs().max() / energy.abs().max()),
            float((found[1] - forces).abs().max() / forces.abs().max()),
        )
    for name, (of_energy, of_forces) in errors.items():
        assert of_energy < 1e-6 and of_forces < 2e-5, (name, of_energy, of_forces)


def test_values_multiply_out_weights_and_rows(dtype):
    table = table_of(dtype=dtype)
    d, scale = random_distances(5).to(dtype), torch.rand(5, dtype=dtype)
    found = table.look_up(d, scale)[0]
    assert found.knot is not None
    for e, row in enumerate(found.values()):
        first = int(found.knot[e])
        want = sum(found.weights[e, m] * found.rows[first + m] for m in range(6))
        assert_close(row, want, **TOL[dtype])


def test_loaded_weights_get_a_grid_of_their_own_in_training_too():
    """Sharper filters than those the model was made with."""
    sharp, model = (small_schnet(torch.float32, seed=seed) for seed in (0, 1))
    with torch.no_grad():
        for block in sharp.interactions:
            block.conv.nn[0].weight.mul_(20.0)
    before = model._table.grid(torch.float32)
    model.load_state_dict(sharp.state_dict())
    assert model._table.grid(torch.float32).step < before.step
    exact = small_schnet(filters="exact")
    exact.load_state_dict({name: value.double() for name, value in sharp.state_dict().items()})
    data = random_molecule(18, 4)
    edge_index, _ = neighbor_edges(data.pos, None)
    wanted = exact(data.z, data.pos, edge_index=edge_index).detach()
    found = model(data.z, data.pos.float(), edge_index=edge_index).detach().double()
    assert_close(found, wanted, rtol=5e-6, atol=1e-6)
