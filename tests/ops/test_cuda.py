"""Triton's kernels: interpreted on the CPU, compiled without a GPU, and run where there is one."""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from ops import parity_cases

from pyg_schnet.ops.backends import kernels, reference

HERE = Path(__file__).parent

# Before, its interpreter cannot loop to a bound that it loaded, under NumPy 2.4.
INTERPRETED_FROM = (3, 9)

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def _run(script: str, *arguments: str, **variables: str) -> str:
    """What a script prints; Triton reads its variables when it is imported."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@needs_triton
def test_interpreted_kernels_agree_with_the_reference() -> None:
    installed = tuple(int(part) for part in version("triton").split(".")[:2])
    if installed < INTERPRETED_FROM:
        pytest.skip(f"interpreted with Triton 3.9 or later, found {installed[0]}.{installed[1]}")
    assert int(_run("parity_cases.py", TRITON_INTERPRET="1")) > 500


@needs_triton
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_every_kernel_compiles_for_a_gpu(name: str, tmp_path: Path) -> None:
    made = _run("compile_cases.py", name, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert int(made) > 20


@needs_triton
def test_no_kernel_adds_atomically() -> None:
    folder = Path(reference.__file__).parent / "cuda"
    for file in folder.glob("*.py"):
        assert "atomic_" not in file.read_text(), file.name


def _large(dtype: torch.dtype) -> tuple[tuple, int]:
    """Arguments of a form with all factors, on 2,000 nodes and 60,000 edges of few distances."""
    nodes, edges, features, knots = 2000, 60_000, 72, 300
    made = {"dtype": dtype, "device": "cuda"}
    edge_index = torch.randint(nodes, (2, edges), device="cuda")
    order = (*kernels("cuda").csr(edge_index[1], nodes), *kernels("cuda").csr(edge_index[0], nodes))
    factors = (torch.randn(edges, 6, **made), torch.randn(nodes, features, **made))
    factors += (torch.randn(nodes, features, **made), torch.randn(knots, features, **made))
    knot = (torch.randn(edges, device="cuda").mul(9) + 150).clamp(0, knots - 6).int()
    return (*factors, knot, edge_index, *order, edge_index.new_empty(0)), knots


@pytest.mark.gpu
@needs_gpu
def test_kernels_on_a_gpu_agree_with_the_reference() -> None:
    assert parity_cases.main("cuda", "cuda") > 500


@pytest.mark.gpu
@needs_gpu
def test_a_large_form_is_right_and_the_same_each_time() -> None:
    arguments, knots = _large(torch.float64)
    first = kernels("cuda").form(*arguments, knots, 15)
    for got, again, expected in zip(
        first, kernels("cuda").form(*arguments, knots, 15), reference.form(*arguments, knots, 15)
    ):
        assert torch.equal(got, again)
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.gpu
@needs_gpu
def test_a_cuda_graph_can_capture_all_of_it() -> None:
    arguments, knots = _large(torch.float32)
    backend, (pos, d) = kernels("cuda"), torch.rand(2, 2000, 3, device="cuda")
    graph = arguments[5:]

    def step() -> tuple[torch.Tensor, ...]:
        order = (*backend.csr(graph[0][1], 2000), *backend.csr(graph[0][0], 2000))
        vectors = backend.edge_difference(pos, graph[0], *order)
        weights = backend.spline(vectors[:, 0], vectors[:, 1].abs(), 1, 0.25, 20)
        values = backend.ssp_grad(d, backend.ssp(d), 2)
        return (*backend.form(*arguments, knots, 15), weights, values, *order)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = step()
    stream.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        got = step()
    captured.replay()
    torch.cuda.synchronize()
    for one, other in zip(got, expected):
        assert torch.equal(one, other)
