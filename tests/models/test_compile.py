"""SchNet under torch.compile(fullgraph=True): one graph, the same numbers."""

import shutil

import pytest
import torch
from helpers import random_molecule, small_schnet
from torch import Tensor
from torch.testing import assert_close

from pyg_schnet import SchNet
from pyg_schnet.graph import neighbor_edges

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here"
)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def inputs(sizes: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor | int]:
    molecules = [random_molecule(size, size, dtype) for size in sizes]
    pos = torch.cat([molecule.pos for molecule in molecules])
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    edge_index, _ = neighbor_edges(pos, 4.0, batch=batch)
    z = torch.cat([molecule.z for molecule in molecules])
    given = {"z": z, "pos": pos, "edge_index": edge_index}
    if len(sizes) > 1:
        given |= {"batch": batch, "num_graphs": len(sizes)}
    return given


def results(call, model: SchNet, given: dict) -> list[Tensor]:
    """Energies, gradients of the parameters, and forces."""
    pos = given["pos"].clone().requires_grad_()
    energy = call(**{**given, "pos": pos})
    wanted = [pos, *model.parameters()]
    slopes = torch.autograd.grad(energy.square().sum(), wanted, allow_unused=True)
    return [energy.detach(), *(slope for slope in slopes if slope is not None)]


def assert_same(model: SchNet, compiled, given: dict) -> None:
    dtype = given["pos"].dtype
    got, want = results(compiled, model, given), results(model, model, given)
    assert len(got) == len(want) > 10
    for one, other in zip(got, want):
        scale = float(other.abs().max())
        assert_close(one, other, rtol=0, atol=TOLERANCE[dtype] * max(scale, 1e-3))


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "filters"),
    [
        (torch.float32, "tabulated"),
        pytest.param(torch.float32, "exact", marks=pytest.mark.slow),
        pytest.param(torch.float32, "auto", marks=pytest.mark.slow),
        pytest.param(torch.float64, "exact", marks=pytest.mark.slow),
        pytest.param(torch.float64, "tabulated", marks=pytest.mark.slow),
    ],
)
def test_energies_forces_and_gradients_of_a_batch(dtype, filters):
    model = small_schnet(dtype, filters=filters)
    compiled = torch.compile(model, fullgraph=True)
    assert_same(model, compiled, inputs((5, 7, 4), dtype))


@pytest.mark.parametrize("filters", ["exact", "tabulated"])
def test_one_graph_is_traced_without_a_compiler(filters):
    """What dynamo and autograd trace, run as it is: quick, and the same way through the model."""
    model = small_schnet(filters=filters)
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(model, traced, inputs((5, 7, 4), torch.float64))
    # Other sizes, without a batch, and with other weights.
    assert_same(model, traced, inputs((6, 3), torch.float64))
    assert_same(model, traced, inputs((9,), torch.float64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert_same(model, traced, inputs((9,), torch.float64))
    with torch.no_grad():
        given = inputs((4, 8), torch.float64)
        assert_close(traced(**given), model(**given), rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"readout": "mean", "mean": -3.0, "std": 2.0},
        {"dipole": True},
        {"normalize": "neighbors", "shared_filters": True},
        {"cutoff_fn": "none", "filter_activation": "ssp"},
        {"backend": "reference"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_model(options):
    model = small_schnet(**options)
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(model, traced, inputs((5, 4), torch.float64))


def test_periodic_structures(crystal):
    model = small_schnet()
    edge_index, shift = neighbor_edges(crystal.pos, 4.0, cell=crystal.cell)
    given = {"z": crystal.z, "pos": crystal.pos, "edge_index": edge_index}
    given |= {"cell": crystal.cell, "cell_shift": shift}
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(model, traced, given)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("num_graphs", "Under torch.compile num_graphs must be given with batch, got None"),
        ("edge_index", "Under torch.compile edge_index must be given, got None; find the edges"),
    ],
)
def test_what_depends_on_values_must_be_given(missing, sentence):
    given = inputs((3, 4), torch.float64)
    del given[missing]
    traced = torch.compile(small_schnet(), fullgraph=True, backend="aot_eager")
    with pytest.raises((ValueError, torch._dynamo.exc.Unsupported), match=sentence):
        traced(**given)
