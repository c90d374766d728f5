"""One periodic system of a thousand to a million atoms: time and memory grow with the atoms.

``python -m pyg_schnet.benchmarks.scale.large_systems --output benchmarks/results``

Each size runs in a process of its own, so that the largest memory is that of this size.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from torch import nn
from torch_geometric.data import Data

from pyg_schnet import DTNN, Potential, SchNet
from pyg_schnet.benchmarks.scale.record import facts, memory, peak_memory, write
from pyg_schnet.graph import neighbor_edges

CELLS = (5, 8, 11, 17, 23, 37, 50)
"""Cubic cells of diamond silicon, eight atoms each, along each side."""

CUTOFF = 5.0

OTHERS = {
    "exact": "filter networks on every edge, float32",
    "float64": "filter networks on every edge, float64",
    "dtnn": "DTNN(64, 64, 3, 25, 5.0), float32",
}
"""What keeps numbers of every edge and feature; measured at 4,096 atoms."""


def crystal(cells: int, dtype: torch.dtype = torch.float32) -> Data:
    """Silicon with atoms displaced by 0.05 Å."""
    atoms = bulk("Si", cubic=True).repeat(cells)
    atoms.rattle(0.05, seed=0)
    return Data(
        z=torch.from_numpy(atoms.numbers).long(),
        pos=torch.tensor(atoms.positions, dtype=dtype),
        cell=torch.tensor(atoms.cell.array, dtype=dtype)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )


def measure(cells: int, what: str) -> dict[str, Any]:
    """Search, and energy, or energy and forces, of one size; memory in MiB above the start.

    Seconds are those of the processor, which do not grow while others use the machine too; with one
    thread, as on a quiet machine they would be those of the clock.
    """
    size = 64, 64, 3, 25, CUTOFF
    if what == "dtnn":
        model: nn.Module = DTNN(*size, seed=0)
    else:
        model = SchNet(*size, filters="exact" if what == "exact" else "auto", seed=0)
    dtype = torch.float64 if what == "float64" else torch.float32
    # As in a calculator, nobody asks for gradients of weights.
    potential = Potential(model.to(dtype).requires_grad_(False), forces=what != "energy").eval()
    potential(crystal(2, dtype))  # compiled once
    data = crystal(cells, dtype)
    start = memory("VmRSS")
    begin, clock = time.process_time(), time.perf_counter()
    data.edge_index, data.cell_shift = neighbor_edges(data.pos, CUTOFF, None, data.cell, data.pbc)
    search = time.process_time() - begin
    after_search = peak_memory()
    begin = time.process_time()
    potential(data)
    first = time.process_time() - begin
    repeats = []
    for _ in range(3 if cells < 20 else 1):
        data.pos = data.pos.clone()
        begin = time.process_time()
        result = potential(data)
        repeats.append(time.process_time() - begin)
    found = {
        "atoms": data.num_nodes,
        "edges": data.edge_index.size(1),
        "search_s": round(search, 4),
        "first_s": round(first, 4),
        "again_s": round(float(np.median(repeats)), 4),
        "all_by_the_clock_s": round(time.perf_counter() - clock, 2),
        "search_MB": round(after_search - start, 1),
        "peak_MB": round(peak_memory() - start, 1),
        "energy_per_atom": float(result["energy"]) / data.num_nodes,
    }
    if what != "energy":
        found["sum_of_forces"] = float(result["forces"].double().sum(0).abs().max())
    return found


def apart(cells: int, what: str, threads: int) -> dict[str, Any]:
    """The same in a process of its own; why not, where that ended."""
    command = [sys.executable, "-W", "ignore", "-m", "pyg_schnet.benchmarks.scale.large_systems"]
    command += ["--threads", str(threads), "--one", str(cells), what]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        return {"atoms": 8 * cells**3, "why": words[-1] if words else "killed"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time and memory against atoms, with a slope of one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    forces, energy = rows["forces"], rows["energy"]
    atoms = [row["atoms"] for row in forces]
    axes[0].plot(atoms, [row["search_s"] for row in forces], "o-", label="neighbour search")
    axes[0].plot([r["atoms"] for r in energy], [r["again_s"] for r in energy], "o-", label="energy")
    axes[0].plot(atoms, [row["again_s"] for row in forces], "o-", label="energy and forces")
    axes[1].plot([r["atoms"] for r in energy], [r["peak_MB"] for r in energy], "o-", label="energy")
    axes[1].plot(atoms, [row["peak_MB"] for row in forces], "o-", label="energy and forces")
    for axis, key, label in (
        (axes[0], "again_s", "processor seconds"),
        (axes[1], "peak_MB", "memory / MiB"),
    ):
        last = forces[-1]
        line = [last[key] * n / last["atoms"] for n in atoms]
        axis.plot(atoms, line, ":", color="grey", label="proportional")
        axis.set(xscale="log", yscale="log", xlabel="atoms", ylabel=label)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=CELLS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", nargs=2, help="One size, and what of it; for itself.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(int(options.one[0]), options.one[1])))
        return
    rows: dict[str, list[dict[str, Any]]] = {"energy": [], "forces": []}
    known, stopped = facts(), {}
    for what, found in rows.items():
        for cells in options.cells:
            row = apart(cells, what, options.threads)
            print(what, row, flush=True)
            if "why" in row:
                stopped[what] = row
                break
            found.append(row)
    others = {}
    for what, words in OTHERS.items():
        row = apart(8, what, options.threads)
        others[what] = {
            "model": words,
            **row,
            "kB_per_atom": round(1024 * row["peak_MB"] / row["atoms"]),
        }
        print(what, others[what], flush=True)
    model = "SchNet(64, 64, 3, 25, 5.0), float32"
    record = {"facts": known, "model": model, "system": "silicon, 28 neighbours", "rows": rows}
    write(options.output / "large_systems.json", record | {"stopped": stopped, "others": others})
    draw(rows, options.output / "large_systems.png")


if __name__ == "__main__":
    main()
