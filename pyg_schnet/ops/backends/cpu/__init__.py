"""Kernels compiled for the CPU by Numba when first used, and cached on disk."""

from pyg_schnet.ops.backends.cpu.dense import prefilter, ssp, ssp_grad
from pyg_schnet.ops.backends.cpu.edges import (
    csr,
    edge_difference,
    edge_divergence,
    knots,
    spline,
    spline_dot,
)
from pyg_schnet.ops.backends.cpu.form import form

__all__ = [
    "csr",
    "edge_difference",
    "edge_divergence",
    "form",
    "knots",
    "prefilter",
    "spline",
    "spline_dot",
    "ssp",
    "ssp_grad",
]
