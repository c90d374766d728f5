"""The base of data sets kept in one file, and chunks of frames, by a small data set of its own."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Data

from pyg_schnet.datasets.base import Source, StoredDataset, function_name
from pyg_schnet.datasets.frames import Frames, check_finite, frame_of, in_chunks, join, same_atoms


class Counting(StoredDataset):
    """Frame k has k + 1 hydrogens at x = k and an energy of k."""

    noun = "frames"

    def __init__(self, root, count=6, **arguments):
        self.count = count
        self.reads = 0
        super().__init__(root, **arguments)

    @property
    def processed_file_names(self):
        return ["counting.safetensors"]

    def settings(self):
        return {"frames": str(self.count)}

    def read(self):
        self.reads += 1
        splits = {"even": torch.arange(0, self.count, 2), "low": torch.tensor([2, 0])}
        return Source("counted", *join(in_chunks(map(frame, range(self.count)), 4)), splits)


def frame(k):
    return {
        "z": np.ones(k + 1, dtype=np.uint8),
        "pos": np.full((k + 1, 3), float(k)),
        "energy": np.array(-17000.123456789 + k),
        "idx": np.array(k),
    }


def test_frames_of_several_chunks_are_those_that_were_read(tmp_path):
    data = Counting(tmp_path)
    assert [f.z.tolist() for f in data] == [[1] * (k + 1) for k in range(6)]
    for k, found in enumerate(data):
        assert_close(found.pos, torch.full((k + 1, 3), float(k)))
        assert found.energy.tolist() == [-17000.123456789 + k]
        assert (found.z.dtype, found.pos.dtype) == (torch.int64, torch.float32)
    assert data.metadata["source"] == "counted"
    assert (data.reads, Counting(tmp_path).reads) == (1, 0)


def test_splits_follow_filters_subsets_and_copies(tmp_path):
    data = Counting(tmp_path / "all")
    assert data.split_names == ("even", "low")
    assert data.split("even").tolist() == [0, 2, 4]
    assert data.split("low").tolist() == [0, 2]  # ascending
    later = data[1:]
    assert later[later.split("even")].copy().idx.tolist() == [2, 4]
    assert later.copy().split("even").tolist() == [1, 3]
    assert data.copy([4, 1]).split("even").tolist() == [0]
    assert Counting(tmp_path / "all", split="low").copy().idx.tolist() == [0, 2]
    kept = Counting(tmp_path / "some", pre_filter=lambda f: f.idx.item() != 0)
    assert kept.split("even").tolist() == [1, 3]
    assert kept.split("low").tolist() == [1]
    assert "split_bits" not in kept[0]
    with pytest.raises(ValueError, match="split='odd' is not in this Counting; there are even, "):
        data.split("odd")


def test_a_pre_transform_that_makes_new_frames_loses_the_splits(tmp_path):
    data = Counting(tmp_path, pre_transform=lambda f: Data(z=f.z, pos=f.pos))
    assert data.split_names == ()
    with pytest.raises(ValueError, match="there are none"):
        data.split("even")


def test_no_root_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Counting(None, pre_filter=lambda f: f.idx.item() > 1, split="even")
    assert data.copy().idx.tolist() == [2, 4]
    assert not list(tmp_path.iterdir())


def test_other_settings_than_the_stored_ones_are_warned_of(tmp_path):
    Counting(tmp_path)
    with pytest.warns(UserWarning, match="made with frames 6 and 7 is asked for: pass force_rel"):
        assert len(Counting(tmp_path, 7)) == 6
    assert len(Counting(tmp_path, 7, force_reload=True)) == 7


def test_more_splits_than_bits_are_refused(tmp_path):
    class Many(Counting):
        def read(self):
            splits = {str(k): torch.tensor([0]) for k in range(64)}
            return super().read()._replace(splits=splits)

    with pytest.raises(ValueError, match="64 splits are given and 63 can be kept"):
        Many(tmp_path)


def test_the_last_of_63_splits_is_kept(tmp_path):
    class Many(Counting):
        def read(self):
            splits = {str(k): torch.tensor([k % 6]) for k in range(63)}
            return super().read()._replace(splits=splits)

    data = Many(tmp_path)
    assert data.split("62").tolist() == [2]
    assert data.split("0").tolist() == [0]


def test_names_of_functions_are_the_same_in_every_run():
    class Transform:
        pass

    assert "0x" not in function_name(Transform())
    assert function_name(frame).endswith("test_base.frame")


def test_frames_with_other_columns_are_refused():
    chunk = same_atoms(np.array([1]), np.zeros((2, 1, 3)), energy=np.zeros(2))
    bare = same_atoms(np.array([1]), np.zeros((2, 1, 3)))
    with pytest.raises(ValueError, match="frames have z, pos and earlier ones z, pos, energy"):
        join([chunk, bare])
    with pytest.raises(ValueError, match="there are no frames"):
        join([])
    with pytest.raises(ValueError, match="a frame has z and the one 1 before it z, pos, energy"):
        list(in_chunks([frame(0), {"z": np.ones(1)}]))


def test_forces_and_cells_get_their_types():
    count = 3
    chunk = same_atoms(
        np.array([8, 1, 1]),
        np.zeros((count, 3, 3)),
        np.ones((count, 3, 3)),
        stress=np.zeros((count, 3, 3)),
        cell=np.broadcast_to(np.eye(3), (count, 3, 3)),  # may not be written to
        pbc=np.ones((count, 3)),
    )
    data, slices = join([chunk])
    assert (data.forces.dtype, data.cell.dtype) == (torch.float32, torch.float32)
    assert (data.stress.dtype, data.pbc.dtype) == (torch.float64, torch.bool)
    assert slices["forces"] is slices["pos"]
    assert slices["cell"].tolist() == [0, 1, 2, 3]
    data.cell[0] = 0
    assert data.cell[1].tolist() == torch.eye(3).tolist()
    assert isinstance(chunk, Frames)


def test_numbers_that_are_not_finite_are_told_with_their_frame():
    values = np.zeros((5, 2, 3))
    check_finite(values, "forces", frame_of("a.npz"))
    check_finite(values + 1e308, "forces", frame_of("a.npz"))  # whose sum overflows
    values[2, 1, 0], values[4, 0, 0] = np.inf, -np.inf
    with pytest.raises(
        ValueError, match=r"a.npz, frame 12 \(and 1 frames after it\): forces is not finite: leave"
    ):
        check_finite(values, "forces", frame_of("a.npz", 10))
