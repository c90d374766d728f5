"""The hot path: one multilinear form and what feeds it, as operators with exchangeable backends."""

from pyg_schnet.ops.activation import ssp
from pyg_schnet.ops.backends import choose_backend
from pyg_schnet.ops.cfconv import Graph, cfconv
from pyg_schnet.ops.fingerprint import fingerprint
from pyg_schnet.ops.radial import edge_difference, spline_weights
from pyg_schnet.ops.spline import Grid
from pyg_schnet.ops.table import table_coefficients
from pyg_schnet.ops.update import update

__all__ = [
    "Graph",
    "Grid",
    "cfconv",
    "choose_backend",
    "edge_difference",
    "fingerprint",
    "spline_weights",
    "ssp",
    "table_coefficients",
    "update",
]
