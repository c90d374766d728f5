"""Classes of point clouds in two and three dimensions, by filters of relative positions.

The filter network sees the vector of an edge instead of its length, so the convolution knows
directions: planks are told apart by the axis along which they lie. Filters of distances see the
same in all of them.
"""

import torch
from torch import Tensor, nn
from torch_geometric.nn import global_mean_pool

from pyg_schnet.nn import CFConv, FilterNetwork, GaussianSmearing, ShiftedSoftplus

CUTOFF, POINTS = 0.5, 40


class Classifier(nn.Module):
    """Two convolutions, the mean over points, and one score per class."""

    def __init__(self, dimensions: int, directed: bool, size: int = 16) -> None:
        super().__init__()
        self.basis = None if directed else GaussianSmearing(0.0, CUTOFF, 16)
        inputs = dimensions if directed else 16
        self.start = nn.Parameter(torch.ones(1, size))
        self.convs = nn.ModuleList(
            CFConv(size, size, size, FilterNetwork(inputs, size), CUTOFF, normalize="neighbors")
            for _ in range(2)
        )
        self.act = ShiftedSoftplus()
        self.out = nn.Linear(size, dimensions)

    def forward(self, pos: Tensor, batch: Tensor, edge_index: Tensor) -> Tensor:
        """Scores (B, dimensions) of clouds with points ``pos`` (N, dimensions)."""
        vectors = pos[edge_index[0]] - pos[edge_index[1]]
        d = vectors.norm(dim=1)
        seen = 4 * vectors / CUTOFF if self.basis is None else self.basis(d)
        x = self.start.expand(pos.size(0), -1)
        for conv in self.convs:
            x = x + self.act(conv(x, edge_index, d, seen))
        return self.out(global_mean_pool(x, batch))


def planks(count: int, dimensions: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points of ``count`` planks, their batch, edges, and the axis along which each lies."""
    axis = torch.randint(dimensions, (count,))
    pos = 0.2 * torch.rand(count, POINTS, dimensions)
    pos[torch.arange(count), :, axis] *= 5
    near = (torch.cdist(pos, pos) < CUTOFF) & ~torch.eye(POINTS, dtype=torch.bool)
    cloud, source, target = near.nonzero().T
    edge_index = torch.stack([source, target]) + cloud * POINTS
    batch = torch.arange(count).repeat_interleave(POINTS)
    return pos.flatten(0, 1), batch, edge_index, axis


def accuracy(dimensions: int, directed: bool, steps: int) -> float:
    """Share of new clouds that a trained classifier gets right."""
    torch.manual_seed(0)
    model = Classifier(dimensions, directed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        *clouds, axis = planks(24, dimensions)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(*clouds), axis).backward()
        optimizer.step()
    *clouds, axis = planks(200, dimensions)
    with torch.no_grad():
        return float((model(*clouds).argmax(1) == axis).float().mean())


def main(steps: int = 50) -> dict[tuple[int, bool], float]:
    """Train four classifiers; return accuracies by (dimensions, whether filters see directions)."""
    result = {}
    for dimensions in (2, 3):
        for directed in (True, False):
            result[dimensions, directed] = accuracy(dimensions, directed, steps)
        right, chance = result[dimensions, True], result[dimensions, False]
        print(f"{dimensions}-D: relative positions {right:.0%} right, distances {chance:.0%}")
    return result


if __name__ == "__main__":
    main()
