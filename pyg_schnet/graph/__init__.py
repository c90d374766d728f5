"""Who is whose neighbour: edges of molecules and crystals, and transforms that attach them."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.graph.neighbors import neighbor_edges
from pyg_schnet.graph.prepare import prepare_edges
from pyg_schnet.graph.transforms import PeriodicEdges, RadiusEdges

__all__ = ["PeriodicEdges", "RadiusEdges", "neighbor_edges", "prepare_edges"]
