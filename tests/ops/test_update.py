"""Two dense layers with a shifted softplus between them: the compiled operator against loops."""

import pytest
import torch
from helpers import dense, ssp
from torch.testing import assert_close

from pyg_schnet.ops import backends, update
from pyg_schnet.ops.backends import kernel, reference

pytest.importorskip("numba")
# Of one thread and of two, whole groups of 32 rows and a rest, sizes of whole vectors.
ROWS = [0, 1, 33, 700]


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """Whatever the processor."""
    module = __import__("pyg_schnet.ops.update", fromlist=["kernel"])
    own = lambda name, function: (  # noqa: E731
        (lambda: True) if function == "product_wins" else kernel(name, function)
    )
    monkeypatch.setattr(module, "kernel", own)
    assert backends.choose_backend(torch.device("cpu")) == "cpu"


def arguments(rows, dtype):
    generator = torch.Generator().manual_seed(rows)
    shapes = [(rows, 32), (48, 32), (48,), (16, 48), (16,)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def test_is_the_formula_in_its_docstring():
    y, w1, b1, w2, b2 = arguments(2, torch.float64)
    first, last = torch.nn.Linear(32, 48).double(), torch.nn.Linear(48, 16).double()
    first.load_state_dict({"weight": w1, "bias": b1})
    last.load_state_dict({"weight": w2, "bias": b2})
    wanted = [dense(last, [ssp(v) for v in dense(first, row)]) for row in y.tolist()]
    found = update(y, w1, b1, w2, b2)
    assert "Eager" in type(found.grad_fn).__name__
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", ROWS)
def test_gradients_are_those_of_autograd(rows, threads, dtype):
    given = arguments(rows, dtype)
    bar = torch.randn(rows, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = torch.autograd.grad(update(*given), given, bar)
    finally:
        torch.set_num_threads(before)
    wanted = torch.autograd.grad(reference.update(*given), given, bar)
    small = 1e-11 if dtype == torch.float64 else 3e-6
    for a, b in zip(found, wanted):
        scale = float(b.abs().max()) if b.numel() else 1.0
        assert_close(a, b, rtol=0, atol=small * max(scale, 1.0))


def test_gradient_of_the_input_alone():
    given = arguments(33, torch.float64)
    found = torch.autograd.grad(update(*given).sum(), given[0])
    assert_close(found, torch.autograd.grad(reference.update(*given).sum(), given[0]))


def test_can_be_differentiated_twice():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 8), (8, 8), (8,), (8, 8), (8,)]
    given = [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]
    assert torch.autograd.gradcheck(update, given)
    assert torch.autograd.gradgradcheck(update, given)


def test_gradients_with_a_graph_are_those_without():
    given = arguments(5, torch.float64)
    without = torch.autograd.grad(update(*given).square().sum(), given)
    for a, b in zip(
        torch.autograd.grad(update(*given).square().sum(), given, create_graph=True), without
    ):
        assert_close(a, b)
