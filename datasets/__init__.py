"""Data sets, read from their original files and kept in one safe file each."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.datasets.qm9 import QM9

__all__ = ["QM9"]
