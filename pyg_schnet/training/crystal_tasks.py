"""What runs on crystals need of their data set: its rows and the property to learn."""

from pathlib import Path

from torch_geometric.data import InMemoryDataset

from pyg_schnet.training.crystal_config import CrystalConfig
from pyg_schnet.training.splits import Split
from pyg_schnet.training.targets import Property
from pyg_schnet.training.tasks import Task, make_split, make_table

PAPER_MP = {3_000: 0.127, 60_000: 0.035}
"""eV/atom by training structures: J. Chem. Phys. 148, 241722 (2018), table II."""


def crystal_task(
    config: CrystalConfig, dataset: InMemoryDataset, unit: str, folder: Path | None = None
) -> Task:
    """A run on a property of crystals.

    Args:
        config: Options of the run.
        dataset: The structures, whole, with the target as ``y``.
        unit: Of the target; "" where the file does not tell.
        folder: Of an earlier run whose split is used again, or None.

    Raises:
        ValueError: If there are fewer structures than asked for, or no published split.
    """
    table = make_table(config, dataset)
    target = Property(config.target, unit, unit or "unit of the file", extensive=False)
    if config.published_split and folder is None:
        split = Split(*(dataset.split(part) for part in ("train", "val", "test")))
    else:
        split = make_split(config, table, folder)
    known = None
    if config.raw is None and config.target == "formation_energy_per_atom":
        known = PAPER_MP.get(config.train_size)
    name = f"SchNet, J. Chem. Phys. 2018 ({config.train_size:,})"
    published = {} if known is None else {name: (known,)}
    return Task(
        f"{config.target} of crystals",
        target,
        table,
        split,
        noun="crystals",
        published=published,
    )
