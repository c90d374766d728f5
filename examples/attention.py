"""CFConv with attention over edges, as in GAT.

The filter network may take anything that belongs to an edge: here a weight, softmaxed over the
neighbours of each target, multiplies the filter of the distance. Each point shall give the signal
of that neighbour whose key is the largest; a sum over all neighbours cannot choose one.
"""

import torch
from torch import Tensor, nn
from torch_geometric.utils import softmax

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_lengths
from pyg_schnet.nn import CFConv, FilterNetwork, GaussianSmearing, ShiftedSoftplus

CUTOFF, GAUSSIANS = 1.0, 12


class WeightedFilters(nn.Module):
    """Filters of the distance times weights of the edge, one for each of several heads."""

    def __init__(self, num_filters: int, heads: int) -> None:
        super().__init__()
        self.radial, self.heads = FilterNetwork(GAUSSIANS, num_filters), heads

    def forward(self, edge_attr: Tensor) -> Tensor:
        """(E, num_filters) from (E, GAUSSIANS + heads)."""
        w = self.radial(edge_attr[:, :GAUSSIANS])
        weights = edge_attr[:, GAUSSIANS:]
        return w * weights.repeat_interleave(w.size(1) // self.heads, 1)


class AttentionConv(nn.Module):
    """A convolution whose neighbours compete; with ``heads=0`` a plain one."""

    def __init__(self, in_channels: int, out_channels: int, size: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        network = WeightedFilters(size, heads) if heads else FilterNetwork(GAUSSIANS, size)
        # Without a cutoff function: the weights of the neighbours shall sum to one.
        self.conv = CFConv(in_channels, out_channels, size, network, cutoff=None)
        if heads:
            self.score = nn.Sequential(
                nn.Linear(2 * in_channels + GAUSSIANS, 32), ShiftedSoftplus(), nn.Linear(32, heads)
            )

    def forward(self, x: Tensor, edge_index: Tensor, d: Tensor, basis: Tensor) -> Tensor:
        """(N, out_channels)."""
        if not self.heads:
            return self.conv(x, edge_index, d, basis)
        source, target = edge_index
        score = self.score(torch.cat([x[source], x[target], basis], 1))  # [E, heads]
        weight = softmax(score, target, num_nodes=x.size(0))
        return self.conv(x, edge_index, d, torch.cat([basis, weight], 1))


def cloud(points: int) -> tuple[Tensor, ...]:
    """Features (key, signal), edges, distances, Gaussians, and what shall be found."""
    pos, x = 4 * torch.rand(points, 3), torch.rand(points, 2)
    edge_index, _ = neighbor_edges(pos, CUTOFF)
    d = edge_lengths(pos, edge_index)
    target = torch.zeros(points, 1)
    for i in range(points):
        neighbors = edge_index[0, edge_index[1] == i]
        if neighbors.numel():
            target[i] = x[neighbors[x[neighbors, 0].argmax()], 1]
    return x, edge_index, d, GaussianSmearing(0.0, CUTOFF, GAUSSIANS)(d), target


def main(steps: int = 120) -> tuple[float, float]:
    """Train both; return the mean absolute errors on new points, with attention and without."""
    torch.manual_seed(0)
    *known, wanted = cloud(400)
    *new, truth = cloud(200)
    errors = []
    for heads in (4, 0):
        torch.manual_seed(1)
        model = AttentionConv(2, 1, heads=heads)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            (model(*known) - wanted).abs().mean().backward()
            optimizer.step()
        with torch.no_grad():
            errors.append(float((model(*new) - truth).abs().mean()))
    print(f"error with attention {errors[0]:.3f}, without {errors[1]:.3f}")
    return errors[0], errors[1]


if __name__ == "__main__":
    main()
