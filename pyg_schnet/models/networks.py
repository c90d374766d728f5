"""The networks that the package trains, and that files hold."""

from pyg_schnet.models.dtnn import DTNN
from pyg_schnet.models.schnet import SchNet

Network = SchNet | DTNN
"""Both have the call of :class:`~pyg_schnet.SchNet`, its ``features``, ``readout``, ``config`` and
what decides on edges: ``cutoff``, ``cutoff_fn`` and ``max_num_neighbors``."""
