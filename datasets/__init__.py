"""Data sets, read from their original files and kept in one safe file each."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.datasets.fullerene import C20
from pyg_schnet.datasets.iso17 import ISO17
from pyg_schnet.datasets.materials_project import MaterialsProject
from pyg_schnet.datasets.md17 import MD17
from pyg_schnet.datasets.on_disk import OnDiskFrames
from pyg_schnet.datasets.qm7b import QM7b
from pyg_schnet.datasets.qm9 import QM9
from pyg_schnet.datasets.trajectories import Trajectories

__all__ = [
    "C20",
    "ISO17",
    "MD17",
    "MaterialsProject",
    "OnDiskFrames",
    "QM7b",
    "QM9",
    "Trajectories",
]
