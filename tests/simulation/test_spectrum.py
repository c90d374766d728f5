"""Spectra of trajectories against oscillators that are known and harmonic lines."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from ase.io.trajectory import Trajectory
from helpers import rotation

from pyg_schnet.analysis.spectra import plot_motion_spectrum
from pyg_schnet.cli import main
from pyg_schnet.simulation import run_md
from pyg_schnet.simulation.spectrum import (
    Motion,
    harmonic_lines,
    internal_velocities,
    motion_spectrum,
    read_motion,
)
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND, HBAR, INVERSE_CM

MODEL = "md17-ethanol"


def oscillations(atoms, modes, lines, masses, times, energy=0.02, phases=None):
    """Positions and velocities of harmonic modes of the same energy; fs, eV."""
    omega = lines * INVERSE_CM / HBAR  # per ASE's time
    t = times * FEMTOSECOND
    phases = np.zeros(len(lines)) if phases is None else phases
    size = np.sqrt(2 * energy) / omega
    angle = omega * t[:, None] + phases
    pos = atoms.positions + np.einsum("sk,kna->sna", size * np.sin(angle), modes)
    return pos, np.einsum("sk,kna->sna", size * omega * np.cos(angle), modes)


@pytest.fixture(scope="module")
def ethanol():
    return harmonic_lines(MODEL, molecule("CH3CH2OH"), progress=False)


def test_peaks_of_harmonic_motion_are_at_its_lines_however_the_molecule_turns(ethanol):
    """Turning takes place at 40 cm^-1 and would split each line by twice that."""
    apart = ethanol.frequencies[[0, 2, 3, 5, 8, 16, 20]]
    modes = ethanol.modes[[0, 2, 3, 5, 8, 16, 20]]
    times = 1.0 * np.arange(6000)
    # So little that a mode, which is a straight line, does not turn the molecule.
    pos, vel = oscillations(ethanol.atoms, modes, apart, ethanol.masses, times, energy=1e-8)
    rate = 40 * INVERSE_CM / HBAR * FEMTOSECOND
    c, s = np.cos(rate * times), np.sin(rate * times)
    turn = np.zeros((len(times), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = c
    turn[:, 0, 1], turn[:, 1, 0], turn[:, 2, 2] = -s, s, 1.0
    spin = np.array([0.0, 0.0, rate / FEMTOSECOND])
    turned = np.einsum("sab,snb->sna", turn, pos)
    moved = np.einsum("sab,snb->sna", turn, vel) + np.cross(spin, turned) + [0.1, 0.0, 0.2]
    motion = Motion(ethanol.atoms, turned, moved, 1.0)
    found = motion_spectrum([motion], skip=0.0, correlation=3.0)
    np.testing.assert_allclose(found.peaks(0.1), apart, atol=1.0)
    assert found.density.sum() * found.wavenumbers[1] == pytest.approx(1.0)
    assert found.resolution == pytest.approx(33356.4 / 3000, rel=1e-4)
    # All modes have the same energy, half of it kinetic, and so the same area.
    for line in apart:
        near = abs(found.wavenumbers - line) < 2 * found.resolution
        area = found.density[near].sum() * found.wavenumbers[1]
        assert area == pytest.approx(1 / len(apart), rel=0.05)
    assert found.temperature == pytest.approx(7 * 1e-8 / (21 * BOLTZMANN), rel=0.02)
    turning = motion._replace(velocities=moved - [0.1, 0.0, 0.2])
    whole = motion_spectrum([turning], skip=0.0, correlation=3.0, rigid=True)
    assert whole.density.argmax() * whole.wavenumbers[1] == pytest.approx(40.0, abs=6.0)


def test_internal_velocities_are_those_of_shapes_alone(ethanol):
    rng = np.random.default_rng(0)
    pos, m = ethanol.atoms.positions, ethanol.masses
    inner = rng.standard_normal(9 * 3).reshape(9, 3)
    inner = internal_velocities(pos[None], inner[None], m)[0]
    assert abs((m[:, None] * inner).sum(0)).max() < 1e-12
    assert abs((m[:, None] * np.cross(pos - m @ pos / m.sum(), inner)).sum(0)).max() < 1e-10
    turn = rotation(3).numpy()
    frames = np.stack([pos, pos @ turn.T + [3.0, 1.0, 0.0]])
    moving = np.stack([inner, inner @ turn.T + np.cross([0.3, 0.1, 0.2], frames[1])])
    np.testing.assert_allclose(internal_velocities(frames, moving, m), [inner, inner], atol=1e-10)
    line = np.array([[[0.0, 0, 0], [0, 0, 1.1]]])
    stretch = np.array([[[0.0, 0, -1.0], [0, 0, 1.0]]])
    kept = internal_velocities(line, stretch + np.cross([1.0, 0, 0], line), np.ones(2))
    np.testing.assert_allclose(kept, stretch, atol=1e-12)


def test_cold_ethanol_vibrates_at_its_harmonic_lines(ethanol, tmp_path, capsys):
    """At 10 K; velocity Verlet shifts lines to 2/t arcsin(w t / 2)."""
    done = run_md(
        *(MODEL, ethanol.atoms, tmp_path / "cold.extxyz", 4.4, 20.0, 0.5),
        **{"every": 6, "replicas": 2, "report": False, "progress": False},
    )
    found = motion_spectrum(done.outputs, correlation=2.0)
    t = 0.5 * FEMTOSECOND
    lines = 2 / t * np.arcsin(0.5 * t * ethanol.frequencies * INVERSE_CM / HBAR)
    lines *= HBAR / INVERSE_CM
    peaks = found.peaks(0.03)
    assert len(peaks) >= 8 and found.temperature == pytest.approx(10.0, rel=0.3)
    assert max(abs(lines - peak).min() for peak in peaks) < 0.3 * found.resolution
    assert (abs(lines - peaks.max()).argmin(), peaks.max() > 3700) == (20, True)

    out, files = tmp_path / "a.png", ",".join(map(str, done.outputs))
    words = ["--trajectory", files, "--model", MODEL, "--correlation", "2", "--out", str(out)]
    assert main(["analyze", "spectrum", *words]) == 0
    assert capsys.readouterr().out == f"Wrote {out}\nWrote {tmp_path / 'a.csv'}\n"
    head = (tmp_path / "a.csv").read_text().splitlines()
    shown = np.array(head[1].removeprefix("# harmonic: ").split(), dtype=float)
    np.testing.assert_allclose(shown, ethanol.frequencies, atol=0.5)
    assert out.stat().st_size > 10_000


def test_any_trajectory_with_momenta_is_read(tmp_path):
    n2 = molecule("N2")
    mode = np.array([[[0.0, 0, 1], [0, 0, -1]]]) / np.sqrt(2 * 14.007)
    args = n2, mode, np.array([2330.0]), n2.get_masses(), 2.0 * np.arange(3000)
    pos, vel = oscillations(*args)
    with Trajectory(tmp_path / "a.traj", "w") as file:
        for p, v in zip(pos, vel):
            frame = Atoms("N2", p)
            frame.set_velocities(v)
            file.write(frame)
    motion = read_motion(tmp_path / "a.traj")
    np.testing.assert_allclose(motion.velocities, vel, atol=1e-12)
    assert motion.interval is None
    with pytest.raises(ValueError, match="give interval"):
        motion_spectrum([motion])
    found = motion_spectrum([motion], interval=2.0)
    np.testing.assert_allclose(found.peaks(), [2330.0], atol=1.0)
    assert plot_motion_spectrum(found.wavenumbers, found.density, tmp_path / "a.pdf").exists()


def test_what_cannot_be_is_told(ethanol, tmp_path, capsys):
    still = np.repeat(ethanol.atoms.positions[None], 200, 0)
    motion = Motion(ethanol.atoms, still, 0 * still, 1.0)
    write(tmp_path / "no.xyz", [ethanol.atoms] * 2, format="xyz")
    for call, word in (
        (lambda: motion_spectrum([]), "empty"),
        (lambda: motion_spectrum([motion], skip=1.0), "skip must"),
        (lambda: motion_spectrum([motion], correlation=0.0), "correlation must"),
        (lambda: motion_spectrum([motion], skip=0.6), "needs 100 frames, got 80"),
        (lambda: motion_spectrum([motion], interval=6.0), "at most 5 fs"),
        (lambda: motion_spectrum([motion, motion._replace(interval=2.0)]), "differ"),
        (lambda: motion_spectrum([motion, motion._replace(atoms=molecule("N2"))]), "same atoms"),
        (lambda: read_motion(tmp_path / "no.xyz"), "no momenta"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    assert main(["analyze", "spectrum", "--trajectory", str(tmp_path / "x.traj")]) == 2
    assert "no trajectory at" in capsys.readouterr().err
