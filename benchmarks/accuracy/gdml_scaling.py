"""What GDML, sGDML and SchNet cost over the number of training structures: memory and time.

``python -m pyg_schnet.benchmarks.accuracy.gdml_scaling --raw FOLDER_OF_NPZ_FILES`` measures ethanol
on one core, each training in a process of its own, and writes
``benchmarks/results/gdml_scaling.json`` and a figure. What the file has is not measured again, and
neither is what a row on all structures, such as sgdml-ethanol-1k, has been run for. Peaks of memory
are read from /proc, so they are of Linux alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyg_schnet.benchmarks.accuracy import gdml, runner
from pyg_schnet.benchmarks.accuracy.catalogue import find_rows
from pyg_schnet.benchmarks.accuracy.results import facts
from pyg_schnet.models import Potential, load
from pyg_schnet.training.run import train
from pyg_schnet.training.splits import Split
from pyg_schnet.training.tasks import Task
from pyg_schnet.units import KCAL_PER_MOL

ROW = "md17-ethanol-1k"
SIZES = (100, 200, 500, 1_000)
MODELS = ("schnet", "sgdml", "gdml")
WIDTH = 14
"""Of the kernel, 1/Å; between 5 and 20 errors differ by a tenth at all sizes."""
STEPS = 1_000
"""Of SchNet that are timed."""
JUDGED = 1_000
"""Structures of the test set that are predicted."""

SHOWN = {"peak_bytes": 1e9, "train_seconds": 1.0, "milliseconds_per_structure": 1.0}
"""Panels of the figure, and what they are divided by."""

Record = dict[str, Any]


def measure(name: str, size: int, raw: str | None, root: str) -> Record:
    """Train one model on the first structures of the row's training set, and predict others.

    Args:
        name: One of :data:`MODELS`.
        size: Structures to train on.
        raw: Where the data set's files are, or None.
        root: Folder of the processed data set.

    Returns:
        ``peak_bytes`` that training added to the process, times, and for closed forms errors.
    """
    row = find_rows([ROW])[0]
    places = {"raw": raw, "root": root, "precision": "32-true" if name == "schnet" else "64-true"}
    config = runner.config_of(row, 0, {key: value for key, value in places.items() if value})
    task = runner.make_task(row, config)
    split = task.split
    task = replace(task, split=Split(split.train[:size], split.val, split.test[:JUDGED]))
    if name == "schnet":
        return _schnet(task, config)
    known = gdml.Frames.of(task.table, task.split.train)
    test = gdml.Frames.of(task.table, task.split.test)
    model, cost = gdml.fit_and_time(known, name, WIDTH)
    begun = time.process_time()
    model.predict(test.pos)
    seconds = time.process_time() - begun
    errors = gdml.errors(model, test)
    return {
        **cost,
        "milliseconds_per_structure": 1e3 * seconds / len(test.pos),
        "permutations": model.permutations,
        "energy_mae_kcal_mol": errors["test_energy_mae"] / KCAL_PER_MOL,
        "forces_mae_kcal_mol_A": errors["test_forces_mae"] / KCAL_PER_MOL,
    }


def run(
    output: Path,
    raw: str | None,
    root: str,
    sizes: Sequence[int] = SIZES,
    results: Path = runner.RESULTS,
    models: Sequence[str] = MODELS,
) -> Record:
    """Measure models at all sizes, one after the other, and draw.

    Args:
        output: The JSON file; the figure has its name.
        raw: As for :func:`measure`.
        root: As for :func:`measure`.
        sizes: Numbers of training structures.
        results: Folder of what rows have found.
        models: Those of :data:`MODELS` that are measured.
    """
    record: Record = {"row": ROW, "width": WIDTH, "steps": STEPS, "points": {}} | facts()
    if output.is_file():
        record = json.loads(output.read_text())
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    for name in models:
        for size in sizes:
            points = record["points"].setdefault(name, {})
            if str(size) in points:
                continue
            if (known := _of_row(name, size, results)) is not None:
                points[str(size)] = known
                _write(output, record)
                continue
            words = [sys.executable, "-m", __spec__.name, "--measure", name, str(size)]
            words += ["--root", root, *(["--raw", raw] if raw else [])]
            found = subprocess.run(
                words, env=os.environ | threads, check=True, stdout=subprocess.PIPE, text=True
            )
            points[str(size)] = json.loads(found.stdout.splitlines()[-1])
            print(f"{name}, {size} structures: {points[str(size)]}", flush=True)
            _write(output, record)
    draw(record, output.with_suffix(".png"))
    return record


def _of_row(name: str, size: int, results: Path) -> Record | None:
    """What the row of a closed form has found with as many structures, if it has been run."""
    file = results / f"{name}-ethanol-1k.json"
    if not file.is_file():
        return None
    for seed in json.loads(file.read_text())["seeds"].values():
        if seed["n_train"] == size and "peak_bytes" in seed.get("cost", {}):
            return {
                **seed["cost"],
                "permutations": seed["chosen"]["permutations"],
                "energy_mae_kcal_mol": seed["energy"],
                "forces_mae_kcal_mol_A": seed["forces"],
            }
    return None


def _write(output: Path, record: Record) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f"{output.name}.part")
    aside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    os.replace(aside, output)


def draw(record: Record, output: Path) -> Path:
    """Peak memory, time of training and time of a prediction over training structures.

    Args:
        record: What was measured.
        output: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    labels = {"gdml": "GDML", "sgdml": "sGDML", "schnet": "SchNet"}
    for marker, (name, by_size) in zip("o^s", record["points"].items(), strict=False):
        found = sorted((int(size), point) for size, point in by_size.items())
        for ax, (key, unit) in zip(axes, SHOWN.items(), strict=True):
            known = [(size, point[key] / unit) for size, point in found if point.get(key)]
            if known:
                ax.plot(*zip(*known, strict=True), marker=marker, label=labels[name])
    axes[0].set(title="memory of training", ylabel="GB")
    axes[1].set(title=f"training (SchNet: {record['steps']:,} steps)", ylabel="s of one core")
    axes[2].set(title="prediction of one structure", ylabel="ms of one core")
    for ax in axes:
        ax.set(xscale="log", yscale="log", xlabel="training structures")
        ax.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.minorticks_off()
        ax.yaxis.set_major_formatter("{x:g}")
        ax.title.set_fontsize("medium")
    axes[0].legend(frameon=False)
    aside = output.with_name(f"{output.stem}.part{output.suffix}")
    figure.savefig(aside, dpi=130)
    os.replace(aside, output)
    return output


def _schnet(task: Task, config: Any) -> Record:
    """A step costs what a batch costs, whatever the number of structures to draw it from.

    Its memory is mostly that of compiled code and of libraries that come with the first step.
    """
    config = replace(config, max_time=None, max_steps=STEPS, val_every=STEPS)
    few = Split(task.split.train, task.split.val[:10], task.split.test[:10])
    with tempfile.TemporaryDirectory() as folder:
        before = gdml.start_of_peak()
        short = replace(config, max_steps=20, val_every=20)
        train(short, task.target, task.table, few, Path(folder))  # loads the compiled loops
        begun = time.process_time()
        found = train(config, task.target, task.table, few, Path(folder))
        seconds = time.process_time() - begun
        peak = None if before is None else gdml.peak() - before
        model = load(Path(folder) / "best.safetensors")
    potential, rows = Potential(model).eval(), task.split.test
    cutoff = float(config.cutoff)

    def milliseconds(together: int) -> float:
        parts = rows.split(together)
        batches = [task.table.batch(part, cutoff) for part in parts]
        with torch.no_grad():
            potential(batches[0])
            start = time.process_time()
            for batch in batches:
                potential(batch)
        return 1e3 * (time.process_time() - start) / len(rows)

    return {
        "peak_bytes": peak,
        "train_seconds": seconds,
        "steps": found["steps"],
        "milliseconds_per_structure": milliseconds(1),
        "milliseconds_in_batches_of_100": milliseconds(100),
        "parameters": found["parameters"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", help="Folder of the npz files of MD17.")
    parser.add_argument("--root", default="data/md17", help="Of the processed data set.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gdml_scaling.json"))
    parser.add_argument("--results", type=Path, default=runner.RESULTS, help="Of the rows.")
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "SIZE"), help="One point alone.")
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        name, size = chosen.measure
        torch.set_num_threads(1)
        print(json.dumps(measure(name, int(size), chosen.raw, chosen.root)))
    else:
        where = chosen.raw, chosen.root, chosen.sizes, chosen.results, chosen.models
        run(chosen.output, *where)


if __name__ == "__main__":
    main()
