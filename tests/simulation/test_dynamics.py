"""Dynamics against the package's own steps, known temperatures, and themselves resumed."""

import csv
import importlib.util
import json
import math
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read, write
from helpers import small_schnet

from pyg_schnet import Ensemble, SchNet
from pyg_schnet.analysis import plot_dynamics
from pyg_schnet.cli import main
from pyg_schnet.simulation import Calculator, Integrator, run_md, torch_sim_adapter, torch_sim_model
from pyg_schnet.simulation.calculator import energy_and_forces
from pyg_schnet.simulation.dynamics import THERMOSTATS
from pyg_schnet.simulation.stability import Point, verlet_step
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND

MODEL = "md17-ethanol"
SHORT = {"time": 0.05, "every": 10, "progress": False}


class Interrupted(Calculator):
    """Ctrl-C at an evaluation."""

    left = math.inf

    def calculate(self, *args, **options):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        super().calculate(*args, **options)


def interrupted_own(left, monkeypatch):
    """Ctrl-C within the own integrator, in the middle of a block of steps."""
    advance = Integrator.advance

    def cut(self, steps):
        nonlocal left
        if left < steps:
            advance(self, left)
            raise KeyboardInterrupt
        left -= steps
        return advance(self, steps)

    monkeypatch.setattr(Integrator, "advance", cut)


@pytest.fixture
def ethanol():
    return molecule("CH3CH2OH")


def log_of(path):
    with path.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_constant_energy_is_velocity_verlet(ethanol, tmp_path):
    done = run_md(MODEL, ethanol, tmp_path / "a.extxyz", **SHORT)
    frames = read(tmp_path / "a.extxyz", ":")
    assert (done.steps, done.frames, len(frames)) == (100, 11, 11)
    assert done.time == pytest.approx(0.05) and done.steps_per_second > 0
    evaluate, masses = energy_and_forces(MODEL, ethanol), ethanol.get_masses()[:, None]
    start = frames[0]
    point = Point(start.positions, start.get_momenta(), *evaluate(start.positions))
    log = log_of(tmp_path / "a.extxyz")
    for i, frame in enumerate(frames):
        if i:
            for _ in range(10):
                point = verlet_step(point, evaluate, masses, 0.5 * FEMTOSECOND)
        # The file has eight digits.
        np.testing.assert_allclose(frame.positions, point.positions, atol=1e-5)
        np.testing.assert_allclose(frame.get_velocities() * masses, point.momenta, atol=1e-4)
        np.testing.assert_allclose(frame.get_forces(), point.forces, atol=1e-3)
        assert frame.get_potential_energy() == pytest.approx(point.energy, abs=1e-4)
        kinetic = 0.5 * (point.momenta**2 / masses).sum()
        assert log["kinetic_energy_eV"][i] == pytest.approx(kinetic, abs=1e-4)
        assert log["temperature_K"][i] == pytest.approx(2 * kinetic / 21 / BOLTZMANN, abs=0.1)
        assert frame.info["time_ps"] == pytest.approx(0.005 * i) == log["time_ps"][i]
    total = log["potential_energy_eV"] + log["kinetic_energy_eV"]
    np.testing.assert_allclose(log["total_energy_eV"], total, atol=2e-9)
    assert np.ptp(total) < 0.01
    slope = np.polyfit(log["time_ps"], total - total[0], 1)[0]
    assert done.drift == pytest.approx(1000 * slope / 9, rel=1e-3)
    assert done.temperature == pytest.approx(log["temperature_K"].mean())
    np.testing.assert_allclose(frames[-1].get_momenta().sum(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(frames[0].get_angular_momentum(), 0.0, atol=1e-5)


def frames_in(path):
    """Of a trajectory that is not complete."""
    return len(read(f"{path}.part", ":", format="extxyz"))


@pytest.mark.parametrize("thermostat", THERMOSTATS)
@pytest.mark.parametrize("evaluation", [47, 60])
@pytest.mark.parametrize("engine", ["own", "ase"])
def test_resumed_is_uninterrupted_bit_for_bit(
    thermostat, evaluation, engine, ethanol, tmp_path, monkeypatch
):
    options = {**SHORT, "thermostat": thermostat, "seed": 3, "engine": engine}
    whole, cut = tmp_path / "whole.extxyz", tmp_path / "cut.extxyz"
    run_md(MODEL, ethanol, whole, **options)
    calculator = Interrupted(MODEL)
    calculator.left = evaluation
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if engine == "own":
            interrupted_own(evaluation - 1, patch)
        run_md(calculator, ethanol, cut, **options)
    assert not cut.exists() and frames_in(cut) == (evaluation - 1) // 10 + 1
    done = run_md(MODEL, ethanol, cut, **options)
    assert cut.read_bytes() == whole.read_bytes()
    assert cut.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()
    ours, theirs = (np.load(f"{path}.state.npz") for path in (cut, whole))
    for name in ("positions", "momenta", "generators"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert done.frames == 11 and int(ours["steps"]) == 100
    assert not (tmp_path / "cut.extxyz.part").exists()


@pytest.mark.parametrize("thermostat", ["none", "langevin"])
def test_a_crystal_is_resumed_bit_for_bit_though_its_neighbours_are_sought_anew(
    thermostat, tmp_path
):
    atoms = bulk("Si", cubic=True)
    options = {**SHORT, "thermostat": thermostat, "temperature": 3000.0, "time_constant": 20.0}
    whole, cut = tmp_path / "whole.extxyz", tmp_path / "cut.extxyz"
    model = small_schnet(torch.float32)
    run_md(model, atoms, whole, **options)
    run_md(model, atoms, cut, **{**options, "time": 0.025})
    run_md(model, atoms, cut, **options)
    assert cut.read_bytes() == whole.read_bytes()
    ours, theirs = (np.load(f"{path}.state.npz") for path in (cut, whole))
    np.testing.assert_array_equal(ours["momenta"], theirs["momenta"])
    assert np.abs(read(cut).positions - atoms.positions).max() > 0.3


def test_a_finished_run_is_left_alone_and_extended(ethanol, tmp_path):
    path = tmp_path / "a.extxyz"
    run_md(MODEL, ethanol, path, **SHORT)
    before = path.read_bytes()
    done = run_md(MODEL, ethanol, path, **SHORT)
    assert math.isnan(done.steps_per_second) and path.read_bytes() == before
    longer = run_md(MODEL, ethanol, path, **{**SHORT, "time": 0.08})
    assert longer.frames == 17 and path.read_bytes().startswith(before)
    with pytest.raises(ValueError, match="17 frames already"):
        run_md(MODEL, ethanol, path, **SHORT)


def test_files_that_belong_to_something_else_are_not_touched(ethanol, tmp_path):
    path = tmp_path / "a.extxyz"
    run_md(MODEL, ethanol, path, **SHORT)
    for option, value in {"temperature": 310.0, "seed": 1, "thermostat": "langevin"}.items():
        with pytest.raises(ValueError, match=f"begun with {option}="):
            run_md(MODEL, ethanol, path, **{**SHORT, option: value})
    moved = ethanol.copy()
    moved.rattle(0.01)
    with pytest.raises(ValueError, match="begun with structure="):
        run_md(MODEL, moved, path, **SHORT)
    with pytest.raises(ValueError, match="begun with model="):
        run_md(small_schnet(), ethanol, path, **SHORT)
    state = tmp_path / "a.extxyz.state.npz"
    kept = state.read_bytes()
    state.write_bytes(kept[:100])
    with pytest.raises(ValueError, match="is damaged"):
        run_md(MODEL, ethanol, path, **SHORT)
    state.unlink()
    with pytest.raises(ValueError, match="cannot be extended"):
        run_md(MODEL, ethanol, path, **SHORT)
    (tmp_path / "b.csv").write_text("mine\n")
    with pytest.raises(ValueError, match="b.csv exists"):
        run_md(MODEL, ethanol, tmp_path / "b.extxyz", **SHORT)
    assert (tmp_path / "b.csv").read_text() == "mine\n"
    state.write_bytes(kept)
    path.write_text("")
    with pytest.raises(ValueError, match="lacks frames"):
        run_md(MODEL, ethanol, path, **{**SHORT, "time": 0.06})


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_thermostats_hold_the_temperature(thermostat, ethanol, tmp_path):
    """With 3 N degrees of freedom for a molecule at rest it would be 386 K."""
    path = tmp_path / "a.extxyz"
    run_md(MODEL, ethanol, path, 4.0, thermostat=thermostat, time_constant=50.0, every=20,
           seed=1, progress=False)  # fmt: skip
    temperature = log_of(path)["temperature_K"]
    assert temperature[50:].mean() == pytest.approx(300.0, rel=0.1)
    # Of a canonical distribution, sqrt(2 / f).
    degrees = 27 if thermostat == "langevin" else 21
    assert temperature[50:].std() == pytest.approx(300 * math.sqrt(2 / degrees), rel=0.25)


def test_drawn_velocities_have_the_temperature_and_those_of_a_file_are_kept(tmp_path):
    atoms = bulk("Cu", cubic=True).repeat(4)
    options = {"time": 0.001, "every": 2, "progress": False}
    run_md(EMT(), atoms, tmp_path / "a.extxyz", temperature=500.0, **options)
    start = read(tmp_path / "a.extxyz", 0)
    # 765 degrees of freedom: five per cent is a standard deviation.
    assert start.get_temperature() == pytest.approx(500.0, rel=0.15)
    assert not np.allclose(start.get_momenta(), 0.0)
    run_md(EMT(), start, tmp_path / "b.extxyz", keep_velocities=True, **options)
    kept = read(tmp_path / "b.extxyz", 0).get_momenta()
    np.testing.assert_allclose(kept, start.get_momenta(), atol=1e-7)
    with pytest.raises(ValueError, match="no velocities"):
        run_md(EMT(), atoms, tmp_path / "c.extxyz", keep_velocities=True, **options)


def test_fixed_atoms_stay(ethanol, tmp_path):
    ethanol.set_constraint(FixAtoms([0]))
    for thermostat in THERMOSTATS:
        path = tmp_path / f"{thermostat}.extxyz"
        run_md(MODEL, ethanol, path, thermostat=thermostat, **SHORT)
        last = read(path)
        np.testing.assert_allclose(last.positions[0], ethanol.positions[0], atol=1e-8)
        assert np.abs(last.positions - ethanol.positions).max() > 0.01


def test_dynamics_that_explodes_ends_with_its_step(tmp_path):
    atoms = Atoms("Ar2", [[0, 0, 0], [0.9, 0, 0]])
    path = tmp_path / "a.extxyz"
    with pytest.raises(FloatingPointError, match=r"exploded in step \d+ \(0\.\d+ ps\): the energy"):
        run_md(LennardJones(epsilon=1.0, sigma=1.5), atoms, path, **SHORT)
    assert frames_in(path) >= 1

    class Hollow(LennardJones):
        def calculate(self, *args):
            super().calculate(*args)
            self.results["energy"] = math.nan if self.atoms.get_distance(0, 1) > 3.9 else 0.0

    atoms = Atoms("Ar2", [[0, 0, 0], [3.8, 0, 0]], momenta=[[-5.0, 0, 0], [5.0, 0, 0]])
    options = {**SHORT, "time": 1.0, "keep_velocities": True}
    with pytest.raises(FloatingPointError, match="the energy is nan"):
        run_md(Hollow(), atoms, tmp_path / "b.extxyz", **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [("time", 0.0), ("time", 0.001), ("timestep", -1.0), ("temperature", math.nan),
     ("thermostat", "andersen"), ("time_constant", 0.0), ("every", 0), ("seed", -1),
     ("replicas", 0), ("engine", "gromacs")],
)  # fmt: skip
def test_bad_options_are_refused(option, value, ethanol, tmp_path):
    with pytest.raises(ValueError, match=f"{option} must be"):
        run_md(MODEL, ethanol, tmp_path / "a.extxyz", **{**SHORT, option: value})
    with pytest.raises(ValueError, match="output must end in"):
        run_md(MODEL, ethanol, tmp_path / "a.traj")


@pytest.mark.parametrize("thermostat", THERMOSTATS)
def test_each_replica_is_the_run_of_its_seed(thermostat, ethanol, tmp_path, monkeypatch):
    options = {**SHORT, "thermostat": thermostat, "seed": 5}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_own(37, patch)
        run_md(MODEL, ethanol, tmp_path / "all.extxyz", replicas=3, **options)
    done = run_md(MODEL, ethanol, tmp_path / "all.extxyz", replicas=3, **options)
    assert [path.name for path in done.outputs] == [f"all-{r}.extxyz" for r in range(3)]
    assert done.output == done.outputs[0] and "3 replicas, 0.05 ps" in done.sentence()
    for r in range(3):
        single = tmp_path / f"single{r}.extxyz"
        run_md(MODEL, ethanol, single, **{**options, "seed": 5 + r})
        assert single.read_bytes() == done.outputs[r].read_bytes()
        log = done.outputs[r].with_suffix(".csv")
        assert single.with_suffix(".csv").read_bytes() == log.read_bytes()
    assert list(tmp_path.glob("all*.part")) == []
    longer = run_md(
        MODEL, ethanol, tmp_path / "all.extxyz", replicas=3, **{**options, "time": 0.06}
    )
    assert longer.frames == 13
    with pytest.raises(ValueError, match="begun with replicas=3"):
        run_md(MODEL, ethanol, tmp_path / "all.extxyz", replicas=2, **options)
    (tmp_path / "all.extxyz.state.npz").unlink()
    with pytest.raises(ValueError, match="all-0.extxyz exists"):
        run_md(MODEL, ethanol, tmp_path / "all.extxyz", replicas=3, **options)


def test_own_and_ase_move_alike(ethanol, tmp_path):
    for engine in ("own", "ase"):
        run_md(MODEL, ethanol, tmp_path / f"{engine}.extxyz", engine=engine, **SHORT)
    own, ase = (read(tmp_path / f"{engine}.extxyz", ":") for engine in ("own", "ase"))
    for ours, theirs in zip(own, ase):
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=2e-8)
        np.testing.assert_allclose(ours.get_momenta(), theirs.get_momenta(), atol=2e-8)


def test_frames_keep_cell_masses_and_periods(tmp_path):
    atoms = bulk("Si", cubic=True)
    atoms.set_masses([28.0, 29.0] * 4)
    atoms.pbc = [True, True, False]
    run_md(small_schnet(torch.float32), atoms, tmp_path / "a.extxyz", **SHORT)
    start = read(tmp_path / "a.extxyz", 0)
    np.testing.assert_array_equal(start.get_masses(), atoms.get_masses())
    np.testing.assert_array_equal(start.cell.array, atoms.cell.array)
    np.testing.assert_array_equal(start.pbc, atoms.pbc)
    np.testing.assert_array_equal(start.numbers, atoms.numbers)


def test_the_report_tells_what_the_frames_do(ethanol, tmp_path):
    options = {"thermostat": "langevin", "every": 8, "replicas": 2, "progress": False}
    done = run_md(MODEL, ethanol, tmp_path / "a.extxyz", 1.0, **options)
    found = json.loads(done.report.read_text())
    assert done.report == tmp_path / "a.json"
    assert (found["atoms"], found["degrees"], len(found["replicas"])) == (9, 27, 2)
    log = log_of(done.outputs[1])
    temperature = found["replicas"][1]["temperature"]
    assert temperature["mean"] == pytest.approx(log["temperature_K"].mean(), abs=0.01)
    assert temperature["expected_deviation"] == pytest.approx(
        temperature["mean"] * math.sqrt(2 / 27)
    )
    # 100 ps have 400 times as many frames as the log: the heat is counted to a few meV.
    assert abs(np.ptp(log["conserved_energy_eV"])) < 0.01 < np.ptp(log["total_energy_eV"])
    frames = read(done.outputs[0], ":") + read(done.outputs[1], ":")
    distances = [atoms.get_all_distances() for atoms in frames]
    across = found["diameter"]["centers"]
    assert max(d.max() for d in distances) == pytest.approx(across[-1], abs=0.02)
    spectrum = {name: np.array(values) for name, values in found["spectrum"].items()}
    stretched = (spectrum["centers"] > 2800) & (spectrum["centers"] < 3900)
    share = spectrum["density"][stretched].sum() / spectrum["density"].sum()
    assert share == pytest.approx(6 / 27, abs=0.12)  # of modes, those of bonds with hydrogen
    picture = plot_dynamics(done.report)
    assert picture == tmp_path / "a.png" and picture.read_bytes().startswith(b"\x89PNG")
    assert found["spectrum_hint"] is None

    done = run_md(MODEL, ethanol, tmp_path / "b.extxyz", **SHORT)
    hint = json.loads(done.report.read_text())["spectrum_hint"]
    assert "needs 100 frames" in hint
    done = run_md(MODEL, ethanol, tmp_path / "c.extxyz", 0.1, engine="ase", progress=False,
                  thermostat="langevin")  # fmt: skip
    found = json.loads(done.report.read_text())
    assert "every=10 or less" in found["spectrum_hint"]
    assert found["replicas"][0]["conservation"] is None
    assert plot_dynamics(done.report).exists()
    with pytest.raises(FileNotFoundError, match="no report at"):
        plot_dynamics(tmp_path / "nothing.json")


def test_a_crystal_has_a_report_too(tmp_path):
    model = small_schnet(torch.float32)
    done = run_md(model, bulk("Si", cubic=True), tmp_path / "a.extxyz", **SHORT)
    found = json.loads(done.report.read_text())
    assert found["diameter"] is None and found["nearest_neighbor"] is None
    g = np.array(found["radial"]["density"])
    assert g[-40:].mean() == pytest.approx(1.0, abs=0.15) and g[:10].max() == 0
    assert plot_dynamics(done.report).exists()


def test_engines_say_what_they_cannot_do(ethanol, tmp_path):
    fixed = ethanol.copy()
    fixed.set_constraint(FixAtoms([0]))
    for atoms, options, words in [
        (fixed, {"engine": "own"}, "has constraints"),
        (fixed, {"replicas": 2}, "engine='ase' moves one structure"),
    ]:
        with pytest.raises(ValueError, match=words):
            run_md(MODEL, atoms, tmp_path / "a.extxyz", **SHORT, **options)


def test_without_torch_sim_a_sentence_says_what_to_install(ethanol, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    torch_sim_adapter._model_class.cache_clear()
    with pytest.raises(ImportError, match="pip install torch-sim-atomistic"):
        run_md(MODEL, ethanol, tmp_path / "a.extxyz", engine="torch-sim", **SHORT)


class TestTorchSim:
    """torch-sim itself with potentials of this package."""

    @pytest.fixture(autouse=True)
    def installed(self):
        if importlib.util.find_spec("torch_sim") is None:
            pytest.skip("torch-sim is not installed")
        torch_sim_adapter._model_class.cache_clear()

    @pytest.mark.filterwarnings("ignore")
    def test_the_model_keeps_to_the_interface(self, dtype):
        from torch_sim.io import atoms_to_state
        from torch_sim.models.interface import validate_model_outputs

        model = torch_sim_model(small_schnet(dtype), stress=True)
        validate_model_outputs(model, torch.device("cpu"), torch.float64)
        crystals = [bulk("Si", cubic=True), bulk("Si")]
        crystals[0].rattle(0.1, seed=0)
        found = model(atoms_to_state(crystals, torch.device("cpu"), torch.float64))
        for r, crystal in enumerate(crystals):
            crystal.calc = Calculator(small_schnet(dtype))
            want = crystal.get_stress(voigt=False)
            np.testing.assert_allclose(found["stress"][r], want, rtol=1e-5, atol=1e-7)
            assert float(found["energy"][r]) == pytest.approx(crystal.get_potential_energy())

    @pytest.mark.filterwarnings("ignore")
    def test_it_moves_as_the_own_integrator_and_is_resumed(self, ethanol, tmp_path):
        for engine in ("own", "torch-sim"):
            path = tmp_path / f"{engine}.extxyz"
            run_md(MODEL, ethanol, path, engine=engine, replicas=2, **SHORT)
        ours, theirs = (read(tmp_path / f"{name}-1.extxyz") for name in ("own", "torch-sim"))
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=2e-8)
        options = {**SHORT, "engine": "torch-sim", "thermostat": "langevin"}
        whole, cut = tmp_path / "whole.extxyz", tmp_path / "cut.extxyz"
        run_md(MODEL, ethanol, whole, **options)
        for time in (0.02, 0.05):
            run_md(MODEL, ethanol, cut, **{**options, "time": time})
        assert whole.read_bytes() == cut.read_bytes()
        with pytest.raises(ValueError, match="does 'none' and 'langevin'"):
            run_md(MODEL, ethanol, tmp_path / "n.extxyz",
                   **{**options, "thermostat": "nose-hoover"})  # fmt: skip


def test_the_command_runs_is_interrupted_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write("ethanol.xyz", molecule("CH3CH2OH"))
    command = ["md", "ethanol.xyz", "--model", MODEL, "--time=0.05", "--every=10",
               "--thermostat", "nose-hoover", "--time-constant=50"]  # fmt: skip
    with monkeypatch.context() as patch:
        interrupted_own(34, patch)
        assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "0.05 ps in 100 steps: total energy drifts by" in out and "steps per second" in out
    assert "Wrote 11 frames to ethanol-md.extxyz, energies beside them in .csv" in out
    assert len(read("ethanol-md.extxyz", ":")) == 11

    assert main([*command, "--output=ethanol.xyz"]) == 2
    assert "must not be the file that is read" in capsys.readouterr().err
    write("chloride.xyz", molecule("CH3Cl"))
    assert main(["md", "chloride.xyz", "--model", MODEL]) == 2
    assert "knows nothing of Cl" in capsys.readouterr().err


def test_an_ensemble_stops_where_its_members_disagree(tmp_path):
    sizes = {"hidden_channels": 8, "num_filters": 8, "num_interactions": 1, "num_gaussians": 10}
    members = [SchNet(**sizes, cutoff=4.0, seed=seed) for seed in range(2)]
    start = molecule("H2O")
    common = {"time": 0.05, "every": 10, "progress": False, "report": False}
    whole = run_md(Ensemble(members), start, tmp_path / "whole.extxyz", **common)
    assert whole.frames == 11 and whole.stopped is None

    def largest(atoms):
        atoms = atoms.copy()
        atoms.calc = Calculator(Ensemble(members))
        atoms.get_forces()
        return np.sqrt((atoms.calc.results["forces_std"] ** 2).sum(1)).max()

    spreads = [largest(frame) for frame in read(whole.output, ":")]
    limit = 0.5 * (spreads[0] + max(spreads))
    first = next(k for k, spread in enumerate(spreads) if spread > limit)
    done = run_md(
        Ensemble(members), start, tmp_path / "early.extxyz", stop_on_uncertainty=limit, **common
    )
    assert done.frames == first + 1 == len(read(done.output, ":"))
    assert f"{spreads[first]:.3g} eV/Å" in done.stopped
    with pytest.raises(ValueError, match="needs an ensemble"):
        run_md(members[0], start, tmp_path / "one.extxyz", stop_on_uncertainty=1.0)
    with pytest.raises(ValueError, match="must be positive"):
        run_md(Ensemble(members), start, tmp_path / "one.extxyz", stop_on_uncertainty=0.0)
