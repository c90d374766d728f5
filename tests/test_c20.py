"""The authors' own trained C20 models, in our SchNet, against golden numbers.

The reference folder is no part of the repository (571111 weights per model); the tests skip where
it is absent. Set PYG_SCHNET_REFERENCE to a folder that holds ``c20``. Golden numbers are in
kcal/mol, models in eV.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential, load, save
from pyg_schnet.interop import from_original
from pyg_schnet.simulation import hessian, relax, vibrations
from pyg_schnet.units import HBAR, INVERSE_CM, KCAL_PER_MOL

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = Path(os.environ.get("PYG_SCHNET_REFERENCE", ROOT / "../shared/reference")) / "c20"
MODELS = ["energy_model", "force_model"]
# Of the bar: kcal/mol, and relative to the largest force.
BAR = {torch.float64: (1e-3, 1e-5), torch.float32: (1e-2, 1e-4)}
pytestmark = pytest.mark.skipif(
    not (REFERENCE / "geometries.npz").is_file(),
    reason="no reference data of C20; PYG_SCHNET_REFERENCE may name the folder that holds c20",
)


def authors_potential(name: str, filters: str = "auto") -> Potential:
    return Potential(from_original(REFERENCE / f"{name}.npz", filters=filters)).eval()


@pytest.fixture(scope="module")
def golden():
    with np.load(REFERENCE / "geometries.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file if file[key].dtype.kind in "fi"}


def batch_of(golden, dtype) -> Batch:
    z = golden["atomic_numbers"]
    return Batch.from_data_list([Data(z=z, pos=pos.to(dtype)) for pos in golden["positions"]])


def in_kcal(pot: Potential, result: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies without the mean of the atoms, and forces, as the golden numbers are."""
    mean = 20 * pot.model.readout.mean
    forces = result["forces"].detach().double() / KCAL_PER_MOL
    return result["energy"].detach() / KCAL_PER_MOL - mean, forces


def assert_within_the_bar(energy, forces, name, golden, dtype):
    want, want_forces = golden[f"energy_minus_mean_{name}"], golden[f"forces_{name}"].view(-1, 3)
    assert want.max() - want.min() > 1.0
    of_energy, of_forces = BAR[dtype]
    assert_close(energy, want, rtol=0, atol=of_energy)
    assert_close(forces, want_forces, rtol=0, atol=of_forces * float(want_forces.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_energies_and_forces_are_golden_in_float64(name, golden):
    pot = authors_potential(name).double()
    result = pot(batch_of(golden, torch.float64))
    energy, forces = in_kcal(pot, result)
    assert_within_the_bar(energy, forces, name, golden, torch.float64)
    # The bar is wide; without rounding nothing but that of the golden numbers is left.
    assert_close(energy, golden[f"energy_minus_mean_{name}"], rtol=0, atol=1e-6)
    assert_close(forces, golden[f"forces_{name}"].view(-1, 3), rtol=0, atol=1e-6)
    whole = result["energy"] / KCAL_PER_MOL
    assert_close(whole, golden[f"energy_{name}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", ["autograd", "frozen"])
@pytest.mark.parametrize("filters", ["exact", "auto"])
@pytest.mark.parametrize("name", MODELS)
def test_energies_and_forces_are_golden_in_float32(name, filters, way, golden):
    # The table beside the numbers: torch float32 is within 2.5e-4 (energy) and 4.8e-4 (force); the
    # order of the sums differs here. "auto" reads filters off a table.
    pot = authors_potential(name, filters)
    batch = batch_of(golden, torch.float32)
    if way == "autograd":
        batch.pos.requires_grad_(True)
        pot.requires_grad_(False)  # or "auto" would do without a table for so few edges
        assert (pot.model._filter_table(batch.pos[:, 0]) is None) == (filters == "exact")
    result = (pot.freeze() if way == "frozen" else pot)(batch)
    assert_within_the_bar(*in_kcal(pot, result), name, golden, torch.float32)


@pytest.mark.parametrize("name", MODELS)
def test_tabulated_filters_are_golden_in_float64(name, golden):
    pot = authors_potential(name, "tabulated").double()
    batch = batch_of(golden, torch.float64)
    frozen = in_kcal(pot, pot.freeze()(batch))
    assert_within_the_bar(*frozen, name, golden, torch.float64)
    batch.pos.requires_grad_(True)
    by_autograd = in_kcal(pot, pot(batch))
    assert_within_the_bar(*by_autograd, name, golden, torch.float64)
    assert_close(by_autograd[1], golden[f"forces_{name}"].view(-1, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_atomic_energies_are_golden(name, golden):
    model = authors_potential(name).double().model
    batch = batch_of(golden, torch.float64)
    with torch.no_grad():
        got = model.atomwise(batch.z, batch.pos, batch.batch).view(20, 20) - model.readout.mean
    assert_close(got, golden[f"atomic_energies_minus_mean_{name}"], rtol=0, atol=1e-6)


def test_the_relaxed_cage_feels_no_force(golden):
    pot = authors_potential("force_model").double()
    result = pot(Data(z=golden["atomic_numbers"], pos=golden["relaxed_positions"]))
    assert_close(result["forces"], torch.zeros(20, 3).double(), rtol=0, atol=1e-7)
    energy = result["energy"] / KCAL_PER_MOL
    assert_close(energy, golden["relaxed_energy_force_model"].view(1), rtol=0, atol=1e-6)


def test_the_hessian_is_golden(golden):
    pot = authors_potential("force_model")
    got = hessian(pot, Data(z=golden["atomic_numbers"], pos=golden["relaxed_positions"]))
    want = golden["relaxed_hessian"] * KCAL_PER_MOL
    assert_close(got, want, rtol=0, atol=1e-9 * float(want.abs().max()))


def test_published_code_in_float64_agrees_to_its_own_error(golden):
    pot = authors_potential("force_model").double()
    _, forces = in_kcal(pot, pot(batch_of(golden, torch.float64)))
    want = golden["tf64_forces_force_model"].view(-1, 3)
    assert_close(forces, want, rtol=0, atol=5e-5)


def test_relaxation_from_the_published_cage_ends_in_the_golden_minimum(golden):
    start = Atoms("C20", golden["positions"][0].numpy())  # C20.xyz
    # In float32 forces are good to a few 1e-5 eV/Å.
    found = relax(authors_potential("force_model"), start, 1e-3, progress=False)
    assert found.converged
    lengths = found.atoms.get_all_distances()[np.triu_indices(20, 1)]
    bonds = np.sort(lengths[lengths < 1.8])
    assert len(bonds) == 30
    four = [bonds[:6].mean(), bonds[6:12].mean(), bonds[12:24].mean(), bonds[24:].mean()]
    np.testing.assert_allclose(four, [1.4105, 1.4468, 1.4528, 1.5162], atol=1e-3)
    np.testing.assert_allclose(
        bonds, np.sort(golden["relaxed_bond_lengths"].numpy()), atol=1e-3, rtol=0
    )


def test_all_frequencies_are_golden_at_the_minimum_that_newton_steps_find(golden):
    """From C20.xyz: a coarse relaxation, then Newton's steps in float64 on the exact Hessian."""
    pot = authors_potential("force_model")
    start = Atoms("C20", golden["positions"][0].numpy())
    atoms = relax(pot, start, 1e-2, progress=False).atoms
    exact = authors_potential("force_model").double()
    for _ in range(8):
        found = vibrations(pot, atoms, progress=False)
        if found.largest_force < 1e-7:
            break
        data = Data(z=golden["atomic_numbers"], pos=torch.tensor(atoms.positions))
        forces = exact(data)["forces"].numpy()
        squares = (found.frequencies * INVERSE_CM / HBAR) ** 2
        along = np.tensordot(found.modes, forces, 2) / squares
        atoms.positions += np.tensordot(along, found.modes, 1)
    assert found.kind == "minimum" and found.largest_force < 1e-7
    assert found.rigid_motions == 6 and len(found.frequencies) == 54
    want = golden["frequencies_cm1"].numpy()
    np.testing.assert_allclose(found.frequencies, want, atol=1e-4, rtol=0)


def test_a_converted_model_survives_being_saved(golden, tmp_path):
    model = from_original(REFERENCE / "force_model.npz")
    save(model, tmp_path / "c20.safetensors", model.info)
    data = Data(z=golden["atomic_numbers"], pos=golden["positions"][3].float())
    again = load(tmp_path / "c20.safetensors")
    assert_close(Potential(again)(data)["energy"], Potential(model)(data)["energy"])
    assert again.info["unit"] == "eV"
