"""Path integrals with i-PI itself: run, killed on either side, interrupted, resumed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.harmonic import SpringCalculator
from ase.constraints import FixAtoms
from ase.io import read
from helpers import small_schnet

from pyg_schnet.simulation import Calculator, pimd, pimd_processes, run_pimd
from pyg_schnet.simulation.ipi_input import PROPERTIES
from pyg_schnet.simulation.pimd_files import PimdFiles, blocked

pytest.importorskip("ipi", reason="i-PI is not installed")

MODEL = "md17-ethanol"
OPTIONS = {"time": 0.1, "every": 10, "progress": False}
PATIENCE = 60


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Sockets of the test alone, so that one left behind is seen."""
    where = tmp_path / "t"
    where.mkdir()
    monkeypatch.setattr(pimd_processes.tempfile, "tempdir", str(where))
    monkeypatch.setenv("TMPDIR", str(where))
    yield where
    assert not list(where.glob("pimd-*"))


def at_step(monkeypatch, step, act):
    """Call ``act`` with the processes once so many steps of a run are done; returns them."""
    seen = []
    hear = pimd.Processes.hear

    def listen(self, seconds):
        for said in hear(self, seconds):
            yield said
            if said.get("structures", 0) >= 8 * step and not seen:
                seen.append((self._server.pid, self._driver.pid))
                act(self)

    monkeypatch.setattr(pimd.Processes, "hear", listen)
    return seen


def gone(pids):
    """Whether none of the processes is left; those of others need not be waited for."""
    for pid in pids:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            continue
        return False
    return True


def start_and_kill_the_command(out, places):
    """As a user's script, killed once there is a checkpoint."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from ase.build import molecule\n"
        "from pyg_schnet.simulation import run_pimd\n"
        f"run_pimd({MODEL!r}, molecule('CH3CH2OH'), {str(out)!r}, 1000.0, every=10)\n"
    )
    parent = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code])
    try:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not list(out.glob("pimd.checkpoint_*")):
            assert parent.poll() is None
            time.sleep(0.02)
    finally:
        parent.kill()
        parent.wait()
    # The lock is free once i-PI and the driver have ended.
    with pimd_processes.locked(out):
        assert not list(places.glob("pimd-*")) and (out / "RESTART").exists()
    return PimdFiles(out, 9).table()


def test_eight_beads_survive_kills_of_either_side_and_of_the_command(tmp_path, places, monkeypatch):
    """200 steps and more in four calls: each end is told, and what follows joins on."""
    out, ethanol = tmp_path / "out", molecule("CH3CH2OH")
    first = start_and_kill_the_command(out, places)
    steps = int(first[-1, 0]) // 100 * 100 + 300
    options = {**OPTIONS, "time": 5e-4 * steps}

    def kill(which):
        return lambda running: os.kill(getattr(running, which).pid, signal.SIGKILL)

    ends = []
    for which, name in (("_server", "i-PI"), ("_driver", "the driver")):
        with monkeypatch.context() as patch:
            seen = at_step(patch, 25, kill(which))
            with pytest.raises(ChildProcessError, match=rf"^{name} was killed \(SIGKILL\)") as e:
                run_pimd(MODEL, ethanol, out, **options)
        assert gone(seen[0]) and not (out / "beads.extxyz").exists()
        ends.append(int(str(e.value).split("same command goes on from step ")[1].split(".")[0]))
    # A killed i-PI loses what lies behind its checkpoint, a living one writes its state.
    assert first[-1, 0] <= ends[0] <= ends[1] - 20 and ends[1] < steps
    done = run_pimd(MODEL, ethanol, out, **options)

    frames = steps // 10 + 1
    assert (done.steps, done.frames, done.beads) == (steps, frames, 8) and steps >= 200
    table = PimdFiles(out, 9).table()
    np.testing.assert_array_equal(table[:, 0], np.arange(0, steps + 1, 10))
    np.testing.assert_array_equal(table[: len(first)], first)
    np.testing.assert_allclose(table[:, 1], 5e-4 * table[:, 0], rtol=1e-6)
    assert table.shape[1] == len(PROPERTIES) + 8
    np.testing.assert_allclose(table[:, 6:].mean(1), table[:, 3], rtol=1e-12)
    # All beads begin on one point, with the classical kinetic energy, and spread.
    assert table[0, 4] == pytest.approx(done.classical_kinetic_energy, rel=1e-5)
    assert table[10:, 4].mean() > 2 * done.classical_kinetic_energy
    assert 200 < done.temperature.mean < 400 and done.temperature.error > 0
    # Zero where nothing is lost, also at the seams; the beads' kinetic energy is 2.8 eV.
    assert np.ptp(table[:, 5]) < 0.05
    assert done.kinetic_energy.mean == pytest.approx(table[-(-frames // 10) :, 4].mean())

    beads, centroids = read(done.trajectory, ":"), read(done.centroids, ":")
    assert len(beads) == 8 * frames and len(centroids) == frames
    calculator = Calculator(MODEL)
    for k in (0, 85, 8 * frames - 1):
        frame = beads[k]
        assert (frame.info["step"], frame.info["bead"]) == (10 * (k // 8), k % 8)
        assert frame.symbols.get_chemical_formula() == "C2H6O"
        energy = calculator.get_potential_energy(frame)
        assert frame.get_potential_energy() == pytest.approx(energy, abs=1e-4)
        mean = np.mean([b.positions for b in beads[k - k % 8 : k - k % 8 + 8]], 0)
        np.testing.assert_allclose(centroids[k // 8].positions, mean, atol=1e-7)
    np.testing.assert_allclose(beads[0].positions, ethanol.positions, atol=1e-8)
    assert np.std([b.positions for b in beads[-8:]], 0).max() > 0.05
    with open(out / "energies.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[7]["potential_energy_eV"]) == pytest.approx(table[7, 3], abs=1e-8)
    report = json.loads(done.report.read_text())
    assert report["temperature"]["mean"] == done.temperature.mean
    assert report["settings"]["thermostat"] == "pile_g"
    assert f"of 8 beads in {steps} steps" in done.sentence()
    assert len(list(out.glob("pimd.checkpoint_*"))) <= 2 and not list(out.glob("#*"))

    # Nothing left to do: no process is started.
    monkeypatch.setattr(pimd.Processes, "_start", None)
    again = run_pimd(MODEL, ethanol, out, **options)
    assert again.kinetic_energy == done.kinetic_energy and np.isnan(again.steps_per_second)
    for option, value in {"temperature": 310.0, "beads": 4, "thermostat": "pile_l"}.items():
        with pytest.raises(ValueError, match=f"begun with {option}="):
            run_pimd(MODEL, ethanol, out, **{**options, option: value})
    with pytest.raises(ValueError, match=f"{steps} steps already"):
        run_pimd(MODEL, ethanol, out, **{**OPTIONS, "time": 0.05})


def test_a_crystal_is_interrupted_and_keeps_its_frame(tmp_path, monkeypatch):
    out, atoms = tmp_path / "out", bulk("Si")
    spring = SpringCalculator(atoms.positions, 5.0)
    options = {"beads": 3, "every": 5, "transport": "tcp", "progress": False}

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        seen = at_step(patch, 20, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_pimd(spring, atoms, out, time=100.0, **options)
    assert gone(seen[0]) and (out / "RESTART").exists()
    files = PimdFiles(out, 2)
    steps = int(files.table()[-1, 0])
    assert steps >= 50
    # All that was done is kept: nothing is left to do for a call with as many steps.
    monkeypatch.setattr(pimd.Processes, "_start", None)
    done = run_pimd(spring, atoms, out, time=5e-4 * steps, **options)
    assert done.frames == steps // 5 + 1 == files.frames()
    for frame in read(done.trajectory, ":")[-3:]:
        np.testing.assert_allclose(frame.cell.array, atoms.cell.array, atol=1e-7)
        away = frame.positions - atoms.positions
        assert frame.pbc.all() and np.abs(away).max() > 0.01
        # The springs know where they are fixed.
        assert frame.get_potential_energy() == pytest.approx(2.5 * (away**2).sum(), abs=1e-6)


def test_failures_are_told_in_a_sentence(tmp_path, monkeypatch):
    atoms = molecule("H2")
    atoms.positions[1] = atoms.positions[0] + 1e-3
    with pytest.raises((ValueError, FloatingPointError)) as e:
        run_pimd(SpringCalculator(np.full((2, 3), np.nan), 1.0), atoms, tmp_path / "a", **OPTIONS)
    assert "not finite" in str(e.value)

    class Local(SpringCalculator):
        pass

    with pytest.raises(ValueError, match="pickled"):
        run_pimd(Local(atoms.positions, 1.0), atoms, tmp_path / "b", **OPTIONS)
    fixed = atoms.copy()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="constraints"):
        run_pimd(small_schnet(), fixed, tmp_path / "c", **OPTIONS)
    for option, value in {"time": 0.0, "timestep": -1.0, "beads": 0, "transport": "mpi"}.items():
        with pytest.raises(ValueError, match=f"{option} must be"):
            run_pimd(small_schnet(), atoms, tmp_path / "c", **{**OPTIONS, option: value})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder"):
        run_pimd(small_schnet(), atoms, tmp_path / "file", **OPTIONS)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "pimd.properties").write_text("mine\n")
    with pytest.raises(ValueError, match="no settings.json"):
        run_pimd(small_schnet(), atoms, tmp_path / "d", **OPTIONS)
    monkeypatch.setattr(pimd_processes, "_GRACE", 0.3)
    with (
        pimd_processes.locked(tmp_path / "d"),
        pytest.raises(ValueError, match="Another process works"),
    ):
        run_pimd(small_schnet(), atoms, tmp_path / "d", **OPTIONS)
    monkeypatch.setattr(pimd.importlib.metadata, "version", lambda _: "3.2.0")
    with pytest.raises(ImportError, match="i-PI 3.3 or newer"):
        run_pimd(small_schnet(), atoms, tmp_path / "e", **OPTIONS)
    assert not (tmp_path / "e").exists() and not (tmp_path / "c").exists()


def test_errors_of_correlated_series():
    """Of an autoregressive series they are larger by sqrt((1 + a) / (1 - a))."""
    rng, a = np.random.default_rng(0), 0.9
    noise = rng.normal(size=100_000)
    series = np.empty_like(noise)
    value = 0.0
    for i, kick in enumerate(noise):
        value = series[i] = a * value + kick
    want = series.std() / np.sqrt(len(series)) * np.sqrt((1 + a) / (1 - a))
    found = blocked(series)
    assert found.mean == series.mean() and found.error == pytest.approx(want, rel=0.35)
    assert np.isnan(blocked(series[:7]).error) and np.isnan(blocked(series[:0]).mean)
