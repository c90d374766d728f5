"""Products of matrices compiled for the CPU against torch's own."""

import itertools

import pytest
import torch
from ops.test_form import needs_cpu
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from pyg_schnet.nn.dense import Dense
from pyg_schnet.ops import dense as module
from pyg_schnet.ops.backends import kernel
from pyg_schnet.ops.dense import dense

# Rows and depths of all remainders by 4 and by 128, tall and wide; columns are whole vectors.
SHAPES = [
    *itertools.product((1, 2, 3, 4, 5, 31, 130), (1, 2, 7, 64, 200), (16, 48, 64)),
    (2000, 50, 128),
    (64, 3000, 16),
    (3, 1100, 80),
    (0, 5, 16),
    (5, 0, 16),
    (7, 3, 0),
]


def random(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns)


def layouts(matrix: Tensor) -> list[Tensor]:
    """The matrix, transposed in memory, and as part of a larger one."""
    wide = torch.cat([matrix, matrix + 1], 1)[:, : matrix.size(1)]
    spread = torch.stack([matrix, matrix + 1], -1)[..., 0]
    return [matrix, matrix.T.contiguous().T, wide, spread]


@needs_cpu
@pytest.mark.parametrize("threads", [1, 2])
def test_products_of_every_shape_and_layout(threads):
    product, biased = kernel("cpu", "product"), kernel("cpu", "biased_product")
    torch.set_num_threads(threads)
    try:
        for rows, depth, columns in SHAPES:
            a, b, bias = random(rows, depth), random(columns, depth), torch.randn(columns)
            want = a.double() @ b.double().T
            scale = a.double().abs() @ b.double().abs().T + 1
            for left, right in itertools.product(layouts(a), layouts(b)):
                where = f"({rows}, {depth}) ({columns}, {depth}) {left.stride()} {right.stride()}"
                got = product(left, right)
                assert got.shape == want.shape and got.dtype == torch.float32, where
                assert bool(((got - want).abs() <= 1e-6 * scale).all()), where
                shifted = biased(left, right, bias)
                assert bool(((shifted - want - bias).abs() <= 2e-6 * scale).all()), where
    finally:
        torch.set_num_threads(1)


@needs_cpu
def test_repeats_are_equal_to_the_bit():
    torch.set_num_threads(2)
    try:
        for rows, depth, columns in ((700, 60, 64), (16, 9000, 64)):
            a, b = random(rows, depth), random(columns, depth)
            first = kernel("cpu", "product")(a, b)
            assert all(torch.equal(kernel("cpu", "product")(a, b), first) for _ in range(5))
    finally:
        torch.set_num_threads(1)


@pytest.fixture
def always_compiled(monkeypatch):
    """The compiled product for layers of any size, on any processor."""
    calls = []
    own = module.kernel

    def chosen(backend: str, name: str):
        if name == "product_wins":
            return lambda: calls.append(name) or True
        return own(backend, name)

    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr(module, "kernel", chosen)
    return calls


@needs_cpu
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_two_derivatives_equal_those_of_torch(with_bias, always_compiled):
    results = []
    for layer in (dense, functional.linear):
        torch.manual_seed(0)
        leaves = [torch.randn(37, 24), torch.randn(48, 24), torch.randn(48)][: 2 + with_bias]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        out = layer(*leaves)
        first = torch.autograd.grad(out.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([out, *first, *second])
    assert always_compiled
    for one, other in zip(*results):
        assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))


@needs_cpu
def test_batched_gradients_and_transforms(always_compiled):
    x, weight = torch.randn(3, 4), torch.randn(16, 4)
    leaf = x.clone().requires_grad_()
    out = dense(leaf, weight)
    directions = torch.randn(5, 3, 16)
    (got,) = torch.autograd.grad(out, leaf, directions, is_grads_batched=True)
    assert always_compiled
    assert_close(got, directions @ weight)
    slope = torch.func.grad(lambda x: dense(x, weight).square().sum())(x)
    assert_close(slope, 2 * (x @ weight.T) @ weight)


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.randn(5, 4), torch.randn(17, 4)),
        (torch.randn(5, 4).double(), torch.randn(16, 4).double()),
        (torch.randn(2, 5, 4), torch.randn(16, 4)),
        (torch.randn(4), torch.randn(16, 4)),
        (torch.randn(5, 4).bfloat16(), torch.randn(16, 4).bfloat16()),
    ],
    ids=["columns", "float64", "three dimensions", "one dimension", "bfloat16"],
)
def test_other_inputs_go_to_torch(x, weight, always_compiled):
    bias = torch.randn(weight.size(0)).to(x.dtype)
    assert torch.equal(dense(x, weight, bias), functional.linear(x, weight, bias))
    assert not always_compiled


def test_autocast_is_left_to_torch(always_compiled):
    x, weight = torch.randn(5, 4), torch.randn(16, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert dense(x, weight).dtype == torch.bfloat16
    assert not always_compiled


def test_shapes_that_do_not_fit_are_refused(always_compiled):
    for x, weight, bias in (
        (torch.randn(5, 4), torch.randn(16, 3), None),
        (torch.randn(5, 4), torch.randn(16, 4), torch.randn(15)),
    ):
        with pytest.raises(RuntimeError):
            dense(x, weight, bias)


def test_layer_is_torchs_linear_with_the_same_weights_and_names():
    torch.manual_seed(0)
    ours = Dense(5, 16)
    torch.manual_seed(0)
    theirs = torch.nn.Linear(5, 16)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 5)
    assert torch.equal(ours(x), theirs(x)) and isinstance(ours, torch.nn.Linear)
