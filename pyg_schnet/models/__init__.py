"""Models assembled from layers: SchNet, potentials, ensembles, files."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.models.checkpoint import load, read_header, save
from pyg_schnet.models.dtnn import DTNN
from pyg_schnet.models.ensemble import Ensemble, FrozenEnsemble
from pyg_schnet.models.potential import EnergyModel, Potential
from pyg_schnet.models.presets import PRESETS, Preset
from pyg_schnet.models.schnet import SchNet

__all__ = [
    "DTNN",
    "PRESETS",
    "EnergyModel",
    "Ensemble",
    "FrozenEnsemble",
    "Potential",
    "Preset",
    "SchNet",
    "load",
    "read_header",
    "save",
]
