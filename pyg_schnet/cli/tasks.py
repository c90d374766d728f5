"""Data sets that models are trained on, each with how its targets are learned."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyg_schnet.datasets import QM9
    from pyg_schnet.training.targets import Property
    from pyg_schnet.training.tasks import Task

TRAIN = {
    "qm9": "Train a SchNet or a DTNN on a property of QM9.",
    "md17": "Train a SchNet or a DTNN on energies and forces of a molecule of MD17.",
    "iso17": "Train a SchNet or a DTNN on energies and forces of ISO17.",
    "trajectories": "Train a SchNet or a DTNN on energies and forces of any files that ASE reads.",
    "mp": "Train a SchNet or a DTNN on crystals, of the Materials Project or your own.",
}

PAPER_MAE_KCAL_MOL = {"U0": 0.31}  # NeurIPS 2017, table 1: 110,000 training molecules

QM9_HEADS = {
    "mu": "dipole",
    "alpha": "polarizability",
    "r2": "spatial_extent",
}
"""Heads made for properties of QM9 that are neither sums nor means of contributions."""


def _qm9(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets import QM9
    from pyg_schnet.training.targets import Properties
    from pyg_schnet.training.tasks import Task, make_split, make_table

    names = [name.strip() for name in config.target.split(",")]
    dataset = QM9(config.root, target=names, raw=config.raw)
    table = make_table(config, dataset)
    known = PAPER_MAE_KCAL_MOL.get(config.target) if config.model == "schnet" else None
    parts = [qm9_property(dataset, name) for name in names]
    return Task(
        f"{config.target} of QM9",
        parts[0] if len(parts) == 1 else Properties(tuple(parts)),
        table,
        make_split(config, table, folder),
        published={} if known is None else {"SchNet, NeurIPS 2017 (110k)": (known,)},
    )


def _md17(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets import MD17
    from pyg_schnet.training.force_tasks import md17_task

    dataset = MD17(config.root, config.molecule, config.revised, config.level, raw=config.raw)
    return md17_task(config, dataset, folder)


def _iso17(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets.iso17 import ISO17
    from pyg_schnet.training.force_tasks import iso17_task

    if config.scenario not in ISO17.scenarios:
        raise ValueError(
            f"scenario must be one of {', '.join(ISO17.scenarios)}, got {config.scenario!r}."
        )
    parts = ISO17.scenarios[config.scenario]
    test = ISO17(config.root, parts[-1], config.raw)
    return iso17_task(config, ISO17(config.root, "reference", config.raw), test, parts[:2], folder)


def _trajectories(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets import OnDiskFrames, Trajectories
    from pyg_schnet.training.force_tasks import trajectories_task

    if not config.paths:
        raise ValueError("paths is empty; name the files to train on, such as --paths a.xyz b.xyz.")
    if len(config.paths) == 1 and Path(config.paths[0]).is_dir():
        return trajectories_task(config, OnDiskFrames(config.paths[0]), folder)
    keys = config.energy_key, config.forces_key, False
    dataset = Trajectories(
        *(config.paths, *keys),
        energy_unit=config.energy_unit,
        root=config.root,
        in_memory=config.in_memory,
    )
    return trajectories_task(config, dataset, folder)


def _mp(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets import MaterialsProject
    from pyg_schnet.training.crystal_tasks import crystal_task

    dataset = MaterialsProject(
        config.root, config.target, config.raw, cutoff=config.cutoff, isolated=config.isolated
    )
    return crystal_task(config, dataset, dataset.properties[dataset.targets[0]].unit, folder)


def qm9_property(dataset: "QM9", target: str) -> "Property":
    """How a target of QM9 is learned, and in which unit its errors are told: the papers'.

    Args:
        dataset: QM9.
        target: One of its properties.
    """
    from pyg_schnet.training.targets import Property
    from pyg_schnet.units import KCAL_PER_MOL

    known = dataset.properties[target]
    shown, factor = known.unit, 1.0
    if known.is_energy:
        orbital = target in ("homo", "lumo", "gap", "zpve")
        shown, factor = ("meV", 1000.0) if orbital else ("kcal/mol", 1.0 / KCAL_PER_MOL)
    return Property(
        target,
        known.unit,
        shown,
        factor,
        # <R^2> grows faster than the molecule, but a sum over atoms fits it and a mean does not.
        extensive=known.is_extensive or target == "r2",
        head=QM9_HEADS.get(target, "atomwise"),
        atomref=dataset.atomref(target),
    )


TASKS = {"qm9": _qm9, "md17": _md17, "iso17": _iso17, "trajectories": _trajectories, "mp": _mp}
