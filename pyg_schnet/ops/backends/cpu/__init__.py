"""Kernels compiled for the CPU by Numba when first used, and cached on disk."""

from pyg_schnet.ops.backends.cpu.dense import prefilter, ssp, ssp_grad
from pyg_schnet.ops.backends.cpu.edges import (
    csr,
    edge_difference,
    edge_divergence,
    knots,
    pairs,
    spline,
    spline_dot,
)
from pyg_schnet.ops.backends.cpu.form import form
from pyg_schnet.ops.backends.cpu.memory import fingerprint
from pyg_schnet.ops.backends.cpu.product import biased_product, product
from pyg_schnet.ops.backends.cpu.product import wins as product_wins
from pyg_schnet.ops.backends.cpu.update import update, update_backward

__all__ = [
    "biased_product",
    "csr",
    "edge_difference",
    "edge_divergence",
    "fingerprint",
    "form",
    "knots",
    "pairs",
    "prefilter",
    "product",
    "product_wins",
    "spline",
    "spline_dot",
    "ssp",
    "ssp_grad",
    "update",
    "update_backward",
]
