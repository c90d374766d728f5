"""The authors' own trained C20 models, in our SchNet, against golden numbers.

The reference folder is no part of the repository (571111 weights per model); the tests skip where
it is absent. Set PYG_SCHNET_REFERENCE to a folder that holds ``c20``.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential, SchNet

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = Path(os.environ.get("PYG_SCHNET_REFERENCE", ROOT / "../shared/reference")) / "c20"
MODELS = ["energy_model", "force_model"]
pytestmark = pytest.mark.skipif(
    not (REFERENCE / "geometries.npz").is_file(),
    reason="no reference data of C20; PYG_SCHNET_REFERENCE may name the folder that holds c20",
)


def authors_model(name: str) -> Potential:
    """SchNet with the weights of the authors' code, whose names are on the right."""
    with np.load(REFERENCE / f"{name}.npz") as file:
        given = {key: torch.from_numpy(file[key]) for key in file}
    model = SchNet.preset(
        "jcp-2018",
        hidden_channels=128,
        num_filters=128,
        mean=float(given["mean_per_atom"]),
        std=float(given["std_per_atom"]),
        atomref=given["atomref.embeddings.W"],
    )
    state = model.state_dict()
    with torch.no_grad():
        state["embedding.weight"][:] = given["atom_embedding.embeddings.W"]
        layers = {"readout.lin1": "Dense", "readout.lin2": "Dense_1"}
        for i in range(6):
            layers |= {
                f"interactions.{i}.conv.nn.0": f"interaction_{i}.SchNetFilter.Dense",
                f"interactions.{i}.conv.nn.2": f"interaction_{i}.SchNetFilter.Dense_1",
                f"interactions.{i}.conv.lin1": f"interaction_{i}.CFConv.in2fac",
                f"interactions.{i}.conv.lin2": f"interaction_{i}.CFConv.fac2out",
                f"interactions.{i}.lin": f"interaction_{i}.Dense",
            }
        copied = 1
        for ours, theirs in layers.items():
            state[f"{ours}.weight"].copy_(given[f"{theirs}.W"].T)
            copied += 1
            if f"{theirs}.b" in given:
                state[f"{ours}.bias"].copy_(given[f"{theirs}.b"])
                copied += 1
        assert copied + 3 == len(given)  # and mean, std and atomref
    return Potential(model).eval()


@pytest.fixture(scope="module")
def golden():
    with np.load(REFERENCE / "geometries.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file if file[key].dtype.kind in "fi"}


def batch_of(golden, dtype) -> Batch:
    z = golden["atomic_numbers"]
    return Batch.from_data_list([Data(z=z, pos=pos.to(dtype)) for pos in golden["positions"]])


def without_mean(pot: Potential, result: dict) -> torch.Tensor:
    return result["energy"] - 20 * pot.model.readout.mean


@pytest.mark.parametrize("name", MODELS)
def test_energies_and_forces_are_golden_in_float64(name, golden):
    pot = authors_model(name).double()
    result = pot(batch_of(golden, torch.float64))
    want = golden[f"energy_minus_mean_{name}"]
    assert want.max() - want.min() > 1.0
    assert_close(without_mean(pot, result), want, rtol=0, atol=1e-6)
    forces = golden[f"forces_{name}"].view(-1, 3)
    assert_close(result["forces"], forces, rtol=0, atol=1e-6)
    assert_close(result["energy"], golden[f"energy_{name}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_energies_and_forces_are_golden_in_float32(name, golden):
    # The table beside the numbers: torch float32 is within 2.5e-4 (energy) and 4.8e-4 (force); the
    # order of the sums differs here.
    pot = authors_model(name)
    result = pot(batch_of(golden, torch.float32))
    assert_close(without_mean(pot, result), golden[f"energy_minus_mean_{name}"], rtol=0, atol=5e-4)
    forces = golden[f"forces_{name}"].view(-1, 3).float()
    assert_close(result["forces"], forces, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_atomic_energies_are_golden(name, golden):
    model = authors_model(name).double().model
    batch = batch_of(golden, torch.float64)
    with torch.no_grad():
        got = model.atomwise(batch.z, batch.pos, batch.batch).view(20, 20) - model.readout.mean
    assert_close(got, golden[f"atomic_energies_minus_mean_{name}"], rtol=0, atol=1e-6)


def test_the_relaxed_cage_feels_no_force(golden):
    pot = authors_model("force_model").double()
    result = pot(Data(z=golden["atomic_numbers"], pos=golden["relaxed_positions"]))
    assert_close(result["forces"], torch.zeros(20, 3).double(), rtol=0, atol=1e-6)
    assert_close(result["energy"], golden["relaxed_energy_force_model"].view(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("coordinate", [0, 31, 59])
def test_rows_of_the_hessian_are_golden(coordinate, golden):
    pot = authors_model("force_model").double()
    pos = golden["relaxed_positions"].clone().requires_grad_(True)
    forces = pot(Data(z=golden["atomic_numbers"], pos=pos))["forces"]
    (row,) = torch.autograd.grad(-forces.view(-1)[coordinate], pos)
    want = golden["relaxed_hessian"][coordinate]
    assert_close(row.view(-1), want, rtol=0, atol=1e-6 * float(want.abs().max()))


def test_published_code_in_float64_agrees_to_its_own_error(golden):
    pot = authors_model("force_model").double()
    result = pot(batch_of(golden, torch.float64))
    want = golden["tf64_forces_force_model"].view(-1, 3)
    assert_close(result["forces"], want, rtol=0, atol=5e-5)
