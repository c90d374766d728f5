"""C20: the trajectory that it makes, and one that is brought along."""

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet.datasets.fullerene import C20
from pyg_schnet.datasets.generate import dodecahedron


def bring_along(root, count: int, **given):
    """A file of frames at the place where the trajectory is kept."""
    path = C20.path(root, **given)
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    frames = []
    for k in range(count):
        atoms = ase.Atoms("C20", dodecahedron(1.45) + rng.normal(0, 0.05, (20, 3)))
        forces = rng.normal(0, 1, (20, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-1150.0 - k, forces=forces)
        frames.append(atoms)
    ase.io.write(path, frames)
    return frames


def test_a_trajectory_that_is_there_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tblite.ase", None)
    frames = bring_along(tmp_path, 5, temperature=300)
    data = C20(tmp_path, 5, temperature=300)
    assert len(data) == 5 and data[0].z.tolist() == [6] * 20
    for structure, atoms in zip(data, frames):
        assert structure.energy.item() == atoms.get_potential_energy()
        assert structure.energy.dtype == torch.float64
        np.testing.assert_allclose(structure.forces, atoms.get_forces(), atol=1e-6)
        np.testing.assert_allclose(structure.pos, atoms.positions, atol=1e-6)


def test_fewer_frames_are_the_first_of_it(tmp_path):
    bring_along(tmp_path, 5)
    assert [s.energy.item() for s in C20(tmp_path, 2)] == [-1150.0, -1151.0]
    even = C20(tmp_path, 3, pre_filter=lambda data: data.idx.item() % 2 == 0, force_reload=True)
    assert [s.idx.item() for s in even] == [0, 2]


def test_a_trajectory_that_is_too_short_and_cannot_be_extended_is_refused(tmp_path):
    bring_along(tmp_path, 3)
    with pytest.raises(ValueError, match="has 3 frames and frames=4 are asked for: bring its c20_"):
        C20(tmp_path, 4)


def test_without_tblite_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tblite.ase", None)
    with pytest.raises(ModuleNotFoundError, match="'pip install tblite'"):
        C20(tmp_path, 2)


def test_the_cage_is_made_relaxed_and_extended(tmp_path):
    pytest.importorskip("tblite.ase")
    given = {"every": 2, "equilibration": 4.0}
    two = C20(tmp_path, 2, **given)
    three = C20(tmp_path, 3, **given)
    assert (len(two), len(three)) == (2, 3)
    for a, b in zip(two, three):
        assert torch.equal(a.pos, b.pos) and torch.equal(a.energy, b.energy)
    for structure in three:
        distances = torch.cdist(structure.pos, structure.pos) + 9 * torch.eye(20)
        # Three neighbours each, between a double and a stretched single bond.
        assert ((distances < 1.9).sum(1) == 3).all() and distances.min() > 1.2
        assert structure.forces.sum(0).abs().max() < 1e-3
    with pytest.raises(ValueError, match="begun with equilibration=4.0 and 5.0 is asked for"):
        C20(tmp_path, 4, every=2, equilibration=5.0)
