"""Steps against ASE's, the known physics of oscillators, and themselves in other batches."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from helpers import small_schnet
from scipy import stats

from pyg_schnet import Potential
from pyg_schnet.datasets.thermostats import NoseHooverChain
from pyg_schnet.simulation import Calculator, Integrator, prepare_replicas
from pyg_schnet.simulation.calculator import energy_and_forces
from pyg_schnet.simulation.integrator import THERMOSTATS, Exploded
from pyg_schnet.simulation.replicas import FrozenForces, SeparateForces
from pyg_schnet.simulation.stability import Point, verlet_step
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND

MODEL = "md17-ethanol"


@pytest.fixture
def ethanol():
    return molecule("CH3CH2OH")


class Springs:
    """Each atom on a spring of its own to the origin: one replica, 3 N oscillators."""

    def __init__(self, stiffness: float) -> None:
        self.stiffness = stiffness

    def __call__(self, positions):
        energy = 0.5 * self.stiffness * (positions**2).sum()
        return np.array([energy]), -self.stiffness * positions


def oscillators(thermostat="none", count=1, timestep=0.5, seed=0, **options):
    rng = np.random.default_rng(seed)
    atoms = (count, 3)
    positions, momenta = 0.1 * rng.standard_normal(atoms), rng.standard_normal(atoms)
    options |= {"timestep": timestep, "thermostat": thermostat, "generators": [rng]}
    return Integrator(Springs(20.0), positions, momenta, np.full(count, 12.0), [count], **options)


def hot_silicon(count=2, repeat=1, temperature=3000.0, **options):
    """Atoms that leave the list of edges within some fifty steps."""
    atoms = bulk("Si", cubic=True).repeat(repeat)
    return prepare_replicas(
        small_schnet(torch.float32), [atoms] * count, temperature, 2.0, **options
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_velocity_verlet_is_that_of_ase(dtype, ethanol):
    calculator = Calculator(MODEL)
    calculator = Calculator(calculator.model.to(dtype))
    moving = prepare_replicas(calculator, [ethanol], seed=4)
    ethanol.calc = calculator
    ethanol.set_momenta(moving.momenta)
    dynamics = VelocityVerlet(ethanol, 0.5 * units.fs)
    for _ in range(2):
        record = moving.advance(50)
        dynamics.run(50)
        np.testing.assert_allclose(moving.positions, ethanol.positions, rtol=0, atol=1e-10)
        np.testing.assert_allclose(moving.momenta, ethanol.get_momenta(), rtol=0, atol=1e-10)
    assert record.potential[-1, 0] == pytest.approx(ethanol.get_potential_energy(), abs=1e-9)
    assert record.kinetic[-1, 0] == pytest.approx(ethanol.get_kinetic_energy(), rel=1e-12)
    assert np.abs(ethanol.positions - molecule("CH3CH2OH").positions).max() > 0.02


def test_the_error_of_the_energy_falls_with_the_square_of_the_step(ethanol):
    spreads = []
    for timestep in (1.0, 0.5, 0.25):
        model = Calculator(Calculator(MODEL).model.double())
        moving = prepare_replicas(model, [ethanol], timestep=timestep, seed=1)
        record = moving.advance(round(100 / timestep))
        spreads.append((record.potential + record.kinetic).std())
    assert spreads[0] / spreads[1] == pytest.approx(4.0, rel=0.15)
    assert spreads[1] / spreads[2] == pytest.approx(4.0, rel=0.15)


def test_time_runs_backwards(ethanol):
    start = prepare_replicas(small_schnet(), [ethanol], 500.0, seed=2)
    before = start.positions.copy(), start.momenta.copy()
    start.advance(200)
    assert np.abs(start.positions - before[0]).max() > 0.1
    start.momenta *= -1
    start.advance(200)
    np.testing.assert_allclose(start.positions, before[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(-start.momenta, before[1], rtol=0, atol=1e-10)


def test_langevin_dynamics_is_canonical():
    """Velocities are normal, and BAOAB has the exact positions of an oscillator: <x²> = kT/k."""
    moving = oscillators("langevin", 400, 1.0, temperature=300.0, time_constant=20.0)
    moving.advance(300)
    positions, momenta = [], []
    for _ in range(30):
        moving.advance(60)
        positions.append(moving.positions.copy())
        momenta.append(moving.momenta.copy())
    kt = BOLTZMANN * 300
    x = np.concatenate(positions).ravel() / math.sqrt(kt / 20.0)
    # 36,000 numbers, nearly independent: the variance is known to 0.8 %.
    assert x.var() == pytest.approx(1.0, abs=0.03)
    phase = math.sqrt(20.0 / 12.0) * FEMTOSECOND
    p = np.concatenate(momenta).ravel() / math.sqrt(12.0 * kt * (1 - phase**2 / 4))
    assert p.var() == pytest.approx(1.0, abs=0.03)
    assert moving.temperatures[0] == pytest.approx(300.0, rel=0.2)
    for numbers in (x, p):
        assert stats.kstest(numbers[::7], "norm").pvalue > 1e-3


def test_the_heat_of_a_thermostat_is_counted():
    for thermostat in ("langevin", "nose-hoover"):
        spread = []
        for timestep in (1.0, 0.5):
            moving = oscillators(thermostat, 50, timestep, temperature=300.0, time_constant=30.0)
            moving.momenta *= 2.0
            first = moving.energies + moving.kinetic
            known = []
            for _ in range(60):
                moving.advance(round(10 / timestep))
                known.append(moving.conserved[0])
            assert abs(moving.energies + moving.kinetic - first)[0] > 10 * np.ptp(known)
            spread.append(np.ptp(known))
        assert spread[1] < 0.5 * spread[0]


def test_the_chain_is_that_of_martyna_klein_and_tuckerman(ethanol):
    moving = prepare_replicas(MODEL, [ethanol], 400.0, thermostat="nose-hoover", time_constant=30.0)
    evaluate, masses = energy_and_forces(MODEL, ethanol), ethanol.get_masses()[:, None]
    duration = 0.5 * FEMTOSECOND
    chain = NoseHooverChain(masses, 400.0, 30.0 * FEMTOSECOND, 21)
    point = Point(moving.positions.copy(), moving.momenta.copy(), *evaluate(moving.positions))
    start = moving.conserved[0]
    moving.advance(100)
    for _ in range(100):
        point = point._replace(momenta=chain.half_step(point.momenta, duration / 2))
        point = verlet_step(point, evaluate, masses, duration)
        point = point._replace(momenta=chain.half_step(point.momenta, duration / 2))
    np.testing.assert_allclose(moving.positions, point.positions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(moving.momenta, point.momenta, rtol=0, atol=1e-10)
    assert moving.conserved[0] == pytest.approx(start, abs=0.01)
    assert abs(moving.energies[0] + moving.kinetic[0] - start) > 0.05


@pytest.mark.parametrize("thermostat", THERMOSTATS)
def test_replicas_move_as_they_would_alone(thermostat, ethanol):
    options = {"thermostat": thermostat, "time_constant": 30.0}
    turned = ethanol.copy()
    turned.rotate(40, "y")
    starts = [ethanol, turned, molecule("CH3OH")]
    together = prepare_replicas(small_schnet(torch.float32), starts, seed=5, **options)
    record = together.advance(120)
    assert record.potential.shape == (120, 3)
    for r, start in enumerate(starts):
        alone = prepare_replicas(small_schnet(torch.float32), [start], seed=5 + r, **options)
        found = alone.advance(120)
        own = slice(together.first[r], together.first[r + 1])
        np.testing.assert_array_equal(together.positions[own], alone.positions)
        np.testing.assert_array_equal(together.momenta[own], alone.momenta)
        np.testing.assert_array_equal(record.potential[:, r], found.potential[:, 0])
        np.testing.assert_array_equal(record.kinetic[:, r], found.kinetic[:, 0])


@pytest.mark.parametrize("thermostat", THERMOSTATS)
def test_crystals_are_resumed_bit_for_bit_however_steps_are_cut(thermostat):
    options = {"thermostat": thermostat, "time_constant": 20.0}
    whole = hot_silicon(**options)
    whole.advance(120)
    assert whole._forces.frozen.searches > 2
    cut = hot_silicon(**options)
    for steps in (1, 30, 7):
        cut.advance(steps)
    state = cut.state
    cut.advance(5)
    resumed = hot_silicon(seed=8, **options)
    resumed.state = state
    resumed.advance(82)
    assert resumed.steps == 120
    for name in ("positions", "momenta", "conserved", "energies"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))


def test_compiled_and_python_steps_are_the_same():
    compiled = hot_silicon(thermostat="langevin")
    frozen = compiled._forces.frozen
    structures = [bulk("Si", cubic=True)] * 2
    separate = SeparateForces(Calculator(small_schnet(torch.float32)), structures)
    python = hot_silicon(thermostat="langevin")
    python._forces = separate
    ours, theirs = compiled.advance(80), python.advance(80)
    assert frozen.searches > 1
    np.testing.assert_array_equal(ours.potential, theirs.potential)
    np.testing.assert_array_equal(compiled.positions, python.positions)


def test_threads_do_not_change_the_numbers():
    kept = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            moving = hot_silicon(1, 4)
            moving.advance(12)
            runs.append(moving.positions.copy())
    finally:
        torch.set_num_threads(kept)
    np.testing.assert_array_equal(*runs)


def test_other_models_are_moved_too(ethanol):
    class Sum(torch.nn.Module):
        """An energy model that cannot be frozen."""

        def forward(self, z, pos, batch=None, edge_index=None, cell=None, cell_shift=None,
                    pbc=None, *, num_graphs=None, dtype=None):  # fmt: skip
            return 2.0 * pos.square().sum().view(1, 1)

    moving = prepare_replicas(Sum().double(), [ethanol, molecule("H2O")])
    record = moving.advance(50)
    assert isinstance(moving._forces, SeparateForces)
    total = record.potential + record.kinetic
    assert (np.ptp(total, axis=0) < 0.02 * np.ptp(record.kinetic, axis=0)).all()


def test_drawn_velocities_are_at_rest_and_have_the_temperature(ethanol):
    moving = prepare_replicas(MODEL, [ethanol] * 200, 350.0)
    np.testing.assert_allclose(moving.degrees, 21)
    assert moving.temperatures.mean() == pytest.approx(350.0, rel=0.05)
    momenta = moving.momenta.reshape(200, 9, 3)
    np.testing.assert_allclose(momenta.sum(1), 0.0, atol=1e-10)
    free = prepare_replicas(MODEL, [ethanol] * 200, 350.0, thermostat="langevin")
    assert np.abs(free.momenta.reshape(200, 9, 3).sum(1)).min() > 0
    assert free.temperatures.mean() == pytest.approx(350.0, rel=0.05)


def test_an_explosion_names_step_and_replica(ethanol):
    moving = prepare_replicas(MODEL, [ethanol] * 3, hottest=5000.0)
    moving.advance(10)
    moving.momenta[9:18] *= 30.0
    with pytest.raises(Exploded, match=r"Replica 1 exploded in step 11: .* temperature \d") as end:
        moving.advance(10)
    assert (end.value.step, end.value.replica) == (10, 1)
    with pytest.raises(Exploded, match="exploded"):
        Integrator(lambda r: (np.array([math.nan]), -r), np.ones((1, 3)), np.ones((1, 3)),
                   np.ones(1), [1], timestep=1.0)  # fmt: skip
    moving = hot_silicon()
    moving.momenta[3] = math.nan
    with pytest.raises(Exploded, match="not finite"):
        moving.advance(5)


def test_what_does_not_fit_is_refused(ethanol):
    fixed = ethanol.copy()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="Structure 1 has constraints"):
        prepare_replicas(MODEL, [ethanol, fixed])
    with pytest.raises(ValueError, match="has no velocities"):
        prepare_replicas(MODEL, [ethanol], keep_velocities=True)
    with pytest.raises(ValueError, match="structures must be at least one"):
        prepare_replicas(MODEL, [])
    with pytest.raises(ValueError, match="knows nothing of Cl"):
        prepare_replicas(MODEL, [ethanol, molecule("CH3Cl")])
    with pytest.raises(ValueError, match="thermostat must be"):
        prepare_replicas(MODEL, [ethanol], thermostat="berendsen")
    with pytest.raises(ValueError, match="cannot be in one batch"):
        prepare_replicas(small_schnet(), [ethanol, bulk("Si")])
    frozen = Potential(small_schnet()).freeze()
    forces = FrozenForces(frozen, [Atoms("H2", [[0, 0, 0], [0, 0, 1]])])
    good = {"masses": np.ones(2), "sizes": [2], "timestep": 1.0}
    place = np.eye(3)[:2]
    for change, words in [
        ({"masses": np.zeros(2)}, "masses must be 2 numbers"),
        ({"sizes": [1]}, "positions and momenta must have shape"),
        ({"timestep": 0.0}, "timestep must be"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"thermostat": "langevin", "temperature": 1.0}, "generators must be 1"),
        ({"thermostat": "nose-hoover"}, "temperature must be"),
        ({"degrees": [0]}, "degrees must be"),
        ({"sizes": []}, "sizes must name"),
    ]:
        with pytest.raises(ValueError, match=words):
            Integrator(forces, place, 0 * place, **{**good, **change})
