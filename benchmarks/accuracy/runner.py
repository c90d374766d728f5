"""Trains the rows of the papers' tables, tests on what is left, and keeps what was found.

Rows are trained as the command line trains: the same tasks, options and run folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from pyg_schnet.benchmarks.accuracy import composition, results
from pyg_schnet.benchmarks.accuracy.catalogue import (
    CLOSED_FORM,
    CONSTANT,
    DESCRIPTORS,
    Row,
    find_rows,
    load_rows,
)
from pyg_schnet.cli.tasks import TASKS
from pyg_schnet.models import load
from pyg_schnet.models.networks import Network
from pyg_schnet.training.config import RunConfig
from pyg_schnet.training.splits import Split
from pyg_schnet.training.tasks import CONFIGS, Task, train_task

RESULTS = Path("benchmarks/results/accuracy")
RUNS = Path("runs/accuracy")
PLACES = ("raw", "root", "split_file", "output")
"""Options that say where things are, which changes nothing of a result."""
KEPT = (
    *("best_step", "steps", "seconds", "stopped", "n_train", "n_val", "n_test", "parameters"),
    *("chosen", "val_mae", "cost", "guessed_bonds"),
)
DESCRIBED = "descriptors"
"""Folder, beside those of the runs, in which descriptors of crystals are kept."""


def run(
    names: Sequence[str],
    seeds: Sequence[int] | None = None,
    output: str | Path = RESULTS,
    overrides: Mapping[str, Any] | None = None,
    runs: str | Path = RUNS,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """Run rows, one seed after the other; print paper value, ours and the ratio.

    A seed that is finished is not run again, and an interrupted one goes on where it stopped. The
    file of a row, ``output/NAME.json``, is written after each of its seeds.

    Args:
        names: Of rows, such as ``md17-ethanol-1k``; ``*`` stands for anything.
        seeds: Of weights, batches and split; by default each row's.
        output: Folder of the results.
        overrides: Options of the runs to change, such as ``raw``, ``root``, ``max_time``,
            ``max_steps``, ``train_size``. They are recorded, files and folders by their last part.
        runs: Folder of the run folders, NAME/seedS.
        overwrite: Forget earlier results and runs of these rows.

    Returns:
        What the files hold, by name.

    Raises:
        ValueError: If there is no such row or option, or earlier results have other overrides.
    """
    changes = {name: value for name, value in (overrides or {}).items() if value is not None}
    found = {}
    for row in find_rows(list(names)):
        found[row.name], whole = _run_row(row, seeds, Path(output), changes, Path(runs), overwrite)
        if not whole:
            break
    return found


def config_of(row: Row, seed: int, overrides: Mapping[str, Any]) -> RunConfig:
    """The options of a run of a row.

    Args:
        row: The row.
        seed: Of weights, batches and split.
        overrides: Options to change.

    Raises:
        ValueError: If an option is unknown to the data set, or cannot be.
    """
    _check_file(row, overrides)
    kind = CONFIGS["trajectories" if row.set == "c20" else row.set]
    options = {"tensorboard": False, **row.options(), **overrides}
    if row.set == "c20":
        options.setdefault("root", "data/c20")
        del options["frames"]
    if unknown := options.keys() - kind.__dataclass_fields__.keys():
        raise ValueError(
            f"{', '.join(sorted(unknown))} is no option of runs on {row.set}, which row "
            f"{row.name} asks for; there are {', '.join(kind.__dataclass_fields__)}."
        )
    return kind(**(options | {"seed": seed, "split_seed": seed}))


def make_task(row: Row, config: Any, folder: Path | None = None) -> Task:
    """The data set of a row, made ready.

    Args:
        row: The row.
        config: Options of the run.
        folder: Of an earlier run whose split is used again, or None.
    """
    if row.set != "c20":
        return TASKS[row.set](config, folder)
    from pyg_schnet.datasets.fullerene import C20
    from pyg_schnet.training.force_tasks import trajectories_task

    dataset = C20(config.root, frames=row.options()["frames"])
    if dataset._indices is not None:
        dataset = dataset.copy()  # the first frames of a longer trajectory, as a whole
    config.paths = [str(C20.path(config.root))]
    return trajectories_task(config, dataset, folder)


def _run_row(
    row: Row,
    seeds: Sequence[int] | None,
    output: Path,
    overrides: Mapping[str, Any],
    runs: Path,
    overwrite: bool,
) -> tuple[dict[str, Any], bool]:
    """The results of a row, and whether all of its seeds were run to their end."""
    shown = {k: Path(v).name if k in PLACES else v for k, v in overrides.items()}
    record = None if overwrite else results.read(output, row.name)
    if record is None:
        record = results.new_record(row, shown)
    elif _counting(record["overrides"]) != _counting(shown):
        raise ValueError(
            f"{output / row.name}.json was found with {_in_words(record['overrides'])}, and now "
            f"{_in_words(shown)} is asked for: seeds run differently have no mean. Give the same, "
            "choose another --output and --runs, or --overwrite true."
        )
    whole = True
    for seed in row.seeds if seeds is None else seeds:
        if str(seed) in record["seeds"]:
            print(f"{row.name}, seed {seed}: finished before, kept")
            continue
        metrics = metrics_of(row, seed, overrides, runs, overwrite)
        if metrics.get("stopped") == "interrupted":
            print(f"{row.name}, seed {seed}: interrupted; the same command goes on with it")
            whole = False
            break
        record["seeds"][str(seed)] = entry_of(row, metrics)
        record["seeds"] = dict(sorted(record["seeds"].items(), key=lambda item: int(item[0])))
        results.summarize(row, record)
        results.write(output, record)
    print(results.describe(row, record), flush=True)
    return record, whole


def entry_of(row: Row, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What is written down of one seed.

    Args:
        row: The row.
        metrics: As in metrics.json of the run.
    """
    kept = {name: metrics[name] for name in KEPT if name in metrics}
    return results.errors_of(row, metrics) | kept | results.facts()


def metrics_of(
    row: Row,
    seed: int,
    overrides: Mapping[str, Any],
    runs: Path,
    overwrite: bool = False,
    size: int | None = None,
) -> dict[str, Any]:
    """What metrics.json of this seed holds, or would hold; trained if it has not been.

    Args:
        row: The row.
        seed: Of weights, batches and split.
        overrides: Options to change.
        runs: Folder of the run folders.
        overwrite: Forget an earlier run.
        size: Train on the first so many structures of the training set only, and validate and
            test with the same as ever.

    Raises:
        ValueError: As :func:`run`, or if the training set has fewer structures.
    """
    config = config_of(row, seed, overrides)
    if row.predictor != "schnet":
        print(f"{row.name}, seed {seed}: {row.predictor}", flush=True)
        task = _cut(make_task(row, config), size)
        state = runs / f"{row.name}{'' if size is None else f'-of-{size}'}-seed{seed}.ckpt"
        return _baseline(row.predictor, task, config, runs, state)
    if row.model_of is None:
        name = row.name if size is None or size == config.train_size else f"{row.name}-of-{size}"
        return _train(row, config, runs / name / f"seed{seed}", overwrite, size)
    other = load_rows()[row.model_of]
    metrics = metrics_of(other, seed, overrides, runs, size=size)
    if metrics["stopped"] == "interrupted":
        return metrics
    return metrics | _judge(make_task(row, config), config, runs / other.name / f"seed{seed}")


def _train(
    row: Row, config: RunConfig, folder: Path, overwrite: bool, size: int | None = None
) -> dict[str, Any]:
    """Train, go on, or read what a finished run found."""
    begun = not overwrite and (folder / "config.yaml").is_file()
    if begun:
        known = yaml.safe_load((folder / "config.yaml").read_text())
        asked = _counting(asdict(config) | ({"paths": known["paths"]} if "paths" in known else {}))
        # An option that the run's version did not have yet was what it is by default.
        defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
        known = defaults | known
        other = [key for key, value in asked.items() if known.get(key) != value]
        if other:
            words = ", ".join(f"{key}={known.get(key)} (now {asked[key]})" for key in other)
            raise ValueError(
                f"{folder} holds a run with {words}; give the same options, choose another --runs, "
                "or --overwrite true."
            )
        if (metrics := _finished(folder)) is not None:
            return metrics
    resume = begun and (folder / "last.ckpt").is_file()
    print(f"{row.name}, seed {config.seed}: {'going on' if resume else 'training'}", flush=True)
    task = _cut(make_task(row, config, folder if resume else None), size)
    return train_task(task, config, folder, resume)


def _cut(task: Task, size: int | None) -> Task:
    """A task with the first ``size`` structures of its training set."""
    split = task.split
    if size is None:
        return task
    if size > split.train.numel():
        raise ValueError(
            f"Cannot train on {size} structures: the training set has {split.train.numel()}."
        )
    return replace(task, split=Split(split.train[:size], split.val, split.test))


def _check_file(row: Row, overrides: Mapping[str, Any]) -> None:
    root = Path(overrides.get("root", row.options().get("root", "")))
    if row.file is not None and "raw" not in overrides and not root.is_dir():
        raise ValueError(f"Row {row.name} is of {row.file}: say where it lies with --raw.")


def _finished(folder: Path) -> dict[str, Any] | None:
    path = folder / "metrics.json"
    metrics = yaml.safe_load(path.read_text()) if path.is_file() else {"stopped": "interrupted"}
    return None if metrics["stopped"] == "interrupted" else metrics


def _judge(task: Task, config: RunConfig, folder: Path) -> dict[str, Any]:
    """Errors of a model that another row has trained."""
    gpu = torch.cuda.is_available() and config.accelerator != "cpu"
    model = load(folder / "best.safetensors", device="cuda" if gpu else "cpu")
    assert isinstance(model, Network)
    metrics, _ = task.target.judge(config, model, task.table, task.split)
    return metrics | {"n_test": task.split.test.numel()}


def _baseline(name: str, task: Task, config: Any, runs: Path, state: Path) -> dict[str, Any]:
    """What metrics.json would hold of what is no network of this package."""
    if name in CONSTANT:
        return composition.run(task, name)
    if name in DESCRIPTORS:
        from pyg_schnet.benchmarks.accuracy import kernel_ridge

        return kernel_ridge.run(task, name, runs / DESCRIBED)
    if name in CLOSED_FORM:
        from pyg_schnet.benchmarks.accuracy import gdml

        return gdml.run(task, name)
    from pyg_schnet.benchmarks.accuracy import enn_s2s

    return enn_s2s.run(task, config, state)


def _counting(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that a result depends on."""
    free = (*PLACES, "tensorboard", "accelerator")
    return {name: value for name, value in options.items() if name not in free}


def _in_words(overrides: Mapping[str, Any]) -> str:
    words = [f"{name}={value}" for name, value in _counting(overrides).items()]
    return ", ".join(words) or "nothing changed"
