"""Screening of a million molecules: rate, memory, and what an interrupt costs.

``python -m pyg_schnet.benchmarks.scale.screening --count 1000000 --output benchmarks/results``
"""

import argparse
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

import pyg_schnet
from pyg_schnet.benchmarks.scale.molecules import write_extxyz
from pyg_schnet.benchmarks.scale.record import facts, memory, peak_memory, write
from pyg_schnet.simulation.screening import Screening, screen
from pyg_schnet.simulation.structure_streams import Place, open_source


def measure(count: int, folder: Path, forces_count: int) -> dict[str, Any]:
    """Screen ``count`` molecules by the model of QM9's U0, interrupted once in the middle.

    Args:
        count: Molecules.
        folder: For files of about 300 bytes for each.
        forces_count: Molecules that get forces as well, in extended XYZ.
    """
    model, path = pyg_schnet.pretrained("qm9-U0"), folder / "molecules.extxyz"
    size = write_extxyz(path, count)
    start = time.perf_counter()
    atoms = sum(len(one.structure.z) for one in open_source(path).read(Place()))
    reading = time.perf_counter() - start
    # What is loaded and compiled once is no growth.
    short = folder / "short.extxyz"
    write_extxyz(short, 2_000)
    screen([short], model, folder / "short.csv")
    before = memory("RssAnon"), peak_memory()
    # Jobs in the background ignore it, unless it is set.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(count / 25_000, signal.raise_signal, [signal.SIGINT])
    timer.start()
    parts, out = [], folder / "out.csv"
    start, processor = time.perf_counter(), time.process_time()
    done = None
    while done is None:
        try:
            done = screen([path], model, out)
        except KeyboardInterrupt:
            parts.append(round(time.perf_counter() - start, 1))
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    timer.cancel()
    after = memory("RssAnon"), peak_memory()
    lines = sum(1 for _ in out.open()) - 1
    forces = _forces(model, folder, forces_count)
    return {
        "structures": count,
        "atoms": atoms,
        "input_MB": size,
        "output_MB": round(out.stat().st_size / 1e6, 1),
        "rows": lines,
        "seconds": round(seconds, 1),
        "structures_per_second": round(count / seconds),
        "structures_per_processor_second": round(count / processor),
        "interrupted_after_s": parts,
        "resumed_at": done.resumed,
        "reading_alone_structures_per_second": round(count / reading),
        "memory_after_2000_MB": before[0],
        "memory_at_the_end_MB": after[0],
        "peak_after_2000_MB": before[1],
        "peak_at_the_end_MB": after[1],
        "with_forces": {
            "structures": forces.rows,
            "structures_per_second": round(forces.rows / forces.seconds),
        },
    }


def _forces(model: torch.nn.Module, folder: Path, count: int) -> Screening:
    path = folder / "forces.extxyz"
    write_extxyz(path, count, seed=1)
    return screen([path], model, folder / "forces-out.extxyz", forces=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--forces_count", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = facts()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.count, Path(folder), options.forces_count)
    print(found)
    model = "qm9-U0 (T=3, F=64, 5 Å, float32)"
    write(options.output / "screening.json", {"facts": known, "model": model, **found})


if __name__ == "__main__":
    main()
