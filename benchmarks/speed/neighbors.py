"""The neighbour search of each backend, on molecules, on small crystals and on a large one."""

import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.benchmarks.speed import systems
from pyg_schnet.graph import neighbor_edges

OPEN = ("all_pairs", "torch_cluster", "vesin", "auto")
PERIODIC = ("auto", "images", "vesin", "pymatgen", "vesin_torch", "nvalchemi", "ase")
CUTOFF = 5.0
_MODULES = {"images": "numba", "nvalchemi": "nvalchemiops"}
Case = tuple[str, dict[str, Tensor], float | None, tuple[str, ...]]


def measure(
    device: str = "cpu", repeats: int = 20, data: str | Path | None = None
) -> list[dict[str, Any]]:
    """Milliseconds of a search, and structures per second, by each backend that is installed.

    Args:
        device: Where the positions are.
        repeats: Calls that the median is of; ASE, the slow truth, is called less often, and only
            for few crystals.
        data: An ``.npz`` with ``n_atoms`` (M,), ``frac_coords`` (N, 3) and ``cell`` (M, 3, 3),
            whose first 1,000 crystals are searched too.
    """
    molecules, silicon = systems.molecules(256), systems.silicon()
    inside = {"pos": molecules.pos, "batch": molecules.batch}
    small = crystals()
    cases: list[Case] = [
        ("256 x 18 atoms, all pairs", inside, None, ("all_pairs",)),
        ("256 x 18 atoms, 5 Å", inside, CUTOFF, OPEN),
        (f"{len(small['cell'])} crystals, 5 Å", small, CUTOFF, PERIODIC[:-1]),
        ("32 crystals, 5 Å", first(small, 32), CUTOFF, PERIODIC),
        ("1 crystal, 5 Å", first(small, 1), CUTOFF, PERIODIC),
        ("4096 Si, periodic, 5 Å", {"pos": silicon.pos, "cell": silicon.cell[0]}, CUTOFF, PERIODIC),
        ("4096 Si, open, 5 Å", {"pos": silicon.pos}, CUTOFF, OPEN),
    ]
    if data is not None:
        given = first(read(data), 1000)
        cases.append(
            (f"{len(given['cell'])} of {Path(data).stem}, 5 Å", given, CUTOFF, PERIODIC[:-1])
        )
    print(f"{'system':30}{'backend':16}{'edges':>10}{'median ms':>12}{'structures/s':>14}")
    rows = []
    for name, given, cutoff, backends in cases:
        there = {key: value.to(device) for key, value in given.items()}
        for backend in backends:
            if not is_installed(backend):
                continue
            call = partial(neighbor_edges, cutoff=cutoff, backend=backend, **there)
            edges = call()[0].size(1)
            ms = _median(call, 1 if backend == "ase" else repeats)
            structures = int(there["batch"][-1]) + 1 if "batch" in there else 1
            rate = round(1e3 * structures / ms, 1)
            row = {"system": name, "backend": backend, "edges": edges, "ms": ms}
            rows.append(row | {"structures_per_second": rate})
            print(f"{name:30}{backend:16}{edges:10d}{ms:12.2f}{rate:14.0f}")
    return rows


def is_installed(backend: str) -> bool:
    """Whether there is what a backend needs."""
    if backend in ("auto", "all_pairs"):
        return True
    return importlib.util.find_spec(_MODULES.get(backend, backend)) is not None


def crystals(count: int = 1000) -> dict[str, Tensor]:
    """Random skewed cells of 5 to 15 atoms, 16 Å³ each: about 330 edges per crystal at 5 Å."""
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 16, count)
    cells = np.eye(3) + rng.uniform(-0.3, 0.3, (count, 3, 3))
    cells *= (16.0 * counts / np.abs(np.linalg.det(cells)))[:, None, None] ** (1 / 3)
    return _joined(counts, rng.uniform(0, 1, (counts.sum(), 3)), cells)


def read(path: str | Path) -> dict[str, Tensor]:
    """The crystals of a file, as :func:`measure` describes it."""
    with np.load(path, allow_pickle=False) as file:
        return _joined(file["n_atoms"], file["frac_coords"], file["cell"])


def _joined(counts: Any, fractions: Any, cells: Any) -> dict[str, Tensor]:
    numbers = np.repeat(np.arange(len(counts)), counts)
    pos = np.einsum("nk,nkx->nx", fractions, cells[numbers])
    return {
        "pos": torch.from_numpy(pos).float(),
        "cell": torch.from_numpy(np.asarray(cells)).float(),
        "batch": torch.from_numpy(numbers),
    }


def first(given: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The first ``count`` crystals, or all if there are fewer."""
    mine = given["batch"] < count
    return {
        "pos": given["pos"][mine],
        "cell": given["cell"][:count],
        "batch": given["batch"][mine],
    }


def _median(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times[2:]), 3)
