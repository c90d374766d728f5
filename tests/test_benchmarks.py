"""The suite runs and writes what it promises; what it finds is not for a test to judge."""

import json
import os
import sys
from functools import partial

import numpy as np
import pytest
import torch

from pyg_schnet.benchmarks.speed import neighbors, peers, suite, systems, work
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


def test_groups_that_are_not_measured_again_are_kept(small_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(suite.loading, "measure", lambda: [{"way": "by foot"}])
    suite.run(["inference", "loading"], tmp_path, seconds=0.01)
    first = json.loads((tmp_path / "speed_cpu.json").read_text())
    assert "facts_of" not in first
    suite.run(["training"], tmp_path, seconds=0.01)
    both = json.loads((tmp_path / "speed_cpu.json").read_text())
    assert both["loading"] == [{"way": "by foot"}] and both["rows"][:4] == first["rows"]
    assert [row["group"] for row in both["rows"]] == ["inference"] * 4 + ["training"] * 2
    assert both["facts_of"] == {"inference": first["facts"], "loading": first["facts"]}
    suite.run(["inference"], tmp_path, seconds=0.01)
    again = json.loads((tmp_path / "speed_cpu.json").read_text())
    assert again["rows"][4:] == both["rows"][4:] and again["rows"][0] != both["rows"][0]
    assert again["facts_of"] == {"training": both["facts"], "loading": first["facts"]}
    text = (tmp_path / "speed_cpu.md").read_text()
    assert text.count("\n| ") == 7 and "- training, measured before: " in text


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


# SchNetPack's public classes as its documentation describes them, as little as the script needs.
STAND_IN = """
import sys, types
import torch
from torch import nn
from torch.nn.functional import softplus

__version__ = "VERSION"
names = "idx Z R idx_i idx_j offsets Rij idx_m n_atoms cell pbc energy forces"
properties = types.SimpleNamespace(**{name: "_" + name for name in names.split()})
p = properties

class GaussianRBF(nn.Module):
    def __init__(self, n_rbf, cutoff, start=0.0):
        super().__init__()
        self.n_rbf = n_rbf
        self.register_buffer("offsets", torch.linspace(start, cutoff, n_rbf))
        self.register_buffer("widths", torch.full((n_rbf,), (cutoff - start) / (n_rbf - 1)))
    def forward(self, d):
        return torch.exp(-0.5 * ((d[:, None] - self.offsets) / self.widths) ** 2)

class CosineCutoff(nn.Module):
    def __init__(self, cutoff):
        super().__init__()
        self.register_buffer("cutoff", torch.tensor([cutoff]))
    def forward(self, d):
        return 0.5 * (torch.cos(torch.pi * d / self.cutoff) + 1) * (d < self.cutoff)

def shifted_softplus(x):
    return softplus(x) - softplus(torch.zeros(()))

class Dense(nn.Linear):
    def __init__(self, inputs, outputs, activation=None, bias=True):
        super().__init__(inputs, outputs, bias)
        self.activation = activation or nn.Identity()
    def forward(self, x):
        return self.activation(super().forward(x))

class Interaction(nn.Module):
    def __init__(self, features, rbf, filters):
        super().__init__()
        act = shifted_softplus
        self.in2f = Dense(features, filters, bias=False)
        self.f2out = nn.Sequential(Dense(filters, features, act), Dense(features, features))
        self.filter_network = nn.Sequential(Dense(rbf, filters, act), Dense(filters, filters))

class SchNet(nn.Module):
    def __init__(self, n_atom_basis, n_interactions, radial_basis, cutoff_fn, n_filters):
        super().__init__()
        self.radial_basis, self.cutoff_fn = radial_basis, cutoff_fn
        self.embedding = nn.Embedding(100, n_atom_basis)
        self.interactions = nn.ModuleList(
            Interaction(n_atom_basis, radial_basis.n_rbf, n_filters)
            for _ in range(n_interactions)
        )
    def forward(self, inputs):
        d = inputs[p.Rij].norm(dim=1)
        x = self.embedding(inputs[p.Z])
        for block in self.interactions:
            w = block.filter_network(self.radial_basis(d)) * self.cutoff_fn(d)[:, None]
            y = block.in2f(x)
            m = torch.zeros_like(y).index_add(0, inputs[p.idx_i], y[inputs[p.idx_j]] * w)
            x = x + block.f2out(m)
        return {**inputs, "x": x}

class PairwiseDistances(nn.Module):
    def forward(self, inputs):
        R = inputs[p.R]
        Rij = R[inputs[p.idx_j]] - R[inputs[p.idx_i]] + inputs[p.offsets]
        return {**inputs, p.Rij: Rij}

class Atomwise(nn.Module):
    def __init__(self, n_in, activation, output_key):
        super().__init__()
        self.outnet = nn.Sequential(Dense(n_in, n_in // 2, activation), Dense(n_in // 2, 1))
        self.output_key = output_key
    def forward(self, inputs):
        y = self.outnet(inputs["x"])[:, 0]
        total = y.new_zeros(len(inputs[p.n_atoms])).index_add(0, inputs[p.idx_m], y)
        return {**inputs, self.output_key: total}

class Forces(nn.Module):
    def forward(self, inputs):
        total = inputs[p.energy].sum()
        grad, = torch.autograd.grad(total, inputs[p.R], create_graph=self.training)
        return {**inputs, p.forces: -grad}

class NeuralNetworkPotential(nn.Module):
    def __init__(self, representation, input_modules, output_modules):
        super().__init__()
        self.representation = representation
        self.input_modules = nn.ModuleList(input_modules)
        self.output_modules = nn.ModuleList(output_modules)
    def forward(self, inputs):
        inputs[p.R].requires_grad_()
        for m in (*self.input_modules, self.representation, *self.output_modules):
            inputs = m(inputs)
        return inputs

class ASENeighborList:
    def __init__(self, cutoff):
        pass

class SkinNeighborList:
    def __init__(self, neighbor_list):
        pass
    def __call__(self, inputs):
        assert inputs[p.idx].numel() == 1
        return inputs

transform = sys.modules["schnetpack"]
for room in ("atomistic", "model", "nn", "representation"):
    sys.modules["schnetpack." + room] = sys.modules["schnetpack"]
print("a greeting of a library")
"""

# The other side of the pipe without SchNetPack, and ways to fail.
ANSWERS = """
import json, sys, time
import numpy as np
case = np.load(sys.argv[2])
atoms, graphs = len(case["z"]), int(case["batch"][-1]) + 1
print(json.dumps({
    "energy": [0.0] * graphs,
    "forces": [[0.0] * 3] * (atoms FEWER),
    "versions": {"schnetpack": "2.9"},
}), flush=True)
for i, _ in enumerate(sys.stdin):
    FAILING
    print(json.dumps({"seconds": 0.5}), flush=True)
"""


def executable(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def schnetpack_python(tmp_path):
    """A Python whose SchNetPack is the stand-in, by version."""

    def make(version="2.1.1"):
        (tmp_path / "schnetpack.py").write_text(STAND_IN.replace("VERSION", version))
        command = f'PYTHONPATH={tmp_path} exec {sys.executable} "$@"'
        return executable(tmp_path / "python", "#!/bin/sh", command)

    return make


@pytest.fixture
def answering(tmp_path):
    """A Python that answers by a script of this test, whatever it is told to run."""

    def make(failing="pass", fewer=""):
        script = ANSWERS.replace("FAILING", failing).replace("FEWER", fewer)
        return executable(tmp_path / "python", f"#!{sys.executable}", script)

    return make


def run_with(python, rows, monkeypatch, groups=("inference", "training"), output=None):
    monkeypatch.setattr(suite, "ROWS", rows)
    return suite.run(groups, output, seconds=0.01, schnetpack_python=python)


@pytest.fixture
def one_row():
    tiny = partial(systems.molecules, 2, atoms=4)
    return [Row("inference", "forces", work.energy_and_forces, tiny, 1, 16, 5.0, 1.0)]


def test_schnetpack_gets_our_weights_and_edges(schnetpack_python, monkeypatch, tmp_path, capsys):
    tiny, one = partial(systems.molecules, 2, atoms=4), partial(systems.ethanols, 1)
    crystal = partial(systems.silicon, 1)
    rows = [
        Row("inference", "crystal", work.energy_and_forces, crystal, 2, 16, 5.0, 1.0),
        Row("inference", "energy", work.energy, tiny, 2, 16, 5.0, 1.0),
        Row("inference", "dynamics", work.dynamics, one, 1, 16, 5.0, None),
        Row("training", "energies", work.training_on_energies, tiny, 1, 16, 5.0, 1.0),
        Row("training", "forces", work.training_on_forces, tiny, 1, 16, 5.0, 1.0),
    ]
    # Our own search path must not reach the other environment.
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path / "elsewhere"))
    result = run_with(schnetpack_python(), rows, monkeypatch, output=tmp_path / "out")
    assert result["facts"]["schnetpack"].startswith(f"schnetpack 2.1.1, torch {torch.__version__}")
    for row in result["rows"]:
        found = row["schnetpack"]
        assert "failure" not in found and "disagreement" not in found, found
        assert found["energy_difference"] < 1e-5
        assert found["force_difference"] < 1e-4
        assert found["ratio"] > 0
    table = (tmp_path / "out" / "speed_cpu.md").read_text()
    assert f"| {result['rows'][0]['schnetpack']['ratio']:.1f} |" in table
    assert peers.HINT not in table + capsys.readouterr().out


def test_without_schnetpack_a_line_says_how_to_give_it(one_row, monkeypatch, tmp_path, capsys):
    result = run_with(None, one_row, monkeypatch, output=tmp_path)
    assert "schnetpack" not in result["facts"] | result["rows"][0]
    assert peers.HINT in capsys.readouterr().out
    lines = (tmp_path / "speed_cpu.md").read_text().splitlines()
    assert peers.HINT in lines and any(line.endswith("| 1.0 | - |") for line in lines)


def test_the_median_of_the_peer_is_what_it_says(answering, one_row, monkeypatch, tmp_path, capsys):
    result = run_with(answering(), one_row, monkeypatch, output=tmp_path / "out")
    found = result["rows"][0]["schnetpack"]
    assert found["theirs"] == 500.0
    assert found["ratio"] == pytest.approx(500 / found["ours"], rel=0.01)
    assert result["facts"]["schnetpack"] == "schnetpack 2.9"
    # This one gives zeros.
    assert "SchNetPack's results are not ours: energies differ by up to" in found["disagreement"]
    assert found["disagreement"] in capsys.readouterr().out
    assert found["disagreement"] in (tmp_path / "out" / "speed_cpu.md").read_text()


@pytest.mark.parametrize(
    ("failing", "fewer", "message"),
    [
        ("sys.exit('out of luck')", "", "ended with code 1 before it answered: out of luck."),
        ('print(\'{"error": "no memory"}\')', "", "process failed: no memory."),
        ("time.sleep(60)", "", "gave no answer within 1 s and was stopped."),
        ("pass", "- 1", r"shapes (2,) and (7, 3) instead of (2,) and (8, 3)."),
    ],
)
def test_a_peer_that_fails_in_a_row_is_tried_again(
    answering, one_row, monkeypatch, capsys, failing, fewer, message
):
    monkeypatch.setattr(suite, "SchNetPack", partial(peers.SchNetPack, limit=1.0))
    result = run_with(answering(failing, fewer), one_row * 2, monkeypatch)
    for row in result["rows"]:
        assert row["schnetpack"]["failure"].endswith(message)
        assert row["ratio"] > 0
    assert "schnetpack" not in result["facts"]
    assert capsys.readouterr().out.count(message) == 2


def test_an_environment_of_no_use_is_asked_once(
    schnetpack_python, one_row, monkeypatch, tmp_path, capsys
):
    empty = executable(tmp_path / "empty", "#!/bin/sh", f'exec {sys.executable} -S "$@"')
    absent = tmp_path / "absent"
    for python, message in (
        (absent, f"schnetpack_python='{absent}' cannot be started (No such file or directory)"),
        (empty, "cannot import SchNetPack (No module named"),
        (schnetpack_python("1.0.1"), "has SchNetPack 1.0.1; give schnetpack_python of an"),
    ):
        result = run_with(python, one_row * 2, monkeypatch, output=tmp_path / "out")
        first, second = (row["schnetpack"] for row in result["rows"])
        assert message in first["failure"] and second == {}
        assert result["facts"]["schnetpack"] == first["failure"]
        assert capsys.readouterr().out.count(first["failure"]) == 1
        assert (tmp_path / "out" / "speed_cpu.md").read_text().count(first["failure"]) == 1


def test_every_row_has_a_task_for_schnetpack():
    assert {row.task for row in ROWS} == set(peers.TASKS)


def test_backends_of_the_neighbour_search_find_the_same_edges(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(neighbors, "crystals", partial(neighbors.crystals, 40))
    monkeypatch.setattr(systems, "silicon", partial(systems.silicon, 1))
    path = tmp_path / "salts.npz"
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    # Caesium chloride: 8 neighbours at 2 * 3^0.5 Å and 6 at 4 Å; and a cube: 6 at 4.5 Å.
    np.savez(
        path,
        n_atoms=np.array([2, 1]),
        frac_coords=np.concatenate([corners, corners[:1]]),
        cell=np.stack([4 * np.eye(3), 4.5 * np.eye(3)]),
    )
    rows = neighbors.measure(repeats=1, data=path)
    for row in rows:
        same = {other["edges"] for other in rows if other["system"] == row["system"]}
        assert len(same) == 1 and row["ms"] > 0 and row["structures_per_second"] > 0
    edges = {row["system"]: row["edges"] for row in rows}
    assert edges["2 of salts, 5 Å"] == 2 * 14 + 6
    assert 300 < edges["40 crystals, 5 Å"] / 40 < 370
    assert {"images", "vesin", "auto"} <= {row["backend"] for row in rows}
    assert "structures/s" in capsys.readouterr().out
