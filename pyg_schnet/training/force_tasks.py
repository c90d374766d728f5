"""What runs on energies and forces need of each data set: its rows and what was published."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch_geometric.data import InMemoryDataset

from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.force_config import (
    ForceTrainingConfig,
    ISO17Config,
    MD17Config,
    TrajectoriesConfig,
)
from pyg_schnet.training.splits import Split
from pyg_schnet.training.targets import EnergyAndForces
from pyg_schnet.training.tasks import Task, make_split, make_table, published_split

PAPER_MD17 = {  # J. Chem. Phys. 2018, 1,000 structures: kcal/mol and kcal/mol/Å
    "ethanol": (0.08, 0.39),
    "malonaldehyde": (0.13, 0.66),
    "uracil": (0.14, 0.56),
    "benzene": (0.08, 0.31),
    "toluene": (0.12, 0.57),
    "naphthalene": (0.16, 0.58),
    "salicylic": (0.20, 0.85),
    "aspirin": (0.37, 1.35),
}
"""Errors of SchNet by molecule."""


def md17_task(config: MD17Config, dataset: InMemoryDataset, folder: Path | None = None) -> Task:
    """A run on a molecule of MD17.

    Args:
        config: Options of the run.
        dataset: MD17 of this molecule, whole.
        folder: Of an earlier run whose split is used again, or None.

    Raises:
        ValueError: If the data set has no such published split, or fewer frames than asked for.
    """
    molecule, number = config.molecule, config.published_split
    table = make_table(config, dataset)
    if number is None or folder is not None:
        split = make_split(config, table, folder)
    else:
        end = f"_{number:02d}" if config.revised else ""
        train, test = (dataset.split(f"{part}{end}") for part in ("train", "test"))
        split = published_split(config, train, train, test)
    known = None
    as_published = config.forces and split.train.numel() == 1_000 and config.unit == "kcal/mol"
    if not config.revised and config.level in (None, "dft") and as_published:
        known = PAPER_MD17.get(molecule)
    published = {"SchNet, J. Chem. Phys. 2018 (1,000)": known} if known else {}
    return _task(config, molecule, molecule, table, split, published)


def iso17_task(
    config: ISO17Config,
    reference: InMemoryDataset,
    test: InMemoryDataset,
    parts: tuple[str, str],
    folder: Path | None = None,
) -> Task:
    """A run on one of the two scenarios of ISO17.

    Args:
        config: Options of the run.
        reference: The frames of 80 % of the isomers, whole.
        test: The test set of the scenario, whole.
        parts: Names of the lists of ``reference`` for training and validation.
        folder: Of an earlier run whose split is used again, or None.
    """
    table = make_table(config, reference, test)
    if folder is not None or config.split_file is not None:
        split = make_split(config, table, folder)
    else:
        train, val = (reference.split(part) for part in parts)
        split = published_split(config, train, val, torch.arange(len(reference), len(table)))
    name = f"ISO17-{config.scenario}"
    return _task(config, f"ISO17 ({config.scenario})", name, table, split)


def trajectories_task(
    config: TrajectoriesConfig, dataset: InMemoryDataset, folder: Path | None = None
) -> Task:
    """A run on frames of files.

    Args:
        config: Options of the run.
        dataset: The frames, whole.
        folder: Of an earlier run whose split is used again, or None.
    """
    table = make_table(config, dataset)
    name = ", ".join(Path(path).name for path in config.paths or [])
    return _task(config, name, name, table, make_split(config, table, folder))


def _task(
    config: ForceTrainingConfig,
    data: str,
    name: str,
    table: MoleculeTable,
    split: Split,
    published: Mapping[str, tuple[float, ...]] | None = None,
) -> Task:
    what = "energies and forces" if config.forces else "energies"
    target = EnergyAndForces(name, config.unit)
    return Task(f"{what} of {data}", target, table, split, "structures", published or {})
