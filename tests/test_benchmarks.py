"""The suite runs and writes what it promises; what it finds is not for a test to judge."""

import json
from functools import partial

import pytest
import torch

from pyg_schnet.benchmarks.speed import suite, systems, work
from pyg_schnet.benchmarks.speed.rows import ROWS, Row
from pyg_schnet.cli import main


@pytest.fixture
def small_rows(monkeypatch):
    tiny = partial(systems.molecules, 2, atoms=4)
    rows = [
        Row("inference", "energy", work.energy, tiny, 1, 16, 5.0, 1.0, memory=True),
        Row("inference", "forces", work.energy_and_forces, tiny, 1, 16, 5.0, 1.0),
        Row("inference", "frozen", work.frozen, tiny, 1, 16, 5.0, 1.0),
        Row("inference", "dynamics", work.dynamics, tiny, 1, 16, 5.0, None),
        Row("training", "energies", work.training_on_energies, tiny, 1, 16, 5.0, 1.0),
        Row("training", "forces", work.training_on_forces, tiny, 1, 16, 5.0, 1.0),
    ]
    monkeypatch.setattr(suite, "ROWS", rows)


def test_the_command_writes_a_table(small_rows, tmp_path, capsys):
    chosen = ["--groups", "[inference,training]", "--seconds", "0.01"]
    assert main(["benchmark", "speed", *chosen, "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "speed_cpu.json").read_text())
    assert [row["name"] for row in found["rows"]] == [
        "energy",
        "forces",
        "frozen",
        "dynamics",
        "energies",
        "forces",
    ]
    assert all(row["ratio"] > 0 for row in found["rows"])
    assert (tmp_path / "speed_cpu.md").read_text().count("\n| ") == 7
    assert "ratio" in capsys.readouterr().out


def test_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match="groups must be among .*, got lunch"):
        suite.run(["lunch"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.group}: {row.name}")
def test_both_sides_of_a_row_compute_the_same(row):
    if row.system().z.numel() > 1000:
        pytest.skip("large; its kind is tested by the smaller ones")
    system = row.system()
    ours, theirs = work.models(system, row.blocks, row.features, row.cutoff)
    with torch.no_grad():
        a = ours(system.z, system.pos, system.batch, system.edge_index)
        b = theirs(system.z, system.pos, system.batch)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
