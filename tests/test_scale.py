"""The benchmarks of scale measure what they say, on little."""

import pytest
from ase.io import read

from pyg_schnet.benchmarks.scale import large_systems, molecules, on_disk


def test_molecules_are_whole_and_differ(tmp_path):
    molecules.write_extxyz(tmp_path / "a.extxyz", 30)
    frames = read(tmp_path / "a.extxyz", ":")
    assert len(frames) == 30 and all(len(frame) >= 9 for frame in frames)
    assert all(frame.get_all_distances()[~_diagonal(frame)].min() > 0.6 for frame in frames)
    assert len({round(float(frame.positions.sum()), 6) for frame in frames}) == 30


def _diagonal(frame):
    import numpy as np

    return np.eye(len(frame), dtype=bool)


@pytest.mark.parametrize("what", ["energy", "forces", "float64", "dtnn"])
def test_a_crystal_is_measured(what):
    found = large_systems.measure(3, what)
    assert found["atoms"] == 216 and found["edges"] == 28 * 216
    # A repeated cell has the energy per atom of any other, but for the displacements.
    if what != "dtnn":
        assert found["energy_per_atom"] == pytest.approx(0.0812, abs=0.001)
    if what != "energy":
        assert found["sum_of_forces"] < 1e-4


def test_a_size_that_fails_says_why():
    found = large_systems.apart(0, "forces", 1)
    assert found["atoms"] == 0 and found["why"]


def test_frames_are_made_and_read(tmp_path):
    made = on_disk.make(tmp_path / "frames", 2000)
    assert made["bytes_per_frame"] == pytest.approx(241, abs=2)
    found = on_disk.read(tmp_path / "frames", 0.1, 0)
    assert found["frames_per_second"] > 0 and found["memory_MB"]["anonymous_opened"] > 0
