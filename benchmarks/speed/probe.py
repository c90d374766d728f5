"""Time and memory of the local chemical potential: 100,000 places of a probe around benzene.

``python -m pyg_schnet.benchmarks.speed.probe`` writes ``benchmarks/results/probe_cpu.json``.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

POINTS = 100_000
LIMIT = 5.0
"""Seconds that it may take on two cores."""


def measure(points: int, repeats: int, threads: int, edges_at_once: int | None) -> dict[str, Any]:
    """Seconds of each call after a first one, and how much the peak of memory rose; here.

    Args:
        points: Of the probe, at random within 3 Å around the box of the atoms.
        repeats: Calls that are timed.
        threads: Of PyTorch.
        edges_at_once: See :func:`~pyg_schnet.analysis.chemical_potential.local_chemical_potential`.
    """
    import numpy as np
    import torch
    from ase.build import molecule

    from pyg_schnet import SchNet
    from pyg_schnet.analysis.chemical_potential import local_chemical_potential

    torch.set_num_threads(threads)
    benzene, model = molecule("C6H6"), SchNet(64, 64, 6, 25, 5.0, seed=0)
    low, high = benzene.positions.min(0) - 3.0, benzene.positions.max(0) + 3.0
    where = np.random.default_rng(0).uniform(low, high, (points, 3))
    chosen = {} if edges_at_once is None else {"edges_at_once": edges_at_once}
    local_chemical_potential(model, benzene, where[:1000], "C", **chosen)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        local_chemical_potential(model, benzene, where, "C", **chosen)
        seconds.append(time.perf_counter() - begun)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "rise_MiB": (after - before) / 1024}


def main() -> None:
    """Measure in processes of their own, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="benchmarks/results/probe_cpu.json")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    rows = []
    for points, threads, edges in (
        (POINTS, 1, None),
        (POINTS, 2, None),
        (POINTS, 1, 2**14),
        (4 * POINTS, 1, None),
    ):
        asked = dict(points=points, repeats=options.repeats, threads=threads, edges_at_once=edges)
        child = subprocess.run(
            [sys.executable, "-m", __spec__.name, "--one", json.dumps(asked)],
            # Threads that spin would take the cores from each other where others work too.
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(child.stdout)
        middle = statistics.median(found["seconds"])
        rows.append(asked | {"seconds": round(middle, 3), "rise_MiB": round(found["rise_MiB"], 1)})
        rows[-1]["fastest"] = round(min(found["seconds"]), 3)
        print(rows[-1], flush=True)
    import torch

    record = {
        "what": "local_chemical_potential of benzene, T=6, F=64, cutoff 5 Å, one probe, float32",
        "limit_seconds": LIMIT,
        "how": "median of calls in a process of its own, and how much its peak of memory rose",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "rows": rows,
    }
    Path(options.output).write_text(json.dumps(record, indent=1) + "\n")
    print(f"Wrote {options.output}")


if __name__ == "__main__":
    main()
