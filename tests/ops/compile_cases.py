"""Compile every kernel for a GPU that need not be there, which the interpreter does not try.

Run with an argument "float32" or "float64"; prints the number of kernels.
"""

import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from pyg_schnet.ops.backends import kernels

MODULES = ("form", "table", "edges", "dense")


class AbsentGPU:
    """What Triton asks of a driver before it launches anything: a Hopper GPU."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main(dtype: torch.dtype) -> int:
    """Call each function of the backend, once as usual and once on a graph of one edge."""
    driver.set_active(AbsentGPU())
    backend, compiled = kernels("cuda"), set()

    def only_compile(kernel: Any, grid: tuple, like: torch.Tensor, *arguments: Any, **options: Any):
        compiled.add(kernel.warmup(*arguments, grid=grid, **options).hash)

    for name in MODULES:
        sys.modules[f"{backend.__name__}.{name}"].launch = only_compile
    for nodes, edges, features in ((20, 200, 64), (1, 1, 1)):
        index = torch.zeros(2, edges, dtype=torch.long)
        order = (*backend.csr(index[0], nodes), *backend.csr(index[1], nodes))
        x, knot = torch.zeros(nodes, features, dtype=dtype), torch.zeros(edges, dtype=torch.int32)
        for rows, width, opened in ((40, 6, (4, 1, 13)), (0, 1, (4, 1, 8, 13))):
            b = torch.zeros(edges, width, dtype=dtype)
            w = torch.zeros(rows or edges, features, dtype=dtype)
            for slots in opened:
                backend.form(b, x, x, w, knot, index, *order, index.new_empty(0), rows, slots)
        d, v = torch.zeros(edges, dtype=dtype), torch.zeros(edges, 3, dtype=dtype)
        for p in (0, 1):
            backend.spline(d, d, p, 0.125, 1)
            backend.spline_dot(d.new_zeros(edges, 6), d, p, 0.125, 1)
        backend.knots(d, 0.125, 1)
        backend.edge_difference(v, index)
        backend.edge_divergence(v, index, *order)
        backend.ssp(x)
        backend.ssp_grad(x, x, 1)
        backend.ssp_grad(x, x, 3)
        backend.prefilter(x.new_zeros(9, features), False)
        backend.prefilter(x.new_zeros(1, features), True)
    return len(compiled)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(main(getattr(torch, sys.argv[1])))
