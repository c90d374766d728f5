"""A crystal at work under a model: cells relaxed, elastic constants, dynamics in a periodic box.

The model learns copper from ASE's EMT in a second or two, so that there is a minimum to find. What
is tested is that energy, forces and stress of the model fit together, not how well it learned.
"""

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_vacuum, bulk
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_stress
from ase.eos import EquationOfState
from ase.io import read, write
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet
from ase.units import GPa, fs, kB
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential, SchNet, save
from pyg_schnet.cli import main
from pyg_schnet.simulation import Calculator, atoms_to_data, relax

STRAIN = np.array([[0.01, 0.03, 0.0], [0.0, -0.02, 0.01], [0.0, 0.0, 0.015]])


def strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


def labelled(atoms: Atoms) -> Data:
    data = atoms_to_data(atoms, torch.float64)
    atoms.calc = EMT()
    data.energy = torch.tensor([atoms.get_potential_energy()], dtype=torch.float64)
    data.forces = torch.from_numpy(atoms.get_forces())
    data.stress = torch.from_numpy(atoms.get_stress(voigt=False))[None]
    return data


@pytest.fixture(scope="module")
def copper() -> SchNet:
    rng = np.random.default_rng(0)
    frames = []
    for number in range(24):
        atoms = bulk("Cu", a=rng.uniform(3.4, 3.85), cubic=bool(number % 2))
        atoms = strained(atoms, 0.02 * rng.standard_normal((3, 3)))
        if number % 2:
            atoms.positions += 0.08 * rng.standard_normal(atoms.positions.shape)
        frames.append(labelled(atoms))
    batch = Batch.from_data_list(frames)
    size = torch.bincount(batch.batch)
    model = SchNet(16, 16, 2, 16, 5.0, filters="tabulated", seed=0).double()
    potential = Potential(model, stress=True).train()
    optimizer = torch.optim.Adam(potential.parameters())
    steps = 120
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        found = potential(batch)
        residuals = {key: found[key] - batch[key] for key in ("energy", "forces", "stress")}
        loss = 10 * (residuals["energy"] / size).square().mean()
        loss = loss + residuals["forces"].square().mean()
        loss = loss + 1000 * residuals["stress"].square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def under(model: SchNet, atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = Calculator(model)
    return atoms


@pytest.fixture(scope="module")
def at_rest(copper) -> Atoms:
    found = relax(copper, bulk("Cu", a=3.6, cubic=True), 1e-5, cell=True, progress=False)
    assert found.converged
    return under(copper, found.atoms)


def test_stress_is_ases_finite_difference(copper):
    for cubic in (False, True):
        atoms = under(copper, strained(bulk("Cu", cubic=cubic), STRAIN))
        want = calculate_numerical_stress(atoms, eps=1e-5)
        np.testing.assert_allclose(atoms.get_stress(), want, rtol=0, atol=1e-6 * abs(want).max())


def test_one_minimum_from_primitive_and_conventional_cells(copper):
    found = []
    for start in (
        bulk("Cu", a=3.75),
        bulk("Cu", a=3.45),
        bulk("Cu", a=3.75, cubic=True),
        bulk("Cu", a=3.5) * (2, 1, 1),
    ):
        start = strained(start, STRAIN)
        if len(start) > 1:
            start.rattle(0.03, seed=1)
        result = relax(Calculator(copper), start, 1e-4, cell=True, progress=False)
        assert result.converged and 5 < result.steps < 200
        assert result.energy < result.initial_energy - 1e-3
        atoms = under(copper, result.atoms)
        assert abs(atoms.get_stress()).max() < 1e-5
        assert result.largest_force < 1e-4
        found.append((result.energy / len(atoms), atoms.get_volume() / len(atoms)))
    energies, volumes = np.transpose(found)
    np.testing.assert_allclose(energies, energies[0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(volumes, volumes[0], rtol=1e-5)
    # What EMT says, which the model has learned: 3.59 Å.
    assert (4 * volumes[0]) ** (1 / 3) == pytest.approx(3.59, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_the_command_relaxes_cells(copper, dtype, tmp_path, at_rest):
    save(Potential(copy.deepcopy(copper)).to(dtype), tmp_path / "copper.safetensors")
    write(tmp_path / "cu.extxyz", strained(bulk("Cu", a=3.7), STRAIN))
    out = tmp_path / "out.extxyz"
    command = [
        "relax",
        str(tmp_path / "cu.extxyz"),
        "--model",
        str(tmp_path / "copper.safetensors"),
    ]
    assert main([*command, f"--output={out}", "--cell=true", "--fmax=0.001"]) == 0
    atoms = read(out)
    assert abs(atoms.get_stress()).max() < 1e-4
    assert atoms.get_volume() == pytest.approx(at_rest.get_volume() / 4, rel=1e-4)
    assert atoms.get_potential_energy() == pytest.approx(
        at_rest.get_potential_energy() / 4, abs=1e-5
    )


def test_pressure_is_the_slope_of_the_energy_and_gives_the_bulk_modulus(copper, at_rest):
    volumes, energies, pressures = [], [], []
    for scale in np.linspace(0.985, 1.015, 9):
        atoms = under(copper, at_rest)
        atoms.set_cell(scale * at_rest.cell.array, scale_atoms=True)
        volumes.append(atoms.get_volume())
        energies.append(atoms.get_potential_energy())
        pressures.append(-atoms.get_stress()[:3].mean())
    curve = np.polynomial.Polynomial.fit(volumes, energies, 7)
    np.testing.assert_allclose(-curve.deriv()(np.array(volumes)), pressures, rtol=0, atol=1e-6)
    by_pressure = -at_rest.get_volume() * np.polynomial.Polynomial.fit(
        volumes, pressures, 6
    ).deriv()(at_rest.get_volume())
    assert by_pressure == pytest.approx(curve.deriv(2)(at_rest.get_volume()) * at_rest.get_volume(),
                                        rel=1e-4)  # fmt: skip
    volume, _, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    assert volume == pytest.approx(at_rest.get_volume(), rel=1e-3)
    assert modulus == pytest.approx(by_pressure, rel=0.05)  # an equation of three parameters
    assert 50 < by_pressure / GPa < 300  # EMT: 134


def test_elastic_constants_by_stress_are_those_by_energy(copper, at_rest):
    step = 1e-3
    patterns = {
        "c11": np.diag([1.0, 0, 0]),
        "c11 - c12": np.diag([1.0, -1.0, 0]),
        "c44": np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, 0]]),
    }
    volume, rest = at_rest.get_volume(), at_rest.get_potential_energy()
    moduli = {}
    for name, pattern in patterns.items():
        energies, works = {}, {}
        for k in (-2, -1, 1, 2):
            atoms = under(copper, strained(at_rest, k * step * pattern))
            energies[k] = atoms.get_potential_energy()
            # dE/ds: the stress of the strained cell, whose strain grows by pattern / (1 + strain).
            rate = np.linalg.inv(np.eye(3) + k * step * pattern) @ pattern
            works[k] = atoms.get_volume() * np.vdot(atoms.get_stress(voigt=False), rate)
        by_energy = (16 * (energies[1] + energies[-1]) - energies[2] - energies[-2] - 30 * rest) / (
            12 * step**2
        )
        by_stress = (8 * (works[1] - works[-1]) - works[2] + works[-2]) / (12 * step)
        assert by_stress == pytest.approx(by_energy, rel=1e-5)
        moduli[name] = by_stress / volume
    # One minimum: all moduli are positive.
    assert min(moduli.values()) > 0
    c11 = moduli["c11"]
    c12 = c11 - moduli["c11 - c12"] / 2
    at_rest_by_shear = under(copper, strained(at_rest, step * patterns["c11"])).get_stress()
    assert at_rest_by_shear[1] / step == pytest.approx(c12, rel=0.02)


def box(copper: SchNet, at_rest: Atoms) -> Atoms:
    atoms = under(copper, at_rest * (2, 1, 1))
    width = np.sqrt(300 * kB * atoms.get_masses())[:, None]
    momenta = width * np.random.default_rng(4).standard_normal((len(atoms), 3))
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def test_energy_is_conserved_in_a_periodic_box(copper, at_rest):
    drifts = []
    for step in (4.0, 2.0):
        atoms = box(copper, at_rest)
        atoms.positions += [0.0, 0.0, 5.0 * atoms.cell[2, 2] - 0.01]  # some cross the boundary
        energies = []
        dynamics = VelocityVerlet(atoms, timestep=step * fs)
        dynamics.attach(lambda atoms=atoms, all=energies: all.append(atoms.get_total_energy()))
        dynamics.run(int(400 / step))
        drifts.append(np.ptp(energies))
        assert np.ptp(atoms.positions - at_rest.repeat((2, 1, 1)).positions, axis=0).max() > 0.1
    # Of the order of the square of the step.
    assert drifts[1] < 0.3 * drifts[0] and drifts[1] < 1e-3


def test_a_barostat_conserves_its_quantity(copper, at_rest):
    """Moving cells: wrong pressures would show at once."""
    ranges = []
    for step in (2.0, 1.0):
        atoms = box(copper, at_rest)
        dynamics = IsotropicMTKNPT(
            atoms, step * fs, temperature_K=300, pressure_au=2 * GPa, tdamp=100 * fs, pdamp=200 * fs
        )
        conserved, volumes = [], []
        for _ in range(20):
            dynamics.run(int(10 / step))
            conserved.append(dynamics.get_conserved_energy())
            volumes.append(atoms.get_volume())
        assert np.ptp(volumes) > 0.005 * volumes[0]
        ranges.append(np.ptp(conserved))
    assert ranges[1] < 0.4 * ranges[0] and ranges[1] < 2e-3


def test_a_slab_moves_its_atoms_but_not_its_cell(copper):
    slab = bulk("Cu", cubic=True) * (1, 1, 2)
    add_vacuum(slab, 10.0)
    slab.pbc = (True, True, False)
    with pytest.raises(ValueError, match="periodic in three directions, but pbc is"):
        relax(copper, slab, cell=True)
    found = relax(copper, slab, 1e-3, progress=False)
    assert found.converged and found.energy < found.initial_energy
    # Without the third vector all is the same, but there is no volume for a stress.
    flat = slab.copy()
    flat.cell[2] = 0.0
    same = relax(copper, flat, 1e-3, progress=False)
    np.testing.assert_allclose(same.atoms.positions, found.atoms.positions, atol=1e-9)
    assert "stress" in found.atoms.calc.results and "stress" not in same.atoms.calc.results
    data = atoms_to_data(flat, torch.float64)
    assert not data.cell[0, 2].any()
    with pytest.raises(ValueError, match="needs a volume"):
        Potential(copper, stress=True)(data)
