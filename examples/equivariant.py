"""CFConv inside an equivariant network with vector features, as in PaiNN.

A filter times the direction of its edge sends vectors. Points carry charges; the network learns the
electric field at each, which no function of distances gives. PaiNN: Schütt et al., ICML 2021.
"""

import torch
from torch import Tensor, nn

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_vectors
from pyg_schnet.nn import CFConv, FilterNetwork, GaussianSmearing

CUTOFF, GAUSSIANS = 3.0, 20


class DirectedFilters(nn.Module):
    """Filters of the distance, times one component of the direction: the last column."""

    def __init__(self, num_filters: int) -> None:
        super().__init__()
        self.radial = FilterNetwork(GAUSSIANS, num_filters)

    def forward(self, edge_attr: Tensor) -> Tensor:
        """(E, num_filters) from (E, GAUSSIANS + 1)."""
        return self.radial(edge_attr[:, :-1]) * edge_attr[:, -1:]


class Block(nn.Module):
    """Messages to scalars s (N, F) and vectors v (3, N, F), then an update that mixes the two."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scalars = CFConv(size, size, size, FilterNetwork(GAUSSIANS, size), CUTOFF)
        self.made = CFConv(size, size, size, DirectedFilters(size), CUTOFF)  # from s_j
        self.moved = CFConv(size, size, size, FilterNetwork(GAUSSIANS, size), CUTOFF)  # from v_j
        self.mix = nn.Linear(size, 2 * size, bias=False)
        self.gates = nn.Sequential(nn.Linear(2 * size, size), nn.SiLU(), nn.Linear(size, 3 * size))

    def forward(self, s: Tensor, v: Tensor, edge_index: Tensor, vectors: Tensor) -> tuple:
        """New s and v."""
        d, sent = vectors.norm(dim=1), []
        basis = GaussianSmearing(0.0, CUTOFF, GAUSSIANS)(d)
        for k in range(3):
            direction = torch.cat([basis, (vectors[:, k] / d)[:, None]], 1)
            # The sums before the last dense layer: its bias would point along the axes.
            made = self.made.convolve(s, edge_index, d, direction)
            sent.append(made + self.moved.convolve(v[k], edge_index, d, basis))
        s, v = s + self.scalars(s, edge_index, d, basis), v + torch.stack(sent)
        left, right = self.mix(v).chunk(2, -1)
        length = (right.square().sum(0) + 1e-8).sqrt()
        a, b, c = self.gates(torch.cat([s, length], 1)).chunk(3, -1)
        return s + a + b * (left * right).sum(0), v + c * left


class Equivariant(nn.Module):
    """A vector for each point, (N, 3)."""

    def __init__(self, size: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(1, size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(blocks))
        self.out = nn.Linear(size, 1, bias=False)

    def forward(self, charge: Tensor, pos: Tensor) -> Tensor:
        """From charges (N, 1) and positions (N, 3)."""
        edge_index, _ = neighbor_edges(pos, CUTOFF)
        s, v = self.embed(charge), torch.zeros(3, pos.size(0), self.embed.out_features)
        for block in self.blocks:
            s, v = block(s, v, edge_index, edge_vectors(pos, edge_index))
        return self.out(v).squeeze(-1).T


def main(steps: int = 150) -> tuple[float, float]:
    """Train; return the error relative to the field, and how far a turn is from commuting."""
    torch.manual_seed(0)
    pos, charge = 4 * torch.rand(60, 3), torch.randn(60, 1)
    away = pos[None] - pos[:, None]  # [source, target, 3]
    d = away.norm(dim=-1) + torch.eye(60)
    strength = torch.exp(-d) * (1 - d / CUTOFF).clamp(min=0) ** 2
    field = torch.einsum("st,stk,s->tk", strength / d, away, charge[:, 0])
    model = Equivariant()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(charge, pos) - field).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        turn = torch.linalg.qr(torch.randn(3, 3)).Q
        found = model(charge, pos)
        turned = model(charge, pos @ turn)
    error = float((found - field).norm() / field.norm())
    change = float((turned - found @ turn).norm() / found.norm())
    print(f"field learned to {error:.1%}; a turned input gives the turned output to {change:.0e}")
    return error, change


if __name__ == "__main__":
    main()
