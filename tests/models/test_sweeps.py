"""Training on forces by tangents against autograd's double backward."""

import copy
import weakref

import pytest
import torch
from helpers import random_molecule
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from pyg_schnet import SchNet
from pyg_schnet.models import sweep_rules
from pyg_schnet.models.potential import _strained
from pyg_schnet.models.sweep_rules import applies
from pyg_schnet.models.sweeps import energy_and_forces

pytest.importorskip("numba")

NAMES = ("batch", "edge_index", "cell", "cell_shift", "pbc")


def model(dtype: torch.dtype = torch.float64, **options: object) -> SchNet:
    sizes = {"hidden_channels": 12, "num_filters": 20, "num_interactions": 2, "num_gaussians": 10}
    return SchNet(**(sizes | {"cutoff": 4.0, "filters": "tabulated", "seed": 3} | options)).to(
        dtype
    )


def molecules(dtype: torch.dtype = torch.float64) -> Batch:
    """Three molecules, the last of them a single atom."""
    alone = Data(z=torch.tensor([2]), pos=torch.zeros(1, 3, dtype=dtype))
    some = [random_molecule(n, seed=n, dtype=dtype) for n in (7, 4)]
    return Batch.from_data_list([Data(z=d.z, pos=d.pos) for d in some] + [alone])


def twice_differentiated(
    net: SchNet, data: Data, stress: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Energies, forces and stress with a graph that autograd can go through again."""
    num_graphs = data.num_graphs
    pos = data.pos.clone().requires_grad_()
    given = {name: data.get(name) for name in NAMES}
    moved, strain = pos, torch.zeros(num_graphs, 3, 3, dtype=pos.dtype, requires_grad=True)
    if stress:
        moved, given["cell"] = _strained(pos, data.cell, strain, data.batch)
    energy = net(data.z, moved, **given, num_graphs=num_graphs, dtype=torch.float64).view(-1)
    slope, virial = torch.autograd.grad(
        energy.sum(), (pos, strain), create_graph=True, materialize_grads=True
    )
    volume = torch.linalg.det(data.cell).abs().view(-1, 1, 1) if stress else 1.0
    return energy, -slope, virial / volume if stress else None


def by_tangents(
    net: SchNet, data: Data, stress: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    assert applies(net, data.pos, data.get("cell"), data.num_graphs)
    given = {name: data.get(name) for name in NAMES}
    return energy_and_forces(
        net, data.z, data.pos, **given, num_graphs=data.num_graphs, stress=stress
    )


def loss_of(
    results: tuple[Tensor, Tensor, Tensor | None], weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Mean squares against made-up labels."""
    energy, forces, stress = results
    generator = torch.Generator().manual_seed(1)
    loss = 0.0
    for weight, value in zip((*weights, 1.0), (energy, forces, stress)):
        if weight and value is not None:
            wanted = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            loss = loss + weight * (value - wanted).square().mean()
    return loss


def gradients(net: SchNet, loss: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)
    return dict(zip(dict(net.named_parameters()), found, strict=True))


def compare(net: SchNet, data: Data, tolerance: float = 1e-9, stress: bool = False) -> None:
    expected, found = (f(net, data, stress) for f in (twice_differentiated, by_tangents))
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for weights in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0)):
        expected, found = (f(net, data, stress) for f in (twice_differentiated, by_tangents))
        if stress and weights[0] == weights[1]:
            weights = (0.0, 0.0)
        wanted = gradients(net, loss_of(expected, weights))
        for name, gradient in gradients(net, loss_of(found, weights)).items():
            scale = float(wanted[name].abs().max())
            torch.testing.assert_close(
                gradient, wanted[name], rtol=0.0, atol=tolerance * (scale + 1e-3), msg=name
            )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cutoff_fn": "hard"},
        {"cutoff_fn": "none"},
        {"normalize": "neighbors"},
        {"shared_filters": True},
        {"readout": "mean", "mean": -2.0, "std": 3.0},
        {"filter_activation": "ssp", "atomref": torch.arange(100.0), "mean": 0.5},
        {"hidden_channels": 32, "num_filters": 16, "num_interactions": 3, "gamma": 5.0},
    ],
    ids=lambda options: "-".join(options) or "default",
)
def test_gradients_are_those_of_double_backward(options):
    compare(model(**options), molecules())


def test_factor_of_the_result():
    net = model(readout="mean")
    net.readout.scale.fill_(0.25)
    compare(net, molecules())


def test_given_edges_in_any_order_and_beyond_the_cutoff():
    data = molecules()
    near = (data.batch.view(-1, 1) == data.batch).fill_diagonal_(False)
    edges = near.nonzero().t()
    data.edge_index = edges[:, torch.randperm(edges.size(1))]
    compare(model(cutoff=2.0), data)


@pytest.mark.parametrize("stress", [False, True])
def test_periodic_structures(crystal, stress):
    data = Batch.from_data_list([Data(z=crystal.z, pos=crystal.pos, cell=crystal.cell)] * 2)
    data.pos = data.pos + 0.05 * torch.randn_like(data.pos)
    data.cell = data.cell.view(-1, 3, 3)
    assert data.cell.shape == (2, 3, 3)
    compare(model(), data, stress=stress)


def test_one_cell_for_all_and_its_stress(crystal):
    data = Batch.from_data_list([Data(z=crystal.z, pos=crystal.pos)])
    data.cell = crystal.cell.view(1, 3, 3)
    compare(model(normalize="neighbors"), data, stress=True)


def test_float32():
    compare(model(torch.float32), molecules(torch.float32), 1e-4)
    # There "auto" takes a table wherever forces are trained; exact filters agree with it.
    net, data = model(torch.float32, filters="auto"), molecules(torch.float32)
    exact = copy.deepcopy(net)
    exact.filters = "exact"
    wanted = gradients(exact, loss_of(twice_differentiated(exact, data)))
    for name, gradient in gradients(net, loss_of(by_tangents(net, data))).items():
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=1e-4 * scale, msg=name)


def test_gradient_is_the_slope_of_the_loss():
    net, data = model(), molecules()
    found = gradients(net, loss_of(by_tangents(net, data)))
    for name, place in (("interactions.0.conv.nn.0.weight", (3, 4)), ("embedding.weight", (6, 2))):
        parameter, losses = net.get_parameter(name), []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[place] += step
            losses.append(loss_of(by_tangents(net, data)).item())
            with torch.no_grad():
                parameter[place] -= step
        slope = (losses[0] - losses[1]) / 2e-5
        assert float(found[name][place]) == pytest.approx(slope, rel=1e-6, abs=1e-9)
        assert abs(slope) > 1e-7


def test_adam_goes_the_same_way():
    losses = []
    for results in (twice_differentiated, by_tangents):
        net, data = model(), molecules()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        losses.append([])
        for _ in range(20):
            optimizer.zero_grad()
            loss = loss_of(results(net, data))
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-7)
    assert losses[1][-1] < 0.9 * losses[1][0]


def test_gradients_accumulate_and_those_of_padding_stay_zero():
    net, data = model(), molecules()
    data.z[0] = 0
    by_one = gradients(net, loss_of(by_tangents(net, data)))
    assert not by_one["embedding.weight"][0].any()
    first, second = (loss_of(by_tangents(net, data)) for _ in range(2))
    first.backward(retain_graph=True)
    first.backward()
    second.backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, 3 * by_one[name])


def test_frozen_parameters_get_none():
    net, data = model(), molecules()
    wanted = gradients(net, loss_of(by_tangents(net, data)))
    for parameter in net.embedding.parameters():
        parameter.requires_grad_(False)
    for block in net.interactions:
        block.conv.nn.requires_grad_(False)
    loss_of(by_tangents(net, data)).backward()
    assert net.embedding.weight.grad is None
    assert net.interactions[0].conv.nn[0].weight.grad is None
    lin = "interactions.0.lin.weight"
    torch.testing.assert_close(net.get_parameter(lin).grad, wanted[lin])


def second_derivative(loss, net):
    wanted = [net.readout.lin1.weight, net.interactions[0].conv.nn[0].weight]
    first = torch.autograd.grad(loss, wanted, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), wanted)


def test_differentiated_twice_they_are_left_to_autograd():
    net, data = model(), molecules()
    found = second_derivative(loss_of(by_tangents(net, data)), net)
    with sweep_rules.by_autograd():
        wanted = second_derivative(loss_of(twice_differentiated(net, data)), net)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_energies_alone_are_those_of_autograd_with_their_gradients(dtype):
    net, data = model(dtype=dtype), molecules(dtype)
    tolerance = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {}
    call = (data.z, data.pos, data.batch)
    assert sweep_rules.applies(net, data.pos)
    found = net(*call, num_graphs=data.num_graphs)
    with sweep_rules.by_autograd():
        wanted = net(*call, num_graphs=data.num_graphs)
    torch.testing.assert_close(found, wanted, **tolerance)
    weights = torch.linspace(1, 2, data.num_graphs, dtype=dtype).view(-1, 1)
    found = torch.autograd.grad((found * weights).sum(), list(net.parameters()))
    wanted = torch.autograd.grad((wanted * weights).sum(), list(net.parameters()))
    for a, b in zip(found, wanted):
        scale = float(b.abs().max())
        torch.testing.assert_close(
            a, b, rtol=0, atol=(1e-9 if dtype == torch.float64 else 2e-5) * scale
        )


def test_energies_alone_can_be_differentiated_twice():
    net, data = model(), molecules()

    def energy():
        return net(data.z, data.pos, data.batch, num_graphs=data.num_graphs).square().sum()

    found = second_derivative(energy(), net)
    with sweep_rules.by_autograd():
        wanted = second_derivative(energy(), net)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_energies_without_gradients_are_those_of_the_layers(mode, crystal):
    net, data = model(), molecules()
    with mode():
        for each in (data, Batch.from_data_list([crystal])):
            given = {name: each.get(name) for name in NAMES}
            assert applies(net, each.pos, each.get("cell"), each.num_graphs)
            found = net(each.z, each.pos, **given, num_graphs=each.num_graphs)
            with sweep_rules.by_autograd():
                want = net(each.z, each.pos, **given, num_graphs=each.num_graphs)
            torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-11)
            assert not found.requires_grad


def test_without_gradients_the_grid_follows_the_filters():
    net, data = model(torch.float32, filters="auto"), molecules(torch.float32)
    net(data.z, data.pos, data.batch)
    with torch.no_grad():
        for block in net.interactions:
            block.conv.nn[0].weight *= 6.0
        found = net(data.z, data.pos, data.batch)
        exact = copy.deepcopy(net)
        exact.filters = "exact"
        want = exact.double()(data.z, data.pos.double(), data.batch)
    torch.testing.assert_close(found.double(), want, rtol=2e-6, atol=2e-6)


def test_without_gradients_large_structures_are_left_to_the_layers(monkeypatch):
    net, data = model(), molecules()
    monkeypatch.setattr(sweep_rules, "_RECORD", 1000)
    assert applies(net, data.pos, num_graphs=data.num_graphs)
    with torch.no_grad():
        assert not applies(net, data.pos, num_graphs=data.num_graphs)


def test_weights_changed_before_the_backward_pass_are_noticed():
    net, data = model(), molecules()
    loss = loss_of(by_tangents(net, data))
    with torch.no_grad():
        net.readout.lin1.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memory_is_given_back_with_the_results():
    """Without a cycle of references, which would keep it until the garbage collector comes."""
    net, data = model(), molecules()
    results = by_tangents(net, data)
    record = weakref.ref(results[1].grad_fn.record)
    loss_of(results).backward()
    del results
    assert record() is None


def test_data_are_checked_as_by_the_model():
    net, data = model(), molecules()
    with pytest.raises(ValueError, match="z must lie in"):
        energy_and_forces(net, data.z + 99, data.pos, data.batch, num_graphs=3)
    with pytest.raises(IndexError, match="node numbers"):
        edge_index = torch.tensor([[0, 99], [1, 0]])
        energy_and_forces(net, data.z, data.pos, data.batch, edge_index, num_graphs=3)
    with pytest.raises((IndexError, RuntimeError)):
        energy_and_forces(net, data.z, data.pos, data.batch, num_graphs=2)


class Other(SchNet):
    pass


def hooked(net: SchNet) -> None:
    net.interactions[1].conv.lin2.register_forward_hook(lambda *_: None)


def with_other_layer(net: SchNet) -> None:
    net.interactions[0].lin = nn.Linear(12, 12).double()


def parametrized(net: SchNet) -> None:
    nn.utils.parametrizations.weight_norm(net.readout.lin1)


def with_function(net: SchNet) -> None:
    net.interaction_graph = lambda pos, batch: (None, None)


def with_half_of_it_in_float32(net: SchNet) -> None:
    net.readout.float()


@pytest.mark.parametrize(
    "change", [hooked, with_other_layer, parametrized, with_function, with_half_of_it_in_float32]
)
def test_left_to_autograd_where_the_model_is_another(change):
    net, data = model(), molecules()
    assert applies(net, data.pos)
    change(net)
    assert not applies(net, data.pos)


def test_left_to_autograd_where_more_is_asked_for(monkeypatch):
    net, pos = model(), molecules().pos
    assert applies(net, pos)
    assert not applies(net, pos.clone().requires_grad_())
    assert not applies(net, pos, torch.eye(3, requires_grad=True))
    assert not applies(net, pos.float())
    assert not applies(model(filters="auto"), pos)
    assert applies(model(torch.float32, filters="auto"), pos.float())
    assert not applies(model(torch.float32, filters="exact"), pos.float())
    assert not applies(model(backend="reference"), pos)
    assert not applies(model(dipole=True), pos)
    assert not applies(model(num_interactions=0), pos)
    assert not applies(Other(12, 20, 2, 10, filters="tabulated").double(), pos)
    assert not applies(nn.Linear(3, 3), pos)
    with torch.autocast("cpu"):
        assert not applies(net, pos)
    monkeypatch.setattr(sweep_rules, "_LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert not applies(net, pos, num_graphs=1) and applies(net, pos, num_graphs=32)
