"""Kernels for CUDA, written in Triton and compiled when first used.

None of them waits for the device or allocates by what is in a tensor, so that all can be captured
in a CUDA graph; none adds with atomics, so that results are the same from run to run.
"""

from pyg_schnet.ops.backends.cuda.dense import prefilter, ssp, ssp_grad
from pyg_schnet.ops.backends.cuda.edges import (
    csr,
    edge_difference,
    edge_divergence,
    knots,
    spline,
    spline_dot,
)
from pyg_schnet.ops.backends.cuda.form import form

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
