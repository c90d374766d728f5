"""CFConv in ``torch_geometric.nn.to_hetero``: a ligand in a pocket.

The model is written for one kind of node and edge; each relation gets its own copy of the
convolution and each kind of node its own dense layers. Distances and their Gaussians are arguments
with "edge" in the name, by which ``to_hetero`` knows that they belong to edges. It looks for
convolutions in the model itself only, so the interaction block is written out.
"""

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn import to_hetero

from pyg_schnet.nn import CFConv, FilterNetwork, GaussianSmearing, ShiftedSoftplus

CUTOFF, GAUSSIANS = 2.0, 16


class Network(nn.Module):
    """A convolution, and one in an interaction block with its residual."""

    def __init__(self, in_channels: int, size: int) -> None:
        super().__init__()
        self.first = CFConv(in_channels, size, size, FilterNetwork(GAUSSIANS, size), CUTOFF)
        self.second = CFConv(size, size, size, FilterNetwork(GAUSSIANS, size), CUTOFF)
        self.act = ShiftedSoftplus()
        self.lin = nn.Linear(size, size)
        self.out = nn.Linear(size, 1)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor, edge_attr: Tensor):
        """One number per node."""
        x = self.act(self.first(x, edge_index, edge_weight, edge_attr))
        x = x + self.lin(self.act(self.second(x, edge_index, edge_weight, edge_attr)))
        return self.out(x)


def complexes() -> HeteroData:
    """Charges of a ligand and a pocket, and the potential that the pocket makes at the ligand."""
    data, pos = HeteroData(), {}
    for kind, count in (("ligand", 60), ("pocket", 200)):
        pos[kind] = 4 * torch.rand(count, 3)
        data[kind].x = torch.randn(count, 1)
    for source, target in (("ligand", "ligand"), ("pocket", "ligand"), ("ligand", "pocket")):
        d = torch.cdist(pos[source], pos[target])
        if source == target:
            d.fill_diagonal_(CUTOFF)
        relation = data[source, "near", target]
        relation.edge_index = (d < CUTOFF).nonzero().T
        relation.edge_weight = d[d < CUTOFF]
        relation.edge_attr = GaussianSmearing(0.0, CUTOFF, GAUSSIANS)(relation.edge_weight)
        if (source, target) == ("pocket", "ligand"):
            made = (1 - d / CUTOFF).clamp(min=0) ** 2
            data["ligand"].y = made.T @ data["pocket"].x
    return data


def main(steps: int = 150) -> tuple[float, int]:
    """Train; return the error on another complex, relative, and the number of convolutions."""
    torch.manual_seed(0)
    data, new = complexes(), complexes()
    model = to_hetero(Network(1, 16), data.metadata(), aggr="sum")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def residual(graph: HeteroData) -> Tensor:
        edges = graph.edge_weight_dict, graph.edge_attr_dict
        out = model(graph.x_dict, graph.edge_index_dict, *edges)
        return out["ligand"] - graph["ligand"].y

    for _ in range(steps):
        optimizer.zero_grad()
        residual(data).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        error = float(residual(new).norm() / new["ligand"].y.norm())
    convolutions = sum(isinstance(module, CFConv) for module in model.modules())
    print(f"{convolutions} convolutions for {len(data.edge_types)} relations; error {error:.1%}")
    return error, convolutions


if __name__ == "__main__":
    main()
