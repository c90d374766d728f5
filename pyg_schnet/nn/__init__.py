"""Layers: activation, radial basis, cutoffs, filters, convolution, interaction, readout."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.basis import GaussianSmearing
from pyg_schnet.nn.cfconv import CFConv
from pyg_schnet.nn.cutoff import CosineCutoff, HardCutoff, NoCutoff, cutoff_function
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.interaction import InteractionBlock
from pyg_schnet.nn.readout import Atomwise, Dipole

__all__ = [
    "Atomwise",
    "CFConv",
    "CosineCutoff",
    "Dipole",
    "FilterNetwork",
    "GaussianSmearing",
    "HardCutoff",
    "InteractionBlock",
    "NoCutoff",
    "ShiftedSoftplus",
    "cutoff_function",
]
