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
from pyg_schnet.ops.backends.cpu.memory import fingerprint
from pyg_schnet.ops.backends.cpu.product import product

__all__ = [
    "csr",
    "edge_difference",
    "edge_divergence",
    "fingerprint",
    "form",
    "knots",
    "prefilter",
    "product",
    "spline",
    "spline_dot",
    "ssp",
    "ssp_grad",
]
