"""Frames on a disk behave as those in memory, whatever happens to the writer."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write
from small_frames import spring_table, springs
from torch.testing import assert_close
from torch_geometric.loader import DataLoader

from pyg_schnet.datasets import OnDiskFrames, Trajectories
from pyg_schnet.datasets.frames import Frames
from pyg_schnet.datasets.on_disk import FramesWriter, open_folder, verify, write_frames
from pyg_schnet.training.batches import MoleculeTable


def chunk(count, seed=0, **more):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, count)
    atoms = int(sizes.sum())
    columns = {
        "z": rng.integers(1, 20, atoms),
        "pos": rng.normal(0, 2, (atoms, 3)),
        "forces": rng.normal(size=(atoms, 3)),
        "energy": rng.normal(-100, 1, count),
    }
    return Frames(sizes, columns | more)


def write_files(folder):
    """Frames with energies, forces and, of the metal, a cell and a stress."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    made = {"ethanol.xyz": molecule("CH3CH2OH"), "metal.traj": bulk("Cu", cubic=True)}
    for name, atoms in made.items():
        frames = []
        for _ in range(5):
            frame = atoms.copy()
            frame.positions += rng.normal(0, 0.05, frame.positions.shape)
            frame.calc = EMT()
            frame.get_forces()
            if frame.pbc.all():
                frame.get_stress()
            frames.append(frame)
        write(folder / name, frames)
    return [folder / name for name in made]


@pytest.fixture
def folder(tmp_path):
    write_frames(tmp_path / "frames", [chunk(5, 0), chunk(8, 1)], {"source": "a test"})
    return tmp_path / "frames"


def test_frames_are_those_that_were_written(folder):
    data = OnDiskFrames(folder)
    assert len(data) == 13 and data.metadata["source"] == "a test"
    k = 0
    for part in (chunk(5, 0), chunk(8, 1)):
        ends = part.num_atoms.cumsum()
        for size, end, energy in zip(part.num_atoms, ends, part.columns["energy"]):
            frame = data[k]
            mine = slice(end - size, end)
            assert frame.z.dtype == torch.int64 and frame.energy.dtype == torch.float64
            assert frame.z.tolist() == part.columns["z"][mine].tolist()
            assert_close(frame.pos.double().numpy(), part.columns["pos"][mine], rtol=0, atol=1e-6)
            assert_close(frame.forces.numpy(), part.columns["forces"][mine].astype(np.float32))
            assert frame.energy.tolist() == [energy]
            k += 1
    data.verify()
    # NumPy alone reads them too.
    assert np.load(folder / "ptr.npy").tolist()[-1] == len(np.load(folder / "z.npy"))


def test_rows_slices_transforms_and_loaders_are_as_in_memory(folder):
    def shifted(frame):
        frame.pos += 1.0
        return frame

    data, moved = OnDiskFrames(folder), OnDiskFrames(folder, transform=shifted)
    assert_close(moved[3].pos, data[3].pos + 1.0)
    assert_close(moved[3].pos, data[3].pos + 1.0)  # the file has not changed
    some = data[[7, 2]]
    assert len(some) == 2 and torch.equal(some[0].pos, data[7].pos)
    assert len(data[4:]) == 9 and len(data.shuffle()) == 13
    alone = [batch.pos for batch in DataLoader(data, 4)]
    for workers in (1, 2):
        got = [batch.pos for batch in DataLoader(data, 4, num_workers=workers)]
        assert all(map(torch.equal, got, alone)) and len(got) == 4
    with pytest.raises(ValueError, match="split='x' is not in this"):
        OnDiskFrames(folder, split="x")


def test_a_pickle_holds_the_place_and_not_the_frames(tmp_path):
    write_frames(tmp_path / "many", [chunk(2000)])
    data = OnDiskFrames(tmp_path / "many")[10:20]
    held = pickle.dumps(data)
    assert len(held) < 5000
    again = pickle.loads(held)
    assert len(again) == 10 and torch.equal(again[3].pos, data[3].pos)


def test_frames_of_more_bytes_than_there_is_memory_are_opened_and_read(tmp_path):
    """Of 240 GB, in files with holes that take no place on the disk."""
    frames, size = 100_000, 100_000
    where = tmp_path / "frames"
    columns = {"z": np.ones(2, int), "pos": np.ones((2, 3)), "forces": np.ones((2, 3))}
    first = Frames(np.array([2]), columns | {"energy": np.ones(1)})
    write_frames(where, [first])
    header = json.loads((where / "header.json").read_text())
    header |= {"frames": frames, "atoms": frames * size}
    for name, column in header["columns"].items():
        column["rows"] = {"ptr": frames + 1, "energy": frames}.get(name, frames * size)
        width = {"z": 1, "ptr": 8, "energy": 8}.get(name, 12)
        try:
            os.truncate(where / f"{name}.npy", 128 + width * column["rows"])
        except OSError:
            pytest.skip("the file system has no such large files")
    with (where / "ptr.npy").open("r+b") as file:
        file.seek(128)
        file.write((np.arange(frames + 1) * size).tobytes())
    (where / "header.json").write_text(json.dumps(header))
    data = OnDiskFrames(where)
    assert len(data) == frames and data._data.pos.numel() * 4 == 120 * 10**9
    assert data[0].pos[:3].tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]
    assert not data[frames - 1].forces.any()
    table = MoleculeTable.from_dataset(data)
    assert table.is_mapped and len(table) == frames


def test_frames_are_added_to_a_folder(folder):
    before = OnDiskFrames(folder)
    with FramesWriter(folder, append=True) as writer:
        writer.add(chunk(4, 2))
    data = OnDiskFrames(folder)
    assert len(data) == 17 and len(before) == 13
    assert torch.equal(data[12].pos, before[12].pos)
    assert data[13].z.tolist() == chunk(4, 2).columns["z"][: chunk(4, 2).num_atoms[0]].tolist()
    data.verify()
    with pytest.raises(FileExistsError, match="append=True"):
        FramesWriter(folder)
    columns = dict(chunk(2).columns)
    del columns["forces"]
    words = "frames have energy, pos, z and earlier ones"
    with pytest.raises(ValueError, match=words), FramesWriter(folder, append=True) as writer:
        writer.add(Frames(chunk(2).num_atoms, columns))
    assert len(OnDiskFrames(folder)) == 17


KILLED = """
import sys
import numpy as np
from pyg_schnet.datasets.frames import same_atoms
from pyg_schnet.datasets.frames_files import FramesWriter
writer = FramesWriter(sys.argv[1], append=True)
print("ready", flush=True)
while True:
    writer.add(same_atoms(np.ones(4, int), np.zeros((100, 4, 3)), energy=np.zeros(100)))
    writer.save()
"""


@pytest.mark.slow
def test_kill_minus_nine_leaves_whole_frames(tmp_path):
    where = tmp_path / "frames"
    first = Frames(
        np.full(3, 2), {"z": np.ones(6, int), "pos": np.ones((6, 3)), "energy": np.ones(3)}
    )
    write_frames(where, [first])
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(where)], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    while json.loads((where / "header.json").read_text())["frames"] < 500:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    data = OnDiskFrames(where)
    data.verify()
    assert len(data) % 100 == 3 and float(data[0].energy) == 1.0 and float(data[-1].energy) == 0.0
    count = len(data)
    with FramesWriter(where, append=True) as writer:
        writer.add(first)
    data = OnDiskFrames(where)
    data.verify()
    assert len(data) == count + 3 and data[-1].pos.tolist() == [[1.0] * 3] * 2


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), FramesWriter(tmp_path / "new") as writer:
        writer.add(chunk(3))
        raise RuntimeError
    with pytest.raises(ValueError, match="no frames"), FramesWriter(tmp_path / "new"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"energy": np.array([1.0, np.nan])}, "energy of frame 3 is not finite"),
        ({"pos": np.array([[0.0, 0, 0], [0, np.inf, 0], [0, 0, 0]])}, "pos of frame 2 is not"),
        ({"z": np.array([1, 300, 1])}, "atomic numbers"),
        ({"energy": np.zeros(3)}, "energy has 3 rows for 2 frames"),
        ({"pos": np.zeros((3, 2))}, None),
    ],
    ids=["nan", "inf", "element", "rows", "shape"],
)
def test_frames_that_cannot_be_are_refused(tmp_path, columns, words):
    good = {"z": np.ones(3, int), "pos": np.zeros((3, 3)), "energy": np.zeros(2)}
    with FramesWriter(tmp_path / "frames") as writer:
        writer.add(Frames(np.array([2, 1]), good))
        with pytest.raises(ValueError, match=words):
            writer.add(Frames(np.array([2, 1]), good | columns))
    assert len(OnDiskFrames(tmp_path / "frames")) == 2


def test_damage_is_told_in_one_sentence(folder):
    header = json.loads((folder / "header.json").read_text())

    def refused(words, **changes):
        (folder / "header.json").write_text(json.dumps(header | changes))
        with pytest.raises(ValueError, match=words):
            OnDiskFrames(folder)

    refused("format version is 9", format_version=9)
    refused("rows of", frames=14)
    columns = header["columns"]
    refused("lacks z", columns={k: v for k, v in columns.items() if k != "z"})
    refused("objects", columns=columns | {"z": columns["z"] | {"dtype": "|O"}})
    refused("rows of", columns=columns | {"../z": columns["z"]})
    (folder / "header.json").write_text("{")
    with pytest.raises(ValueError, match="make the folder anew"):
        OnDiskFrames(folder)
    (folder / "header.json").write_text(json.dumps(header))
    with (folder / "pos.npy").open("r+b") as file:
        file.seek(300)
        file.write(b"changed")
    with pytest.raises(ValueError, match="pos.npy has changed"):
        verify(folder)
    os.truncate(folder / "pos.npy", 300)
    with pytest.raises(ValueError, match="bytes too short"):
        OnDiskFrames(folder)
    (folder / "header.json").unlink()
    with pytest.raises(FileNotFoundError, match="header.json is missing"):
        OnDiskFrames(folder)


def test_trajectories_on_the_disk_are_those_in_memory(tmp_path):
    paths = write_files(tmp_path / "raw")
    there = Trajectories(paths, root=tmp_path / "a")
    here = Trajectories(paths, root=tmp_path / "b", in_memory=False)
    assert len(there) == len(here) and here.split_names == there.split_names
    for one, other in zip(there, here):
        assert sorted(one.keys()) == sorted(other.keys())
        for key in one.keys():  # noqa: SIM118
            assert_close(one[key], other[key], equal_nan=True)
    for name in there.split_names:
        assert torch.equal(there.split(name), here.split(name))
    again = open_folder(tmp_path / "b")
    assert isinstance(again, OnDiskFrames) and len(again) == len(there)
    assert torch.equal(open_folder(tmp_path / "a")[1].pos, there[1].pos)
    with pytest.raises(ValueError, match="give a root"):
        Trajectories(paths, in_memory=False)
    with pytest.raises(ValueError, match="without pre_transform"):
        Trajectories(paths, root=tmp_path / "b", in_memory=False, pre_filter=len)
    with pytest.raises(FileNotFoundError, match="holds no data set"):
        open_folder(tmp_path)


def test_batches_of_files_are_those_of_memory(tmp_path):
    rng = np.random.default_rng(0)
    cells = np.eye(3) * 6.0 + rng.normal(0, 0.1, (9, 3, 3))
    pbc = np.ones((9, 3), bool)
    write_frames(tmp_path / "a", [chunk(9, 3)])
    write_frames(tmp_path / "b", [chunk(9, 3, cell=cells, pbc=pbc)])
    for name in ("a", "b"):
        mapped = MoleculeTable.from_dataset(OnDiskFrames(tmp_path / name))
        assert mapped.is_mapped
        held = MoleculeTable(
            mapped.z.long(),
            mapped.pos.clone(),
            mapped.ptr,
            mapped.y.clone(),
            mapped.forces.clone(),
            None if mapped.cell is None else mapped.cell.clone(),
            mapped.pbc,
        )
        for rows in (torch.tensor([3, 0, 8]), torch.arange(9)):
            ours, theirs = mapped.batch(rows, 4.0), held.batch(rows, 4.0)
            assert sorted(ours.keys()) == sorted(theirs.keys())
            for key in theirs.keys():  # noqa: SIM118
                assert_close(ours[key], theirs[key])
        assert torch.equal(mapped.composition(), held.composition())
        exact = MoleculeTable.from_dataset(OnDiskFrames(tmp_path / name), torch.float64)
        batch = exact.batch(torch.arange(4), 4.0)
        assert batch.pos.dtype == batch.forces.dtype == torch.float64


def test_a_run_on_files_is_that_on_memory(tmp_path):
    """As in memory, but for the order in which a few sums are taken."""
    from pyg_schnet.training.force_config import TrajectoriesConfig
    from pyg_schnet.training.run import EnergyAndForces, train
    from pyg_schnet.training.splits import random_split

    z, pos, energy, forces = springs(60)
    frames = Frames(
        np.full(60, 9),
        {
            "z": np.tile(z, 60),
            "pos": pos.reshape(-1, 3),
            "forces": forces.reshape(-1, 3),
            "energy": energy,
        },
    )
    write_frames(tmp_path / "frames", [frames])
    mapped = MoleculeTable.from_dataset(OnDiskFrames(tmp_path / "frames"))
    config = TrajectoriesConfig(
        hidden_channels=8,
        num_filters=8,
        num_interactions=1,
        num_gaussians=10,
        max_steps=10,
        val_every=5,
        batch_size=8,
        tensorboard=False,
        accelerator="cpu",
    )
    split = random_split(60, 40, 10)
    found = [
        train(config, EnergyAndForces("springs"), table, split, tmp_path / name)
        for name, table in (("disk", mapped), ("memory", spring_table(60)))
    ]
    for name in ("test_energy_mae", "test_forces_mae", "val_loss"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)


def test_of_two_that_write_the_same_folder_one_is_told(tmp_path):
    first, second = FramesWriter(tmp_path / "frames"), FramesWriter(tmp_path / "frames")
    second._folder = tmp_path / "frames.other.part"  # another process has another name
    first._folder.rename(second._folder)
    first._folder.mkdir()
    for writer in (first, second):
        writer.add(chunk(3))
    first.close()
    with pytest.raises(FileExistsError, match="another process"):
        second.close()
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]
    OnDiskFrames(tmp_path / "frames").verify()
