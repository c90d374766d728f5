"""The rows that compare DTNN with SchNet, and their one figure."""

import json

import pytest
from small_qm9 import write_small_qm9

from pyg_schnet import DTNN, SchNet
from pyg_schnet.benchmarks.accuracy import command, runner
from pyg_schnet.benchmarks.accuracy.catalogue import find_rows
from pyg_schnet.training.run import build_model

PAIRS = [(f"dtnn-qm9-U0-t{t}", f"dtnn-qm9-U0-t{t}-schnet", t) for t in (1, 2, 3)]


@pytest.mark.parametrize(("dtnn", "schnet", "passes"), PAIRS)
def test_rows_differ_in_the_network_alone(dtnn, schnet, passes):
    one, other = (runner.config_of(find_rows([name])[0], 0, {}) for name in (dtnn, schnet))
    assert (one.model, other.model) == ("dtnn", "schnet")
    assert (one.hidden_channels, one.num_factors, one.num_interactions) == (30, 60, passes)
    assert (one.num_gaussians, one.cutoff, one.cutoff_fn) == (106, 20.0, "none")
    assert other.num_interactions == passes
    shared = (
        *("target", "train_size", "val_size", "test_size", "batch_size", "max_steps", "max_time"),
        *("schedule", "ema", "offsets", "loss", "val_every", "optimizer", "seed"),
    )
    for name in shared:
        assert getattr(one, name) == getattr(other, name), name


def test_rows_of_the_paper_are_the_thesis_network():
    for size in (25, 50, 100):
        (row,) = find_rows([f"qm9-U0-{size}k-dtnn"])
        config = runner.config_of(row, 0, {})
        assert (config.preset, config.model, config.train_size) == ("dtnn", "dtnn", size * 1000)
        assert row.paper["property"].unit == "kcal/mol"


def test_one_command_draws_all_on_one_figure_and_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    raw = write_small_qm9(tmp_path / "raw")
    words = ["--raw", str(raw), "--root", str(tmp_path / "data"), "--train_size", "40"]
    words += ["--val_size", "8", "--test_size", "8", "--max_steps", "5", "--sizes", "20", "40"]
    words += ["--output", str(tmp_path / "out/accuracy"), "--runs", str(tmp_path / "runs")]
    words += ["--options", "val_every=5", "accelerator=cpu"]

    def act():
        command.main(command.parser().parse_args(["curve", "dtnn-qm9-U0-*", *words]))

    with pytest.warns(UserWarning, match="holds 59 of"):
        act()
    file = tmp_path / "out/curve_dtnn-qm9-U0.json"
    record = json.loads(file.read_text())
    assert list(record["points"]) == [name for dtnn, net, _ in PAIRS for name in (dtnn, net)]
    assert record["labels"]["dtnn-qm9-U0-t2"] == "DTNN, T=2"
    assert record["labels"]["dtnn-qm9-U0-t2-schnet"] == "SchNet, T=2"
    for by_size in record["points"].values():
        assert {size: p["0"]["n_train"] for size, p in by_size.items()} == {"20": 20, "40": 40}
    assert file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(runner, "train_task", None)
    act()
    assert json.loads(file.read_text()) == record


def test_networks_are_those_that_rows_name(tmp_path):
    raw = write_small_qm9(tmp_path / "raw")
    places = {"raw": str(raw), "root": str(tmp_path / "data"), "train_size": 40, "val_size": 8}
    with pytest.warns(UserWarning, match="holds 59 of"):
        for name, kind in (("dtnn-qm9-U0-t1", DTNN), ("dtnn-qm9-U0-t1-schnet", SchNet)):
            (row,) = find_rows([name])
            config = runner.config_of(row, 0, {**places, "test_size": 8})
            task = runner.make_task(row, config)
            assert type(build_model(config, task.target, task.table, task.split.train)) is kind
