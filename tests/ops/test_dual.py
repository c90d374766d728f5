"""The dual sweeps against autograd of the formulas, written in plain torch."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pyg_schnet.ops import Graph, Grid
from pyg_schnet.ops.backends import reference
from pyg_schnet.ops.dual import (
    DualNetwork,
    is_available,
    parameter_gradients,
    values_and_forces,
)

pytest.importorskip("numba")
from pyg_schnet.ops.backends.cpu import dual as kernels  # noqa: E402

CUTOFF = 2.5
GRID = Grid.covering(CUTOFF, 0.25)


def network(
    hidden: int = 12,
    filters: int = 20,
    layers: int = 2,
    tables: int | None = None,
    dtype: torch.dtype = torch.float64,
    **options: object,
) -> DualNetwork:
    tables = layers if tables is None else tables
    gaussians, readout = 7, hidden // 2

    def random(*shape: int) -> Tensor:
        return (torch.randn(*shape, dtype=torch.float64) / shape[-1] ** 0.5).to(dtype)

    weights = [random(100, hidden)]
    for _ in range(layers):
        weights += [random(filters, hidden), random(hidden, filters), random(hidden)]
        weights += [random(hidden, hidden), random(hidden)]
    weights += [random(readout, hidden), random(readout), random(1, readout), random(1)]
    filter_weights = []
    for _ in range(tables):
        filter_weights += [random(filters, gaussians), random(filters)]
        filter_weights += [random(filters, filters), random(filters)]
    centres = torch.linspace(0, CUTOFF, gaussians, dtype=torch.float64)
    expanded = torch.exp(-3.0 * (GRID.samples().view(-1, 1) - centres).square()).to(dtype)
    arguments = {"ends_in_ssp": False, "cutoff_fn": "cosine", "cutoff": CUTOFF, "std": 1.7}
    return DualNetwork(weights, filter_weights, expanded, grid=GRID, **(arguments | options))


def ssp(x: Tensor) -> Tensor:
    return functional.softplus(x) - math.log(2.0)


def plain_energies(
    net: DualNetwork,
    weights: list[Tensor],
    z: Tensor,
    vectors: Tensor,
    edge_index: Tensor,
    normalize: bool,
) -> Tensor:
    """Atomic contributions, from directed edges and the formulas of SchNet."""
    source, target = edge_index
    tables = len(net.filter_weights) // 4
    filters, own = weights[: 4 * tables], weights[4 * tables :]
    d = torch.linalg.vector_norm(vectors, dim=1)
    cut = {
        "cosine": 0.5 * (torch.cos(math.pi * d.clamp(max=net.cutoff) / net.cutoff) + 1.0),
        "hard": (d < net.cutoff).to(d.dtype),
        "none": torch.ones_like(d),
    }[net.cutoff_fn]
    basis = reference.spline(cut, d, 0, GRID.step, GRID.intervals)
    knot = reference.knots(d, GRID.step, GRID.intervals)
    x = own[0][z]
    for layer in range((len(own) - 5) // 5):
        u, v, v_bias, c, c_bias = own[1 + 5 * layer : 6 + 5 * layer]
        first, first_bias, last, last_bias = filters[4 * (layer % tables) :][:4]
        values = ssp(net.expanded @ first.T + first_bias) @ last.T + last_bias
        values = ssp(values) if net.ends_in_ssp else values
        w = reference.edge_filters(basis, reference.prefilter(values, False), knot)
        message = w * (x @ u.T)[source]
        y = torch.zeros(len(z), w.size(1), dtype=x.dtype).index_add(0, target, message)
        if normalize:
            y = y / torch.bincount(target, minlength=len(z)).clamp(min=1).view(-1, 1)
        x = x + ssp(y @ v.T + v_bias) @ c.T + c_bias
    first, first_bias, last, last_bias = own[-4:]
    return (ssp(x @ first.T + first_bias) @ last.T + last_bias).view(-1) * net.std


def molecules(count: int = 3, atoms: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, pos, batch, and sorted edges both ways; the last atom is alone."""
    pos = torch.cat([torch.rand(atoms, 3, dtype=torch.float64) * 2 for _ in range(count)])
    batch = torch.arange(count).repeat_interleave(atoms)
    near = (torch.cdist(pos, pos) < 3.0) & (batch.view(-1, 1) == batch)
    near[-1] = near[:, -1] = False
    near.fill_diagonal_(False)
    target, source = near.nonzero().unbind(1)
    return torch.randint(1, 9, (len(pos),)), pos, batch, torch.stack([source, target])


def crystal() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """z, pos, batch, edges in no order, repeated and one-way, and shifts as those of images."""
    z, pos, batch, _ = molecules(2, 4)
    source, target = torch.randint(4, (2, 40))
    later = 4 * (torch.arange(40) % 2)
    shift = torch.randn(40, 3, dtype=torch.float64) + 0.3
    return z, pos, batch, torch.stack([source, target]) + later, shift


def compare(
    net: DualNetwork,
    z: Tensor,
    pos: Tensor,
    batch: Tensor,
    edge_index: Tensor,
    graph: Graph,
    shift: Tensor | None = None,
    normalize: bool = False,
    tolerance: float = 1e-11,
) -> None:
    """Energies, forces, virials and all gradients against two rounds of autograd."""
    dtype = pos.dtype
    seed, weight = torch.rand(len(z), dtype=dtype), torch.randn(len(z), dtype=dtype)
    direction = torch.randn_like(pos)
    weights = [t.clone().requires_grad_() for t in (*net.filter_weights, *net.weights)]
    moved = pos.clone().requires_grad_()
    strain = torch.zeros(int(batch.max()) + 1, 3, 3, dtype=dtype, requires_grad=True)
    vectors = moved[edge_index[0]] - moved[edge_index[1]] + (0 if shift is None else shift)
    bent = torch.bmm(vectors.unsqueeze(1), strain[batch[edge_index[1]]]).squeeze(1)
    energies = plain_energies(net, weights, z, vectors + bent, edge_index, normalize)
    total = (seed * energies).sum()
    slope, virial = torch.autograd.grad(
        total, (moved, strain), create_graph=True, materialize_grads=True
    )
    along = torch.randn_like(strain)
    along = along + along.transpose(1, 2) if shift is not None else torch.zeros_like(along)
    (weight * energies).sum().add((slope * direction).sum()).add((virial * along).sum()).backward()

    found, forces, by_atom, record = values_and_forces(
        net, z, pos, seed, graph, shift, normalize=normalize, virial=shift is not None
    )

    def close(a: Tensor, b: Tensor) -> None:
        scale = float(b.abs().max().clamp(min=1e-3)) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0.0, atol=tolerance * scale)

    close(found, energies.detach())
    close(forces, -slope.detach())
    strains: tuple[Tensor, ...] = ()
    if shift is not None:
        assert by_atom is not None
        close(torch.zeros_like(virial).index_add(0, batch, by_atom), virial.detach())
        strains = (along, batch)
    for again in range(2):  # a record may be used again
        gradients = parameter_gradients(record, (1 + again) * weight, direction, *strains)
        if again == 0:
            for gradient, parameter in zip(gradients, weights, strict=True):
                assert gradient.is_contiguous()
                close(gradient, parameter.grad)
    zero = parameter_gradients(record, weight * 0, direction * 0)
    assert not any(gradient.any() for gradient in zero)


def undirected(edge_index: Tensor, nodes: int) -> Graph:
    graph = Graph.of(edge_index, nodes, dtype=torch.float64, backend="cpu", undirected=True)
    assert graph.is_undirected
    return graph


@pytest.mark.parametrize("cutoff_fn", ["cosine", "hard", "none"])
@pytest.mark.parametrize("normalize", [False, True])
def test_molecules_as_pairs(cutoff_fn, normalize):
    z, pos, batch, edge_index = molecules()
    graph = undirected(edge_index, len(z))
    compare(network(cutoff_fn=cutoff_fn), z, pos, batch, edge_index, graph, normalize=normalize)


@pytest.mark.parametrize("options", [{"tables": 1}, {"ends_in_ssp": True}, {"layers": 1}])
def test_options_of_the_filters(options):
    z, pos, batch, edge_index = molecules()
    compare(network(**options), z, pos, batch, edge_index, undirected(edge_index, len(z)))


def test_sizes_that_fill_whole_vectors():
    z, pos, batch, edge_index = molecules()
    graph = undirected(edge_index, len(z))
    compare(network(32, 16, layers=3), z, pos, batch, edge_index, graph)


@pytest.mark.parametrize("normalize", [False, True])
def test_directed_edges_with_shifts_virial_and_strain(normalize):
    z, pos, batch, edge_index, shift = crystal()
    graph = Graph.of(edge_index, len(z), dtype=torch.float64, backend="cpu")
    compare(network(), z, pos, batch, edge_index, graph, shift, normalize)


def test_atoms_without_any_edge():
    z, pos, batch, _ = molecules()
    edge_index = torch.empty(2, 0, dtype=torch.long)
    graph = Graph.of(edge_index, len(z), dtype=torch.float64, backend="cpu")
    compare(network(), z, pos, batch, edge_index, graph)


def test_blocks_shared_out_among_threads(monkeypatch):
    monkeypatch.setattr(kernels, "_SMALL", 0)
    monkeypatch.setattr(kernels, "_LEAST_ATOMS", 1)
    monkeypatch.setattr(kernels, "num_threads", lambda: 2)
    z, pos, batch, edge_index = molecules(7)
    graph = undirected(edge_index, len(z))
    record = values_and_forces(network(), z, pos, torch.ones(len(z)).double(), graph)[-1]
    assert (record.jobs, record.threads) == (2 * kernels._JOBS_PER_THREAD, 2)
    compare(network(), z, pos, batch, edge_index, graph)
    z, pos, batch, edge_index, shift = crystal()
    graph = Graph.of(edge_index, len(z), dtype=torch.float64, backend="cpu")
    compare(network(), z, pos, batch, edge_index, graph, shift)


def test_float32():
    z, pos, batch, edge_index = molecules()
    graph = undirected(edge_index, len(z))
    compare(network(dtype=torch.float32), z, pos.float(), batch, edge_index, graph, tolerance=1e-5)


def test_the_same_bits_each_time():
    z, pos, _, edge_index = molecules(4)
    net, seed = network(), torch.ones(len(z), dtype=torch.float64)

    def run() -> list[Tensor]:
        graph = undirected(edge_index, len(z))
        energy, forces, _, record = values_and_forces(net, z, pos, seed, graph)
        return [energy, forces, *parameter_gradients(record, seed, pos)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_two_atoms_on_one_point_push_each_other_nowhere():
    z, pos = torch.tensor([1, 8]), torch.zeros(2, 3, dtype=torch.float64)
    graph = undirected(torch.tensor([[1, 0], [0, 1]]), 2)
    seed = torch.ones(2, dtype=torch.float64)
    energy, forces, _, record = values_and_forces(network(), z, pos, seed, graph)
    assert energy.isfinite().all() and not forces.any()
    gradients = parameter_gradients(record, seed, torch.randn_like(pos))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_positions_that_are_no_numbers_give_none():
    z, pos = torch.tensor([1, 8]), torch.full((2, 3), math.nan, dtype=torch.float64)
    graph = undirected(torch.tensor([[1, 0], [0, 1]]), 2)
    energy, forces, _, _ = values_and_forces(network(), z, pos, torch.ones(2).double(), graph)
    assert energy.isnan().all() and forces.isnan().all()


def test_what_cannot_be_computed_is_refused():
    z, pos, batch, edge_index = molecules()
    seed, net = torch.ones(len(z), dtype=torch.float64), network()
    slow = Graph.of(edge_index, len(z), dtype=torch.float64, backend="reference")
    with pytest.raises(ValueError, match="'reference'"):
        values_and_forces(net, z, pos, seed, slow)
    graph, shift = undirected(edge_index, len(z)), torch.zeros(edge_index.size(1), 3).double()
    with pytest.raises(ValueError, match="shift is given with an undirected graph"):
        values_and_forces(net, z, pos, seed, graph, shift)
    wrong = network()
    wrong.weights[1] = wrong.weights[1][:-1]
    with pytest.raises(ValueError, match="do not make a SchNet"):
        values_and_forces(wrong, z, pos, seed, graph)


def test_available_where_the_kernels_are(monkeypatch):
    monkeypatch.delenv("PYG_SCHNET_BACKEND", raising=False)
    assert is_available(torch.float32) and is_available(torch.float64)
    assert not is_available(torch.bfloat16) and not is_available(torch.float32, "reference")
