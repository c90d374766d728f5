"""Transforms attach what neighbor_edges finds, and their edges collate."""

import pytest
import torch
from torch_geometric.data import Batch, Data

from pyg_schnet.graph import PeriodicEdges, RadiusEdges, neighbor_edges


def crystals():
    generator = torch.Generator().manual_seed(0)
    pbc = [[True, True, True], [True, False, True], [False, False, False]]
    return [
        Data(
            pos=torch.rand(n, 3, generator=generator) * 3,
            cell=(torch.eye(3) * (3 + n))[None],
            pbc=torch.tensor([p]),
        )
        for n, p in zip((1, 4, 3), pbc, strict=True)
    ]


@pytest.mark.parametrize("cutoff", [None, 1.5])
def test_radius_edges_collate_to_the_edges_of_the_batch(cutoff):
    data = [Data(pos=d.pos) for d in crystals()]
    transform = RadiusEdges(cutoff)
    batch = Batch.from_data_list([transform(d) for d in data])
    want, _ = neighbor_edges(batch.pos, cutoff, batch.batch)
    assert torch.equal(batch.edge_index, want)
    assert "edge_index" not in data[0]
    assert torch.equal(transform(Batch.from_data_list(data)).edge_index, want)


def test_periodic_edges_collate_to_the_edges_of_the_batch():
    data = crystals()
    transform = PeriodicEdges(cutoff=4.5)
    batch = Batch.from_data_list([transform(d) for d in data])
    want = neighbor_edges(batch.pos, 4.5, batch.batch, batch.cell, batch.pbc)
    together = transform(Batch.from_data_list(data))
    for given in (batch, together):
        assert torch.equal(given.edge_index, want[0])
        assert torch.equal(given.cell_shift, want[1])
    assert want[1].any() and batch[1].cell_shift.shape[1] == 3


def test_a_crystal_without_pbc_repeats_along_all_three_vectors():
    data = crystals()[1]
    all_three = PeriodicEdges(4.5)(Data(pos=data.pos, cell=data.cell))
    want = neighbor_edges(data.pos, 4.5, cell=data.cell, pbc=[True] * 3)
    assert torch.equal(all_three.edge_index, want[0])
    assert torch.equal(all_three.cell_shift, want[1])


def test_the_backend_of_radius_edges_is_heeded():
    with pytest.raises(ValueError, match="'vesin' needs a cutoff"):
        RadiusEdges(None, backend="vesin")(crystals()[0])


def test_missing_data_are_named():
    with pytest.raises(ValueError, match=r"RadiusEdges.* needs data.pos"):
        RadiusEdges()(Data(z=torch.ones(1)))
    with pytest.raises(ValueError, match=r"PeriodicEdges.* needs data.cell"):
        PeriodicEdges()(Data(pos=torch.zeros(1, 3)))


def test_representations_show_the_arguments():
    assert repr(RadiusEdges(None)) == "RadiusEdges(cutoff=None, backend='auto')"
    assert repr(PeriodicEdges(6.0)) == "PeriodicEdges(cutoff=6.0)"
