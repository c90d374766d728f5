"""Two levels of theory: many cheap labels, few dear ones.

The cheap level is a pair potential, known for 200 clusters; the dear one has another depth and a
three-body term, and is known for 16. Compared: a network on the dear labels alone; one network with
a head for each level; and a network that learns the difference to the cheap level (delta learning),
which then has to be computed for each new cluster too.
"""

import torch
from torch import Tensor

from pyg_schnet import SchNet

ATOMS, FEW, MANY = 6, 16, 200


def energies(pos: Tensor) -> Tensor:
    """Cheap and dear energies (B, 2), eV, of clusters at ``pos`` (B, ATOMS, 3)."""
    d = torch.cdist(pos, pos) + 1e3 * torch.eye(ATOMS)
    pairs = 0.5 * (0.5 * ((2.2 / d) ** 8 - 2 * (2.2 / d) ** 4)).sum((1, 2))
    i, j, k = torch.combinations(torch.arange(ATOMS), 3).T
    a, b, c = d[:, i, j], d[:, j, k], d[:, i, k]
    cosines = (a**2 + b**2 - c**2) * (b**2 + c**2 - a**2) * (a**2 + c**2 - b**2)
    triples = ((1 + 0.375 * cosines / (a * b * c) ** 2) * (2.2**3 / (a * b * c)) ** 3).sum(1)
    return torch.stack([pairs, 1.1 * pairs + 0.05 * triples], 1)


def clusters(count: int) -> Tensor:
    """Displaced octahedra, (count, ATOMS, 3), Å."""
    corners = 1.7 * torch.cat([torch.eye(3), -torch.eye(3)])
    return corners * (0.92 + 0.2 * torch.rand(count, 1, 1)) + 0.12 * torch.randn(count, ATOMS, 3)


def predict(model: SchNet, pos: Tensor) -> Tensor:
    z = torch.full((pos.size(0) * ATOMS,), 18)
    batch = torch.arange(pos.size(0)).repeat_interleave(ATOMS)
    return model(z, pos.reshape(-1, 3), batch)


def train(pos: Tensor, labels: Tensor, steps: int) -> SchNet:
    """A network for all columns of ``labels`` (B, levels); labels that are NaN do not count."""
    known = ~labels.isnan()
    mean = torch.stack([labels[k, n].mean() for n, k in enumerate(known.T)])
    model = SchNet(
        32, 32, 2, 24, cutoff=5.0, out_channels=labels.size(1), mean=mean / ATOMS, seed=0
    )
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        # Each label counts the same, so the few dear ones do not bend the trunk to themselves.
        (predict(model, pos) - labels)[known].square().mean().backward()
        optimizer.step()
        schedule.step()
    return model


def main(steps: int = 400) -> dict[str, float]:
    """Return mean absolute errors of the dear energy on new clusters, eV."""
    torch.manual_seed(0)
    pos, new = clusters(MANY), clusters(200)
    both, truth = energies(pos), energies(new)
    result = {}
    alone = train(pos[:FEW], both[:FEW, 1:], steps)
    delta = train(pos[:FEW], both[:FEW, 1:] - both[:FEW, :1], steps)
    both[FEW:, 1] = torch.nan
    shared = train(pos, both, steps)
    with torch.no_grad():
        found = {
            "dear alone": predict(alone, new)[:, 0],
            "shared": predict(shared, new)[:, 1],
            "delta": predict(delta, new)[:, 0] + truth[:, 0],
        }
    for name, energy in found.items():
        result[name] = float((energy - truth[:, 1]).abs().mean())
        print(f"{name}: {1000 * result[name]:.0f} meV")
    return result


if __name__ == "__main__":
    main()
