"""Features of a trained SchNet as the input of another graph network.

The other network knows bonds, not positions: graph attention over the molecular graph. Its nodes
are once elements, and once the features that ``qm9-U0`` makes of each atom, taken as they are. Both
learn measured enthalpies of formation (the G2/97 set, in ASE) from 30 molecules.
"""

import torch
from ase.build import molecule
from ase.data.g2 import data as g2
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GATv2Conv, global_add_pool

import pyg_schnet
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.nn import ShiftedSoftplus

ELEMENTS = torch.tensor([1, 6, 7, 8])


def molecules() -> list[Data]:
    """Organic molecules of the set with bonds, element counts, and ``y`` in kcal/mol."""
    schnet, found = pyg_schnet.pretrained("qm9-U0"), []
    for name, entry in sorted(g2.items()):
        atoms = molecule(name)
        kinds = set(atoms.numbers.tolist())
        if not {1, 6} <= kinds <= set(ELEMENTS.tolist()) or entry["magmoms"] is not None:
            continue
        z, pos = torch.tensor(atoms.numbers), torch.tensor(atoms.positions).float()
        one_hot = (z[:, None] == ELEMENTS).float()
        with torch.no_grad():
            features = schnet.features(z, pos)  # [N, 64]
        bonds, _ = neighbor_edges(pos, 1.75)
        heavy = (z[bonds] > 1).any(0)  # no bonds between hydrogens
        found.append(
            Data(
                edge_index=bonds[:, heavy],
                elements=one_hot,
                features=features,
                counts=one_hot.sum(0, keepdim=True),
                y=torch.tensor([entry["enthalpy"]]),
                num_nodes=len(z),
            )
        )
    return found


class BondNetwork(nn.Module):
    """Two layers of graph attention, a number per atom, and their sum."""

    def __init__(self, in_channels: int, size: int = 32) -> None:
        super().__init__()
        self.start = nn.Linear(in_channels, size)
        self.convs = nn.ModuleList(GATv2Conv(size, size) for _ in range(2))
        self.out = nn.Sequential(ShiftedSoftplus(), nn.Linear(size, 1))

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """(B,)."""
        x = self.start(x)
        for conv in self.convs:
            x = x + conv(x, edge_index).tanh()
        return global_add_pool(self.out(x), batch).view(-1)


def main(steps: int = 300) -> dict[str, float]:
    """Train on both kinds of nodes; return errors on the other molecules, kcal/mol."""
    frames = molecules()
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(3)).tolist()
    known = Batch.from_data_list([frames[i] for i in order[:30]])
    new = Batch.from_data_list([frames[i] for i in order[30:]])
    # What the elements alone account for is fitted first, for both.
    of_elements = torch.linalg.lstsq(known.counts, known.y[:, None]).solution
    target, spread = known.y - (known.counts @ of_elements).view(-1), known.features.std(0)
    result = {}
    for name in ("elements", "features"):
        torch.manual_seed(0)
        scale = 1.0 if name == "elements" else 1.0 / spread
        model = BondNetwork(known[name].size(1))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            found = model(known[name] * scale, known.edge_index, known.batch)
            (found - target / 10).abs().mean().backward()
            optimizer.step()
        with torch.no_grad():
            found = 10 * model(new[name] * scale, new.edge_index, new.batch)
        found = found + (new.counts @ of_elements).view(-1)
        result[name] = float((found - new.y).abs().mean())
        print(f"nodes are {name}: {result[name]:.1f} kcal/mol on {len(new.y)} new molecules")
    return result


if __name__ == "__main__":
    main()
