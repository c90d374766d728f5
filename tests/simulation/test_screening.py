"""Screening: many structures in a stream, in order, resumable, bad ones named."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.db
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from helpers import random_molecule

from pyg_schnet import DTNN, Ensemble, Potential, SchNet, save
from pyg_schnet.cli import main
from pyg_schnet.simulation import atoms_to_data, predict_structures
from pyg_schnet.simulation import screening as screenings
from pyg_schnet.simulation.screening import screen
from pyg_schnet.simulation.screening_rows import formula
from pyg_schnet.simulation.structure_streams import Place, Structure, open_source

NAMES = ("H2O", "CH4", "NH3", "CH3OH", "C2H6", "HCN", "CO2", "CH3CH2OH", "C6H6")


def molecules(count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for k in range(count):
        one = molecule(NAMES[k % len(NAMES)])
        one.positions = np.round(one.positions + rng.normal(0, 0.05, one.positions.shape), 6)
        made.append(one)
    return made


def write_xyz(path, count, seed=0):
    write(path, molecules(count, seed), format="extxyz")
    return path


def network(**changes):
    return SchNet(8, 8, 2, 10, 5.0, mean=-3.0, seed=0, **changes)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def xyz(tmp_path):
    return write_xyz(tmp_path / "in.extxyz", 50)


def test_rows_are_those_of_one_prediction_after_the_other(xyz, tmp_path):
    model = network()
    want = list(predict_structures(map(atoms_to_data, read(xyz, ":")), model, forces=True))
    done = screen([xyz], model, tmp_path / "out.csv", forces=True, batch_atoms=60)
    got = rows_of(done.output)
    assert got[0] == ["index", "formula", "prediction (unit of the model)", "largest force (eV/Å)"]
    assert [row[:2] for row in got[1:]] == [[str(k), w["formula"]] for k, w in enumerate(want)]
    for row, one in zip(got[1:], want, strict=True):
        assert float(row[2]) == pytest.approx(one["prediction"], abs=2e-5)
        largest = np.linalg.norm(one["forces"], axis=1).max()
        assert float(row[3]) == pytest.approx(largest, abs=2e-5)
    assert (done.rows, done.skipped, done.resumed) == (50, 0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.extxyz", "out.csv"]


def test_files_of_all_kinds_give_the_same_and_stand_in_order(tmp_path):
    frames = [*molecules(7), bulk("NaCl", "rocksalt", a=5.6)]
    xyz, traj = tmp_path / "a.xyz", tmp_path / "a.traj"
    write(xyz, frames, format="extxyz")
    write(traj, frames)
    with ase.db.connect(tmp_path / "a.db") as db:
        for frame in frames:
            db.write(frame)
    model = network()
    held = [atoms_to_data(frame, torch.float64) for frame in frames]
    given = [xyz, traj, tmp_path / "a.db", held]
    got = rows_of(screen(given, model, tmp_path / "out.csv").output)
    assert got[0][0] == "file" and len(got) == 1 + 4 * 8
    blocks = [[row[1:] for row in got[1 + 8 * k : 9 + 8 * k]] for k in range(4)]
    assert [row[0] for row in blocks[0]] == [str(k) for k in range(8)]
    for block in blocks[1:]:
        assert [row[:2] for row in block] == [row[:2] for row in blocks[0]]
        values = [[float(row[2]) for row in of] for of in (block, blocks[0])]
        np.testing.assert_allclose(*values, atol=2e-5)
    assert blocks[0][-1][1] == "ClNa"


@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".db", ".xyz.gz"])
def test_a_stream_goes_on_at_any_place(tmp_path, suffix):
    frames = molecules(6)
    path = tmp_path / f"a{suffix}"
    if suffix == ".db":
        with ase.db.connect(path) as db:
            for frame in frames:
                db.write(frame)
    elif suffix == ".traj":
        write(path, frames)
    else:
        write(path, frames, format="extxyz")
    whole = list(open_source(path).read(Place()))
    assert [one.number for one in whole] == list(range(6))
    for k, one in enumerate(whole):
        np.testing.assert_allclose(one.structure.pos, frames[k].positions, atol=1e-7)
        rest = list(open_source(path).read(one.after))
        assert [other.number for other in rest] == list(range(k + 1, 6))
        if rest:
            assert np.array_equal(rest[0].structure.pos, whole[k + 1].structure.pos)


def test_frames_of_every_writing_are_read_as_by_ase(tmp_path):
    path = tmp_path / "odd.xyz"
    texts = [
        "2\n\nH 0 0 0\nO 0 0 1\n",
        "2\ncomment of words\nH 0 0 0 0.5\nO 0 0 1 0.5\n",
        '1\nLattice="3 0 0 0 3 0 0 0 3"\nHe 0 0 0\n',
        '1\nLattice="3 0 0 0 3 0 0 0 3" pbc="T F F"\nHe 0 0 0\n',
        '1\nLattice="3 0 0 0 3 0 0 0 3" pbc="F F F"\nHe 0 0 0\n',
        "1\nProperties=pos:R:3:species:S:1 energy=3\n0 0 7 He\n",
        '1\nProperties="species:S:1:pos:R:3:Z:I:1" name="two words"\nHe 1e0 -2.5E+00 3 2\n',
        "2\nProperties=Z:I:1:pos:R:3\n2 0 0 0\n10 0 0 3\n",
        '1\nLattice={1 0 0 0 2 0 0 0 3} config="a=b"\nHe 0 0 0\n',
    ]
    path.write_text("".join(texts))
    want = [read(_file(tmp_path, k, text), format="extxyz") for k, text in enumerate(texts)]
    got = [one.structure for one in open_source(path).read(Place())]
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        assert isinstance(ours, Structure), ours
        assert ours.z.tolist() == theirs.numbers.tolist()
        np.testing.assert_array_equal(ours.pos, theirs.positions)
        assert list(ours.pbc) == theirs.pbc.tolist()
        if theirs.pbc.any():
            np.testing.assert_array_equal(ours.cell, theirs.cell.array)


def _file(folder, k, text):
    path = folder / f"{k}.part.xyz"
    path.write_text(text)
    return path


BAD = {
    "a word for a number": ("2\n\nH 0 0 0\nO 0 zero 1\n", "cannot be read"),
    "not finite": ("1\n\nH 0 nan 0\n", "not finite"),
    "no element": ("2\n\nX 0 0 0\nH 0 0 1\n", "atomic number 0"),
    "no atoms": ("0\n\n", "no atoms"),
    "a line too few": ("3\n\nH 0 0 0\nO 0 0 1\n", "cannot be read"),
    "a line too many": ("1\n\nH 0 0 0\nO 0 0 1\n", "instead of its number"),
    "no number of atoms": ("H 0 0 0\nO 0 0 1\n", "instead of its number"),
    "far too many atoms": ("9999999\n\nH 0 0 0\n", "file ends before"),
    "two atoms at one place": ("2\n\nH 0 0 0\nO 0 0 0\n", "one point|same point|coincid"),
    "an unknown cell": ('1\npbc="T T T"\nH 0 0 0\n', "periodic"),
}


@pytest.mark.parametrize("text, reason", BAD.values(), ids=BAD)
def test_a_bad_structure_is_named_or_skipped_and_the_others_stay(tmp_path, text, reason):
    good = [write_xyz(tmp_path / f"{k}.xyz", 3, seed=k).read_text() for k in range(2)]
    path = tmp_path / "bad.xyz"
    path.write_text(good[0] + text + good[1])
    out = tmp_path / "out.csv"
    with pytest.raises(ValueError, match=rf"structure \d of .*bad\.xyz: .*({reason})"):
        screen([path], network(), out)
    # The same output goes on with skip_bad.
    told = []
    done = screen([path], network(), out, skip_bad=True, on_skip=told.append)
    # A line too many is a second bad piece between two good ones.
    assert done.rows == (
        7 if "too many" in str(reason) or text.startswith("1\n\nH 0 0 0\nO") else 6
    )
    assert done.skipped == len(told) == 1
    listed = rows_of(done.list)
    assert listed[0] == ["file", "index", "reason"] and listed[1][0] == str(path)
    assert re.search(reason, listed[1][2])
    formulas = [row[1] for row in rows_of(out)[1:]]
    assert formulas[:3] == ["H2O", "CH4", "H3N"] and formulas[-3:] == ["H2O", "CH4", "H3N"]


def test_a_file_that_is_cut_off_loses_its_last_structure_only(tmp_path):
    whole = write_xyz(tmp_path / "a.xyz", 4).read_bytes()
    (tmp_path / "a.xyz").write_bytes(whole[:-40])
    done = screen([tmp_path / "a.xyz"], network(), tmp_path / "out.csv", skip_bad=True)
    assert (done.rows, done.skipped) == (3, 1)


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 5000, b"\n\n\n", b"12"])
def test_a_file_of_something_else_is_no_trouble(tmp_path, content):
    path = tmp_path / "a.xyz"
    path.write_bytes(content)
    done = screen([path], network(), tmp_path / "out.csv", skip_bad=True)
    assert done.rows == 0 and done.skipped <= 1


def test_elements_the_model_has_not_seen_are_bad(tmp_path, xyz):
    save(network(), tmp_path / "m.safetensors", {"target": "E", "elements": ["H", "C", "O"]})
    from pyg_schnet import load

    model = load(tmp_path / "m.safetensors")
    done = screen([xyz], model, tmp_path / "out.csv", skip_bad=True, batch_atoms=50)
    with_n = sum("N" in one.symbols for one in read(xyz, ":"))
    assert done.skipped == with_n > 0 and done.rows == 50 - with_n
    assert "it holds N, and the model was trained on H, C, O only" in rows_of(done.list)[1][2]
    numbers = [int(row[0]) for row in rows_of(done.output)[1:]]
    assert numbers == [k for k, one in enumerate(read(xyz, ":")) if "N" not in one.symbols]


def test_an_interrupt_between_any_two_batches_changes_no_byte(xyz, tmp_path, monkeypatch):
    whole = screen([xyz, xyz], network(), tmp_path / "whole.csv", batch_atoms=40).output
    count = 0
    for stop in range(1, 12):
        out = tmp_path / "parts.csv"
        made = screenings.Predictor.__call__

        def interrupted(self, structures, stop=stop, made=made):
            nonlocal count
            count += 1
            if count % stop == 0:
                raise KeyboardInterrupt
            return made(self, structures)

        with monkeypatch.context() as patch:
            patch.setattr(screenings.Predictor, "__call__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                screen([xyz, xyz], network(), out, batch_atoms=40)
        assert not out.exists()
        # What a kill leaves behind what was saved is cut off.
        if (tmp_path / "parts.csv.part").exists():
            with (tmp_path / "parts.csv.part").open("ab") as file:
                file.write(b"17,half a li")
        done = screen([xyz, xyz], network(), out, batch_atoms=40)
        assert out.read_bytes() == whole.read_bytes() and done.rows == 100
        out.unlink()


KILLED = """
import sys, torch
torch.set_num_threads(1)
from pyg_schnet import SchNet
from pyg_schnet.simulation import screening
model = SchNet(8, 8, 2, 10, 5.0, mean=-3.0, seed=0)
screening.screen(sys.argv[1:2], model, sys.argv[2], batch_atoms=200, save_every=0.0, skip_bad=True)
"""


@pytest.mark.slow
def test_kill_minus_nine_and_the_same_command_give_the_same_bytes(tmp_path):
    path = write_xyz(tmp_path / "in.xyz", 3000)
    text = path.read_text().split("\n", 40)
    path.write_text("\n".join([*text[:40], "garbage here", text[40]]))
    whole = screen([path], network(), tmp_path / "whole.csv", batch_atoms=200, skip_bad=True)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(path), str(tmp_path / "out.csv")]
    part = tmp_path / "out.csv.part"
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while process.poll() is None:
        if part.exists() and part.read_bytes().count(b"\n") > 700:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    error = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, error
    done = screen([path], network(), tmp_path / "out.csv", batch_atoms=200, skip_bad=True)
    assert 600 < done.resumed < 3000 and done.rows == whole.rows == 2999
    assert (tmp_path / "out.csv").read_bytes() == whole.output.read_bytes()
    listed = [rows_of(tmp_path / f"{name}.skipped.csv") for name in ("out", "whole")]
    assert listed[0] == listed[1] and len(listed[0]) == 2
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("*.progress.json"))


MEMORY = """
import resource, sys, torch
torch.set_num_threads(1)
from pyg_schnet import SchNet
from pyg_schnet.simulation.screening import screen
for name in ("few", "many"):
    path, out = (f"{sys.argv[1]}/{name}{suffix}" for suffix in (".xyz", ".csv"))
    done = screen([path], SchNet(8, 8, 2, 10, 5.0, seed=0), out, batch_atoms=1000)
    print(done.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_structures(tmp_path):
    frames = write_xyz(tmp_path / "few.xyz", 2000).read_text()
    (tmp_path / "many.xyz").write_text(10 * frames)
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found[::2] == ["2000", "20000"]
    # MB; ASE's objects of all 20,000 would be fifty.
    assert (int(found[3]) - int(found[1])) / 1024 < 10


def test_another_screening_does_not_go_on_with_the_same_output(xyz, tmp_path, monkeypatch):
    made, calls = screenings.Predictor.__call__, []

    def interrupted(self, structures):
        calls.append(len(structures))
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return made(self, structures)

    out = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        patch.setattr(screenings.Predictor, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            screen([xyz], network(), out, batch_atoms=50)
    with pytest.raises(ValueError, match="other batch_atoms"):
        screen([xyz], network(), out)
    with pytest.raises(ValueError, match="other model; give the same again"):
        screen([xyz], SchNet(8, 8, 2, 10, 5.0, seed=1), out, batch_atoms=50)
    with pytest.raises(ValueError, match="other forces"):
        screen([xyz], network(), out, forces=True, batch_atoms=50)
    write_xyz(xyz, 51)
    with pytest.raises(ValueError, match="other inputs"):
        screen([xyz], network(), out, batch_atoms=50)
    (tmp_path / "out.csv.progress.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        screen([xyz], network(), out, batch_atoms=50)
    (tmp_path / "out.csv.progress.json").unlink()
    (tmp_path / "out.csv.part").write_text("something")
    with pytest.raises(ValueError, match="delete it"):
        screen([xyz], network(), out, batch_atoms=50)


def test_a_kill_in_the_first_second_leaves_nothing_in_the_way(xyz, tmp_path, monkeypatch):
    from pyg_schnet.simulation import screening_files

    want = screen([xyz], network(), tmp_path / "want.csv").output.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(screening_files.ScreeningFiles, "keep", lambda self: None)
        patch.setattr(screenings.Predictor, "__call__", lambda self, given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            screen([xyz], network(), tmp_path / "out.csv")
    assert (tmp_path / "out.csv.part").exists()
    assert screen([xyz], network(), tmp_path / "out.csv").output.read_bytes() == want


def test_what_fails_at_once_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nH 0 nan 0\n")
    with pytest.raises(ValueError, match="structure 0"):
        screen([tmp_path / "a.xyz"], network(), tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.xyz"]


def test_a_kill_between_the_last_moves_is_mended(xyz, tmp_path, monkeypatch):
    from pyg_schnet.simulation import screening_files

    want = screen([xyz], network(), tmp_path / "want.csv").output.read_bytes()
    out = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        patch.setattr(screening_files.ScreeningFiles, "finish", lambda self: self.close())
        screen([xyz], network(), out)
    assert not out.exists()
    os.replace(tmp_path / "out.csv.part", out)  # as far as a killed one may have come
    done = screen([xyz], network(), out)
    assert (done.rows, done.resumed) == (50, 50) and out.read_bytes() == want
    assert not (tmp_path / "out.csv.progress.json").exists()


def test_two_processes_do_not_write_one_output(xyz, tmp_path):
    import fcntl

    with (tmp_path / "out.csv.part").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process is writing it"):
            screen([xyz], network(), tmp_path / "out.csv")


def test_extended_xyz_holds_structures_energies_and_forces(tmp_path):
    frames = [*molecules(5), bulk("NaCl", "rocksalt", a=5.6, cubic=True)]
    write(tmp_path / "in.xyz", frames, format="extxyz")
    done = screen([tmp_path / "in.xyz"], network(), tmp_path / "out.extxyz", forces=True)
    potential = Potential(network()).eval()
    for frame, got in zip(frames, read(done.output, ":"), strict=True):
        want = potential(atoms_to_data(frame))
        assert got.get_potential_energy() == pytest.approx(float(want["energy"]), abs=2e-5)
        np.testing.assert_allclose(got.get_forces(), want["forces"].numpy(), atol=2e-5)
        np.testing.assert_allclose(got.positions, frame.positions, atol=1e-7)
        assert got.symbols.get_chemical_formula() == frame.symbols.get_chemical_formula()
        np.testing.assert_allclose(got.cell.array, frame.cell.array)


def test_ensembles_families_and_other_heads_have_their_columns(xyz, tmp_path):
    members = [SchNet(8, 8, 1, 10, 5.0, seed=seed) for seed in range(3)]
    got = rows_of(screen([xyz], Ensemble(members), tmp_path / "a.csv", forces=True).output)
    assert got[0][2:] == [
        "prediction (unit of the model)",
        "std (unit of the model)",
        "largest force (eV/Å)",
    ]
    one = atoms_to_data(read(xyz, 0))
    energies = [float(m(one.z, one.pos, dtype=torch.float64).detach()) for m in members]
    assert float(got[1][2]) == pytest.approx(np.mean(energies), abs=1e-5)
    assert float(got[1][3]) == pytest.approx(np.std(energies, ddof=1), abs=1e-5)
    dipole = SchNet(8, 8, 1, 10, 5.0, head="dipole", seed=0)
    family = {"U0": members[0], "mu": dipole, "dtnn": DTNN(8, 8, 2, 10, 5.0, seed=0)}
    got = rows_of(screen([xyz], family, tmp_path / "b.csv").output)
    assert [name.split(" ")[0] for name in got[0]] == ["index", "formula", "U0", "mu", "dtnn"]
    mu = float(dipole(one.z, one.pos, dtype=torch.float64).detach())
    assert float(got[1][3]) == pytest.approx(mu, abs=1e-5)
    with pytest.raises(ValueError, match="need one energy model"):
        screen([xyz], family, tmp_path / "c.csv", forces=True)
    with pytest.raises(ValueError, match="energies"):
        screen([xyz], dipole, tmp_path / "c.xyz")


def test_slices_count_from_the_beginning(xyz, tmp_path):
    for index, want in (
        ("3", [3]),
        ("5:9", [5, 6, 7, 8]),
        (":30:7", [0, 7, 14, 21, 28]),
        ("40::4", [40, 44, 48]),
    ):
        out = screen([xyz], network(), tmp_path / "out.csv", index=index).output
        assert [int(row[0]) for row in rows_of(out)[1:]] == want
    for index in ("-1", "-5:", "::0", "a", "::-1"):
        with pytest.raises(ValueError, match="count from its beginning"):
            screen([xyz], network(), tmp_path / "out.csv", index=index)


def test_batches_hold_no_more_than_they_are_to(tmp_path, monkeypatch):
    sizes = []
    made = screenings.Predictor.__call__

    def noted(self, structures):
        sizes.append([len(one.z) for one in structures])
        return made(self, structures)

    monkeypatch.setattr(screenings.Predictor, "__call__", noted)
    data = [random_molecule(n, n, torch.float32) for n in (30, 30, 30, 200, 5, 5)]
    screen([data], network(), tmp_path / "out.csv", batch_atoms=70)
    assert sizes == [[30, 30], [30], [200], [5, 5]]
    sizes.clear()
    monkeypatch.setattr(screenings, "BATCH_EDGES", 30 * 29 + 5)
    screen([data], network(), tmp_path / "out.csv", batch_atoms=10**6)
    assert sizes == [[30], [30], [30], [200], [5, 5]]


def test_formulas_are_those_of_ase():
    for name in NAMES:
        atoms = molecule(name)
        assert formula(atoms.numbers) == f"{atoms.symbols.formula:hill}"
    assert formula(np.array([11, 17])) == "ClNa"


def test_arguments_that_cannot_be_are_refused(xyz, tmp_path):
    with pytest.raises(ValueError, match="output must end in"):
        screen([xyz], network(), tmp_path / "out.parquet")
    with pytest.raises(ValueError, match="one of the inputs"):
        screen([xyz], network(), xyz)
    with pytest.raises(ValueError, match="batch_atoms must be at least 1, got 0"):
        screen([xyz], network(), tmp_path / "out.csv", batch_atoms=0)
    with pytest.raises(ValueError, match="must be a SchNet or a DTNN"):
        screen([xyz], torch.nn.Linear(1, 1), tmp_path / "out.csv")
    with pytest.raises(FileNotFoundError, match="no structure file"):
        screen([tmp_path / "none.xyz"], network(), tmp_path / "out.csv")


def test_the_command_screens_and_tells_of_what_it_left_out(tmp_path, capsys):
    path = write_xyz(tmp_path / "in.xyz", 20)
    path.write_text(path.read_text() + "1\n\nH 0 nan 0\n")
    model = tmp_path / "m.safetensors"
    save(network(), model, {"target": "E", "unit": "eV"})
    out = tmp_path / "out.csv"
    command = ["predict", str(path), "--model", str(model), "--batch"]
    assert main(command) == 2
    assert "--batch needs --output" in capsys.readouterr().err
    command += ["--output", str(out)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "structure 20 of" in error and "--skip_bad" in error and not out.exists()
    assert main([*command, "--skip-bad", "true"]) == 1
    told = capsys.readouterr()
    assert "left out structure 20" in told.err and "Wrote 20 predictions" in told.out
    plain = tmp_path / "plain.csv"
    short = write_xyz(tmp_path / "good.xyz", 20)
    assert main(["predict", str(short), "--model", str(model), "--output", str(plain)]) == 0
    values = [[float(row[2]) for row in rows_of(of)[1:]] for of in (out, plain)]
    np.testing.assert_allclose(*values, atol=2e-5)
    assert rows_of(out)[0] == rows_of(plain)[0] == ["index", "formula", "E (eV)"]


def test_the_command_takes_crystals_and_folders_of_data_sets(tmp_path, capsys):
    from pyg_schnet.datasets import Trajectories

    save(network(), tmp_path / "m.safetensors", {"target": "E", "unit": "eV"})
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    write(tmp_path / "a.cif", crystal)
    frames = [molecule("H2O"), molecule("CH4")]
    write(tmp_path / "b.xyz", frames, format="extxyz")
    for name, in_memory in (("memory", True), ("disk", False)):
        Trajectories(tmp_path / "b.xyz", False, root=tmp_path / name, in_memory=in_memory)
    files = [str(tmp_path / name) for name in ("a.cif", "memory", "disk", "b.xyz")]
    out = tmp_path / "out.csv"
    command = ["--model", str(tmp_path / "m.safetensors"), "--batch", "--output", str(out)]
    assert main(["predict", *files, *command]) == 0
    rows = rows_of(out)[1:]
    assert [row[2] for row in rows] == ["ClNa", *["H2O", "CH4"] * 3]
    values = [float(row[3]) for row in rows]
    np.testing.assert_allclose(values[1:3] * 2, values[3:], atol=2e-5)
    (want,) = predict_structures([atoms_to_data(crystal)], network())
    assert values[0] == pytest.approx(want["prediction"], abs=2e-5)
    assert "Wrote 7 predictions" in capsys.readouterr().out


def test_progress_of_a_screening_is_plain_json(xyz, tmp_path, monkeypatch):
    kept = []
    from pyg_schnet.simulation import screening_files

    replace = os.replace

    def noted(source, target):
        if Path(target).name.endswith("progress.json"):
            kept.append(json.loads(Path(source).read_text()))
        replace(source, target)

    monkeypatch.setattr(screening_files.os, "replace", noted)
    screen([xyz], network(), tmp_path / "out.csv", batch_atoms=100, save_every=0.0)
    rows = [one["progress"]["rows"] for one in kept]
    assert rows == sorted(rows) and rows[-1] == 50 and len(rows) > 3
    assert kept[-1]["done"] and not kept[0]["done"]


def test_atoms_with_a_flat_cell_are_predicted(tmp_path):
    """A slab in ASE's manner: periodic in a plane, its third vector zero."""
    slab = Atoms("Na2", [[0, 0, 0], [2, 2, 1]], cell=[4, 4, 0], pbc=[True, True, False])
    write(tmp_path / "slab.traj", slab)
    done = screen([tmp_path / "slab.traj"], network(), tmp_path / "out.csv")
    (want,) = predict_structures([atoms_to_data(slab)], network())
    assert float(rows_of(done.output)[1][2]) == pytest.approx(want["prediction"], abs=2e-5)
