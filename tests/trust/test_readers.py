"""Every reader, given damaged files: one clear sentence or right data, and nothing half written."""

import json
import pickle
import tempfile
import warnings
import zipfile
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trust.damage import LONG, QUICK, damaged, leftovers, numbers_replaced, told
from trust.specimens import SPECIMENS

from pyg_schnet.datasets import MD17, MaterialsProject, Trajectories
from pyg_schnet.datasets.crystal_files import read_crystals
from pyg_schnet.datasets.dynamics import read_state, state_path
from pyg_schnet.models import load, read_header
from pyg_schnet.simulation import predict_file
from pyg_schnet.simulation.trajectories import Files
from pyg_schnet.training.splits import Split
from pyg_schnet.units import KCAL_PER_MOL

# Of what a file says, where several files or targets are read together.
OF_CONTENT = ("is no property of these", "comes more than once")


def read_many(name, folder, often):
    """Write a whole file, then damage it as often as ``often`` says."""
    specimen = SPECIMENS[name]
    path = specimen.write(folder)
    whole = path.read_bytes()
    assert told(lambda: specimen.read(path, folder / "whole"), path.name) is None
    contents = damaged(whole)
    if specimen.is_text:
        contents = st.one_of(contents, numbers_replaced(whole))

    @often
    @given(contents)
    def ends_well(content):
        path.write_bytes(content)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            root = Path(place)
            # What lacks a target is whole for all others, so it is kept and the target named.
            sentence = told(lambda: specimen.read(path, root), path.name, *OF_CONTENT)
            assert not leftovers(root)
            if sentence is not None and OF_CONTENT[0] not in sentence:
                assert not list(root.rglob("*.safetensors"))

    ends_well()


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_damaged_file_is_told_in_one_sentence_and_leaves_nothing(name, tmp_path):
    read_many(name, tmp_path, QUICK)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", SPECIMENS)
def test_a_file_damaged_in_many_ways_is_told(name, tmp_path):
    read_many(name, tmp_path, LONG)


@pytest.mark.parametrize("name", SPECIMENS)
def test_an_empty_file_and_none_at_all_are_told(name, tmp_path):
    specimen = SPECIMENS[name]
    path = specimen.write(tmp_path)
    path.write_bytes(b"")
    assert told(lambda: specimen.read(path, tmp_path / "root"), path.name)
    path.unlink()
    if name.startswith(("processed", "qm9.xyz", "materials project")):
        return  # made or asked for anew, or one of many
    with pytest.raises(FileNotFoundError, match=path.name.replace("(", r"\(")):
        specimen.read(path, tmp_path / "root")


_KINDS = st.one_of(
    hnp.integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
    hnp.unsigned_integer_dtypes(),
    hnp.complex_number_dtypes(),
    hnp.boolean_dtypes(),
    hnp.unicode_string_dtypes(max_len=3),
    hnp.byte_string_dtypes(max_len=3),
)
_ANY_ARRAY = _KINDS.flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
READERS_OF_ARRAYS = {
    "md17.npz": (
        ("z", "R", "E", "F"),
        lambda path, root: MD17(root, raw=path),
    ),
    "trajectory.npz": (
        ("z", "R", "E", "F", "lattice", "e_unit", "r_unit", "md5", "old_indices"),
        lambda path, root: Trajectories(path, root=root, energy_unit="kcal/mol"),
    ),
    "crystals.npz": (
        ("n_atoms", "numbers", "frac_coords", "cell", "material_id", "band_gap"),
        lambda path, root: MaterialsProject(root, raw=path, target=None),
    ),
}


def arrays_changed(name, folder, often):
    keys, read = READERS_OF_ARRAYS[name]
    path = SPECIMENS[name].write(folder)
    with np.load(path) as file:
        whole = dict(file)

    @often
    @given(st.dictionaries(st.sampled_from(keys), _ANY_ARRAY, min_size=1, max_size=2))
    def ends_well(changes):
        np.savez(path, **(whole | changes))
        with tempfile.TemporaryDirectory(dir=folder) as root:
            told(lambda: read(path, Path(root)), path.name)
            assert not leftovers(Path(root))

    ends_well()


@pytest.mark.parametrize("name", READERS_OF_ARRAYS)
def test_arrays_of_any_shape_and_type_are_told(name, tmp_path):
    arrays_changed(name, tmp_path, QUICK)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", READERS_OF_ARRAYS)
def test_arrays_of_many_shapes_and_types_are_told(name, tmp_path):
    arrays_changed(name, tmp_path, LONG)


@pytest.mark.parametrize("key", ["R", "E", "F"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_told_with_its_frame(tmp_path, key, value):
    path = SPECIMENS["md17.npz"].write(tmp_path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays[key] = arrays[key].astype(np.float64)
    arrays[key][2].flat[0] = value
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"md17_ethanol.npz, frame 2: .* is not finite"):
        MD17(tmp_path / "root", raw=path)
    assert not list((tmp_path / "root").rglob("*.safetensors"))


def declared(shape, dtype="<f8"):
    """An array file whose header speaks of more numbers than are there."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}"
    header += " " * (117 - len(header)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)


@pytest.mark.parametrize("shape", [(10**13, 9, 3), (10**30, 9, 3), (2**62, 2**62), (10**9, 10**9)])
@pytest.mark.parametrize("name", READERS_OF_ARRAYS)
def test_a_declared_size_without_its_numbers_is_told(tmp_path, name, shape):
    keys, read = READERS_OF_ARRAYS[name]
    path = SPECIMENS[name].write(tmp_path)
    with np.load(path) as file:
        arrays = dict(file)
    with zipfile.ZipFile(path, "w") as archive:
        for key in arrays:
            archive.writestr(f"{key}.npy", declared(shape))
    assert told(lambda: read(path, tmp_path / "root"), path.name)


def test_a_header_of_safetensors_that_declares_too_much_is_told(tmp_path):
    path = SPECIMENS["model.safetensors"].write(tmp_path)
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    for length in (2**62, 2**40, size + 10**6):
        path.write_bytes(length.to_bytes(8, "little") + whole[8:])
        assert told(lambda: load(path), path.name)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_channels": 10**9},
        {"num_filters": 10**9},
        {"num_gaussians": 10**10},
        {"num_interactions": 10**9},
        {"hidden_channels": -1},
        {"cutoff": "five"},
        {"cutoff": None},
        {"unknown": 1},
    ],
)
def test_a_configuration_larger_than_its_weights_makes_no_model(tmp_path, changes):
    from safetensors.torch import load_file, save_file

    path = SPECIMENS["model.safetensors"].write(tmp_path)
    header = read_header(path)
    header["config"] |= changes
    save_file(load_file(path), path, metadata={"pyg_schnet": json.dumps(header)})
    sentence = told(lambda: load(path), path.name)
    assert sentence and "do not fit the configuration" in sentence


@pytest.mark.parametrize(
    "header",
    [[], {}, {"version": 1}, {"version": "x", "model": 1}, {"version": 1, "model": ["SchNet"]}, 7],
)
def test_a_header_that_says_nothing_makes_no_model(tmp_path, header):
    from safetensors.torch import load_file, save_file

    path = SPECIMENS["model.safetensors"].write(tmp_path)
    save_file(load_file(path), path, metadata={"pyg_schnet": json.dumps(header)})
    assert told(lambda: load(path), path.name)


class Planted:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


PICKLED = {
    "md17.npz": lambda path, mark: np.savez(path, z=np.array([Planted(mark)], dtype=object)),
    "trajectory.npz": lambda path, mark: np.savez(path, R=np.array([Planted(mark)], dtype=object)),
    "crystals.npz": lambda path, mark: np.savez(path, n_atoms=np.array([Planted(mark)], object)),
    "model.safetensors": lambda path, mark: torch.save(Planted(mark), path),
    "processed.safetensors": lambda path, mark: torch.save(Planted(mark), path),
    "trajectory.traj": lambda path, mark: path.write_bytes(pickle.dumps(Planted(mark))),
    "structure.json": lambda path, mark: path.write_bytes(pickle.dumps(Planted(mark), 0)),
}


@pytest.mark.parametrize("name", PICKLED)
def test_a_pickle_is_refused_and_never_run(tmp_path, name):
    specimen, mark = SPECIMENS[name], tmp_path / "mark"
    path = specimen.write(tmp_path)
    PICKLED[name](path, mark)
    assert told(lambda: specimen.read(path, tmp_path / "root"), path.name)
    assert not mark.exists()


def test_the_planted_pickle_would_leave_its_mark(tmp_path):
    pickle.loads(pickle.dumps(Planted(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def split_file(folder):
    rows = torch.arange(6)
    Split(rows[:3], rows[3:5], rows[5:]).save(folder / "split.npz")
    return folder / "split.npz"


def state_of_dynamics(folder):
    files = Files(folder / "md.extxyz", 1)
    arrays = {"positions": np.zeros((3, 3)), "settings": np.array(json.dumps({"format": 2}))}
    np.savez(files.state, **arrays)
    return files.state


def state_of_generation(folder):
    path = state_path(folder / "md.extxyz")
    arrays = dict.fromkeys(("frames", "size", "momenta"), np.zeros(3))
    np.savez(path, settings=np.array("{}"), **arrays)
    return path


def structures(folder):
    path = SPECIMENS["trajectory.extxyz"].write(folder)
    SPECIMENS["model.safetensors"].write(folder)
    return path


OTHERS = {
    "state of dynamics": (
        state_of_dynamics,
        lambda path: Files(path.parent / "md.extxyz", 1).read_state({"format": 2}),
    ),
    "state of generation": (
        state_of_generation,
        lambda path: read_state(path.parent / "md.extxyz"),
    ),
    "structures to predict": (
        structures,
        lambda path: list(predict_file(path, load(path.with_name("model.safetensors")))),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_that_are_damaged_are_told(name, tmp_path):
    write, read = OTHERS[name]
    path = write(tmp_path)
    whole = path.read_bytes()
    assert told(lambda: read(path), path.name) is None

    @QUICK
    @given(damaged(whole))
    def ends_well(content):
        path.write_bytes(content)
        told(lambda: read(path), path.name)

    ends_well()


def test_stale_files_of_killed_writers_are_cleared_and_fresh_ones_kept(tmp_path):
    import os
    import time

    path = SPECIMENS["processed.safetensors"].write(tmp_path)
    stale, fresh = (path.with_name(f"{path.name}.{k}.part") for k in (1, 2))
    for aside in (stale, fresh):
        aside.write_bytes(b"half")
    os.utime(stale, (time.time() - 7200,) * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = MD17(tmp_path, raw=tmp_path / "md17_ethanol.npz", force_reload=True)
    assert fresh.exists() and not stale.exists()
    assert abs(float(data[0].energy) / KCAL_PER_MOL) > 1000


def interrupted_dynamics(folder):
    from ase.build import molecule

    from pyg_schnet.simulation import run_md

    def run(time):
        return run_md(
            "md17-ethanol",
            molecule("CH3CH2OH"),
            folder / "md.extxyz",
            time=time,
            every=5,
            thermostat="nose-hoover",
            progress=False,
            report=False,
        )

    return folder / "md.extxyz.state.npz", run


def interrupted_generation(folder):
    from ase.calculators.emt import EMT

    from pyg_schnet.datasets.generate import generate

    def run(time):
        frames, output = round(100 * time), folder / "water.extxyz"
        return generate("water", output, frames, every=1, equilibration=5, calculator=EMT())

    return folder / "water.extxyz.state.npz", run


@pytest.mark.parametrize("begun", [interrupted_dynamics, interrupted_generation])
def test_a_state_with_other_arrays_than_its_own_is_told(begun, tmp_path):
    path, run = begun(tmp_path)
    run(0.01)
    with np.load(path) as file:
        whole = dict(file)

    @settings(QUICK, max_examples=10)
    @given(st.dictionaries(st.sampled_from(sorted(whole)), _ANY_ARRAY, min_size=1, max_size=2))
    def ends_well(changes):
        np.savez(path, **(whole | changes))
        told(lambda: run(0.02), path.name, path.name.removesuffix(".state.npz"))
        np.savez(path, **whole)

    ends_well()


def folder_of_path_integrals(folder):
    """What i-PI would have written: two frames of two beads."""
    from pyg_schnet.simulation.pimd_files import COLUMNS, PimdFiles

    files = PimdFiles(folder, 3)
    rows = [[10.0 * k, 0.005 * k, *(0.1 * np.arange(len(COLUMNS)))] for k in range(2)]
    text = "".join(" ".join(f"{x:.6e}" for x in row) + "\n" for row in rows)
    files.properties.write_text(f"# column 1 --> step\n{text}")
    return files


@pytest.mark.parametrize("kind", [damaged, numbers_replaced])
def test_a_damaged_table_of_i_pi_is_told(kind, tmp_path):
    files = folder_of_path_integrals(tmp_path)
    assert len(files.table()) == 2
    whole = files.properties.read_bytes()

    @QUICK
    @given(kind(whole))
    def ends_well(content):
        files.properties.write_bytes(content)
        told(files.table, files.properties.name)

    ends_well()


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ([[1e-2, 0, 0], [0, 100, 0], [0, 0, 100]], "layers are 0.01 Å apart"),
        ([[4, 0, 0], [0, 4, 0], [0, 0, 1e25]], "longer than 10000 Å"),
        ([[3.9, 0, 0], [6e8, 1e25, 0], [0, 0, 3.9]], "longer than 10000 Å"),
        ([[4, 0, 0], [4, 1e-3, 0], [0, 0, 4]], "without volume"),
    ],
)
def test_cells_whose_search_would_not_end_are_refused(tmp_path, cell, sentence):
    path = SPECIMENS["structure.json"].write(tmp_path)
    structure = json.loads(path.read_text())
    structure["lattice"]["matrix"] = cell
    path.write_text(json.dumps(structure))
    with pytest.raises(ValueError, match=sentence):
        list(read_crystals(path))


def test_frames_that_declare_more_than_the_file_holds_are_refused(tmp_path):
    """ASE would read on beyond the end, and make room for as many columns as a header says."""
    path = SPECIMENS["trajectory.extxyz"].write(tmp_path)
    whole = path.read_text()
    for old, new in (("9\n", f"{10**12}\n"), ("species:S:1", "species:S:99999999999")):
        path.write_text(whole.replace(old, new, 1))
        with pytest.raises(ValueError, match=r"frames.extxyz declares a "):
            Trajectories(path)
