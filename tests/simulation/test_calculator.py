"""The ASE calculator against Potential, autograd and ASE's finite differences."""

import copy
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.optimize import BFGS
from helpers import methanol, skewed_crystal, small_schnet
from torch_geometric.data import Data

from pyg_schnet import Ensemble, Potential, SchNet, save
from pyg_schnet.models import pretrained
from pyg_schnet.models.frozen import FrozenPotential
from pyg_schnet.simulation import Calculator
from pyg_schnet.simulation.calculator import energy_and_forces


def as_atoms(data: Data) -> Atoms:
    cell = data.get("cell")
    periodic = {} if cell is None else {"cell": cell[0].numpy(), "pbc": data.pbc[0].numpy()}
    return Atoms(data.z.numpy(), data.pos.double().numpy(), **periodic)


def with_calculator(atoms: Atoms, model, **options) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = Calculator(model, **options)
    return atoms


class Springs(torch.nn.Module):
    """Every pair of atoms on a spring of 1.5 Å: an energy model that is no SchNet."""

    def forward(self, z, pos, batch=None, edge_index=None, cell=None, cell_shift=None, pbc=None,
                *, num_graphs=None, dtype=None):  # fmt: skip
        i, j = torch.triu_indices(len(z), len(z), 1)
        return (0.5 * ((pos[i] - pos[j]).norm(dim=1) - 1.5).square().sum()).view(1, 1)


def test_numbers_are_those_of_potential_to_the_last_bit():
    model = small_schnet(torch.float32, mean=-76.1, std=10.3)
    data = methanol(torch.float32)
    want = Potential(model).eval()(data)
    atoms = with_calculator(as_atoms(data), Potential(model))
    assert atoms.get_potential_energy() == float(want["energy"])
    assert atoms.get_potential_energy(force_consistent=True) == float(want["energy"])
    assert atoms.get_forces().dtype == np.float64
    np.testing.assert_array_equal(atoms.get_forces(), want["forces"].numpy())


def test_float64_agrees_with_autograd_on_exact_filters():
    model, data = small_schnet(), methanol()
    want = Potential(model).eval()(data)
    atoms = with_calculator(as_atoms(data), model)
    np.testing.assert_allclose(atoms.get_potential_energy(), float(want["energy"]), rtol=1e-8)
    largest = float(want["forces"].abs().max())
    np.testing.assert_allclose(atoms.get_forces(), want["forces"], rtol=0, atol=1e-7 * largest)


def test_forces_are_ases_finite_differences():
    atoms = with_calculator(as_atoms(methanol()), small_schnet())
    want = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), want, rtol=0, atol=1e-5 * abs(want).max())


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 0)])
def test_stress_is_ases_finite_difference(pbc):
    atoms = with_calculator(as_atoms(skewed_crystal()), small_schnet())
    atoms.pbc = pbc
    want = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), want, rtol=0, atol=1e-5 * abs(want).max())


def test_a_stress_of_float32_is_that_of_potential():
    model, data = small_schnet(torch.float32), skewed_crystal(torch.float32)
    want = Potential(model, stress=True).eval()(data)
    atoms = with_calculator(as_atoms(data), model)
    stress = atoms.get_stress(voigt=False)
    largest = float(want["stress"].abs().max())
    np.testing.assert_allclose(stress, want["stress"][0], rtol=0, atol=1e-6 * largest)
    assert atoms.get_potential_energy() == float(want["energy"])


@pytest.mark.parametrize("readout", ["add", "mean"])
def test_energies_of_atoms_sum_to_the_energy(readout, dtype):
    model = small_schnet(dtype, readout=readout, mean=-3.0, atomref=-torch.arange(100.0))
    for data in (methanol(), skewed_crystal()):
        atoms = with_calculator(as_atoms(data), model)
        energies = atoms.get_potential_energies()
        assert energies.shape == (len(atoms),)
        assert len(set(energies.round(6))) > 3 if len(atoms) == 6 else True
        np.testing.assert_allclose(energies.sum(), atoms.get_potential_energy(), rtol=1e-6)


def test_one_calculator_follows_whatever_changes(dtype):
    model = small_schnet(dtype)
    calculator = Calculator(model)
    atoms = as_atoms(skewed_crystal())
    atoms.calc = calculator

    def check():
        fresh = with_calculator(atoms, model)
        assert atoms.get_potential_energy() == fresh.get_potential_energy()
        np.testing.assert_array_equal(atoms.get_forces(), fresh.get_forces())
        if atoms.pbc.any():
            np.testing.assert_array_equal(atoms.get_stress(), fresh.get_stress())
        return atoms.get_potential_energy()

    seen = [check()]
    atoms.positions[0] += 0.05
    seen.append(check())
    atoms.set_cell(1.02 * atoms.cell, scale_atoms=True)
    seen.append(check())
    atoms.pbc = (True, False, True)
    seen.append(check())
    atoms.numbers[0] = 3
    seen.append(check())
    del atoms[1]
    seen.append(check())
    atoms.pbc = False
    seen.append(check())
    assert len(set(seen)) == len(seen)
    other = as_atoms(methanol())
    other.calc = calculator
    assert other.get_potential_energy() == with_calculator(other, model).get_potential_energy()
    assert atoms.get_potential_energy() == seen[-1]


def test_nothing_is_evaluated_twice(monkeypatch):
    atoms = with_calculator(as_atoms(methanol()), small_schnet())
    atoms.get_forces()
    calls = []
    evaluate = atoms.calc._evaluate
    monkeypatch.setattr(atoms.calc, "_evaluate", lambda p: calls.append(0) or evaluate(p))
    atoms.get_potential_energy()
    atoms.get_forces()
    atoms.set_initial_charges([1] + 5 * [0])
    atoms.get_potential_energy()
    assert not calls
    atoms.positions[0, 0] += 1e-3
    atoms.get_potential_energy()
    atoms.get_forces()
    assert len(calls) == 1


def test_results_are_the_users_own():
    atoms = with_calculator(as_atoms(methanol()), small_schnet())
    forces = atoms.get_forces()
    kept = forces.copy()
    forces[:] = 0.0
    np.testing.assert_array_equal(atoms.get_forces(), kept)


def test_the_weights_are_copied():
    model = small_schnet(torch.float32)
    atoms = with_calculator(as_atoms(methanol()), model)
    before = atoms.get_potential_energies()
    energy = atoms.get_potential_energy()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    atoms.calc.reset()
    assert atoms.get_potential_energy() == energy
    np.testing.assert_array_equal(atoms.get_potential_energies(), before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_copies_and_pickles_work_on_their_own():
    atoms = with_calculator(as_atoms(methanol()), small_schnet(torch.float32))
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    for calculator in (copy.deepcopy(atoms.calc), pickle.loads(pickle.dumps(atoms.calc))):
        other = atoms.copy()
        other.calc = calculator
        assert other.get_potential_energy() == energy
        calculator.reset()
        np.testing.assert_array_equal(other.get_forces(), forces)


def test_an_optimiser_of_ase_finds_a_minimum():
    atoms = with_calculator(molecule("CH3OH"), Potential(Springs()))
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=200)
    assert abs(calculate_numerical_forces(atoms, eps=1e-4)).max() < 1e-3


def test_other_energy_models_are_evaluated_by_potential():
    model = small_schnet()
    model.interactions[0].act = torch.nn.Tanh()
    data = methanol()
    want = Potential(model).eval()(data)
    atoms = with_calculator(as_atoms(data), model)
    assert atoms.get_potential_energy() == pytest.approx(float(want["energy"]), rel=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), want["forces"], rtol=0, atol=1e-10)

    springs = with_calculator(molecule("N2"), Springs())
    length = springs.get_distance(0, 1)
    assert springs.get_potential_energy() == pytest.approx(0.5 * (length - 1.5) ** 2, rel=1e-12)
    with pytest.raises(PropertyNotImplementedError, match="SchNet only, not of a Springs"):
        springs.get_potential_energies()


def test_a_periodic_structure_with_an_own_module_has_a_stress():
    model = small_schnet()
    model.interactions[0].act = torch.nn.Tanh()
    atoms = with_calculator(as_atoms(skewed_crystal()), model)
    want = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), want, rtol=0, atol=1e-5 * abs(want).max())


def test_the_evaluator_and_ases_way_give_the_same():
    atoms = with_calculator(as_atoms(skewed_crystal()), small_schnet())
    energy, forces, stress = atoms.calc.evaluator(atoms, stress=True)(atoms.positions)
    assert energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(forces, atoms.get_forces())
    np.testing.assert_array_equal(stress, atoms.get_stress(voigt=False))
    assert atoms.calc.evaluator(atoms)(atoms.positions)[2] is None
    for potential in (atoms.calc, atoms.calc.model):
        got = energy_and_forces(potential, atoms)(atoms.positions)
        assert got[0] == energy
        np.testing.assert_array_equal(got[1], forces)


def test_models_come_by_file_run_folder_and_name(tmp_path, monkeypatch):
    model = small_schnet(torch.float32)
    save(model, tmp_path / "run" / "best.safetensors", {"unit": "eV", "elements": ["H", "C", "O"]})
    save(Potential(model), tmp_path / "given" / "small.safetensors")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "given")
    atoms = as_atoms(methanol())
    want = with_calculator(atoms, model).get_potential_energy()
    for name in (tmp_path / "run", str(tmp_path / "run" / "best.safetensors"), "small"):
        assert with_calculator(atoms, name).get_potential_energy() == want
    assert Calculator(tmp_path / "run").elements == {1, 6, 8}
    assert Calculator("small").elements is None
    with pytest.raises(ValueError, match="comes with the package"):
        Calculator("smaller")


def test_an_element_that_was_never_trained_on_is_refused():
    calculator = Calculator(small_schnet(), elements=["H", 6])
    atoms = molecule("CH4")
    atoms.calc = calculator
    atoms.get_forces()
    atoms.numbers[0] = 8
    sentence = r"trained on H, C and knows nothing of O \(atom 0 of the structure\)"
    for _ in range(2):
        with pytest.raises(ValueError, match=sentence):
            atoms.get_forces()
    atoms.numbers[0] = 6
    assert atoms.get_forces().shape == (5, 3)
    with pytest.raises(ValueError, match="got 'Xy'"):
        Calculator(small_schnet(), elements=["Xy"])


@pytest.mark.parametrize("model", [small_schnet(), Springs()], ids=["frozen", "torch"])
def test_positions_that_are_not_finite_are_refused(model):
    atoms = with_calculator(molecule("CH4"), model)
    good = atoms.get_forces()
    for value in (np.nan, np.inf):
        atoms.positions[2, 1] = value
        for _ in range(2):
            with pytest.raises(ValueError, match="Atom 2 has the position .*not finite"):
                atoms.get_forces()
    atoms.positions = molecule("CH4").positions
    np.testing.assert_array_equal(atoms.get_forces(), good)


def test_what_a_potential_does_not_have_is_said():
    atoms = with_calculator(molecule("CH4"), small_schnet())
    for ask in (atoms.get_dipole_moment, atoms.get_charges, atoms.get_magnetic_moments):
        with pytest.raises(PropertyNotImplementedError, match="A potential has no"):
            ask()
    with pytest.raises(PropertyNotImplementedError, match="three lattice vectors, but pbc is"):
        atoms.get_stress()
    atoms.pbc = True
    with pytest.raises(ValueError, match="give a lattice vector for each periodic direction"):
        atoms.get_forces()
    atoms.pbc = False
    assert atoms.get_forces().shape == (5, 3)
    with pytest.raises(ValueError, match="three lattice vectors"):
        atoms.calc.evaluator(atoms, stress=True)


def test_a_slab_without_a_third_vector_has_forces_but_no_stress():
    atoms = Atoms("HHO", [[0, 0, 0], [0.9, 0.2, 0], [0.1, 1.0, 0.3]], cell=[3, 4, 0], pbc=[1, 1, 0])
    atoms.calc = Calculator(small_schnet())
    want = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), want, rtol=0, atol=1e-5 * abs(want).max())
    with pytest.raises(PropertyNotImplementedError, match="three lattice vectors"):
        atoms.get_stress()


def test_models_of_other_things_are_refused(tmp_path):
    with pytest.raises(ValueError, match="energy model"):
        Calculator(SchNet(16, 16, 1, 10, 5.0, dipole=True))
    save(small_schnet(), tmp_path / "alpha.safetensors", {"target": "alpha", "unit": "Bohr^3"})
    with pytest.raises(ValueError, match="predicts alpha in Bohr"):
        Calculator(tmp_path / "alpha.safetensors")
    with pytest.raises(ValueError, match="skin"):
        Calculator(small_schnet(), skin=-1.0)


def test_the_skin_changes_nothing():
    atoms = as_atoms(methanol())
    rng = np.random.default_rng(0)
    calculators = [Calculator(small_schnet(), skin=skin) for skin in (0.0, 0.5, 3.0)]
    for _ in range(5):
        atoms.positions += 0.1 * rng.standard_normal(atoms.positions.shape)
        results = [c.evaluator(atoms)(atoms.positions) for c in calculators]
        assert len({energy for energy, _, _ in results}) == 1
    engine = calculators[1].engine()
    assert isinstance(engine, FrozenPotential)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_model_on_a_gpu_gives_the_same():
    model, data = small_schnet(torch.float32), methanol(torch.float32)
    want = with_calculator(as_atoms(data), model)
    got = with_calculator(as_atoms(data), model.cuda())
    np.testing.assert_allclose(got.get_potential_energy(), want.get_potential_energy(), rtol=1e-5)
    np.testing.assert_allclose(got.get_forces(), want.get_forces(), rtol=0, atol=1e-4)


def ensemble(dtype=torch.float32):
    sizes = {"hidden_channels": 16, "num_filters": 16, "num_interactions": 2, "cutoff": 4.0}
    return Ensemble([SchNet(**sizes, num_gaussians=12, seed=s).to(dtype) for s in range(3)])


@pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", 5.6)])
def test_an_ensemble_has_means_and_spreads(atoms):
    together = ensemble(torch.float64)
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=0)
    atoms.calc = Calculator(together)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    apart = []
    for member in together.members:
        one = atoms.copy()
        one.calc = Calculator(member)
        apart.append(one)
    energies = [one.get_potential_energy() for one in apart]
    assert energy == pytest.approx(np.mean(energies), rel=1e-12)
    assert atoms.calc.results["energy_std"] == pytest.approx(np.std(energies, ddof=1))
    values = np.stack([one.get_forces() for one in apart])
    np.testing.assert_allclose(forces, values.mean(0), atol=1e-12)
    np.testing.assert_allclose(atoms.calc.results["forces_std"], values.std(0, ddof=1), atol=1e-12)
    if atoms.pbc.any():
        values = np.stack([one.get_stress() for one in apart])
        np.testing.assert_allclose(atoms.get_stress(), values.mean(0), atol=1e-12)
        found = atoms.calc.results["stress_std"]
        np.testing.assert_allclose(found, values.std(0, ddof=1), atol=1e-12)
    mean = np.mean([one.calc.get_property("energies", one) for one in apart], axis=0)
    np.testing.assert_allclose(atoms.calc.get_property("energies", atoms), mean)
    with pytest.raises(ValueError, match="needs one potential, but the calculator is of an ens"):
        atoms.calc.engine()
