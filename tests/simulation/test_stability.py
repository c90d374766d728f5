"""Drift, bonds and closed loops against known answers and ASE's own dynamics."""

import json
import math

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from helpers import small_schnet
from torch import nn

from pyg_schnet import Potential
from pyg_schnet.simulation import Calculator, closed_loop, nve_drift, stability
from pyg_schnet.simulation.bonds import Bonds
from pyg_schnet.simulation.calculator import energy_and_forces
from pyg_schnet.simulation.loops import Loop
from pyg_schnet.simulation.stability import Point, at_rest, linear_drift, verlet_step
from pyg_schnet.units import FEMTOSECOND


class Springs(nn.Module):
    """Pairs on springs of their first length, and a SchNet on top of that."""

    def __init__(self, atoms: Atoms, stiffness: float, model: nn.Module | None = None) -> None:
        super().__init__()
        self.register_buffer("rest", torch.from_numpy(atoms.positions.copy()))
        self.stiffness, self.model = stiffness, model

    def forward(self, z, pos, batch=None, edge_index=None, cell=None, cell_shift=None, pbc=None,
                *, num_graphs=None, dtype=None):  # fmt: skip
        i, j = torch.triu_indices(len(z), len(z), 1)
        lengths = [(p[i] - p[j]).norm(dim=1) for p in (pos, self.rest)]
        energy = 0.5 * self.stiffness * (lengths[0] - lengths[1]).square().sum().view(1, 1)
        return energy if self.model is None else energy + self.model(z, pos, dtype=dtype)


class Linear(AseCalculator):
    """Forces that are linear in positions, F = r A, and an energy that knows nothing of them."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, matrix, energy=0.0) -> None:
        super().__init__()
        self.matrix, self.constant = matrix, energy

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        forces = self.atoms.positions.ravel() @ self.matrix
        self.results = {
            "energy": self.constant - 0.5 * float(forces @ self.atoms.positions.ravel()),
            "forces": forces.reshape(-1, 3),
        }


def water_model(timestep=None) -> tuple[Atoms, nn.Module]:
    atoms = molecule("H2O")
    return atoms, Springs(atoms, 20.0, small_schnet())


def test_steps_are_those_of_ase():
    atoms, model = water_model()
    atoms.calc = Calculator(model)
    momenta = 0.3 * np.random.default_rng(0).standard_normal((3, 3))
    atoms.set_momenta(momenta)
    evaluate, masses = energy_and_forces(model, atoms), atoms.get_masses()[:, None]
    point = Point(atoms.positions.copy(), momenta, *evaluate(atoms.positions))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    for _ in range(3):
        dynamics.run(20)
        for _ in range(20):
            point = verlet_step(point, evaluate, masses, 0.5 * FEMTOSECOND)
        np.testing.assert_allclose(point.positions, atoms.positions, rtol=0, atol=1e-10)
        np.testing.assert_allclose(point.momenta, atoms.get_momenta(), rtol=0, atol=1e-10)
    assert np.abs(atoms.positions - molecule("H2O").positions).max() > 0.05


def test_the_fluctuation_of_a_harmonic_bond_is_the_known_one():
    """Velocity Verlet keeps the energy plus (wh)²/8 k x², whose average over a period is known."""
    atoms = molecule("N2")
    stiffness, mass = 80.0, atoms.get_masses()[0] / 2
    for timestep in (0.25, 0.5, 1.0):
        # Velocities of one degree of freedom; the rotation is removed.
        drift = nve_drift(Springs(atoms, stiffness), atoms, 1.0, timestep=timestep,
                          equilibration=0.0, progress=False)  # fmt: skip
        energy = drift.total_energy.mean()
        phase = math.sqrt(stiffness / mass) * timestep * FEMTOSECOND
        want = 1000 / 2 * energy * phase**2 / (8 * math.sqrt(2))
        assert drift.fluctuation == pytest.approx(want, rel=0.05)
        assert drift.temperature == pytest.approx(energy / units.kB, rel=0.02)
        assert abs(drift.slope) < 4 * drift.slope_error + 0.05 * drift.fluctuation


def test_the_error_of_the_energy_falls_with_the_square_of_the_step():
    atoms, model = water_model()
    drifts = [
        nve_drift(model, atoms, 0.15, timestep=timestep, equilibration=0.0, progress=False)
        for timestep in (1.0, 0.5, 0.25)
    ]
    ratios = [a.fluctuation / b.fluctuation for a, b in zip(drifts, drifts[1:])]
    assert ratios == pytest.approx([4.0, 4.0], rel=0.15)
    assert [len(d.total_energy) for d in drifts] == [150, 300, 600]


@pytest.mark.parametrize(("temperature", "seed"), [(300.0, 0), (300.0, 1), (300.0, 2), (100.0, 3)])
def test_the_thermostat_leaves_the_temperature(temperature, seed):
    """Of springs, on which 21 degrees of freedom have kT each in all."""
    atoms = molecule("CH3CH2OH")
    drift = nve_drift(Springs(atoms, 20.0), atoms, 0.1, temperature, 1.0, equilibration=1.5,
                      seed=seed, progress=False)  # fmt: skip
    # The mean of the potential energy over 0.75 ps is known to 6 %; without it 22 % are left.
    assert drift.total_energy.mean() == pytest.approx(21 * units.kB * temperature, rel=0.15)
    assert drift.broken == []


def test_a_run_is_the_same_again_and_another_with_another_seed():
    atoms, model = water_model()
    kept = atoms.positions.copy()
    runs = [nve_drift(model, atoms, 0.03, equilibration=0.02, seed=seed, progress=False)
            for seed in (0, 0, 1)]  # fmt: skip
    np.testing.assert_array_equal(runs[0].total_energy, runs[1].total_energy)
    assert runs[0].slope != runs[2].slope
    slope, _ = np.polyfit(runs[0].times, runs[0].total_energy - runs[0].total_energy[0], 1)
    assert runs[0].slope == pytest.approx(1000 / 3 * 100 * slope, rel=1e-6)
    np.testing.assert_array_equal(atoms.positions, kept)
    assert atoms.calc is None


def test_a_slope_is_found_with_its_error():
    rng = np.random.default_rng(0)
    times = np.linspace(0.0, 100.0, 20_000)
    slope, error, fluctuation = linear_drift(times, -4000.0 + 0.003 * times)
    assert slope == pytest.approx(0.003, rel=1e-9)
    assert error < 1e-12 and fluctuation < 1e-9
    found = [
        linear_drift(times, 0.003 * times + 0.1 * rng.standard_normal(len(times)))
        for _ in range(200)
    ]
    slopes, errors, fluctuations = np.array(found).T
    known = 0.1 / math.sqrt(((times - 50.0) ** 2).sum())
    assert slopes.mean() == pytest.approx(0.003, abs=4 * known / math.sqrt(200))
    assert slopes.std() == pytest.approx(known, rel=0.15)
    assert errors.mean() == pytest.approx(known, rel=0.1)
    assert fluctuations.mean() == pytest.approx(0.1, rel=0.01)


def test_correlated_energies_have_the_larger_error():
    times = np.arange(20_000.0)
    rng = np.random.default_rng(1)
    rough = np.repeat(rng.standard_normal(200), 100)  # a new value every hundred steps
    white = rng.standard_normal(len(times))
    assert linear_drift(times, rough)[1] > 5 * linear_drift(times, white)[1]


def test_momenta_at_rest_neither_drift_nor_rotate():
    atoms = molecule("CH3CH2OH")
    masses = atoms.get_masses()[:, None]
    momenta = np.random.default_rng(0).standard_normal((9, 3))
    point = Point(atoms.positions, momenta, 0.0, momenta)
    atoms.set_momenta(at_rest(point, masses))
    np.testing.assert_allclose(atoms.get_momenta().sum(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_angular_momentum(), 0.0, atol=1e-12)
    atoms.set_momenta(at_rest(point, masses, rotation=False))
    np.testing.assert_allclose(atoms.get_momenta().sum(0), 0.0, atol=1e-12)
    assert np.abs(atoms.get_angular_momentum()).max() > 0.1
    assert [stability._degrees(molecule(name), molecule(name).get_masses()[:, None])
            for name in ("N2", "CO2", "H2O", "CH3CH2OH")] == [1, 4, 3, 21]  # fmt: skip


def test_bonds_of_a_molecule_without_forces_break():
    atoms = molecule("H2O")
    drift = nve_drift(Linear(np.zeros((9, 9))), atoms, 1.0, 1000.0, equilibration=0.0,
                      progress=False)  # fmt: skip
    assert sorted(bond.atoms for bond in drift.broken) == [(0, 1), (0, 2)]
    assert {bond.elements for bond in drift.broken} == {"O-H"}
    for bond in drift.broken:
        assert 0.0 < bond.time < 1.0
        # Seen within 20 steps of the moment: they fly no further than that.
        assert 1.5 * 0.969 < bond.length < 1.5 * 0.969 + 0.6
    assert drift.slope == pytest.approx(0.0, abs=1e-8)


def test_bonds_that_form_are_told():
    atoms = Atoms("HHO", [[0, 0, 0], [0.74, 0, 0], [5.0, 0, 0]])
    bonds = Bonds(atoms)
    bonds.look(atoms.positions, 0.0)
    assert (bonds.broken, bonds.formed) == ([], [])
    near = np.array([[0, 0, 0], [0.74, 0, 0], [1.74, 0, 0]])
    for time in (1.0, 2.0):
        bonds.look(near, time)
    assert bonds.broken == []
    (formed,) = bonds.formed
    assert (formed.atoms, formed.elements, formed.time) == ((1, 2), "H-O", 1.0)
    assert formed.length == pytest.approx(1.0)


def test_bonds_across_a_cell_are_followed_out_of_it():
    atoms = bulk("Si", cubic=True)
    bonds = Bonds(atoms)
    assert len(bonds._pairs) == 16  # four for each of eight atoms, each once
    assert bonds._lengths == pytest.approx(np.full(16, 5.43 * math.sqrt(3) / 4))
    bonds.look(atoms.positions + [40.0, 0.0, -20.0], 1.0)
    assert (bonds.broken, bonds.formed) == ([], [])
    moved = atoms.positions.copy()
    moved[0] += [-1.3, -1.3, -1.3]
    bonds.look(moved, 2.0)
    assert 0 in bonds.broken[0].atoms
    assert bonds.formed


def test_a_crystal_keeps_its_energy():
    atoms = bulk("Cu", cubic=True)
    drift = nve_drift(EMT(), atoms, 0.2, 300.0, 2.0, equilibration=0.0, progress=False)
    assert drift.fluctuation < 1.0 and drift.broken == []


def test_an_energy_that_is_not_finite_is_noticed():
    class Hollow(Linear):
        def calculate(self, atoms=None, properties=(), system_changes=()):
            super().calculate(atoms, properties, system_changes)
            if self.atoms.get_distance(0, 1) > 1.2:
                self.results["energy"] = math.nan

    atoms = molecule("H2O")
    with pytest.raises(FloatingPointError, match=r"After 0\.\d+ ps the energy is nan"):
        nve_drift(Hollow(np.zeros((9, 9))), atoms, 1.0, equilibration=0.0, progress=False)


def test_results_are_json():
    atoms, model = water_model()
    drift = nve_drift(model, atoms, 0.03, equilibration=0.0, progress=False)
    read = json.loads(json.dumps(drift.summary()))
    assert read["time"] == pytest.approx(0.03) and "total_energy" not in read
    assert "total_energy" not in repr(drift)


@pytest.mark.parametrize(
    ("option", "value"),
    [("time", 0.0), ("time", 0.01), ("timestep", -1.0), ("temperature", math.nan),
     ("equilibration", -1.0)],
)  # fmt: skip
def test_bad_options_of_a_run_are_refused(option, value):
    atoms, model = water_model()
    with pytest.raises(ValueError, match=f"{option} must be"):
        nve_drift(model, atoms, **{option: value})


def test_a_loop_closes_and_has_its_size():
    start = molecule("CH3CH2OH").positions
    loop = Loop(start, 0.1, seed=3)
    np.testing.assert_allclose(loop.positions(0.0), start, atol=1e-15)
    np.testing.assert_allclose(loop.positions(1.0), start, atol=1e-15)
    s = 0.37
    slope = (loop.positions(s + 1e-6) - loop.positions(s - 1e-6)) / 2e-6
    np.testing.assert_allclose(loop.tangent(s), slope, atol=1e-8)
    samples = np.stack([loop.positions(s) for s in np.linspace(0, 1, 64, endpoint=False)])
    assert samples.std(0).mean() == pytest.approx(0.1, rel=0.3)


def test_the_work_of_a_curl_is_the_known_one():
    """For F = r A it is a sum over the harmonics k: pi k (b.(a A) - a.(b A))."""
    atoms = molecule("H2O")
    matrix = np.random.default_rng(0).standard_normal((9, 9))
    loop = Loop(atoms.positions, 0.05, seed=2)
    want = sum(
        math.pi * k * (b @ (a @ matrix) - a @ (b @ matrix))
        for k, a, b in zip((1, 2), loop.cosines.reshape(2, 9), loop.sines.reshape(2, 9))
    )
    found = closed_loop(Linear(matrix), atoms, seed=2)
    assert found.work == pytest.approx(want, rel=1e-9)
    assert found.relative > 1e-3 and found.deviation > 1e-3
    assert found.energy_change == pytest.approx(0.0, abs=1e-12)

    symmetric = closed_loop(Linear(matrix + matrix.T, energy=-4000.0), atoms, seed=2)
    assert symmetric.relative < 1e-10 and symmetric.deviation < 1e-8


def test_forces_without_a_curl_that_are_not_the_gradient_are_noticed():
    atoms, model = water_model()

    class Doubled(Linear):
        def calculate(self, atoms=None, properties=(), system_changes=()):
            super().calculate(atoms, properties, system_changes)
            self.results["forces"] = 2 * self.results["forces"]

    found = closed_loop(Doubled(-np.eye(9)), atoms)
    assert found.relative < 1e-9
    assert found.deviation > 0.5


@pytest.mark.parametrize("amplitude", [0.02, 0.1])
def test_a_schnet_has_no_curl(amplitude, dtype):
    atoms = molecule("CH3CH2OH")
    found = closed_loop(Potential(small_schnet(dtype)), atoms, amplitude=amplitude)
    single = dtype == torch.float32
    assert found.relative < 1e-6
    # Between points an energy of float32 is known to a millionth of the sum of its parts.
    assert found.deviation < (1e-4 if single else 1e-6)
    assert abs(found.energy_change) <= (1e-6 if single else 1e-12)
    assert found.quadrature_error <= 1e-6 * found.energy_range
    assert found.points >= 128


def test_atoms_that_cross_the_cutoff_make_no_curl():
    atoms = molecule("CH3CH2OH")
    longest = atoms.get_all_distances().max()
    found = closed_loop(small_schnet(cutoff=float(longest) - 0.05), atoms, amplitude=0.1)
    assert found.relative < 1e-6


def test_bad_options_of_a_loop_are_refused():
    atoms, model = water_model()
    for option in ("amplitude", "tolerance"):
        with pytest.raises(ValueError, match=f"{option} must be"):
            closed_loop(model, atoms, **{option: 0.0})
