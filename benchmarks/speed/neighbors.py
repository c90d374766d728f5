"""Times the neighbour search of each backend on molecules and on a crystal.

python benchmarks/speed/neighbors.py --repeats 20
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from pyg_schnet.graph import neighbor_edges


def milliseconds(call: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Times of ``repeats`` calls, after two that warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return times[2:]


def qm9_like(num_molecules: int, num_atoms: int, device: str) -> dict[str, torch.Tensor]:
    """Molecules of atoms at random in a box with 0.1 atoms/Å³, about the density of QM9's."""
    generator = torch.Generator().manual_seed(0)
    edge = (num_atoms / 0.1) ** (1 / 3)
    pos = torch.rand(num_molecules * num_atoms, 3, generator=generator) * edge
    batch = torch.arange(num_molecules).repeat_interleave(num_atoms)
    return {"pos": pos.to(device), "batch": batch.to(device)}


def silicon(repeats: int, device: str) -> dict[str, torch.Tensor]:
    """A cube of ``repeats``³ conventional cells of 8 atoms, displaced a little."""
    from ase.build import bulk

    atoms = bulk("Si", "diamond", a=5.43, cubic=True) * (repeats, repeats, repeats)
    atoms.rattle(0.05, seed=0)
    return {
        "pos": torch.tensor(atoms.positions, dtype=torch.float32, device=device),
        "cell": torch.tensor(atoms.cell.array, dtype=torch.float32, device=device),
    }


def main() -> None:
    """Print one row per system and backend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=256)
    parser.add_argument("--atoms", type=int, default=18, help="atoms per molecule")
    parser.add_argument("--silicon", type=int, default=8, help="cells along each edge of the cube")
    parser.add_argument("--cutoff", type=float, default=5.0, help="Å")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    molecules = qm9_like(args.molecules, args.atoms, args.device)
    crystal = silicon(args.silicon, args.device)
    cluster = {"pos": crystal["pos"]}
    names = f"{args.molecules} x {args.atoms} atoms", f"Si {len(crystal['pos'])} atoms"
    r = args.cutoff
    cases = [(f"{names[0]}, all pairs", molecules, None, "all_pairs")]
    for backend in ("all_pairs", "torch_cluster", "vesin", "auto"):
        cases.append((f"{names[0]}, {r} Å", molecules, r, backend))
    cases += [(f"{names[1]}, periodic, {r} Å", crystal, r, "vesin")]
    for backend in ("all_pairs", "torch_cluster", "vesin", "auto"):
        cases.append((f"{names[1]}, open, {r} Å", cluster, r, backend))

    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, float32")
    print(f"{'system':36}{'backend':16}{'edges':>10}{'median ms':>12}{'min ms':>10}{'max ms':>10}")
    for name, system, cutoff, backend in cases:
        installed = backend in ("all_pairs", "auto") or importlib.util.find_spec(backend)
        if not installed:
            print(f"{name:36}{backend:16}{'not installed':>20}")
            continue
        call = partial(neighbor_edges, cutoff=cutoff, backend=backend, **system)
        num_edges = call()[0].size(1)
        times = milliseconds(call, args.repeats, args.device)
        print(
            f"{name:36}{backend:16}{num_edges:10d}{statistics.median(times):12.2f}"
            f"{min(times):10.2f}{max(times):10.2f}"
        )


if __name__ == "__main__":
    main()
