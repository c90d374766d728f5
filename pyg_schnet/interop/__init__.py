"""Models from elsewhere, and back."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.interop.original import from_original
from pyg_schnet.interop.pyg import from_pyg, to_pyg

__all__ = ["from_original", "from_pyg", "to_pyg"]
