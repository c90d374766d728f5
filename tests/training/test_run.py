import io
import json
import math
import os
import signal
import sys

import pytest
import torch
from small_qm9 import write_small_qm9
from torch.testing import assert_close

from pyg_schnet import SchNet, load
from pyg_schnet.analysis import plot_run, read_log
from pyg_schnet.datasets import QM9
from pyg_schnet.ops import Grid
from pyg_schnet.training import run as runs
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.callbacks import StopCleanly
from pyg_schnet.training.config import TrainingConfig
from pyg_schnet.training.evaluation import evaluate
from pyg_schnet.training.module import PropertyTraining
from pyg_schnet.training.run import Property, build_model, train
from pyg_schnet.training.schedules import Schedule
from pyg_schnet.training.splits import random_split

ENERGY = Property("U0", "eV", "kcal/mol", 23.06)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qm9")
    raw = write_small_qm9(folder / "xyz")
    with pytest.warns(UserWarning, match="holds 59 of the 130831"):
        dataset = QM9(str(folder), target="U0", raw=str(raw))
    return MoleculeTable.from_dataset(dataset)


@pytest.fixture
def split(table):
    return random_split(len(table), 40, 8)


def options(**changes):
    small = {
        "hidden_channels": 8,
        "num_filters": 8,
        "num_interactions": 2,
        "num_gaussians": 10,
        "batch_size": 8,
        "max_steps": 20,
        "val_every": 5,
        "log_every": 5,
        "tensorboard": False,
        "accelerator": "cpu",
    }
    return TrainingConfig(**(small | changes))


def weights(path):
    state = torch.load(path, weights_only=True)
    return state["state_dict"], state["current_model_state"], state["optimizer_states"][0]["state"]


def test_a_run_learns_and_writes_down_what_it_did(table, split, tmp_path):
    config = options(max_steps=500, val_every=100, lr=1e-2)
    metrics = train(config, ENERGY, table, split, tmp_path)
    assert metrics["test_mae_kcal_mol"] < 0.7 * metrics["baseline_dressed_atom_mae_kcal_mol"]
    assert metrics["baseline_dressed_atom_mae_kcal_mol"] < metrics["baseline_mean_mae_kcal_mol"]
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"]) == (40, 8, 11)
    assert metrics["steps"] == 500 and metrics["stopped"] == "max_steps"
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert not list(tmp_path.glob("*.part*"))


def test_the_best_weights_are_those_validated_and_reproduce_the_errors(table, split, tmp_path):
    metrics = train(options(), ENERGY, table, split, tmp_path)
    model = load(tmp_path / "best.safetensors")
    assert isinstance(model, SchNet)
    assert 23.06 * evaluate(model, table, split.test).mae() == pytest.approx(metrics["test_mae"])
    assert 23.06 * evaluate(model, table, split.val).mae() == pytest.approx(
        metrics["val_mae"], rel=1e-4
    )


def test_validation_sees_the_moving_average_of_the_weights(table, split, tmp_path):
    """Recomputed by hand: plain Adam, and the average with decay 0.9."""
    config = options(ema=0.9, max_steps=5)
    train(config, ENERGY, table, split, tmp_path)
    model = build_model(config, ENERGY, table, split.train)
    module = PropertyTraining(model, Schedule("exponential", config.lr))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    loader = iter(runs.EpochlessLoader(table, split.train, 8, model.cutoff, config.seed))
    average = None
    for step in range(5):
        optimizer.param_groups[0]["lr"] = module.schedule.at(step)
        optimizer.zero_grad()
        module.error(next(loader)).square().mean().backward()
        optimizer.step()
        now = [p.detach().clone() for p in model.parameters()]
        if average is None:
            average = now
        else:
            average = [0.9 * a + 0.1 * p for a, p in zip(average, now, strict=True)]
    kept = load(tmp_path / "best.safetensors")
    for a, p in zip(average, kept.parameters(), strict=True):
        assert_close(p, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("readout", ["add", "mean"])
@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_the_loss_is_that_of_whole_predictions(table, readout, loss):
    """Constants are left out on both sides; with them, in float64, the loss is the same."""
    model = SchNet(8, 8, 1, 10, 5.0, readout=readout, mean=-50.0, std=2.0, seed=0).double()
    model.readout.set_statistics(atomref=torch.linspace(-5.0, 0.0, 100))
    model.readout.scale.fill_(1.5)
    batch = table.batch(torch.arange(6), 5.0)
    batch.pos = batch.pos.double()
    want = 0.0
    for i in range(6):
        mine = batch.batch == i
        difference = float(model(batch.z[mine], batch.pos[mine]).detach()) - float(batch.y[i])
        want += (difference**2 if loss == "mse" else abs(difference)) / 6
    got = PropertyTraining(model, Schedule("constant", 1e-3), loss).objective(batch).detach()
    assert float(got) == pytest.approx(want, rel=1e-9)


def test_interrupted_and_resumed_is_bit_for_bit_the_uninterrupted_run(table, split, tmp_path):
    train(options(), ENERGY, table, split, tmp_path / "whole")
    train(options(max_steps=12), ENERGY, table, split, tmp_path / "parts")
    train(options(), ENERGY, table, split, tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole/last.ckpt"), weights(tmp_path / "parts/last.ckpt")
    for a, b in zip(whole[:2], parts[:2], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    for a, b in zip(whole[2].values(), parts[2].values(), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    log = read_log(tmp_path / "parts")
    steps = log["step"][[not math.isnan(v) for v in log["val_mae"]]]
    assert steps.tolist() == sorted(set(steps.tolist()))


def test_the_table_of_filters_follows_them_as_they_sharpen(table, split, tmp_path, monkeypatch):
    config = options(max_steps=10, filters="tabulated")
    coarse = build_model(config, ENERGY, table, split.train)._table_of_filters()
    coarse = coarse.grid(torch.float32)

    def sharpen(module):
        for block in module.model.interactions:
            block.conv.nn[0].weight.data.mul_(5.0)

    monkeypatch.setattr(PropertyTraining, "on_train_start", sharpen)
    train(config, ENERGY, table, split, tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    fine = Grid(*state["steps_of_filters"]["torch.float32"])
    assert fine.step < coarse.step
    model = build_model(config, ENERGY, table, split.train)
    filters = model._table_of_filters()
    for name, value in model.state_dict().items():
        value.copy_(state["state_dict"][f"model.{name}"])
    assert max(filters.error(coarse)) > 2e-5
    assert filters.error(fine)[0] < 2e-6 and filters.error(fine)[1] < 2e-5


def test_ctrl_c_ends_cleanly_with_the_best_weights_tested(table, split, tmp_path, monkeypatch):
    original = StopCleanly.after_step

    def interrupt(self, module):
        if module.global_step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, module)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(StopCleanly, "after_step", interrupt)
    metrics = train(options(), ENERGY, table, split, tmp_path)
    assert metrics["stopped"] == "interrupted" and 7 <= metrics["steps"] <= 8
    assert math.isfinite(metrics["test_mae"])
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    train(options(), ENERGY, table, split, tmp_path, resume=True)
    train(options(), ENERGY, table, split, tmp_path / "whole")
    a, b = weights(tmp_path / "last.ckpt")[0], weights(tmp_path / "whole/last.ckpt")[0]
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_interrupt_before_the_first_validation_still_validates_and_tests(
    table, split, tmp_path, monkeypatch
):
    def interrupt(self, module):
        if module.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StopCleanly, "after_step", interrupt)
    metrics = train(options(), ENERGY, table, split, tmp_path)
    assert metrics["stopped"] == "interrupted" and metrics["steps"] <= 3
    assert math.isfinite(metrics["val_mae"]) and math.isfinite(metrics["test_mae"])


def test_a_bar_is_shown_on_a_terminal(table, split, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    train(options(max_steps=40, val_every=20), ENERGY, table, split, tmp_path)
    assert "val MAE" in screen.getvalue() and "kcal/mol" in screen.getvalue()


def test_time_ends_a_run(table, split, tmp_path):
    metrics = train(options(max_steps=10**6, max_time="1s"), ENERGY, table, split, tmp_path)
    assert metrics["stopped"] == "max_time" and metrics["steps"] < 10**6


def test_patience_ends_a_run(table, split, tmp_path):
    config = options(lr=1e-12, max_steps=200, patience=2, ema=0.0, schedule="constant")
    metrics = train(config, ENERGY, table, split, tmp_path)
    assert metrics["stopped"] == "no improvement" and metrics["steps"] < 200


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "64-true"},
        {"precision": "bf16-mixed"},
        {"preset": "neurips-2017"},
        {"gradient_clip": 0.1, "loss": "mae", "schedule": "sgdr", "restart_steps": 3},
        {"offsets": "mean", "tensorboard": True},
    ],
    ids=lambda c: next(iter(c.values())),
)
def test_options_run(table, split, tmp_path, changes):
    if changes.get("precision") == "64-true":
        table = MoleculeTable(table.z, table.pos.double(), table.ptr, table.y)
    metrics = train(options(max_steps=5, **changes), ENERGY, table, split, tmp_path)
    assert math.isfinite(metrics["test_mae"])


def test_dipoles_and_intensive_targets_run(table, split, tmp_path):
    target = MoleculeTable(table.z, table.pos, table.ptr, torch.rand_like(table.y))
    for wanted in (
        Property("mu", "D", "D", head="dipole"),
        Property("gap", "eV", "meV", 1000.0, False),
    ):
        metrics = train(options(max_steps=5), wanted, target, split, tmp_path / wanted.name)
        assert math.isfinite(metrics[f"test_mae_{wanted.shown_unit}"])


def test_a_diverging_run_says_what_to_change(table, split, tmp_path):
    bad = MoleculeTable(table.z, table.pos, table.ptr, table.y)
    config = options(max_steps=300, lr=1e30, schedule="constant")
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(config, ENERGY, bad, split, tmp_path)


def test_nothing_to_resume_and_no_validation_are_refused(table, split, tmp_path):
    with pytest.raises(FileNotFoundError, match="to resume from"):
        train(options(), ENERGY, table, split, tmp_path, resume=True)
    with pytest.raises(ValueError, match="at least 1"):
        train(options(), ENERGY, table, random_split(len(table), 40, 0), tmp_path)


@pytest.mark.parametrize("junk", [b"", b"junk", b"PK\x03\x04"])
def test_a_damaged_point_to_resume_from_is_refused(table, split, tmp_path, junk):
    (tmp_path / "last.ckpt").write_bytes(junk)
    with pytest.raises(ValueError, match="cannot be read as a point to resume from"):
        train(options(), ENERGY, table, split, tmp_path, resume=True)


def test_evaluating_nothing_is_refused(table):
    with pytest.raises(ValueError, match="empty"):
        evaluate(SchNet(8, 8, 1, 10, 5.0), table, torch.tensor([], dtype=torch.long))


def test_figures_of_a_run_are_drawn(table, split, tmp_path):
    train(options(), ENERGY, table, split, tmp_path)
    files = plot_run(tmp_path)
    assert {path.name for path in files} == {
        "learning_curve.png",
        "predicted_vs_reference.png",
        "error_histogram.png",
        "summary.png",
    }
    for path in files:
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileNotFoundError, match="no finished run"):
        plot_run(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="is it a run folder"):
        read_log(tmp_path / "elsewhere")


def test_resuming_a_finished_run_changes_nothing(table, split, tmp_path):
    before = train(options(), ENERGY, table, split, tmp_path)
    after = train(options(), ENERGY, table, split, tmp_path, resume=True)
    for name in ("test_mae", "val_mae", "steps", "best_step"):
        assert after[name] == before[name]
