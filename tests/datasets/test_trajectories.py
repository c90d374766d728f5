"""Trajectories from files that ASE and numpy write here, and from real ones where they are."""

import bz2
import gzip
import sqlite3
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from torch.testing import assert_close
from torch_geometric.loader import DataLoader

from pyg_schnet.datasets import MD17, Trajectories

REAL = Path(__file__).resolve().parents[2] / "../shared/data"
HARTREE, BOHR, KCAL, GPA = (
    27.211386024367243,
    0.5291772105638411,
    0.04336410390059322,
    1 / 160.21766,
)


def crystals(count=5, stress=True):
    frames = []
    for k in range(count):
        atoms = bulk("Cu", cubic=True) * (1, 1, 1 + k % 2)
        atoms.set_cell(atoms.cell * (0.98 + 0.01 * k), scale_atoms=True)
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if stress:
            results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def molecules(count=3):
    rng = np.random.default_rng(0)
    frames = []
    for k in range(count):
        atoms = Atoms("OH2" if k % 2 else "NH3", rng.normal(0, 1, (3 if k % 2 else 4, 3)))
        forces = rng.normal(0, 1, (len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-2000.123456789012 - k, forces=forces)
        frames.append(atoms)
    return frames


def check(data, frames, atol=1e-6):
    assert len(data) == len(frames)
    for k, (found, atoms) in enumerate(zip(data, frames)):
        results = atoms.calc.results
        assert found.z.tolist() == atoms.numbers.tolist()
        assert_close(found.pos, torch.from_numpy(atoms.positions).float(), rtol=0, atol=atol)
        assert found.energy.dtype == torch.float64
        assert_close(found.energy.item(), results["energy"], rtol=1e-14, atol=0)
        assert_close(
            found.forces, torch.from_numpy(results["forces"]).float(), rtol=1e-5, atol=atol
        )
        assert found.idx.tolist() == [k]
        if "stress" in results:
            full = torch.from_numpy(atoms.get_stress(voigt=False))
            assert_close(found.stress[0], full, rtol=0, atol=1e-8)
            assert_close(found.cell[0], torch.from_numpy(atoms.cell.array).float())
            assert found.pbc.tolist() == [[True] * 3]


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db", "a.extxyz.gz", "a.xyz.bz2"])
def test_every_format_gives_the_frames_that_were_written(tmp_path, name):
    frames = crystals()
    path = tmp_path / name
    if path.suffix in (".gz", ".bz2"):
        plain = path.with_suffix("")
        ase.io.write(plain, frames, format="extxyz")
        packed = {".gz": gzip, ".bz2": bz2}[path.suffix].compress(plain.read_bytes())
        path.write_bytes(packed)
    else:
        ase.io.write(path, frames)
    data = Trajectories(path)
    check(data, frames, atol=1e-6)
    # Stress is the derivative of the energy to strain over the volume: negative when compressed.
    assert data[0].stress[0].trace() < 0 < data[4].stress[0].trace()
    assert data.split_names == ()


VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <kpoints><varray name="kpointlist"><v>0 0 0</v></varray>
  <varray name="weights"><v>1</v></varray></kpoints>
 <atominfo><atoms>1</atoms><types>1</types>
  <array name="atoms"><set><rc><c>H </c><c>1</c></rc></set></array>
 </atominfo>
 <structure name="initialpos">
  <crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
  <varray name="positions"><v>0 0 0</v></varray>
 </structure>
 {}
</modeling>"""
CALCULATION = """<calculation>
  <scstep><energy><i name="e_fr_energy">{free}</i><i name="e_wo_entrp">-1.0</i>
   <i name="e_0_energy">{energy}</i></energy></scstep>
  <structure>
   <crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
   <varray name="positions"><v>0.25 0 0</v></varray>
  </structure>
  <varray name="forces"><v>0.5 0 0</v></varray>
  <varray name="stress"><v>10 0 1</v><v>0 10 0</v><v>1 0 10</v></varray>
  <energy><i name="e_fr_energy">{free}</i><i name="e_wo_entrp">-1.0</i>
   <i name="e_0_energy">{energy}</i></energy>
 </calculation>"""


def test_vasp_outputs_are_read_in_ases_units_and_signs(tmp_path):
    path = tmp_path / "vasprun.xml"
    steps = [CALCULATION.format(free=-3.5 - k, energy=-3.25 - k) for k in range(2)]
    path.write_text(VASPRUN.format("\n ".join(steps)))
    data = Trajectories(path)
    assert data.energy.tolist() == [-3.25, -4.25]
    assert Trajectories(path, "free_energy").energy.tolist() == [-3.5, -4.5]
    assert_close(data[1].pos, torch.tensor([[1.0, 0, 0]]))
    assert data[1].forces.tolist() == [[0.5, 0, 0]]
    # 10 kB of VASP is a pressure.
    expected = -torch.tensor([[[10.0, 0, 1], [0, 10, 0], [1, 0, 10]]]).double() * 0.1 * GPA
    assert_close(data[1].stress, expected, rtol=1e-6, atol=1e-12)


def test_compositions_and_boundaries_may_be_mixed_and_files_are_splits(tmp_path):
    ase.io.write(tmp_path / "b.extxyz", crystals(3))
    ase.io.write(tmp_path / "a.extxyz", molecules(4))
    data = Trajectories(str(tmp_path / "*.extxyz"))
    assert data.split_names == ("a.extxyz", "b.extxyz")
    assert data.split("b.extxyz").tolist() == [4, 5, 6]
    assert [len(f.z) for f in data] == [4, 3, 4, 3, 4, 8, 4]
    assert data.pbc.all(1).tolist() == [False] * 4 + [True] * 3
    assert data[0].stress.isnan().all()
    assert data[0].cell.abs().max() == 0
    (batch,) = DataLoader(data, batch_size=7)
    assert batch.stress.shape == batch.cell.shape == (7, 3, 3)
    assert batch.energy.dtype == torch.float64
    only = Trajectories([tmp_path / "a.extxyz", tmp_path / "b.extxyz"], split="a.extxyz")
    assert len(only) == 4
    alone = Trajectories(tmp_path / "a.extxyz")
    assert not {"cell", "pbc", "stress"} & set(alone[0].keys())
    check(alone, molecules(4), atol=1e-6)


def test_files_of_one_name_are_split_by_their_paths(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        ase.io.write(tmp_path / name / "md.traj", molecules(2))
    data = Trajectories([tmp_path / "y/md.traj", tmp_path / "x/md.traj"])
    assert data.split(str(tmp_path / "x/md.traj")).tolist() == [2, 3]


def test_keys_are_found_in_info_arrays_and_results(tmp_path):
    frames = molecules(2)
    for atoms in frames:
        atoms.info["REF_energy"] = 7.5
        atoms.arrays["REF_forces"] = np.ones((len(atoms), 3))
    path = tmp_path / "a.extxyz"
    ase.io.write(path, frames)
    data = Trajectories(path, energy_key="REF_energy", forces_key="REF_forces")
    assert data.energy.tolist() == [7.5, 7.5]
    assert data[0].forces.tolist() == [[1.0] * 3] * 4
    bare = Trajectories(path, energy_key=False, forces_key=False)
    assert sorted(bare[0].keys()) == ["idx", "pos", "z"]


def test_keys_are_found_in_databases(tmp_path):
    """As ISO17 has them: the energy among the key-value pairs, forces in the data."""
    path = tmp_path / "iso.db"
    with ase.db.connect(path) as database:
        for k, atoms in enumerate(molecules(3)):
            forces = atoms.calc.results["forces"]
            atoms.calc = None
            database.write(atoms, total_energy=-11000.5 - k, data={"atomic_forces": forces})
    data = Trajectories(path, "total_energy", "atomic_forces")
    assert data.energy.tolist() == [-11000.5, -11001.5, -11002.5]
    assert_close(data[1].forces, torch.from_numpy(molecules()[1].calc.results["forces"]).float())
    with pytest.raises(
        ValueError, match="iso.db, frame 0 has no energy; there are total_energy, atomic_forces: "
    ):
        Trajectories(path)


def test_forces_of_fixed_atoms_are_those_in_the_file(tmp_path):
    (atoms,) = molecules(1)
    atoms.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "a.traj", atoms)
    assert Trajectories(tmp_path / "a.traj")[0].forces[0].abs().min() > 0


def test_units_are_converted(tmp_path):
    frames = crystals(2)
    path = tmp_path / "a.extxyz"
    for atoms in frames:
        results = dict(atoms.calc.results)
        atoms.info |= {"e": results["energy"] / HARTREE, "s": results["stress"] / GPA}
        atoms.arrays["f"] = results["forces"] / (HARTREE / BOHR)
    shrunk = [atoms.copy() for atoms in frames]
    for atoms in shrunk:
        atoms.set_cell(atoms.cell / BOHR, scale_atoms=True)
    ase.io.write(path, shrunk)
    data = Trajectories(
        path, "e", "f", "s", energy_unit="Hartree", length_unit="bohr", stress_unit="GPa"
    )
    for found, atoms in zip(data, frames):
        results = atoms.calc.results
        assert found.energy.item() == pytest.approx(results["energy"], rel=1e-7)
        forces = torch.from_numpy(results["forces"]).float()
        assert_close(found.forces, forces, rtol=1e-4, atol=1e-6)
        assert_close(found.pos, torch.from_numpy(atoms.positions).float(), rtol=0, atol=1e-6)
        assert_close(found.cell[0], torch.from_numpy(atoms.cell.array).float(), rtol=0, atol=1e-5)
        stress = torch.from_numpy(atoms.get_stress(voigt=False))
        assert_close(found.stress[0], stress, rtol=1e-6, atol=1e-9)


def test_a_virial_becomes_a_stress(tmp_path):
    (atoms,) = crystals(1)
    virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
    expected = torch.from_numpy(atoms.get_stress(voigt=False))
    atoms.info["virial"] = virial.reshape(-1)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    data = Trajectories(tmp_path / "a.extxyz", virial_key="virial")
    assert_close(data[0].stress[0], expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="virial_key='virial' are given: choose one"):
        Trajectories(tmp_path / "a.extxyz", stress_key="stress", virial_key="virial")
    (open_one,) = molecules(1)
    open_one.info["virial"] = virial.reshape(-1)
    ase.io.write(tmp_path / "b.extxyz", open_one)
    with pytest.raises(ValueError, match="b.extxyz, frame 0 has a virial and a cell without vol"):
        Trajectories(tmp_path / "b.extxyz", virial_key="virial")


def npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "z": np.array([8, 1, 1]),
        "R": rng.normal(0, 1, (4, 3, 3)),
        "E": rng.normal(-48000, 1, 4),
        "F": rng.normal(0, 20, (4, 3, 3)),
        **changes,
    }
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return arrays


def test_npz_files_take_their_units_from_the_file_or_the_caller(tmp_path):
    path = tmp_path / "water.npz"
    arrays = npz(path)
    with pytest.raises(ValueError, match="does not tell its unit .e_unit.: pass energy_unit, one"):
        Trajectories(path)
    energy = torch.from_numpy(arrays["E"] * KCAL)
    data = Trajectories(path, energy_unit="kcal/mol")
    assert_close(data.energy, energy, rtol=1e-15, atol=0)
    assert_close(data[2].forces, torch.from_numpy(arrays["F"][2] * KCAL).float())
    assert_close(data[2].pos, torch.from_numpy(arrays["R"][2]).float())
    npz(
        path, e_unit="kcal/mol", r_unit="Ang", lattice=np.array([[5.0, 1, 0], [0, 6, 0], [0, 0, 7]])
    )
    data = Trajectories(path)
    assert_close(data.energy, energy, rtol=1e-15, atol=0)
    # sGDML keeps lattice vectors in columns.
    assert data[0].cell.tolist() == [[[5.0, 0, 0], [1, 6, 0], [0, 0, 7]]]
    with pytest.raises(ValueError, match="is in kcal/mol .e_unit. and energy_unit='eV' is asked"):
        Trajectories(path, energy_unit="eV")
    npz(path, e_unit="eV", r_unit="Ang", U2=np.arange(4.0), E=None)
    assert Trajectories(path, energy_key="U2").energy.tolist() == [0, 1, 2, 3]
    assert "energy" not in Trajectories(path, energy_key=False)[0]
    ase.io.write(tmp_path / "a.extxyz", molecules(2))
    both = Trajectories([path, tmp_path / "a.extxyz"], energy_key=False)
    assert [len(f.z) for f in both] == [3, 3, 3, 3, 4, 3]


def test_a_processed_file_is_kept_per_files_and_arguments(tmp_path):
    path = tmp_path / "a.extxyz"
    ase.io.write(path, molecules(3))
    check(Trajectories(path, root=tmp_path / "root"), molecules(3))
    check(Trajectories(path, root=tmp_path / "root"), molecules(3))
    processed = tmp_path / "root" / "processed"
    assert len(list(processed.iterdir())) == 1
    assert "forces" not in Trajectories(path, forces_key=False, root=tmp_path / "root")[0]
    ase.io.write(path, molecules(2))
    check(Trajectories(path, root=tmp_path / "root"), molecules(2))
    assert len(list(processed.iterdir())) == 3


def test_many_frames_come_in_chunks(tmp_path):
    path = tmp_path / "a.xyz"
    ase.io.write(path, molecules(2), format="extxyz")
    path.write_text(path.read_text() * 1101)
    data = Trajectories(path)
    assert len(data) == 2202
    assert data[2001].energy.item() == molecules(2)[1].calc.results["energy"]
    lines = path.read_text().splitlines()
    lines[11 * 1050 + 1] = lines[1].replace("-2000.123456789012", "nan")  # 11 lines hold two frames
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"a.xyz, frame 2100: energy is not finite: leave the fr"):
        Trajectories(path)


def bad_forces(frames):
    frames[1].calc.results["forces"][2, 1] = np.nan


def bad_stress(frames):
    frames[1].calc.results["stress"][3] = np.inf


def no_forces(frames):
    del frames[1].calc.results["forces"]


def late_forces(frames):
    del frames[0].calc.results["forces"]


def no_energy(frames):
    del frames[1].calc.results["energy"]


def no_element(frames):
    frames[1].numbers[0] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bad_forces, "frame 1: forces is not finite: leave the frame out"),
        (bad_stress, "frame 1: the stress is not finite"),
        (no_forces, "frame 1 lacks forces, which the frames before it have: leave such frames"),
        (late_forces, "frame 1 has forces, which not all of the frames before it have"),
        (no_energy, "frame 1 has no energy; there are .*forces, stress: give one as energy_key"),
        (no_element, "frame 1 has an atom of no element: leave the frame out"),
    ],
)
def test_a_frame_that_is_not_right_is_told_with_its_file(tmp_path, change, message):
    frames = crystals(3)
    change(frames)
    ase.io.write(tmp_path / "a.traj", frames)
    with pytest.raises(ValueError, match=f"a.traj, {message}"):
        Trajectories(tmp_path / "a.traj")


def test_a_key_that_is_not_there_is_told_with_those_that_are(tmp_path):
    path = tmp_path / "a.extxyz"
    ase.io.write(path, crystals(2))
    for arguments, name in [
        ({"energy_key": "E0"}, "energy"),
        ({"forces_key": "E0"}, "forces"),
        ({"stress_key": "E0"}, "stress"),
    ]:
        with pytest.raises(
            ValueError, match=f"frame 0 has no 'E0'; there are .*: give one as {name}_key"
        ) as error:
            Trajectories(path, **arguments)
        assert all(key in str(error.value) for key in ("energy,", "forces,", "stress"))
    with pytest.raises(ValueError, match="frame 0: energy has shape .4, 3. and .. is expected"):
        Trajectories(path, energy_key="forces")
    with pytest.raises(ValueError, match="the stress has 12 numbers and must have 6 or 9"):
        Trajectories(path, stress_key="forces")
    with pytest.raises(ValueError, match="energy_key=True names nothing"):
        Trajectories(path, energy_key=True)
    with pytest.raises(ValueError, match="stress_unit='psi' is not a unit known here"):
        Trajectories(path, stress_unit="psi")


def test_a_truncated_file_is_told_with_its_frame(tmp_path):
    path = tmp_path / "a.extxyz"
    ase.io.write(path, molecules(3))
    whole = path.read_text()
    path.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="a.extxyz, frame 2 could not be read .*: cut the file be"):
        Trajectories(path)
    path = tmp_path / "b.extxyz.gz"
    path.write_bytes(gzip.compress(whole.encode())[:-20])
    with pytest.raises(ValueError, match="b.extxyz.gz is cut off or damaged"):
        Trajectories(path)
    path = tmp_path / "c.db"
    ase.io.write(path, molecules(3))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match="c.db, frame 0 could not be read"):
        Trajectories(path)
    path = tmp_path / "d.traj"
    ase.io.write(path, molecules(3))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ValueError, match="d.traj, frame 0 could not be read"):
        Trajectories(path)


def test_a_damaged_row_of_a_database_is_told_with_its_frame(tmp_path):
    path = tmp_path / "a.db"
    ase.io.write(path, molecules(4))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE systems SET positions = zeroblob(5) WHERE id = 3")
    connection.commit()
    connection.close()
    with pytest.raises(ValueError, match="a.db, frame 2 could not be read .*: get the file anew"):
        Trajectories(path)


def test_files_that_are_not_there_or_hold_nothing_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.xyz is no file"):
        Trajectories(tmp_path / "absent.xyz")
    with pytest.raises(FileNotFoundError, match="is a folder: name its files, as .*xyz"):
        Trajectories(tmp_path)
    with pytest.raises(ValueError, match="names no file"):
        Trajectories([])
    (tmp_path / "a.extxyz").touch()
    with pytest.raises(ValueError, match="a.extxyz"):
        Trajectories(tmp_path / "a.extxyz")


def test_files_with_and_without_forces_are_told(tmp_path):
    ase.io.write(tmp_path / "a.traj", crystals(2))
    bare = crystals(2)
    for atoms in bare:
        del atoms.calc.results["forces"]
    ase.io.write(tmp_path / "b.traj", bare)
    with pytest.raises(ValueError, match="b.traj, frame 0: earlier files have forces and this one"):
        Trajectories([tmp_path / "a.traj", tmp_path / "b.traj"])
    data = Trajectories([tmp_path / "a.traj", tmp_path / "b.traj"], forces_key=False)
    assert len(data) == 4


def real(name):
    path = REAL / name
    return pytest.param(
        path, marks=pytest.mark.skipif(not path.exists(), reason=f"no real data here: {name}")
    )


@pytest.mark.parametrize("path", [real("iso17_eq/test_iso.db")])
def test_real_databases_and_their_extxyz_hold_the_same(path):
    data = Trajectories(path, "total_energy", "atomic_forces")
    text = Trajectories(path.with_name("iso17_eq_40.extxyz"), "total_energy")
    assert len(data) == len(text) == 40
    assert_close(data.energy, text.energy, rtol=0, atol=1e-6)
    assert_close(data.pos, text.pos, rtol=0, atol=1e-6)
    assert sorted(data[0].z.tolist()) == [1] * 10 + [6] * 7 + [8] * 2


@pytest.mark.parametrize("path", [real("botnet_acac/train_300K.xyz.gz")])
def test_real_compressed_files_are_read(path):
    data = Trajectories(path)
    assert len(data) == 500
    assert -9392 < data.energy.min() < data.energy.max() < -9390
    net = data.forces.view(500, -1, 3).double().sum(1)
    assert net.abs().max() < 1e-4


@pytest.mark.parametrize("path", [real("md17/md17_uracil.npz")])
def test_real_npz_files_are_those_of_md17(tmp_path, path):
    data, same = Trajectories(path), MD17(tmp_path, "uracil", raw=path)
    for key in ("z", "pos", "energy", "forces"):
        assert torch.equal(data._data[key], same._data[key])
