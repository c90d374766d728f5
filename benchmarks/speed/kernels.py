"""The operators alone, beside the copying speed of the machine."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from pyg_schnet.benchmarks.speed import systems
from pyg_schnet.ops import Graph, Grid, cfconv, spline_weights, ssp

FEATURES = 64


def measure(device: str = "cpu", repeats: int = 50) -> list[dict[str, Any]]:
    """Microseconds, nanoseconds for each edge, and bytes moved as a share of a copy's.

    The bytes are the least that a convolution moves if nothing stays in a cache: a row of features
    for each edge in, and one for each node out.
    """
    copied = torch.empty(2**26, device=device)  # 256 MiB
    source = torch.ones_like(copied)
    seconds = _median(lambda: copied.copy_(source), 9)
    copy_rate = 2 * copied.numel() * 4 / seconds
    print(f"copy {copy_rate / 1e9:.1f} GB/s")
    rows = []
    for name, system in (
        ("256 molecules", systems.molecules(256)),
        ("4096 Si", systems.silicon()),
    ):
        s = system.to(device)
        grid = Grid.covering(5.0, 0.025)
        n, edges = len(s.z), s.edge_index.size(1)
        graph = Graph.of(s.edge_index, n, undirected=s.cell is None)
        d = torch.rand(graph.edge_index.size(1), device=device) * 5
        x = torch.randn(n, FEATURES, device=device).requires_grad_()
        table = torch.randn(grid.num_knots, FEATURES, device=device).requires_grad_()
        knot, b = spline_weights(torch.ones_like(d), d, grid)
        b.requires_grad_()
        y = cfconv(x, table, b, graph, knot)
        u = torch.randn_like(y)
        tasks: dict[str, Callable[[], object]] = {
            "forward": lambda x=x, t=table, b=b, g=graph, k=knot: cfconv(x, t, b, g, k),
            "backward to x and distances": lambda y=y, x=x, b=b, u=u: torch.autograd.grad(
                y, (x, b), u, retain_graph=True
            ),
            "backward to x and filters": lambda y=y, x=x, t=table, u=u: torch.autograd.grad(
                y, (x, t), u, retain_graph=True
            ),
            "shifted softplus": lambda x=x: ssp(x.detach()),
        }
        for task, call in tasks.items():
            seconds = _median(call, repeats)
            moved = 4 * FEATURES * (2 * n if task == "shifted softplus" else edges + n)
            share = moved / seconds / copy_rate
            rows.append(
                {
                    "system": name,
                    "task": task,
                    "us": round(1e6 * seconds, 1),
                    "ns_per_edge": round(1e9 * seconds / edges, 2),
                    "share_of_copy": round(share, 3),
                }
            )
            print(
                f"{name + ': ' + task:46}{1e6 * seconds:10.1f} us"
                f"{1e9 * seconds / edges:8.2f} ns/edge{100 * share:7.0f} % of a copy"
            )
    return rows


def _median(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])
