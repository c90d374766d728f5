"""The papers' periodic filter, one for each pair of atoms, and ours, one for each image.

Schütt et al., J. Chem. Phys. 148, 241722 (2018), "Periodic boundary conditions"; the chapter of
2020, eq. 17 (filters of all images of a pair are added up) and eq. 18 (divided by the number of
atoms within the cutoff). The authors' code takes the mean over the images of a pair, times the
share of these among all neighbours of the atom, which is the same.
"""

import pytest
import torch
from helpers import randomize, skewed_crystal, small_schnet
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.data import Data

from pyg_schnet import SchNet
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_lengths
from pyg_schnet.nn import CFConv, CosineCutoff, FilterNetwork, GaussianSmearing, HardCutoff

CUTOFF = 4.3
CUTOFFS = {"cosine": CosineCutoff, "hard": HardCutoff}
OPTIONS = {
    "cosine": {},
    "hard": {"cutoff_fn": "hard"},
    "neighbors": {"normalize": "neighbors"},
    "hard, neighbors": {"cutoff_fn": "hard", "normalize": "neighbors"},
    "ssp": {"filter_activation": "ssp", "normalize": "neighbors"},
}


def rock_salt() -> Data:
    """Two atoms, and all six neighbours of each are images of the other."""
    cell = 2.1 * torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.1]]).double()
    pos = torch.tensor([[0.1, 0.0, 0.2], [2.3, 0.1, 0.0]]).double()
    return Data(z=torch.tensor([11, 17]), pos=pos, cell=cell[None])


def one_atom() -> Data:
    """Its neighbours are its own images."""
    cell = torch.tensor([[2.0, 0.1, 0.0], [0.3, 2.2, 0.0], [0.4, -0.5, 1.9]]).double()
    return Data(z=torch.tensor([29]), pos=torch.tensor([[0.3, 0.2, 0.1]]).double(), cell=cell[None])


CRYSTALS = {"skewed": skewed_crystal, "rock salt": rock_salt, "one atom": one_atom}


def edges_of(data: Data) -> tuple[Tensor, Tensor, Tensor]:
    edge_index, shift = neighbor_edges(data.pos, CUTOFF, cell=data.cell)
    return edge_index, shift, edge_lengths(data.pos, edge_index, data.cell, shift)


def pair_filters(data: Data, network, basis, cutoff_fn: str) -> tuple[Tensor, Tensor]:
    """Eq. 17: W_ij (N, N, F), summed over images found by trying all of them; and their number."""
    num_atoms, span = len(data.pos), torch.arange(-4, 5).double()
    images = torch.cartesian_prod(span, span, span) @ data.cell[0]
    filters, counts = [], torch.zeros(num_atoms, num_atoms)
    for i in range(num_atoms):
        for j in range(num_atoms):
            d = (data.pos[j] + images - data.pos[i]).norm(dim=1)
            d = d[(d < CUTOFF) & (d > 0)]
            counts[i, j] = len(d)
            weights = CUTOFFS[cutoff_fn](CUTOFF)(d).view(-1, 1)
            filters.append((network(basis(d)) * weights).sum(0))
    return torch.stack(filters).view(num_atoms, num_atoms, -1), counts.double()


def by_pairs(conv: CFConv, x: Tensor, filters: Tensor, counts: Tensor) -> Tensor:
    """One message for each pair, x_j times W_ij."""
    summed = torch.einsum("jf,ijf->if", conv.lin1(x), filters)
    if conv.normalize is not None:
        summed = summed / counts.sum(1, keepdim=True)  # eq. 18
    return conv.lin2(summed)


@pytest.mark.parametrize("normalize", [None, "neighbors"])
@pytest.mark.parametrize("cutoff_fn", ["cosine", "hard"])
@pytest.mark.parametrize("name", CRYSTALS)
def test_one_message_per_image_is_one_filter_per_pair(name, cutoff_fn, normalize):
    data, basis = CRYSTALS[name](), GaussianSmearing(0.0, CUTOFF, 9)
    conv = CFConv(
        5, 6, 7, FilterNetwork(9, 7), CUTOFF, cutoff_fn=cutoff_fn, normalize=normalize
    ).double()
    randomize(conv)
    x = torch.randn(len(data.pos), 5).double()
    edge_index, _, d = edges_of(data)
    filters, counts = pair_filters(data, conv.nn, basis, cutoff_fn)
    assert int(counts.max()) > 2 and int(counts.diagonal().min()) > 0
    for i in range(len(data.pos)):
        for j in range(len(data.pos)):
            there = (edge_index[0] == j) & (edge_index[1] == i)
            assert int(there.sum()) == int(counts[i, j])
    got = conv(x, edge_index, d, basis(d))
    assert_close(got, by_pairs(conv, x, filters, counts), rtol=1e-12, atol=1e-13)


def test_the_authors_mean_over_images_times_their_share_is_eq_18():
    data, basis = rock_salt(), GaussianSmearing(0.0, CUTOFF, 9)
    conv = CFConv(5, 6, 7, FilterNetwork(9, 7), CUTOFF, normalize="neighbors").double()
    x = torch.randn(2, 5).double()
    edge_index, _, d = edges_of(data)
    filters, counts = pair_filters(data, conv.nn, basis, "cosine")
    share = counts / counts.sum(1, keepdim=True)
    pooled = filters / counts[..., None] * share[..., None]
    theirs = conv.lin2(torch.einsum("jf,ijf->if", conv.lin1(x), pooled))
    assert_close(conv(x, edge_index, d, basis(d)), theirs, rtol=1e-12, atol=1e-13)


def energy_by_pairs(model: SchNet, data: Data) -> Tensor:
    x = model.embedding(data.z)
    for block in model.interactions:
        conv = block.conv
        filters = pair_filters(data, conv.nn, model.distance_expansion, model.cutoff_fn)
        x = x + block.lin(block.act(by_pairs(conv, x, *filters)))
    return model.readout(x, data.z, torch.zeros_like(data.z), 1)


@pytest.mark.parametrize("filters", ["exact", "tabulated"])
@pytest.mark.parametrize("option", OPTIONS)
def test_whole_models_agree(option, filters):
    model = small_schnet(cutoff=CUTOFF, filters=filters, **OPTIONS[option])
    for make in CRYSTALS.values():
        data = make()
        got = model(data.z, data.pos, cell=data.cell)
        tolerance = 1e-12 if filters == "exact" else 1e-10
        assert_close(got, energy_by_pairs(model, data), rtol=0, atol=tolerance)


@pytest.mark.parametrize("filters", ["exact", "tabulated"])
@pytest.mark.parametrize("option", ["cosine", "hard, neighbors"])
def test_derivatives_by_positions_and_cell(option, filters):
    data = rock_salt()
    model = small_schnet(
        hidden_channels=4, num_filters=3, num_gaussians=4, filters=filters, **OPTIONS[option]
    ).requires_grad_(False)
    edge_index, shift = neighbor_edges(data.pos, 4.0, cell=data.cell)

    def energy(pos: Tensor, cell: Tensor) -> Tensor:
        return model(data.z, pos, edge_index=edge_index, cell=cell, cell_shift=shift)

    given = data.pos.requires_grad_(), data.cell.requires_grad_()
    assert torch.autograd.gradcheck(energy, given)
    # Of a spline of degree five the third derivative, which the check takes, is still continuous.
    assert torch.autograd.gradgradcheck(energy, given)


def test_the_cell_takes_part_as_its_shift_says():
    """dE/d(cell) is the sum over edges of shift times force: with the atoms' forces, all there is.

    Scaling everything leaves fractional coordinates: dE/ds = sum(pos * dE/dpos + cell * dE/dcell).
    """
    model, data = small_schnet(), skewed_crystal()
    edge_index, shift = neighbor_edges(data.pos, 4.0, cell=data.cell)
    given = {"edge_index": edge_index, "cell_shift": shift}
    pos, cell = data.pos.requires_grad_(), data.cell.requires_grad_()
    by_pos, by_cell = torch.autograd.grad(model(data.z, pos, cell=cell, **given), (pos, cell))
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    scaled = model(data.z, scale * pos.detach(), cell=scale * cell.detach(), **given)
    (want,) = torch.autograd.grad(scaled, scale)
    assert_close((pos * by_pos).sum() + (cell * by_cell).sum(), want, rtol=1e-12, atol=1e-13)
    assert abs(float(want)) > 1e-2
