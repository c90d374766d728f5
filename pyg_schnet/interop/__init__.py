"""Models from elsewhere, and back."""

from pyg_schnet.interop.pyg import from_pyg, to_pyg

__all__ = ["from_pyg", "to_pyg"]
