"""Spectra, distances and reports against known oscillators, ASE and plain loops."""

import math

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.geometry.rdf import get_rdf
from scipy.signal import find_peaks
from scipy.stats import maxwell

from pyg_schnet.simulation import Calculator, prepare_replicas, relax
from pyg_schnet.simulation.calculator import energy_and_forces
from pyg_schnet.simulation.observables import (
    diameters,
    distribution,
    energy_conservation,
    nearest_neighbor_distances,
    radial_distribution,
    temperature_statistics,
    velocity_autocorrelation,
    vibrational_spectrum,
)
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND, HBAR, INVERSE_CM


def normal_modes(evaluate, positions, masses, step=1e-3):
    """Wavenumbers, cm^-1, by central differences of the forces."""
    hessian = np.empty((positions.size, positions.size))
    for k in range(positions.size):
        moved = [positions.copy().ravel() for _ in range(2)]
        moved[0][k] += step
        moved[1][k] -= step
        up, down = (evaluate(p.reshape(-1, 3))[1].ravel() for p in moved)
        hessian[k] = -(up - down) / (2 * step)
    weights = np.repeat(masses, 3) ** -0.5
    squares = np.linalg.eigvalsh(weights[:, None] * 0.5 * (hessian + hessian.T) * weights)
    return np.sqrt(np.maximum(squares, 0.0)) * HBAR / INVERSE_CM


def test_the_autocorrelation_is_its_definition():
    rng = np.random.default_rng(0)
    v, masses = rng.standard_normal((40, 3, 3)), np.array([1.0, 12.0, 16.0])
    want = np.array(
        [np.mean([(masses[:, None] * v[s] * v[s + k]).sum() for s in range(40 - k)])
         for k in range(40)]
    )  # fmt: skip
    found = velocity_autocorrelation(v, masses)
    np.testing.assert_allclose(found, want / want[0], atol=1e-12)
    np.testing.assert_allclose(velocity_autocorrelation(v, masses, 7), found[:7], atol=1e-12)
    assert not velocity_autocorrelation(0 * v).any()


@pytest.mark.parametrize("wavenumber", [200.0, 1500.0, 3700.0])
def test_the_peak_of_an_oscillator_is_at_its_frequency(wavenumber):
    times = 1.0 * np.arange(8000)
    omega = wavenumber * INVERSE_CM / HBAR * FEMTOSECOND  # 1/fs
    found = vibrational_spectrum(np.cos(omega * times + 0.3)[:, None, None], 1.0)
    assert found.centers[found.density.argmax()] == pytest.approx(wavenumber, abs=4.0)
    width = found.centers[1]
    assert found.density.sum() * width == pytest.approx(1.0)
    near = abs(found.centers - wavenumber) < 30.0
    assert found.density[near].sum() * width > 0.97


def test_the_spectrum_of_ethanol_has_its_normal_modes():
    """At 1 K atoms swing as on springs; velocity Verlet shifts frequencies by a known amount."""
    model = Calculator(Calculator("md17-ethanol").model.double())
    atoms = relax(model, molecule("CH3CH2OH"), 1e-4, progress=False).atoms
    masses, every = atoms.get_masses(), 4
    modes = normal_modes(energy_and_forces(model, atoms), atoms.positions, masses)[6:]
    assert modes[0] > 100.0 and 3000.0 < modes[-1] < 4000.0
    half = 0.5 * modes * INVERSE_CM / HBAR * 0.5 * FEMTOSECOND
    seen = modes * np.arcsin(half) / half
    # Equal energy in all modes, so that each has a peak of its own.
    moving = prepare_replicas(model, [atoms] * 6, 1.0, seed=1)
    frames = []
    for _ in range(4000):
        moving.advance(every)
        frames.append(moving.momenta.reshape(6, 9, 3) / masses[:, None])
    frames = np.array(frames)
    spectra = [vibrational_spectrum(frames[:, r], 0.5 * every, masses) for r in range(6)]
    density, centers = np.mean([s.density for s in spectra], axis=0), spectra[0].centers
    peaks = centers[find_peaks(density, height=0.1 * density.max())[0]]
    assert len(peaks) >= 10
    distance = abs(peaks[:, None] - seen).min(1)
    assert distance.max() < 5.0
    near = abs(centers[:, None] - seen).min(1) < 15.0
    assert density[near].sum() * centers[1] > 0.95


def test_the_shells_of_a_crystal_are_counted():
    atoms = bulk("Cu", cubic=True)
    a, bins = atoms.cell[0, 0], 600
    found = radial_distribution(atoms.positions[None], 5.5, bins, cell=atoms.cell.array)
    bounds = np.linspace(0.0, 5.5, bins + 1)
    around = found.density * 4 * np.pi / 3 * np.diff(bounds**3) * 4 / a**3
    for shell, count in {math.sqrt(0.5): 12, 1.0: 6, math.sqrt(1.5): 24, math.sqrt(2): 12}.items():
        near = abs(found.centers - shell * a) < 0.1
        assert around[near].sum() == pytest.approx(count)
    assert around.sum() == pytest.approx(12 + 6 + 24 + 12)


def test_g_is_that_of_ase():
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True).repeat(3)
    atoms.rattle(0.2, seed=1)
    numbers, bins, largest = atoms.numbers, 50, 8.0
    frames = np.stack([atoms.positions, atoms.positions])
    found = radial_distribution(frames, largest, bins, cell=atoms.cell.array, pbc=atoms.pbc)
    theirs, centers = get_rdf(atoms, largest, bins)
    np.testing.assert_allclose(found.centers, centers)
    # ASE takes the shell's volume at its centre.
    bounds = np.linspace(0.0, largest, bins + 1)
    exact = 4 / 3 * np.pi * np.diff(bounds**3)
    rough = 4 * np.pi * (largest / bins) * centers**2
    far = centers > 1.0
    np.testing.assert_allclose((found.density * exact / rough)[far], theirs[far], rtol=1e-2)
    pairs = {(11, 17): 0.25, (17, 11): 0.25, (11, 11): 0.25, (17, 17): 0.25}
    parts = sum(
        share * radial_distribution(frames, largest, bins, cell=atoms.cell.array,
                                    numbers=numbers, pair=pair).density
        for pair, share in pairs.items()
    )  # fmt: skip
    np.testing.assert_allclose(parts, found.density, atol=1e-12)


def test_g_of_an_ideal_gas_is_one():
    rng = np.random.default_rng(2)
    cell = np.array([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [-1.0, 1.0, 10.0]])
    gas = rng.random((40, 60, 3)) @ cell
    g = radial_distribution(gas, 9.0, 15, cell=cell).density[4:]
    np.testing.assert_allclose(g, 1.0, atol=0.06)


def test_distances_of_a_molecule_are_all_counted():
    ethanol = molecule("CH3CH2OH")
    rng = np.random.default_rng(0)
    frames = ethanol.positions + 0.05 * rng.standard_normal((5, 9, 3))
    n = radial_distribution(frames, 6.0, 60)
    assert n.density.sum() * 0.1 == pytest.approx(8.0)
    of_oxygen = radial_distribution(frames, 6.0, 60, numbers=ethanol.numbers, pair=(8, 1))
    assert of_oxygen.density.sum() * 0.1 == pytest.approx(6.0)
    nearest, across = nearest_neighbor_distances(frames), diameters(frames)
    assert nearest.shape == (5, 9) and across.shape == (5,)
    for s, positions in enumerate(frames):
        ethanol.positions = positions
        distances = ethanol.get_all_distances()
        assert across[s] == pytest.approx(distances.max())
        np.fill_diagonal(distances, np.inf)
        np.testing.assert_allclose(nearest[s], distances.min(1))
    spread = distribution(nearest, 20)
    assert spread.density.sum() * np.diff(spread.centers)[0] == pytest.approx(1.0)
    assert spread.mean == pytest.approx(nearest.mean(), abs=0.02)


def test_temperatures_of_a_canonical_distribution_are_told():
    rng, degrees = np.random.default_rng(0), 21
    kinetic = 0.5 * BOLTZMANN * 300.0 * rng.chisquare(degrees, 20_000)
    found = temperature_statistics(kinetic, degrees)
    assert found.mean == pytest.approx(300.0, abs=5 * found.error)
    assert found.error == pytest.approx(found.deviation / math.sqrt(20_000), rel=0.4)
    assert found.deviation == pytest.approx(found.expected_deviation, rel=0.03)
    assert found.expected_deviation == pytest.approx(300.0 * math.sqrt(2 / 21), rel=0.01)
    assert math.isnan(temperature_statistics(kinetic[:5], degrees).error)
    # The speeds behind it are Maxwell's: a check of the two independent routes to one number.
    speeds = maxwell.rvs(scale=math.sqrt(BOLTZMANN * 300.0), size=(500, 7), random_state=1)
    assert temperature_statistics(0.5 * (speeds**2).sum(1), 21).mean == pytest.approx(300, rel=0.05)


def test_a_slope_is_told_for_each_atom_and_100_ps():
    times = np.linspace(0.0, 50.0, 5000)
    rng = np.random.default_rng(1)
    energies = -4000.0 + 9e-5 * times + 1e-3 * rng.standard_normal(5000)
    found = energy_conservation(times, energies, 9)
    assert found.slope == pytest.approx(1.0, abs=4 * found.error)
    assert found.fluctuation == pytest.approx(1 / 9, rel=0.05) and found.error < 0.2
    with pytest.raises(ValueError, match="at least 40 frames"):
        energy_conservation(times[:30], energies[:30], 9)


def test_what_does_not_fit_is_refused():
    frames = np.zeros((4, 2, 3))
    for call, words in [
        (lambda: velocity_autocorrelation(frames[0]), r"velocities must have shape \(S, N, 3\)"),
        (lambda: velocity_autocorrelation(frames, np.ones(3)), "masses must be 2 numbers"),
        (lambda: velocity_autocorrelation(frames, lags=9), "lags must be between 1 and the 4"),
        (lambda: vibrational_spectrum(frames, 0.0), "interval must be above 0"),
        (lambda: radial_distribution(frames, 0.0), "largest and bins must be above 0"),
        (lambda: radial_distribution(frames, 1.0, pair=(1, 1)), "pair needs numbers"),
        (lambda: radial_distribution(frames, 1.0, numbers=np.array([1, 1]), pair=(1, 8)),
         "pair must name elements"),
        (lambda: diameters(frames[:, :1]), "at least two atoms"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()


def test_a_direction_without_periods_has_no_volume():
    slab = bulk("Si", cubic=True)
    slab.pbc = [True, True, False]
    found = radial_distribution(slab.positions[None], 2.5, 10, cell=slab.cell.array, pbc=slab.pbc)
    theirs = slab.get_all_distances(mic=True)
    bonds = ((theirs > 0.1) & (theirs < 2.5)).sum() / len(slab)
    assert found.density.sum() * 0.25 == pytest.approx(bonds)
