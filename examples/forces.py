"""Energy and forces, and a few steps of training on forces of a Lennard-Jones cluster."""

import torch
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential, SchNet


def lennard_jones(pos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy and forces with a depth of 0.1 eV and a minimum at 2^(1/6) 2 Å."""
    pos = pos.clone().requires_grad_()
    d = torch.pdist(pos)
    energy = 0.4 * ((2.0 / d) ** 12 - (2.0 / d) ** 6).sum()
    return energy.detach(), -torch.autograd.grad(energy, pos)[0]


def main(steps: int = 100) -> tuple[float, float]:
    """Train; return the first and the last mean absolute error of the forces, eV/Å."""
    torch.manual_seed(0)
    grid = torch.cartesian_prod(*[torch.arange(2.0)] * 3) * 2.3
    frames = [grid + 0.08 * torch.randn(8, 3) for _ in range(8)]
    labels = torch.cat([lennard_jones(pos)[1] for pos in frames])
    z = torch.full((8,), 18)
    batch = Batch.from_data_list([Data(z=z, pos=pos) for pos in frames])
    potential = Potential(SchNet(32, 32, 2, 25, cutoff=5.0, seed=0))
    optimizer = torch.optim.Adam(potential.parameters(), lr=3e-3)
    errors = []
    for _ in range(steps):
        optimizer.zero_grad()
        residual = potential(batch)["forces"] - labels
        residual.square().mean().backward()  # a second derivative: the forces are one already
        optimizer.step()
        errors.append(residual.detach().abs().mean().item())
    result = potential.eval()(Data(z=z, pos=frames[0]))
    print(
        f"force error {errors[0]:.3f} -> {errors[-1]:.3f} eV/Å; net force "
        f"{float(result['forces'].sum(0).abs().max()):.1e}"
    )
    return errors[0], errors[-1]


if __name__ == "__main__":
    main()
