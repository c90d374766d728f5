"""Which atoms and edges a prediction rests on: ``torch_geometric.explain`` on a SchNet.

The edge mask multiplies the messages of every convolution. The node mask is the presence of the
atoms, by which they fade out of the model: a mask of all ones gives the prediction itself.
"""

import torch
from torch import Tensor, nn
from torch_geometric.explain import Explainer, GNNExplainer

from pyg_schnet import SchNet
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.nn import FractionalAtoms

CUTOFF = 3.0


class Explainable(nn.Module):
    """The call of an explainer: what it masks first, then the edges."""

    def __init__(self, model: SchNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, presence: Tensor, edge_index: Tensor, z: Tensor, pos: Tensor) -> Tensor:
        """Prediction (1, 1) from the presence of the atoms (N, 1)."""
        fading = FractionalAtoms(presence=presence.view(-1))
        return self.model(z, pos, edge_index=edge_index, fractional=fading)


def clusters(count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Argon around one fluorine and one lithium; the property is a function of F-Li alone."""
    made = []
    grid = torch.cartesian_prod(*[torch.arange(3.0)] * 2, torch.zeros(1)) * 2.0
    for _ in range(count):
        pos = grid + 0.25 * torch.randn(9, 3)
        z = torch.tensor([18, 18, 18, 18, 9, 3, 18, 18, 18])
        made.append((z, pos, 3 * (pos[4] - pos[5]).norm() - 6))
    return made


def main(steps: int = 150) -> dict[str, float]:
    """Train, explain; return mean masks of atoms and edges, and what a mask of ones changes."""
    torch.manual_seed(0)
    frames = clusters(40)
    z, pos = torch.cat([z for z, _, _ in frames]), torch.cat([pos for _, pos, _ in frames])
    wanted = torch.stack([value for _, _, value in frames])
    batch = torch.arange(len(frames)).repeat_interleave(9)
    model = SchNet(16, 16, 2, 16, cutoff=CUTOFF, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(z, pos, batch).view(-1) - wanted).square().mean().backward()
        optimizer.step()
    explainable = Explainable(model.eval())
    explainer = Explainer(
        explainable,
        algorithm=GNNExplainer(epochs=150, lr=0.05, edge_size=0.01, node_feat_size=0.1),
        explanation_type="model",
        node_mask_type="object",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "graph", "return_type": "raw"},
    )
    z, pos, _ = frames[0]
    edge_index, _ = neighbor_edges(pos, CUTOFF)
    found = explainer(torch.ones(9, 1), edge_index, z=z, pos=pos)
    whole = explainable(torch.ones(9, 1), edge_index, z, pos)
    argon = z == 18
    joins = argon[edge_index].sum(0)  # how many ends of an edge are argon
    result = {
        "F and Li": float(found.node_mask[~argon].mean()),
        "Ar": float(found.node_mask[argon].mean()),
        "F-Li": float(found.edge_mask[joins == 0].mean()),
        "Ar-Ar": float(found.edge_mask[joins == 2].mean()),
        "change": float((whole - model(z, pos)).detach().abs().max()),
    }
    print(", ".join(f"{name} {value:.2g}" for name, value in result.items()))
    return result


if __name__ == "__main__":
    main()
