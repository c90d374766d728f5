"""Five million frames on a disk: size, time to open, random reading, memory, training.

``python -m pyg_schnet.benchmarks.scale.on_disk --frames 5000000 --output benchmarks/results``
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule
from torch_geometric.loader import DataLoader

from pyg_schnet.benchmarks.scale.record import facts, memory, write
from pyg_schnet.datasets import OnDiskFrames
from pyg_schnet.datasets.frames import same_atoms
from pyg_schnet.datasets.on_disk import FramesWriter
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.force_config import TrajectoriesConfig
from pyg_schnet.training.run import EnergyAndForces, train
from pyg_schnet.training.splits import random_split

TOGETHER = 50_000  # frames made at a time


def make(folder: Path, count: int) -> dict[str, Any]:
    """Write frames of ethanol on springs, and compare their checksums."""
    rng, atoms = np.random.default_rng(0), molecule("CH3CH2OH")
    start, writing = time.perf_counter(), 0.0
    with FramesWriter(folder) as writer:
        for first in range(0, count, TOGETHER):
            size = min(TOGETHER, count - first), len(atoms), 3
            moved = 0.1 * rng.standard_normal(size, dtype=np.float32)
            energy = -4215.0 + 0.5 * np.square(moved, dtype=np.float64).sum((1, 2))
            frames = same_atoms(atoms.numbers, atoms.positions + moved, -moved, energy=energy)
            begin = time.perf_counter()
            writer.add(frames)
            writing += time.perf_counter() - begin
    held = sum(path.stat().st_size for path in folder.iterdir())
    total = time.perf_counter() - start
    start = time.perf_counter()
    OnDiskFrames(folder).verify()
    return {
        "size_GB": round(held / 1e9, 3),
        "bytes_per_frame": round(held / count, 1),
        "making_and_writing_s": round(total, 1),
        "writing_frames_per_second": round(count / writing),
        "comparing_checksums_s": round(time.perf_counter() - start, 2),
    }


def read(folder: Path, seconds: float, workers: int) -> dict[str, Any]:
    """Open, then read at random: frames, batches of a table, batches of a loader."""
    empty = {name: memory(name) for name in ("RssAnon", "RssFile")}
    start = time.perf_counter()
    data = OnDiskFrames(folder)
    opening = time.perf_counter() - start
    opened = memory("RssAnon")
    rng = np.random.default_rng(1)
    found: dict[str, Any] = {"opening_ms": round(1e3 * opening, 1)}

    def rate(call: Any, each: int) -> int:
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            call()
            done += each
        return round(done / (time.perf_counter() - begin))

    found["frames_per_second"] = rate(lambda: data[int(rng.integers(len(data)))], 1)
    table = MoleculeTable.from_dataset(data)

    def batch() -> Any:
        return table.batch(torch.from_numpy(rng.integers(len(data), size=32)), 5.0)

    found["frames_per_second_in_batches_of_32_with_edges"] = rate(batch, 32)
    batches = iter(DataLoader(data, 256, shuffle=True, num_workers=workers))
    next(batches)  # the order of all rows is drawn, and the workers start
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        done += next(batches).num_graphs
    found[f"frames_per_second_of_a_loader_with_{workers}_workers"] = round(
        done / (time.perf_counter() - begin)
    )
    found["memory_MB"] = {
        "anonymous_before": empty["RssAnon"],
        "anonymous_opened": opened,
        "anonymous_after_reading": memory("RssAnon"),
        "pages_of_files_before": empty["RssFile"],
        "pages_of_files_after_reading": memory("RssFile"),
    }
    return found


def fit(folder: Path, steps: int) -> dict[str, Any]:
    """A short run through the runner, on energies and forces."""
    table = MoleculeTable.from_dataset(OnDiskFrames(folder))
    config = TrajectoriesConfig(
        num_filters=64,
        max_steps=steps,
        val_every=steps,
        test_size=1000,
        tensorboard=False,
        accelerator="cpu",
    )
    split = random_split(len(table), len(table) - 2000, 1000, 1000)
    before = memory("RssAnon")
    with tempfile.TemporaryDirectory() as run:
        metrics = train(config, EnergyAndForces("springs"), table, split, Path(run))
    return {
        "steps": metrics["steps"],
        "ms_per_step": round(1e3 * metrics["seconds"] / metrics["steps"], 1),
        "n_train": metrics["n_train"],
        "anonymous_before_MB": before,
        "anonymous_after_MB": memory("RssAnon"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=5_000_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = facts()
    folder = Path(tempfile.mkdtemp())
    try:
        record: dict[str, Any] = {"facts": known, "frames": options.frames, "atoms_per_frame": 9}
        record |= make(folder / "frames", options.frames)
        record["reading"] = read(folder / "frames", options.seconds, options.workers)
        record["training"] = fit(folder / "frames", options.steps)
    finally:
        shutil.rmtree(folder)
    print(record)
    write(options.output / "on_disk.json", record)


if __name__ == "__main__":
    main()
