"""What the benchmark of dynamics drives with PyG's SchNet is the same dynamics."""

import json

import numpy as np
import pytest
from ase.build import molecule

from pyg_schnet import load
from pyg_schnet.benchmarks.speed import dynamics, suite
from pyg_schnet.interop import to_pyg
from pyg_schnet.models.pretrained import find_model
from pyg_schnet.simulation import prepare_replicas


def test_both_sides_move_alike():
    atoms, potential = molecule("CH3CH2OH"), load(find_model("md17-ethanol"))
    ours = prepare_replicas(potential, [atoms])
    theirs = dynamics.VerletByPyG(to_pyg(potential.model), atoms, ours.positions, ours.momenta)
    start = ours.positions.copy()
    ours.advance(40)
    theirs.steps(40)
    np.testing.assert_allclose(ours.positions, theirs.positions.numpy(), rtol=0, atol=1e-5)
    assert np.abs(ours.positions - start).max() > 0.02


def test_the_group_writes_its_rows(tmp_path, capsys):
    suite.run(["dynamics"], tmp_path, seconds=0.01)
    rows = json.loads((tmp_path / "speed_cpu.json").read_text())["dynamics"]
    assert [row["bar"] for row in rows if row["bar"]] == [10.0, 5.0, 0.2]
    assert all(row["ratio"] > 0 for row in rows)
    first = rows[0]
    speed = first["ours_steps_per_second"]
    assert speed == pytest.approx(1e3 / first["ours"], rel=1e-3)
    # Half a femtosecond a step, 86,400 seconds a day, a million femtoseconds in a nanosecond.
    assert first["ours_ns_per_day"] == pytest.approx(speed * 0.5 * 86_400 / 1e6, rel=1e-2)
    table = (tmp_path / "speed_cpu.md").read_text()
    assert "ns/day theirs, ours" in table and "single calls on 1" in table
    assert "ns/day" in capsys.readouterr().out
