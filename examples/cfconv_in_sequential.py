"""CFConv and InteractionBlock as layers of a PyG ``Sequential``."""

import torch
from torch_geometric.nn import Sequential, global_mean_pool

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_lengths
from pyg_schnet.nn import (
    CFConv,
    FilterNetwork,
    GaussianSmearing,
    InteractionBlock,
    ShiftedSoftplus,
)


def main() -> float:
    """Build the model, check that rotating the points changes nothing; return the change."""
    torch.manual_seed(0)
    cutoff, num_gaussians = 4.0, 20
    model = Sequential(
        "x, edge_index, d, e, batch",
        [
            (
                CFConv(8, 16, num_filters=32, nn=FilterNetwork(num_gaussians, 32), cutoff=cutoff),
                "x, edge_index, d, e -> x",
            ),
            (ShiftedSoftplus(), "x -> x"),
            (InteractionBlock(16, num_gaussians, 32, cutoff), "x, edge_index, d, e -> v"),
            (lambda x, v: x + v, "x, v -> x"),
            (global_mean_pool, "x, batch -> x"),
            (torch.nn.Linear(16, 1), "x -> out"),
        ],
    )
    basis = GaussianSmearing(0.0, cutoff, num_gaussians)
    x, pos = torch.rand(12, 8), 4 * torch.rand(12, 3)
    batch = torch.arange(12) // 6
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    outputs = []
    for points in (pos, pos @ turn):
        edge_index, _ = neighbor_edges(points, cutoff, batch=batch)
        d = edge_lengths(points, edge_index)
        outputs.append(model(x, edge_index, d, basis(d), batch))
    change = float((outputs[0] - outputs[1]).detach().abs().max())
    print(f"two graphs -> {tuple(outputs[0].shape)}; turned, the output changes by {change:.1e}")
    return change


if __name__ == "__main__":
    main()
