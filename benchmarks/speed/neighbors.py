"""The neighbour search of each backend, on molecules and on a crystal."""

import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pyg_schnet.benchmarks.speed import systems
from pyg_schnet.graph import neighbor_edges

BACKENDS = ("all_pairs", "torch_cluster", "vesin", "auto")
CUTOFF = 5.0


def measure(device: str = "cpu", repeats: int = 20) -> list[dict[str, Any]]:
    """Milliseconds of a search by each backend that is installed."""
    molecules, crystal = systems.molecules(256).to(device), systems.silicon().to(device)
    inside = {"pos": molecules.pos, "batch": molecules.batch}
    cluster = {"pos": crystal.pos}
    cases: list[tuple[str, dict[str, Any], float | None, str]] = [
        ("256 x 18 atoms, all pairs", inside, None, "all_pairs")
    ]
    cases += [("256 x 18 atoms, 5 Å", inside, CUTOFF, name) for name in BACKENDS]
    cases += [("4096 Si, periodic, 5 Å", cluster | {"cell": crystal.cell[0]}, CUTOFF, "vesin")]
    cases += [("4096 Si, open, 5 Å", cluster, CUTOFF, name) for name in BACKENDS]
    print(f"{'system':30}{'backend':16}{'edges':>10}{'median ms':>12}")
    rows = []
    for name, given, cutoff, backend in cases:
        if backend not in ("all_pairs", "auto") and importlib.util.find_spec(backend) is None:
            continue
        call = partial(neighbor_edges, cutoff=cutoff, backend=backend, **given)
        edges = call()[0].size(1)
        row = {"system": name, "backend": backend, "edges": edges, "ms": _median(call, repeats)}
        rows.append(row)
        print(f"{name:30}{backend:16}{edges:10d}{row['ms']:12.2f}")
    return rows


def _median(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times[2:]), 3)
