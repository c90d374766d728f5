"""Continuous-filter convolutions on a point cloud that has nothing to do with chemistry.

Each point carries a random charge; the network learns the screened potential that the others make
at its place, a convolution with an unknown radial function.
"""

import torch

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_lengths
from pyg_schnet.nn import CFConv, FilterNetwork, GaussianSmearing


def main(steps: int = 200) -> tuple[float, float]:
    """Train; return the first and the last mean squared error."""
    torch.manual_seed(0)
    cutoff = 3.0
    pos, charge = 5 * torch.rand(150, 2), torch.randn(150, 1)
    pos = torch.cat([pos, torch.zeros(150, 1)], dim=1)  # a plane in space
    edge_index, _ = neighbor_edges(pos, cutoff)
    d = edge_lengths(pos, edge_index)
    exact = torch.exp(-d) * (1.0 - d / cutoff) ** 2
    target = torch.zeros(150, 1).index_add(0, edge_index[1], exact[:, None] * charge[edge_index[0]])

    basis = GaussianSmearing(0.0, cutoff, 24)(d)
    conv = CFConv(1, 1, num_filters=8, nn=FilterNetwork(24, 8), cutoff=cutoff)
    optimizer = torch.optim.Adam(conv.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(conv(charge, edge_index, d, basis), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"mean squared error {losses[0]:.3f} -> {losses[-1]:.5f} in {steps} steps")
    return losses[0], losses[-1]


if __name__ == "__main__":
    main()
