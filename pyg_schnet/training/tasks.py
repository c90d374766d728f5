"""A run as the command line starts it: a data set made ready, trained on, and its errors told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch_geometric.data import InMemoryDataset

from pyg_schnet.models import Ensemble, load
from pyg_schnet.models.networks import Network
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.config import RunConfig, TrainingConfig
from pyg_schnet.training.crystal_config import CrystalConfig
from pyg_schnet.training.evaluation import Evaluation, evaluate, evaluate_forces
from pyg_schnet.training.force_config import ISO17Config, MD17Config, TrajectoriesConfig
from pyg_schnet.training.processes import rank_of
from pyg_schnet.training.run import train
from pyg_schnet.training.splits import Split, random_split, split_of_parts
from pyg_schnet.training.targets import UNITS, EnergyAndForces, Properties, Property, in_names

CONFIGS: dict[str, type[RunConfig]] = {
    "qm9": TrainingConfig,
    "md17": MD17Config,
    "iso17": ISO17Config,
    "trajectories": TrajectoriesConfig,
    "mp": CrystalConfig,
}
"""Options of a run by the name of its data set."""

OWN_OPTION = {
    "molecule": "md17",
    "scenario": "iso17",
    "paths": "trajectories",
    "isolated": "mp",
    "target": "qm9",
}
"""The data set of a configuration, by the first of these options that it has."""

_NAMES = {"schnet": "SchNet", "dtnn": "DTNN"}


@dataclass(frozen=True)
class Task:
    """A data set made ready for runs.

    Args:
        title: What is learned, in words.
        target: What is learned.
        table: All structures.
        split: Rows for training, validation and test.
        noun: What the structures are called.
        published: Errors to print beside ours: of energies, or of energies and forces, in the
            shown unit, by where they stand.
    """

    title: str
    target: Property | Properties | EnergyAndForces
    table: MoleculeTable
    split: Split
    noun: str = "molecules"
    published: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def default_folder(name: str, config: Any) -> Path:
    """Where a run goes if no folder is given.

    Args:
        name: Of the data set.
        config: Options of the run.
    """
    if name == "trajectories":
        what = Path(config.paths[0]).stem if config.paths else "frames"
    else:
        what = next(
            getattr(config, o) for o in ("molecule", "scenario", "target") if hasattr(config, o)
        )
    return Path(f"runs/{name}-{what}")


def read_config(folder: Path) -> tuple[str, Any]:
    """The data set's name and the options of a run.

    Args:
        folder: Of the run.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If its configuration is damaged.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"There is no run in {folder}: config.yaml is missing.")
    try:
        options = yaml.safe_load(path.read_text())
        name = next((of for option, of in OWN_OPTION.items() if option in options), None)
        if name is None:
            raise ValueError(f"it has none of {', '.join(OWN_OPTION)}")
        known = CONFIGS[name].__dataclass_fields__
        given = {key: options[key] for key in known if key in options}
        for key, value in given.items():
            _check_type(key, value, known[key].default)
        return name, CONFIGS[name](**given)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        what = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} is no configuration of a run ({what}).") from error


def _check_type(key: str, value: Any, default: Any) -> None:
    """Refuse what is of another type than the default of its option, where that tells."""
    kinds: Any = (int, float) if isinstance(default, float) else type(default)
    if isinstance(default, bool | int | float | str) and not isinstance(value, kinds):
        raise ValueError(f"{key} is {value!r} and must be like {default!r}")


def make_table(config: RunConfig, *datasets: InMemoryDataset) -> MoleculeTable:
    """One table of whole data sets, in the precision of the run.

    Args:
        config: Options of the run.
        datasets: In this order.
    """
    dtype = torch.float64 if config.precision == "64-true" else torch.float32
    tables = [MoleculeTable.from_dataset(dataset, dtype) for dataset in datasets]
    return tables[0] if len(tables) == 1 else MoleculeTable.joined(tables)


def make_split(config: RunConfig, table: MoleculeTable, folder: Path | None) -> Split:
    """The split of a run: that of an earlier run, of a file, or a random one.

    Args:
        config: Options of the run.
        table: All structures.
        folder: Of an earlier run, or None.
    """
    if folder is not None:
        return Split.load(folder / "split.npz")
    if config.split_file is not None:
        return Split.load(config.split_file)
    return random_split(
        len(table), config.train_size, config.val_size, config.test_size, config.split_seed
    )


def published_split(config: RunConfig, train: Tensor, val: Tensor, test: Tensor) -> Split:
    """A split within published parts; sizes of 0 take all.

    Args:
        config: Options of the run; a test_size takes the first rows of the test part.
        train: Rows to draw training from.
        val: Rows to draw validation from, beside those.
        test: Rows for test.
    """
    test = test[: config.test_size]
    sizes = config.train_size, config.val_size
    return split_of_parts(train, val, test, *sizes, config.split_seed)


def train_task(task: Task, config: RunConfig, folder: Path, resume: bool = False) -> dict[str, Any]:
    """Train as configured and print the result.

    Args:
        task: What to train on.
        config: Options of the run.
        folder: Of the run.
        resume: Go on from its last.ckpt.

    Returns:
        The metrics, as in metrics.json.
    """
    split = task.split
    if rank_of(config):  # another process tells
        return train(config, task.target, task.table, split, folder, resume)
    print(
        f"Training on {task.title}: {split.train.numel():,} {task.noun}, "
        f"{split.val.numel():,} for validation, {split.test.numel():,} for test; run folder "
        f"{folder}",
        flush=True,
    )
    metrics = train(config, task.target, task.table, split, folder, resume)
    if isinstance(task.target, EnergyAndForces):
        _print_forces(metrics, task, _NAMES[config.model])
    else:
        _print_property(metrics, task, _NAMES[config.model])
        if isinstance(task.target, Properties):
            for part in task.target.parts:
                name = f"test_mae_{part.name}_{in_names(part.shown_unit)}"
                print(f"  {part.name:<34}{metrics[name]:12.4f} {part.shown_unit}")
    return metrics


def _print_property(metrics: dict[str, Any], task: Task, network: str) -> None:
    unit = metrics["unit"]
    key = next(name for name in metrics if name.startswith("baseline_mean_mae_"))
    suffix = key.removeprefix("baseline_mean_mae_")
    rows = [
        ("mean of the training set", metrics[key]),
        ("dressed atoms (composition only)", metrics[f"baseline_dressed_atom_mae_{suffix}"]),
        (f"this {network}", metrics["test_mae"]),
        *((name, values[0]) for name, values in task.published.items()),
    ]
    print(f"\nMAE on {metrics['n_test']:,} test {task.noun}, {unit}:")
    for name, value in rows:
        print(f"  {name:<34}{value:12.3f}")
    print(
        f"after {metrics['steps']:,} steps in {metrics['seconds']:.0f} s "
        f"({metrics['stopped']}), RMSE {metrics['test_rmse']:.3f} {unit}"
    )


def _print_forces(metrics: dict[str, Any], task: Task, network: str) -> None:
    f, unit = metrics["shown_per_unit"], metrics["unit"]
    base = {
        name.removeprefix("baseline_"): value
        for name, value in metrics.items()
        if name.startswith("baseline_")
    }
    mean, dressed, none = base.values()
    rows = [
        ("mean of the training set, no force", (mean, none)),
        ("dressed atoms, no force", (dressed, none)),
        (f"this {network}", (f * metrics["test_energy_mae"], f * metrics["test_forces_mae"])),
        *task.published.items(),
    ]
    print(f"\nMAE on {metrics['n_test']:,} test {task.noun}:")
    print(f"  {'':<36}{'energy, ' + unit:>18}{'forces, ' + unit + '/Å':>20}")
    for name, values in rows:
        print(f"  {name:<36}" + "".join(f"{value:18.4f}" for value in values))
    print(
        f"after {metrics['steps']:,} steps in {metrics['seconds']:.0f} s "
        f"({metrics['stopped']}), RMSE {f * metrics['test_energy_rmse']:.4f} {unit}, "
        f"{f * metrics['test_forces_rmse']:.4f} {unit}/Å"
    )


def evaluate_task(task: Task, folder: Path, part: str, batch_size: int) -> str:
    """The errors of a run's best model on a part of its split, in words.

    Args:
        task: The data of the run.
        folder: Of the run.
        part: "train", "val" or "test".
        batch_size: Structures at a time.

    Raises:
        ValueError: If there is no such part, or it is empty.
    """
    if part not in ("train", "val", "test"):
        raise ValueError(f"part must be train, val or test, got {part!r}.")
    model = load(folder / "best.safetensors")
    rows: Tensor = getattr(task.split, part)
    on = f"{task.target.name} on {rows.numel():,} {part} {task.noun}"
    if isinstance(model, Ensemble):
        return _evaluate_ensemble(model, task, rows, on, batch_size)
    assert isinstance(model, Network)
    if isinstance(task.target, Properties):
        found = evaluate(model, task.table, rows, batch_size)
        lines = []
        for t, of in enumerate(task.target.parts):
            one = Evaluation(found.reference[:, t], found.prediction[:, t])
            f, unit = of.shown_per_unit, of.shown_unit
            lines.append(f"{of.name}: MAE {one.mae() * f:.4f}, RMSE {one.rmse() * f:.4f} {unit}")
        return "\n".join([f"{on}:", *lines])
    if isinstance(task.target, Property):
        result, factor = evaluate(model, task.table, rows, batch_size), task.target.shown_per_unit
        return (
            f"{on}: MAE {result.mae() * factor:.4f}, "
            f"RMSE {result.rmse() * factor:.4f} {task.target.shown_unit}"
        )
    forces = evaluate_forces(model, task.table, rows, batch_size)
    unit, factor = task.target.shown_unit, UNITS[task.target.shown_unit]
    return "\n".join(
        f"{name} of {on}: MAE {of.mae() * factor:.4f}, RMSE {of.rmse() * factor:.4f} {shown}"
        for name, of, shown in (
            ("energy", forces.energy, unit),
            ("forces", forces.forces, f"{unit}/Å"),
        )
    )


def _evaluate_ensemble(model: Ensemble, task: Task, rows: Tensor, on: str, batch_size: int) -> str:
    from pyg_schnet.training.ensembles import evaluate_ensemble, spread_against_error

    if isinstance(task.target, Property):
        shown, factor = task.target.shown_unit, task.target.shown_per_unit
    else:
        shown, factor = task.target.shown_unit, UNITS[task.target.shown_unit]
    lines = []
    for name, values in evaluate_ensemble(model, task, rows, batch_size).items():
        found = spread_against_error(values)
        unit = f"{shown}/Å" if name == "forces" else shown
        what = "" if isinstance(task.target, Property) else f"{name} of "
        lines.append(
            f"{what}{on}: MAE {factor * found['mae']:.4f}, RMSE {factor * found['rmse']:.4f}, "
            f"spread {factor * found['rms_std']:.4f} {unit}, rank correlation {found['rank']:.2f}"
        )
    return "\n".join(lines)
