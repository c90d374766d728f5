"""What SchNet is compared with on molecules: constants, kernels, closed forms and enn-s2s."""

import importlib.util
import itertools
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule
from small_frames import spring_table, springs, write_md17
from small_qm9 import write_small_qm9

from pyg_schnet.benchmarks.accuracy import (
    bonds,
    composition,
    enn_s2s,
    gdml,
    gdml_scaling,
    kernel_ridge,
    molecules,
    runner,
)
from pyg_schnet.benchmarks.accuracy.catalogue import load_rows
from pyg_schnet.benchmarks.accuracy.descriptors import BOHR
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.config import TrainingConfig
from pyg_schnet.training.force_config import MD17Config
from pyg_schnet.training.splits import Split
from pyg_schnet.training.targets import EnergyAndForces, Property
from pyg_schnet.training.tasks import Task
from pyg_schnet.units import KCAL_PER_MOL


def needs(name):
    absent = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(absent, reason=f"{name} is not installed: pyg_schnet[baselines]")


ETHANOL = molecule("CH3CH2OH")
NAMES = ("CH3CH2OH", "H2O", "C2H4", "CH4", "CO2", "HCN", "C2H6", "CH3OH")


def small_table(count=80):
    """Distorted molecules with an energy of atoms, and of the distances between them."""
    random = np.random.default_rng(0)
    atom = {1: -13.0, 6: -1030.0, 7: -1485.0, 8: -2040.0}
    z, pos, y = [], [], []
    for k in range(count):
        atoms = molecule(NAMES[k % len(NAMES)])
        r = atoms.positions + random.normal(0, 0.05, (len(atoms), 3))
        apart = np.linalg.norm(r[:, None] - r[None], axis=-1)
        y.append(sum(atom[n] for n in atoms.numbers) - 2 * np.exp(-apart).sum())
        z.append(atoms.numbers)
        pos.append(r)
    sizes = torch.tensor([len(of) for of in z])
    return MoleculeTable(
        torch.from_numpy(np.concatenate(z)).long(),
        torch.from_numpy(np.concatenate(pos)).float(),
        torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        torch.tensor(y, dtype=torch.float64)[:, None],
    )


def task_of(table, target=None, train=50, val=15):
    rows = torch.from_numpy(np.random.default_rng(1).permutation(len(table)))
    split = Split(rows[:train], rows[train : train + val], rows[train + val :])
    return Task("small molecules", target or Property("U0", "eV", "meV", 1000.0), table, split)


def test_the_coulomb_matrix_is_the_formula_and_its_vectors_know_no_order_or_place():
    # Distorted: of atoms that mirror each other, either may come first in a sorted matrix.
    z, pos = ETHANOL.numbers, ETHANOL.positions + np.random.default_rng(5).normal(0, 0.02, (9, 3))
    found = molecules.coulomb_matrix(z, pos)
    for i, j in itertools.product(range(9), repeat=2):
        away = math.dist(pos[i], pos[j]) / BOHR
        want = 0.5 * z[i] ** 2.4 if i == j else z[i] * z[j] / away
        assert math.isclose(found[i, j], want, rel_tol=1e-12)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    order = np.random.default_rng(4).permutation(9)
    other = (pos[order] + 1.3) @ rotation
    table = MoleculeTable(
        torch.from_numpy(np.concatenate([z, z[order], [1]])).long(),
        torch.from_numpy(np.concatenate([pos, other, [[0.0, 0.0, 0.0]]])),
        torch.tensor([0, 9, 18, 19]),
        torch.zeros(3, 1, dtype=torch.float64),
    )
    vectors = molecules.describe_molecules(table).by_name()
    assert vectors["spectrum"].shape == (3, 9) and vectors["sorted"].shape == (3, 45)
    for values in vectors.values():
        np.testing.assert_allclose(values[1], values[0], atol=1e-8)
        np.testing.assert_allclose(values[2], [0.5, *[0.0] * (values.shape[1] - 1)])
    with pytest.raises(ValueError, match="Two atoms of a molecule lie in one place"):
        molecules.coulomb_matrix(z, pos * [[0.0, 0.0, 0.0]])


def test_a_table_of_what_is_used_has_the_same_structures():
    table = small_table()
    task = task_of(table, train=10, val=5)
    small = molecules.only_used(task)
    assert len(molecules.only_used(task_of(table)).table) == 80
    rows = torch.cat([task.split.train, task.split.val, task.split.test[:3]])
    places = torch.cat([small.split.train, small.split.val, small.split.test[:3]])
    assert places.tolist() == list(range(18))
    a, b = table.batch(rows, 3.0), small.table.batch(places, 3.0)
    for name in ("z", "pos", "y", "edge_index", "batch"):
        assert torch.equal(a[name], b[name])
    frames = spring_table(6)
    forces = Task("frames", EnergyAndForces("ethanol"), frames, Split(*torch.arange(6).split(2)))
    assert torch.equal(molecules.only_used(forces).table.forces, frames.forces)


def test_the_mean_and_dressed_atoms_are_fitted_to_the_training_set():
    table = small_table()
    task = task_of(table)
    counts, y = table.composition().numpy(), table.y[:, 0].numpy()
    train, test = task.split.train.numpy(), task.split.test.numpy()
    fitted = np.linalg.lstsq(counts[train], y[train], rcond=None)[0]
    wants = {
        "mean": np.abs(y[test] - y[train].mean()).mean(),
        "dressed-atoms": np.abs(y[test] - counts[test] @ fitted).mean(),
    }
    for name, want in wants.items():
        found = composition.run(task, name)
        assert math.isclose(found["test_mae"], 1000 * want, rel_tol=1e-6)
        assert (found["unit"], found["n_train"], found["n_test"]) == ("meV", 50, 15)
    assert wants["dressed-atoms"] < wants["mean"] / 100
    shares = counts / counts.sum(1, keepdims=True)
    fitted = np.linalg.lstsq(shares[train], y[train] - y[train].mean(), rcond=None)[0]
    want = np.abs(y[test] - y[train].mean() - shares[test] @ fitted).mean()
    per_atom = task_of(table, Property("gap", "eV", "eV", extensive=False))
    found = composition.run(per_atom, "dressed-atoms")
    assert math.isclose(found["test_mae"], want, rel_tol=1e-6)


@needs("sklearn")
def test_kernel_ridge_regression_learns_what_dressed_atoms_leave(tmp_path):
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics.pairwise import laplacian_kernel, rbf_kernel

    task = task_of(small_table())
    found = kernel_ridge.run(task, "coulomb-matrix", tmp_path)
    assert not list(tmp_path.iterdir())
    chosen = found["chosen"]
    vectors = molecules.describe_molecules(task.table).by_name()[chosen["representation"]]
    kernel, width = laplacian_kernel, 1 / chosen["width"]
    if chosen["kernel"] == "rbf":
        kernel, width = rbf_kernel, width**2
    train, test = task.split.train, task.split.test
    known = composition.guess(task, "dressed-atoms", torch.arange(80)).numpy()
    left = task.table.y[:, 0].numpy() - known
    mean = left[train].mean()
    ridge = KernelRidge(alpha=chosen["regularization"], kernel="precomputed")
    ridge.fit(kernel(vectors[train], gamma=width), left[train] - mean)
    guess = ridge.predict(kernel(vectors[test], vectors[train], gamma=width)) + mean
    want = 1000 * np.abs(guess - left[test]).mean()
    assert math.isclose(found["test_mae"], want, rel_tol=1e-3)
    assert found["test_mae"] < composition.run(task, "dressed-atoms")["test_mae"] / 5
    with pytest.raises(ValueError, match="sine-matrix describes crystals"):
        kernel_ridge.run(task, "sine-matrix", tmp_path)


KNOWN_BONDS = {
    "C2H4": {(6, 6): 2, (1, 6): 1},
    "C2H2": {(6, 6): 3, (1, 6): 1},
    "HCN": {(6, 7): 3, (1, 6): 1},
    "CO2": {(6, 8): 2},
    "C6H6": {(6, 6): 4, (1, 6): 1},
    "CH3CH2OH": {(6, 6): 1, (6, 8): 1, (1, 6): 1, (1, 8): 1},
    "H2CO": {(6, 8): 2, (1, 6): 1},
    "CH4": {(1, 6): 1},
}


@needs("rdkit")
@pytest.mark.parametrize("name", KNOWN_BONDS)
def test_bonds_of_known_molecules_are_found_in_their_geometry(name):
    atoms = molecule(name)
    kinds, found, whole = bonds.perceive(atoms.numbers, atoms.positions)
    assert whole and (found == found.T).all()
    pairs = {
        (*sorted((int(atoms.numbers[i]), int(atoms.numbers[j]))), int(found[i, j]))
        for i, j in zip(*np.nonzero(found), strict=True)
    }
    assert pairs == {(*pair, order) for pair, order in KNOWN_BONDS[name].items()}
    # Each hydrogen has one bond, and each carbon four of them if orders are counted.
    orders = np.array([0, 1, 2, 3, 1.5])[found].sum(1)
    assert (orders[atoms.numbers == 1] == 1).all() and (orders[atoms.numbers == 6] == 4).all()
    assert (kinds[:, -1] == atoms.numbers).all()
    assert (kinds[:, 2] == (name == "C6H6") * (atoms.numbers == 6)).all()


@needs("rdkit")
def test_kinds_of_atoms_are_those_of_chemistry():
    def of(name):
        atoms = molecule(name)
        kinds, *_ = bonds.perceive(atoms.numbers, atoms.positions)
        return [dict(zip(bonds.KINDS, row, strict=True)) for row in kinds], atoms.numbers

    kinds, z = of("CH3CH2OH")
    oxygen = kinds[list(z).index(8)]
    assert oxygen["acceptor"] and oxygen["donor"] and oxygen["sp3"] and oxygen["hydrogens"] == 1
    assert sorted(k["hydrogens"] for k, n in zip(kinds, z) if n == 6) == [2, 3]
    kinds, z = of("HCN")
    assert all(k["sp"] == (n != 1) for k, n in zip(kinds, z))
    kinds, z = of("C6H6")
    assert all(k["sp2"] == k["aromatic"] == (n == 6) for k, n in zip(kinds, z))


@needs("rdkit")
def test_what_has_no_bond_orders_has_single_bonds_and_is_counted():
    radical = MoleculeTable(
        torch.tensor([8, 1, 1]),
        torch.tensor([[0.0, 0, 0], [0, 0, 0.97], [9, 9, 9]]),
        torch.tensor([0, 2, 3]),
        torch.zeros(2, 1, dtype=torch.float64),
    )
    found = bonds.chemistry(radical)
    assert found.bonds.tolist() == [0, 1, 1, 0, 0] and found.begin.tolist() == [0, 4, 5]
    assert found.guessed == 1


@needs("rdkit")
def test_inputs_have_the_bond_and_the_length_of_every_edge():
    table = small_table(8)
    graphs = enn_s2s.Graphs(bonds.chemistry(table), table.z.unique(), table.ptr)
    batch = table.batch(torch.tensor([5, 0, 3]), cutoff=3.0)
    x, edge_index, edge_attr, molecule_of, count = graphs.inputs(batch)
    assert x.shape == (3 + 9 + 5, graphs.in_channels) and count == 3
    assert torch.equal(x[:, :4].argmax(1), torch.searchsorted(table.z.unique(), batch.z))
    start = 0
    for name in (NAMES[5], NAMES[0], NAMES[3]):
        atoms = molecule(name)
        _, want, _ = bonds.perceive(atoms.numbers, atoms.positions)
        mine = molecule_of[edge_index[0]] == molecule_of[start]
        i, j = edge_index[:, mine] - start
        assert torch.equal(edge_attr[mine, :5].argmax(1), torch.from_numpy(want)[i, j].long())
        assert (edge_attr[mine, :5].sum(1) == 1).all()
        start += len(atoms)
    away = (batch.pos[edge_index[0]] - batch.pos[edge_index[1]]).norm(dim=1)
    assert torch.equal(edge_attr[:, 5], away)


def test_a_message_is_the_sum_of_matrices_times_states():
    torch.manual_seed(0)
    model = enn_s2s.EnnS2S(4, hidden_channels=6, edge_channels=5).double()
    edge_index = torch.tensor([[0, 1, 2, 2], [1, 0, 0, 1]])
    edge_attr, state = torch.rand(4, 6).double(), torch.rand(3, 6).double()
    found = model.messages(state, edge_index, model.matrices(edge_attr))
    want = np.zeros((3, 6))
    first, _, second = model.matrices
    for (j, i), feature in zip(edge_index.T.tolist(), edge_attr.numpy()):
        hidden = np.maximum(
            first.weight.detach().numpy() @ feature + first.bias.detach().numpy(), 0
        )
        matrix = second.weight.detach().numpy() @ hidden + second.bias.detach().numpy()
        want[i] += state[j].numpy() @ matrix.reshape(6, 6)
    np.testing.assert_allclose(found.detach().numpy(), want, atol=1e-12)


@needs("rdkit")
def test_enn_s2s_knows_no_order_place_or_orientation():
    z, pos = ETHANOL.numbers, ETHANOL.positions
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    order = np.random.default_rng(4).permutation(9)
    other = (pos[order] + 1.3) @ rotation
    table = MoleculeTable(
        torch.from_numpy(np.concatenate([z, z[order], z])).long(),
        torch.from_numpy(np.concatenate([pos, other, 1.05 * pos])).float(),
        torch.tensor([0, 9, 18, 27]),
        torch.zeros(3, 1, dtype=torch.float64),
    )
    graphs = enn_s2s.Graphs(bonds.chemistry(table), table.z.unique(), table.ptr)
    torch.manual_seed(0)
    model = enn_s2s.EnnS2S(graphs.in_channels, 16, 16)
    with torch.no_grad():
        out = model(*graphs.inputs(table.batch(torch.arange(3), cutoff=None)))
        alone = model(*graphs.inputs(table.batch(torch.tensor([0]), cutoff=None)))
    assert torch.allclose(out[0], out[1], atol=2e-6) and torch.allclose(out[:1], alone, atol=2e-6)
    assert abs(float(out[2] - out[0])) > 2e-5


@needs("rdkit")
def test_enn_s2s_learns_and_tests_the_weights_that_validation_prefers():
    task = task_of(small_table())
    options = {"hidden_channels": 16, "num_filters": 16, "num_interactions": 2, "val_every": 20}
    options |= {"max_steps": 150, "schedule": "cosine", "lr": 5e-3, "ema": 0.9, "batch_size": 10}
    config = TrainingConfig(train_size=50, val_size=15, **options)
    before = torch.random.get_rng_state()
    found = enn_s2s.run(task, config)
    assert torch.equal(before, torch.random.get_rng_state())
    dressed = composition.run(task, "dressed-atoms")
    assert found["test_mae"] < dressed["test_mae"] / 2
    assert found["val_mae"] < dressed["test_mae"] / 2
    assert (found["steps"], found["stopped"], found["guessed_bonds"]) == (150, "max_steps", 0)
    assert found["best_step"] % 20 in (0, 10) and found["n_test"] == 15
    again = enn_s2s.run(task, config)
    assert math.isclose(again["test_mae"], found["test_mae"], rel_tol=1e-3)
    other = TrainingConfig(**options | {"max_steps": 40, "val_every": 10, "lr": 0.0, "patience": 2})
    idle = enn_s2s.run(task, other)
    assert (idle["stopped"], idle["steps"], idle["best_step"]) == ("patience", 30, 10)
    timed = TrainingConfig(**options | {"max_time": "0.01s", "gradient_clip": 1.0, "loss": "mae"})
    assert enn_s2s.run(task, timed)["stopped"] == "max_time"


@needs("rdkit")
def test_an_interrupted_enn_s2s_goes_on_where_it_was(tmp_path, monkeypatch):
    task = task_of(small_table())
    options = {"hidden_channels": 8, "num_filters": 8, "num_interactions": 1, "val_every": 10}
    config = TrainingConfig(**options, max_steps=40, batch_size=10, ema=0.9)
    whole = enn_s2s.run(task, config)
    state, validate = tmp_path / "runs" / "seed0.ckpt", enn_s2s._Training._validate

    def interrupted(self, step):
        if step == 30:
            raise KeyboardInterrupt
        return validate(self, step)

    monkeypatch.setattr(enn_s2s._Training, "_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        enn_s2s.run(task, config, state)
    assert [path.name for path in state.parent.iterdir()] == ["seed0.ckpt"]
    with pytest.raises(ValueError, match="of a run with other options; remove it"):
        enn_s2s.run(task, replace(config, lr=0.1), state)
    monkeypatch.undo()
    steps = []
    monkeypatch.setattr(
        enn_s2s._Training,
        "_validate",
        lambda self, step: steps.append(step) or validate(self, step),
    )
    again = enn_s2s.run(task, config, state)
    assert steps == [30, 40] and not state.exists()
    assert again["test_mae"] == whole["test_mae"] and again["val_mae"] == whole["val_mae"]


def frames_task(count=60, train=30, val=10):
    table = spring_table(count, dtype=torch.float64)
    rows = torch.arange(count)
    split = Split(rows[:train], rows[train : train + val], rows[train + val :])
    return Task("frames", EnergyAndForces("ethanol"), table, split)


@needs("sgdml")
def test_a_closed_form_has_forces_that_are_the_gradient_of_its_energy():
    task = frames_task()
    known = gdml.Frames.of(task.table, task.split.train)
    model = gdml.fit(known, "gdml", 10)
    assert model.permutations == 1
    place = known.pos[:1] + 0.02
    _, forces = model.predict(place)
    for atom, axis in ((0, 0), (2, 1), (7, 2)):
        energies = []
        for step in (-1e-4, 1e-4):
            moved = place.copy()
            moved[0, atom, axis] += step
            energies.append(model.predict(moved)[0][0])
        slope = (energies[1] - energies[0]) / 2e-4
        assert math.isclose(forces[0, atom, axis], -slope, rel_tol=1e-5, abs_tol=1e-6)
    energy, forces = model.predict(known.pos)
    assert np.abs(forces - known.forces).max() < 1e-3  # as many constants as numbers
    assert abs((energy - known.energy).mean()) < 1e-8


@needs("sgdml")
def test_the_width_is_chosen_by_validation_and_errors_are_in_ev(monkeypatch):
    monkeypatch.setattr(gdml, "WIDTHS", (1, 10))
    task = frames_task()
    found = gdml.run(task, "sgdml")
    assert found["chosen"]["width"] == 10 and found["chosen"]["permutations"] >= 1
    _, pos, energy, forces = springs(60)
    known = gdml.Frames.of(task.table, task.split.train)
    guess = gdml.fit(known, "sgdml", 10).predict(pos[40:])
    assert math.isclose(found["test_energy_mae"], np.abs(guess[0] - energy[40:]).mean())
    assert math.isclose(found["test_forces_mae"], np.abs(guess[1] - forces[40:]).mean())
    assert found["test_forces_mae"] < np.abs(forces).mean() / 5
    assert found["cost"]["kernel_bytes"] == 8 * (3 * 9 * 30) ** 2
    assert (found["n_train"], found["n_val"], found["n_test"]) == (30, 10, 20)
    import logging

    assert logging.getLoggerClass() is logging.Logger


def test_a_closed_form_is_of_one_molecule_with_forces():
    table = small_table(8)
    with pytest.raises(ValueError, match="GDML learns one molecule"):
        gdml.Frames.of(table, torch.arange(8))
    with pytest.raises(ValueError, match="the data set has none"):
        gdml.Frames.of(table, torch.tensor([1]))
    shuffled = spring_table(2)
    shuffled.z[:2] = shuffled.z[[2, 0]]
    with pytest.raises(ValueError, match="same atoms in the same order"):
        gdml.Frames.of(shuffled, torch.arange(2))
    with pytest.raises(ValueError, match="sgdml learns energies and forces, not U0"):
        gdml.run(task_of(table, train=4, val=2), "sgdml")
    with pytest.raises(ValueError, match="enn-s2s predicts one property of molecules"):
        enn_s2s.run(frames_task(), MD17Config())


def test_a_missing_library_is_named(monkeypatch):
    for name in ("sgdml.predict", "sgdml.train", "sgdml", "rdkit"):
        monkeypatch.setitem(sys.modules, name, None)
    bonds._rdkit.cache_clear()
    with pytest.raises(ImportError, match=r"RDKit .* pip install 'pyg_schnet\[baselines\]'"):
        bonds.perceive(ETHANOL.numbers, ETHANOL.positions)
    with pytest.raises(ImportError, match=r"sgdml; install it with pip install 'pyg_schnet\["):
        gdml.run(frames_task(), "gdml")


@pytest.fixture
def places(tmp_path):
    return {"output": tmp_path / "accuracy", "runs": tmp_path / "runs"}


@needs("sklearn")
def test_rows_of_molecules_are_run_and_recorded_like_others(places, tmp_path, capsys):
    raw = write_small_qm9(tmp_path / "raw")
    options = {"raw": str(raw), "root": str(tmp_path / "data"), "train_size": 40, "val_size": 9}
    options |= {"test_size": 10, "max_time": None, "max_steps": 20, "val_every": 10}
    names = [f"qm9-small-U0-{end}" for end in ("mean", "dressed", "coulomb")]
    if importlib.util.find_spec("rdkit") is not None:
        names.append("qm9-small-U0-enn-s2s")
    with pytest.warns(UserWarning, match="holds 59 of"):
        found = runner.run(names, overrides=options, **places)
    errors = {name: record["errors"]["property"]["mean"] for name, record in found.items()}
    for name, record in found.items():
        assert json.loads((places["output"] / f"{name}.json").read_text()) == record
        assert record["seeds"]["0"]["n_test"] == 10
        assert record["errors"]["property"]["unit"] == "kcal/mol"
    assert errors[names[0]] > 100 * errors[names[1]] > errors[names[2]]
    assert "kernel of " in capsys.readouterr().out
    assert not places["runs"].exists()


@needs("sgdml")
def test_a_closed_form_is_a_row_beside_the_network(places, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gdml, "WIDTHS", (10,))
    raw = write_md17(tmp_path / "md17_ethanol.npz")
    options = {"raw": str(raw), "root": str(tmp_path / "data"), "train_size": 20, "val_size": 10}
    found = runner.run(["gdml-ethanol-1k", "mean-ethanol-1k"], overrides=options, **places)
    a, b = (found[f"{name}-ethanol-1k"]["seeds"]["0"] for name in ("gdml", "mean"))
    assert a["n_test"] == b["n_test"] == 30
    assert a["forces"] < b["forces"] / 3 and a["cost"]["kernel_bytes"] == 8 * 540**2
    _, _, _, forces = springs(60)
    assert b["forces"] < np.abs(forces).mean() / KCAL_PER_MOL * 1.2
    assert "Matérn kernel of inverse distances, width 10" in capsys.readouterr().out


def test_rows_that_are_compared_have_one_split():
    rows = load_rows()
    groups = [["md17-ethanol-1k", *(f"{name}-ethanol-1k" for name in ("sgdml", "gdml", "mean"))]]
    ends = ("", "-coulomb", "-mean", "-dressed", "-enn-s2s")
    groups += [[f"qm9-small-{target}{end}" for end in ends] for target in ("U0", "gap")]
    for group in groups:
        known = [rows[name] for name in group]
        configs = [runner.config_of(row, 0, {}) for row in known]
        assert len({(c.train_size, c.val_size, c.test_size, c.split_seed) for c in configs}) == 1
        assert len({row.table for row in known}) == 1
        assert all(row.data == known[0].data for row in known)
        assert len({frozenset((q, p.unit) for q, p in row.paper.items()) for row in known}) == 1


def test_what_was_measured_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    point = {"peak_bytes": 1e9, "train_seconds": 2.0, "milliseconds_per_structure": 0.1}
    points = {name: {"100": point, "200": point} for name in gdml_scaling.MODELS}
    file = gdml_scaling.draw({"steps": 10, "points": points}, tmp_path / "figure.png")
    assert file.read_bytes()[:4] == b"\x89PNG" and file.stat().st_size > 5_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_step_of_schnet_is_timed_and_weighed(monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.setattr(gdml_scaling, "STEPS", 20)
    config = MD17Config(
        train_size=30, val_size=10, hidden_channels=8, num_filters=8, num_interactions=1
    )
    config.tensorboard, config.precision = False, "64-true"
    found = gdml_scaling._schnet(frames_task(), config)
    assert found["steps"] == 20 and found["peak_bytes"] >= 0 and found["train_seconds"] > 0
    assert 0 < found["milliseconds_in_batches_of_100"] < 1e3
