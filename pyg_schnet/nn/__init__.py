"""Layers: activation, radial basis, cutoffs, filters, convolution, interaction, readout."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.basis import GaussianSmearing
from pyg_schnet.nn.cfconv import CFConv
from pyg_schnet.nn.cutoff import CosineCutoff, HardCutoff, NoCutoff, cutoff_function
from pyg_schnet.nn.dipole import Dipole
from pyg_schnet.nn.fading import FractionalAtoms
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.interaction import InteractionBlock
from pyg_schnet.nn.polarizability import Polarizability
from pyg_schnet.nn.readout import Atomwise
from pyg_schnet.nn.set2set import Set2SetPooling
from pyg_schnet.nn.softmax import SoftmaxPooling
from pyg_schnet.nn.spatial_extent import SpatialExtent
from pyg_schnet.nn.tensor_interaction import TensorInteraction

__all__ = [
    "Atomwise",
    "CFConv",
    "CosineCutoff",
    "Dipole",
    "FilterNetwork",
    "FractionalAtoms",
    "GaussianSmearing",
    "HardCutoff",
    "InteractionBlock",
    "NoCutoff",
    "Polarizability",
    "Set2SetPooling",
    "ShiftedSoftplus",
    "SoftmaxPooling",
    "SpatialExtent",
    "TensorInteraction",
    "cutoff_function",
]
