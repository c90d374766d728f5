"""What PyG's own tests ask of its SchNet, asked of ours: the same arguments, calls and shapes."""

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import RadiusGraph

from pyg_schnet import SchNet
from pyg_schnet.graph import RadiusEdges

SMALL = {"hidden_channels": 16, "num_filters": 16, "num_interactions": 2, "num_gaussians": 10}
CUTOFF = 6.0


def gas_of_twenty() -> Data:
    return Data(z=torch.randint(1, 10, (20,)), pos=torch.randn(20, 3))


def edges_of_pyg_or_ours(cutoff: float):
    """PyG's transform where its compiled extension is there, else the one of this package."""
    try:
        RadiusGraph(cutoff)(gas_of_twenty())
    except ImportError:
        return RadiusEdges(cutoff)
    return RadiusGraph(cutoff)


@torch.no_grad()
def test_dipole_of_one_molecule_from_two_positional_inputs():
    data = gas_of_twenty()
    model = SchNet(**SMALL, cutoff=CUTOFF, dipole=True)
    assert model(data.z, data.pos).size() == (1, 1)


@torch.no_grad()
@pytest.mark.parametrize("dipole", [False, True])
def test_batch_from_three_positional_inputs(dipole):
    batch = Batch.from_data_list([gas_of_twenty() for _ in range(3)])
    model = SchNet(**SMALL, cutoff=CUTOFF, dipole=dipole)
    assert model(batch.z, batch.pos, batch.batch).size() == (3, 1)


@torch.no_grad()
def test_edges_computed_before_as_fourth_positional_input():
    transform = edges_of_pyg_or_ours(CUTOFF)
    batch = Batch.from_data_list([transform(gas_of_twenty()) for _ in range(3)])
    model = SchNet(**SMALL, cutoff=CUTOFF)
    out = model(batch.z, batch.pos, batch.batch, batch.edge_index)
    assert out.size() == (3, 1)
    torch.testing.assert_close(out, model(batch.z, batch.pos, batch.batch), rtol=1e-4, atol=1e-4)
