"""Data sets, read from their original files and kept in one safe file each."""

from pyg_schnet.datasets.qm9 import QM9

__all__ = ["QM9"]
