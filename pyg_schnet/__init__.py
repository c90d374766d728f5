"""SchNet for PyTorch Geometric, from layers to potentials.

The names below are imported when they are first used: ``import pyg_schnet`` alone loads neither
torch nor PyG, which in turn would load whatever of pandas and Numba is installed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyg_schnet.models import DTNN, Ensemble, Potential, SchNet, load, save
    from pyg_schnet.models.pretrained import pretrained

__version__ = "0.1.0"

__all__ = ["DTNN", "Ensemble", "Potential", "SchNet", "__version__", "load", "pretrained", "save"]

_ROOMS = ("analysis", "datasets", "graph", "interop", "models", "nn", "simulation", "training")


def __getattr__(name: str) -> Any:
    if name == "pretrained":
        # A function of the module of that name; the folder beside this file holds its data.
        return importlib.import_module("pyg_schnet.models.pretrained").pretrained
    if name in __all__:
        return getattr(importlib.import_module("pyg_schnet.models"), name)
    if name in _ROOMS:
        return importlib.import_module(f"pyg_schnet.{name}")
    raise AttributeError(f"module 'pyg_schnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
