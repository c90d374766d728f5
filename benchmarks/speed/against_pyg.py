"""SchNet against PyG's, on the same weights and edges in the same run.

    python benchmarks/speed/against_pyg.py [--repeats 30] [--json FILE]

Prints medians and the ratio; both models are evaluated in turn, so that a noisy machine disturbs
both alike.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pyg_schnet import SchNet
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_lengths
from pyg_schnet.interop import to_pyg


def molecules(count: int, atoms: int = 18) -> tuple[Tensor, Tensor, Tensor]:
    """Random molecules of QM9's size and density: z, pos, batch."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3) * 1.6
    pos = torch.cat([grid[torch.randperm(27, generator=generator)[:atoms]] for _ in range(count)])
    pos = pos + 0.1 * torch.randn(pos.shape, generator=generator)
    z = torch.tensor([1, 6, 7, 8])[torch.randint(0, 4, (len(pos),), generator=generator)]
    return z, pos, torch.arange(count).repeat_interleave(atoms)


class GivenEdges(torch.nn.Module):
    """An interaction graph that searches nothing, so that only the models are timed."""

    def __init__(self, edge_index: Tensor) -> None:
        super().__init__()
        self.edge_index = edge_index

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The edges and their lengths."""
        return self.edge_index, edge_lengths(pos, self.edge_index)


def energy(model: torch.nn.Module, z: Tensor, pos: Tensor, batch: Tensor) -> None:
    with torch.no_grad():
        model(z, pos, batch)


def energy_and_forces(model: torch.nn.Module, z: Tensor, pos: Tensor, batch: Tensor) -> None:
    pos = pos.clone().requires_grad_()
    torch.autograd.grad(model(z, pos, batch).sum(), pos)


def train_on_energies(model: torch.nn.Module, z: Tensor, pos: Tensor, batch: Tensor) -> None:
    model.zero_grad()
    model(z, pos, batch).square().mean().backward()


def train_on_forces(model: torch.nn.Module, z: Tensor, pos: Tensor, batch: Tensor) -> None:
    model.zero_grad()
    pos = pos.clone().requires_grad_()
    forces = torch.autograd.grad(model(z, pos, batch).sum(), pos, create_graph=True)[0]
    forces.square().mean().backward()


WORK: list[tuple[str, Callable[..., None], int, float | None, int]] = [
    ("energy, 256 molecules, 5 Å, T=6 F=64", energy, 256, 5.0, 6),
    ("energy+forces, 32 molecules, all pairs, T=6 F=64", energy_and_forces, 32, None, 6),
    ("energy+forces, 1 molecule, T=3 F=64", energy_and_forces, 1, None, 3),
    ("train on energies, 32 molecules, 5 Å, T=6 F=64", train_on_energies, 32, 5.0, 6),
    ("train on forces, 32 molecules, 5 Å, T=6 F=64", train_on_forces, 32, 5.0, 6),
]


def measure(
    work: Callable[..., None], count: int, cutoff: float | None, blocks: int, repeats: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each repeat, ours and PyG's."""
    z, pos, batch = molecules(count)
    ours = SchNet(64, 64, blocks, 50, cutoff or 10.0, seed=0)
    edge_index, _ = neighbor_edges(pos, cutoff, batch=batch)

    theirs = to_pyg(ours)
    ours.interaction_graph = theirs.interaction_graph = GivenEdges(edge_index)
    torch.testing.assert_close(ours(z, pos, batch), theirs(z, pos, batch), rtol=1e-4, atol=1e-4)
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 3):
        for model, record in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            work(model, z, pos, batch)
            if repeat >= 3:
                record.append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description="SchNet against PyG's.")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    print(f"{'work':<50}{'PyG ms':>10}{'ours ms':>10}{'ratio':>8}")
    for name, work, count, cutoff, blocks in WORK:
        ours, theirs = measure(work, count, cutoff, blocks, options.repeats)
        a, b = statistics.median(ours), statistics.median(theirs)
        ratios = sorted(y / x for x, y in zip(ours, theirs, strict=True))
        spread = (ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4])
        rows.append({"work": name, "pyg_ms": b, "ours_ms": a, "ratio": b / a, "quartiles": spread})
        print(f"{name:<50}{b:>10.2f}{a:>10.2f}{b / a:>8.2f}")
    if options.json:
        facts = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "dtype": "float32",
        }
        options.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
