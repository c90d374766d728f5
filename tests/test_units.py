import subprocess
import sys

import pytest

from pyg_schnet import units


@pytest.mark.parametrize(
    ("name", "of_ase"),
    [
        ("HARTREE", lambda u: u.Hartree),
        ("RYDBERG", lambda u: u.Rydberg),
        ("BOHR", lambda u: u.Bohr),
        ("KCAL_PER_MOL", lambda u: u.kcal / u.mol),
        ("KJ_PER_MOL", lambda u: u.kJ / u.mol),
        ("INVERSE_CM", lambda u: u.invcm),
        ("DEBYE", lambda u: u.Debye),
        ("BOLTZMANN", lambda u: u.kB),
        ("HBAR", lambda u: u._hbar * u.J * u.s),
        ("FEMTOSECOND", lambda u: u.fs),
        ("GIGAPASCAL", lambda u: u.GPa),
        ("BAR", lambda u: u.bar),
    ],
)
def test_the_constant_is_that_of_ase(name, of_ase):
    ase_units = pytest.importorskip("ase.units", reason="ase is not installed: nothing to compare")
    assert getattr(units, name) == pytest.approx(of_ase(ase_units.create_units("2014")), rel=1e-14)


def test_every_constant_is_compared_with_ase():
    compared = test_the_constant_is_that_of_ase.pytestmark[0].args[1]
    assert {name for name, _ in compared} == {name for name in vars(units) if name.isupper()}


def test_ases_default_constants_are_the_ones_written_here():
    ase_units = pytest.importorskip("ase.units", reason="ase is not installed: nothing to compare")
    assert pytest.approx(ase_units.Hartree, rel=1e-14) == units.HARTREE


def test_importing_the_units_does_not_import_ase():
    code = "import sys, pyg_schnet.units; raise SystemExit('ase' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
