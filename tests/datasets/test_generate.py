"""Trajectories made here: thermostats against ASE and theory, interruption, errors, xTB."""

import json
import os
import re
import sys

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from numpy.testing import assert_allclose

from pyg_schnet.datasets import dynamics
from pyg_schnet.datasets import generate as module
from pyg_schnet.datasets.dynamics import (
    Point,
    advance,
    count_pieces,
    without_drift_and_rotation,
)
from pyg_schnet.datasets.generate import NAMES, dodecahedron, generate, structure
from pyg_schnet.datasets.thermostats import Langevin, NoseHooverChain
from pyg_schnet.datasets.trajectories import Trajectories
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND


class Morse(Calculator):
    """Pairs of depth 2 eV and length 1.5 Å; interrupts, fails or repels at a given call."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, at: int = -1, event: object = None) -> None:
        super().__init__()
        self.at, self.event, self.calls = at, event, 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        factor = 1.0
        if self.calls >= self.at >= 0:
            if isinstance(self.event, BaseException):
                raise self.event
            factor = self.event
        energy, forces = morse(atoms.positions)
        self.results = {"energy": energy, "forces": factor * forces}


def morse(positions):
    i, j = np.triu_indices(len(positions), 1)
    vectors = positions[i] - positions[j]
    r = np.linalg.norm(vectors, axis=1)
    decay = np.exp(-2.0 * (r - 1.5))
    slope = 2.0 * 2.0 * 2.0 * decay * (1 - decay)
    pulls = -(slope / r)[:, None] * vectors
    forces = np.zeros_like(positions)
    np.add.at(forces, i, pulls)
    np.add.at(forces, j, -pulls)
    return float(np.sum(2.0 * ((1 - decay) ** 2 - 1))), forces


TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 1.5 / 8**0.5
MASSES = np.array([[12.0], [1.0], [16.0], [4.0]])


@pytest.fixture
def cluster() -> ase.Atoms:
    return ase.Atoms("C4", TETRAHEDRON)


def start(seed: int, temperature: float = 500.0) -> Point:
    rng = np.random.default_rng(seed)
    momenta = np.sqrt(MASSES * BOLTZMANN * temperature) * rng.standard_normal((4, 3))
    positions = TETRAHEDRON + 0.05 * rng.standard_normal((4, 3))
    momenta = without_drift_and_rotation(positions, momenta, MASSES)
    return Point(positions, momenta, *morse(positions))


def test_the_nose_hoover_chain_is_that_of_ase():
    """ASE counts 3 N degrees of freedom, and so does this chain here."""
    point = start(0)
    atoms = ase.Atoms("C4", point.positions, masses=MASSES[:, 0], momenta=point.momenta)
    atoms.calc = Morse()
    theirs = NoseHooverChainNVT(atoms, 1.0 * FEMTOSECOND, 500.0, 50 * FEMTOSECOND)
    chain = NoseHooverChain(MASSES, 500.0, 50 * FEMTOSECOND, 12)
    for _ in range(100):
        theirs.step()
        point = advance(point, MASSES, 1.0 * FEMTOSECOND, chain, morse)
    assert_allclose(point.positions, atoms.positions, rtol=0, atol=1e-9)
    assert_allclose(point.momenta, atoms.get_momenta(), rtol=0, atol=1e-9)
    assert np.abs(point.positions - start(0).positions).max() > 0.1


def test_its_conserved_energy_drifts_as_the_square_of_the_timestep():
    errors = []
    for duration in (0.5, 0.25):
        point, chain = start(1), NoseHooverChain(MASSES, 500.0, 50 * FEMTOSECOND, 6)
        energies = []
        for _ in range(round(200 / duration)):
            point = advance(point, MASSES, duration * FEMTOSECOND, chain, morse)
            kinetic = 0.5 * np.sum(point.momenta**2 / MASSES)
            energies.append(kinetic + point.energy + chain.energy())
        errors.append(np.std(energies))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] < 1e-3


@pytest.mark.parametrize("thermostat", ["nose-hoover", "langevin"])
def test_the_temperature_is_the_one_asked_for(thermostat):
    """Mean and variance of the kinetic energy, in kT: g / 2 each."""
    constant = 20 * FEMTOSECOND
    kelvin, degrees = 500.0, 6
    heat = NoseHooverChain(MASSES, kelvin, constant, degrees)
    if thermostat == "langevin":
        heat, degrees = Langevin(MASSES, kelvin, constant, 0), 12
    point = start(2)
    kinetic = []
    for step in range(20_000):
        point = advance(point, MASSES, FEMTOSECOND, heat, morse)
        if step >= 1000:
            kinetic.append(np.sum(point.momenta**2 / MASSES) / 2 / (BOLTZMANN * kelvin))
    assert np.mean(kinetic) == pytest.approx(degrees / 2, rel=0.06)
    assert np.var(kinetic) == pytest.approx(degrees / 2, rel=0.25)
    if thermostat == "nose-hoover":
        assert_allclose(point.momenta.sum(0), 0, atol=1e-10)
        spin = np.cross(
            point.positions - np.average(point.positions, 0, MASSES[:, 0]), point.momenta
        )
        assert_allclose(spin.sum(0), 0, atol=1e-9)


def test_langevin_momenta_decay_with_the_time_constant():
    cold = Langevin(MASSES, 1e-20, 30.0, 0)
    momenta = np.arange(12.0).reshape(4, 3)
    assert_allclose(cold.half_step(momenta, 15.0), momenta * np.exp(-0.5), atol=1e-9)


def test_drift_and_rotation_are_taken_out_of_a_linear_molecule_too():
    positions = np.array([[0.0, 0, 0], [1, 1, 0], [-1, -1, 0]])
    masses = np.array([[12.0], [16.0], [16.0]])
    momenta = np.random.default_rng(0).standard_normal((3, 3))
    left = without_drift_and_rotation(positions, momenta, masses)
    assert_allclose(left.sum(0), 0, atol=1e-12)
    assert_allclose(np.cross(positions, left).sum(0), 0, atol=1e-12)
    again = without_drift_and_rotation(positions, left, masses)
    assert_allclose(again, left, atol=1e-12)
    assert np.abs(left).max() > 0.1


SHORT = {"every": 3, "equilibration": 10, "seed": 1}


def test_the_file_has_the_frames_that_were_asked_for(tmp_path, cluster):
    path = generate(cluster, tmp_path / "c4.extxyz", 5, calculator=Morse(), **SHORT)
    data = Trajectories(path)
    assert path == tmp_path / "c4.extxyz" and len(data) == 5
    assert sorted(os.listdir(tmp_path)) == ["c4.extxyz", "c4.extxyz.state.npz"]
    for structure_ in data:
        energy, forces = morse(structure_.pos.double().numpy())
        assert structure_.energy.item() == pytest.approx(energy, abs=1e-5)
        assert_allclose(structure_.forces, forces, atol=1e-4)
        assert_allclose(structure_.pos.mean(0), 0, atol=1e-6)
    assert not np.allclose(data[0].pos, data[1].pos, atol=1e-3)


def test_equilibration_is_left_out_and_frames_are_so_many_steps_apart(tmp_path, cluster):
    dense = generate(
        cluster, tmp_path / "a.xyz", 16, every=1, equilibration=0, seed=1, calculator=Morse()
    )
    sparse = generate(cluster, tmp_path / "b.xyz", 2, calculator=Morse(), **SHORT)
    steps = ase.io.read(dense, ":", format="extxyz")
    for frame, step in zip(ase.io.read(sparse, ":", format="extxyz"), (13, 16)):
        assert frame.positions.tolist() == steps[step - 1].positions.tolist()


@pytest.mark.parametrize("thermostat", module.THERMOSTATS)
@pytest.mark.parametrize("saves", [0.0, 1e9], ids=["saved often", "saved at the end"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    tmp_path, cluster, thermostat, saves, monkeypatch
):
    whole = generate(
        cluster, tmp_path / "a.xyz", 20, thermostat=thermostat, calculator=Morse(), **SHORT
    )
    monkeypatch.setattr(dynamics, "_SAVE_EVERY", saves)
    path = tmp_path / "b.xyz"
    part, sizes = tmp_path / "b.xyz.part", []
    for calls in (2, 30, 5, 18):  # in the relaxation, and among the frames
        calculator = Morse(calls, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            generate(cluster, path, 20, thermostat=thermostat, calculator=calculator, **SHORT)
        assert not path.exists()
        sizes.append(part.stat().st_size)
    assert 0 == sizes[0] < sizes[1] < sizes[2] < sizes[3] < whole.stat().st_size
    generate(cluster, path, 20, thermostat=thermostat, calculator=Morse(), **SHORT)
    assert path.read_bytes() == whole.read_bytes()
    assert not part.exists()


def test_a_run_killed_between_its_two_files_goes_on_from_the_state(tmp_path, cluster):
    whole = generate(cluster, tmp_path / "a.xyz", 8, calculator=Morse(), **SHORT)
    path = tmp_path / "b.xyz"
    generate(cluster, path, 4, calculator=Morse(), **SHORT)
    path.rename(tmp_path / "b.xyz.part")
    with open(tmp_path / "b.xyz.part", "a") as file:
        file.write("4\nhalf a fr" * 10_000)
    generate(cluster, path, 8, calculator=Morse(), **SHORT)
    assert path.read_bytes() == whole.read_bytes()


def test_a_finished_trajectory_is_left_alone_and_can_be_extended(tmp_path, cluster):
    whole = generate(cluster, tmp_path / "a.xyz", 6, calculator=Morse(), **SHORT)
    path = tmp_path / "b.xyz"
    generate(cluster, path, 4, calculator=Morse(), **SHORT)
    calculator = Morse(0, RuntimeError())
    generate(cluster, path, 4, calculator=calculator, **SHORT)
    assert calculator.calls == 0
    generate(cluster, path, 6, calculator=Morse(), **SHORT)
    assert path.read_bytes() == whole.read_bytes()
    with pytest.raises(ValueError, match="has 6 frames, more than frames=5"):
        generate(cluster, path, 5, calculator=Morse(), **SHORT)


def test_other_arguments_than_those_it_was_begun_with_are_refused(tmp_path, cluster):
    path = generate(cluster, tmp_path / "a.xyz", 1, calculator=Morse(), **SHORT)
    with pytest.raises(ValueError, match="begun with temperature=500.0 and 300 is asked for"):
        generate(cluster, path, 2, 300, calculator=Morse(), **SHORT)
    cluster.positions[0] += 0.1
    with pytest.raises(ValueError, match="begun with structure=C4 "):
        generate(cluster, path, 2, calculator=Morse(), **SHORT)
    (tmp_path / "mine.xyz").write_text("mine")
    with pytest.raises(ValueError, match="mine.xyz exists and mine.xyz.state.npz does not"):
        generate(cluster, tmp_path / "mine.xyz", 2, calculator=Morse())
    assert (tmp_path / "mine.xyz").read_text() == "mine"


def test_damaged_states_are_refused(tmp_path, cluster):
    path = generate(cluster, tmp_path / "a.xyz", 2, calculator=Morse(), **SHORT)
    state = tmp_path / "a.xyz.state.npz"
    content = state.read_bytes()
    path.write_text("")
    with pytest.raises(ValueError, match="lacks frames that a.xyz.state.npz counts"):
        generate(cluster, path, 3, calculator=Morse(), **SHORT)
    state.write_bytes(content[:300])
    with pytest.raises(ValueError, match=r"a.xyz.state.npz is damaged \(.*begin anew"):
        generate(cluster, path, 3, calculator=Morse(), **SHORT)
    np.savez(state, settings=json.dumps({}))
    with pytest.raises(ValueError, match="is damaged .it lacks frames, momenta, size"):
        generate(cluster, path, 3, calculator=Morse(), **SHORT)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (CalculationFailed("SCF not converged"), r"Morse failed \(SCF not converged\): try a"),
        (float("nan"), r"Morse failed \(energy or forces are not finite\)"),
        (-3.0, "the dynamics exploded, its temperature is .* K"),
        (0.0, "the molecule fell apart"),
    ],
)
def test_what_goes_wrong_is_named_with_its_frame_and_the_frames_before_are_kept(
    tmp_path, cluster, event, message
):
    calls = Morse()
    whole = generate(cluster, tmp_path / "a.xyz", 3, calculator=calls, **SHORT)
    path = tmp_path / "b.xyz"
    with pytest.raises(RuntimeError, match=rf"b.xyz, frame \d+, step \d+: {message}"):
        generate(cluster, path, 90, calculator=Morse(calls.calls + 1, event), **SHORT)
    kept = (tmp_path / "b.xyz.part").read_text()
    assert kept.startswith(whole.read_text()) and not path.exists()


def test_a_structure_that_cannot_be_computed_is_refused(tmp_path, cluster):
    with pytest.raises(RuntimeError, match="Morse failed for the structure to begin with .bad"):
        generate(cluster, tmp_path / "a.xyz", calculator=Morse(0, CalculationFailed("bad")))
    assert not (tmp_path / "a.xyz").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"frames": 0},
        {"frames": 2.5},
        {"every": 0},
        {"temperature": -1.0},
        {"timestep": 0.0},
        {"time_constant": float("nan")},
        {"equilibration": -1.0},
        {"thermostat": "berendsen"},
        {"output": "a.traj"},
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, cluster, given):
    output = tmp_path / given.pop("output", "a.xyz")
    name, value = next(iter(given.items()), ("output", output))
    with pytest.raises(
        ValueError, match=re.escape(f"{name}={value if name == 'output' else repr(value)}")
    ):
        generate(cluster, output, **{"frames": 1, **given}, calculator=Morse())


def test_a_name_or_a_file_stands_for_a_structure(tmp_path):
    for formula in NAMES.values():
        assert len(structure(formula)) == len(ase.build.molecule(formula))
    assert structure("Ethanol").get_chemical_formula() == "C2H6O"
    assert len(structure("c60")) == 60
    ase.build.molecule("CH4").write(tmp_path / "m.xyz")
    assert structure(tmp_path / "m.xyz").get_chemical_formula() == "CH4"
    with pytest.raises(ValueError, match="'etanol' is neither .* did you mean ethanol"):
        structure("etanol")
    with pytest.raises(ValueError, match="name a structure file"):
        structure("zzzzzzzz.xyz")
    (tmp_path / "text.xyz").write_text("text")
    with pytest.raises(ValueError, match="text.xyz is no structure that ASE reads"):
        structure(tmp_path / "text.xyz")
    with pytest.raises(ValueError, match="is periodic"):
        structure(ase.build.bulk("NaCl", "rocksalt", 5.6))
    with pytest.raises(ValueError, match="is a single atom"):
        structure("Na")


def test_the_cage_is_a_regular_dodecahedron():
    pos = dodecahedron(1.45)
    distances = np.linalg.norm(pos[:, None] - pos, axis=-1)
    neighbors = np.abs(distances - 1.45) < 1e-9
    assert (neighbors.sum(1) == 3).all() and np.sort(distances, 1)[:, 1] == pytest.approx(1.45)
    # Circumradius of a dodecahedron: sqrt(3) (1 + sqrt(5)) / 4 edges.
    assert_allclose(np.linalg.norm(pos, axis=1), 1.45 * 3**0.5 * (1 + 5**0.5) / 4)
    i, j, k = next((a, b, c) for a in range(20) for b in range(20) for c in range(20)
                   if neighbors[a, b] and neighbors[b, c] and a != c)  # fmt: skip
    cosine = np.dot(pos[i] - pos[j], pos[k] - pos[j]) / 1.45**2
    assert np.degrees(np.arccos(cosine)) == pytest.approx(108)


def test_pieces_are_counted():
    water = ase.build.molecule("H2O")
    far = water.positions + [50, 0, 0]
    assert count_pieces(water.numbers, water.positions) == 1
    both = np.concatenate([water.positions, far, far + 50])
    assert count_pieces(np.tile(water.numbers, 3), both) == 3


def test_without_tblite_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(ModuleNotFoundError, match="'pip install tblite'"):
        generate("water", tmp_path / "a.xyz", 1)
    assert not any(tmp_path.iterdir())


def test_an_impossible_multiplicity_is_refused(tmp_path):
    with pytest.raises(ValueError, match="multiplicity=1 is impossible with 9 electrons: pass 2"):
        generate("CH3", tmp_path / "a.xyz", 1)
    with pytest.raises(ValueError, match="multiplicity=2 is impossible with 10 electrons: pass 1"):
        generate("water", tmp_path / "a.xyz", 1, multiplicity=2)


def test_a_library_with_openmp_is_loaded_for_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delitem(sys.modules, "tblite", raising=False)
    with module._one_thread():
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with module._one_thread():
        assert os.environ["OMP_NUM_THREADS"] == "2"


def test_xtb_labels_are_those_of_tblite_and_forces_their_derivatives(tmp_path):
    tblite = pytest.importorskip("tblite.ase")
    path = generate("ethanol", tmp_path / "a.extxyz", 4, every=5, equilibration=20)
    for atoms in ase.io.read(path, ":"):
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = tblite.TBLite(method="GFN2-xTB", accuracy=0.01, verbosity=0)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert_allclose(forces, atoms.get_forces(), atol=1e-4)
    atoms.positions[2, 1] += 1e-3
    above = atoms.get_potential_energy()
    atoms.positions[2, 1] -= 2e-3
    assert (atoms.get_potential_energy() - above) / 2e-3 == pytest.approx(forces[2, 1], abs=1e-4)
    # tblite's documentation has this energy of this geometry.
    water = structure("water")
    water.calc = module.xtb(water)
    assert water.get_potential_energy() == pytest.approx(-137.967776, abs=1e-5)


def test_with_xtb_too_an_interrupted_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    pytest.importorskip("tblite.ase")
    given = {"every": 4, "equilibration": 8.0}
    whole = generate("water", tmp_path / "a.xyz", 6, **given)
    calls = 0
    original = dynamics.advance

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 21:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(dynamics, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate("water", tmp_path / "b.xyz", 6, **given)
    generate("water", tmp_path / "b.xyz", 6, **given)
    assert calls == 21 + 12  # of 32 steps, 20 were kept
    assert (tmp_path / "b.xyz").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("atoms", "thermostat", "degrees"),
    [("water", "nose-hoover", 3), ("C20", "nose-hoover", 54), ("N2", "nose-hoover", 1)]
    + [("water", "langevin", 9)],
)
def test_a_thermostat_heats_what_moves(tmp_path, atoms, thermostat, degrees):
    settings = {"temperature": 500.0, "time_constant": 50.0, "thermostat": thermostat, "seed": 0}
    run = dynamics.Trajectory(structure(atoms), tmp_path / "a.xyz", settings, morse)
    assert run.thermostat.degrees == degrees
