"""Models from elsewhere, and back."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.interop.pyg import from_pyg, to_pyg

__all__ = ["from_pyg", "to_pyg"]
