"""SchNet for PyTorch Geometric, from layers to potentials."""

from pyg_schnet.models import Potential, SchNet, load, save

__version__ = "0.1.0"

__all__ = ["Potential", "SchNet", "__version__", "load", "save"]
