"""Relaxations against known minima, scans of the energy, and the potential itself."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms
from ase.io import read, write

from pyg_schnet import pretrained
from pyg_schnet.cli import main
from pyg_schnet.simulation import Calculator, atoms_to_data, relax, relax_file
from pyg_schnet.simulation.relax import OPTIMIZERS

MODEL = "md17-ethanol"


@pytest.fixture(scope="module")
def calculator():
    return Calculator(MODEL)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_minimum_of_a_morse_bond_is_the_known_one(optimizer):
    atoms = Atoms("N2", [[0, 0, 0], [1.3, 0, 0]])
    found = relax(MorsePotential(epsilon=2.0, r0=1.1), atoms, 1e-4, optimizer=optimizer)
    assert found.converged and found.largest_force < 1e-4
    assert found.atoms.get_distance(0, 1) == pytest.approx(1.1, abs=1e-4)
    assert found.energy == pytest.approx(-2.0, abs=1e-6)
    assert found.initial_energy > found.energy
    assert atoms.get_distance(0, 1) == 1.3 and atoms.calc is None


def test_optimizers_agree_and_forces_vanish_by_the_potential_too(calculator):
    potential = pretrained(MODEL)
    energies = []
    for optimizer in OPTIMIZERS:
        found = relax(calculator, molecule("CH3CH2OH"), 0.002, optimizer=optimizer)
        assert found.converged and 0 < found.steps < 300
        forces = potential(atoms_to_data(found.atoms))["forces"]
        assert float(forces.norm(dim=1).max()) < 0.003
        energies.append(found.energy)
    assert np.ptp(energies) < 1e-4
    assert found.initial_energy - min(energies) > 1e-3


def test_the_cell_of_a_metal_is_that_of_its_energy_curve():
    lengths = np.linspace(3.5, 3.7, 9)
    energies = []
    for length in lengths:
        scanned = bulk("Cu", a=length)
        scanned.calc = EMT()
        energies.append(scanned.get_potential_energy())
    curve = np.polynomial.Polynomial.fit(lengths, energies, 4)
    roots = curve.deriv().roots()
    want = float(roots[(abs(roots.imag) < 1e-9) & (abs(roots.real - 3.6) < 0.1)].real[0])
    found = relax(EMT(), bulk("Cu", a=3.7), 1e-3, cell=True)
    assert found.converged
    assert found.atoms.cell.volume == pytest.approx(want**3 / 4, rel=2e-3)
    assert np.abs(found.atoms.get_stress()).max() < 1e-3


def test_fixed_atoms_stay_and_do_not_count(calculator):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    atoms.set_constraint(FixAtoms([0, 1]))
    found = relax(calculator, atoms, 0.02)
    assert found.converged
    np.testing.assert_array_equal(found.atoms.positions[:2], atoms.positions[:2])
    assert np.abs(found.atoms.positions - atoms.positions).max() > 0.02
    assert np.linalg.norm(found.atoms.get_forces(apply_constraint=False), axis=1).max() > 0.02


def test_structures_of_a_file_are_relaxed_by_the_command(tmp_path, capsys):
    structures = [molecule("CH3CH2OH"), molecule("CH3CH2OH")]
    structures[1].rattle(0.05, seed=2)
    structures[1].set_momenta(np.ones((9, 3)))
    write(tmp_path / "some.extxyz", structures)
    out = tmp_path / "new" / "out.extxyz"
    command = ["relax", str(tmp_path / "some.extxyz"), "--model", MODEL, f"--output={out}"]
    assert main([*command, "--fmax=0.02"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0 C2H6O: -42") and "eV/Å, in" in lines[1]
    relaxed = read(out, ":")
    assert [path.name for path in out.parent.iterdir()] == ["out.extxyz"]
    for atoms, start in zip(relaxed, structures):
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.02
        assert not atoms.has("momenta")
        want = relax(MODEL, start, 0.02)
        np.testing.assert_allclose(atoms.positions, want.atoms.positions, atol=1e-6)
        assert atoms.get_potential_energy() == pytest.approx(want.energy, abs=1e-5)

    assert main([*command, "--steps=2", "--optimizer=FIRE"]) == 1
    done = capsys.readouterr()
    assert "NOT converged in 2 steps" in done.out
    assert "2 of 2 structures have not converged to 0.01 eV/Å in 2 steps" in done.err
    assert len(read(out, ":")) == 2


def test_a_name_of_its_own_is_given_to_the_result(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write("one.xyz", molecule("CH3CH2OH"))
    assert main(["relax", "one.xyz", "--model", MODEL, "--fmax=0.1"]) == 0
    assert len(read("one-relaxed.extxyz", ":")) == 1


def test_what_cannot_be_relaxed_is_refused_before_anything_moves(tmp_path, capsys):
    path, out = tmp_path / "some.extxyz", tmp_path / "out.extxyz"
    write(path, [molecule("CH3CH2OH"), molecule("CH3Cl")])
    command = ["relax", str(path), "--model", MODEL]
    assert main([*command, f"--output={out}"]) == 2
    error = capsys.readouterr().err
    assert "Structure 1 of" in error and "knows nothing of Cl" in error
    assert main([*command, f"--output={path}"]) == 2
    assert "must not be the file that is read" in capsys.readouterr().err
    write(path, molecule("CH3CH2OH"))
    for more, sentence in {
        "--output=a.cif": "output must end in",
        "--fmax=0": "fmax must be finite and above 0",
        "--steps=0": "steps must be at least 1",
        "--optimizer=Newton": "optimizer must be one of BFGS",
        "--cell=true": "periodic in three directions",
        "--model=md17-ethanal": "Did you mean",
    }.items():
        assert main([*command, f"--output={out}", more]) == 2
        assert sentence in capsys.readouterr().err
    (tmp_path / "junk.xyz").write_text("not a number\n")
    for name, sentence in {"junk": "ASE cannot read", "gone": "no structure file"}.items():
        assert main(["relax", str(tmp_path / f"{name}.xyz"), "--model", MODEL]) == 2
        assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_an_energy_that_is_not_finite_is_noticed(tmp_path):
    class Hollow(MorsePotential):
        def calculate(self, *args):
            super().calculate(*args)
            if self.atoms.get_distance(0, 1) < 1.2:
                self.results["energy"] = np.nan

    write(tmp_path / "n2.xyz", Atoms("N2", [[0, 0, 0], [1.3, 0, 0]]))
    run = relax_file(tmp_path / "n2.xyz", Hollow(r0=1.0), tmp_path / "out.xyz")
    with pytest.raises(FloatingPointError, match=r"Structure 0 of .*nan eV .* after \d+ steps"):
        list(run)
