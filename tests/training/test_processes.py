"""One run in two processes is the run in one: gradients, rows, files, resuming."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_tables import energy_options, force_options, small_table
from torch.testing import assert_close

from pyg_schnet.training.loaders import EpochlessLoader
from pyg_schnet.training.processes import Share, layout, rank_of
from pyg_schnet.training.run import EnergyAndForces, Property, build_model, train
from pyg_schnet.training.schedules import Schedule
from pyg_schnet.training.splits import random_split

SCRIPT = Path(__file__).with_name("in_two_processes.py")
ENERGY = Property("U0", "eV", "kcal/mol", 23.06)
FORCES = EnergyAndForces("small")


@pytest.fixture(scope="module")
def table():
    return small_table()


@pytest.fixture(scope="module")
def split(table):
    return random_split(len(table), 40, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, table, split):
    """All that two processes do, and before them one of which two go on."""
    folder = tmp_path_factory.mktemp("processes")
    train(energy_options(max_steps=6), ENERGY, table, split, folder / "one_then_two")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    command += ["--standalone", "--nproc_per_node", "2", str(SCRIPT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def reports(folder):
    return json.loads((folder / "reports.json").read_text())


def state(path):
    held = torch.load(path / "last.ckpt", weights_only=True)
    return held["state_dict"], held["current_model_state"], held["optimizer_states"][0]["state"]


def assert_same_run(a, b):
    """Weights, their average and the moments of Adam, but for the order of sums."""
    for ours, theirs in zip(state(a)[:2], state(b)[:2], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_close(ours[name], theirs[name], rtol=1e-4, atol=2e-6)
    ours, theirs = (
        json.loads((a / "metrics.json").read_text()),
        json.loads((b / "metrics.json").read_text()),
    )
    for name in ("steps", "best_step", "stopped", "n_test"):
        assert ours[name] == theirs[name]
    for name in ours:
        if name.startswith(("test_", "val_")):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(folder, table, split):
    train(energy_options(), ENERGY, table, split, folder / "one")
    assert_same_run(folder / "two", folder / "one")
    train(force_options(), FORCES, table, split, folder / "one_forces")
    assert_same_run(folder / "two_forces", folder / "one_forces")


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(folder, table, split):
    train(energy_options(), ENERGY, table, split, folder / "whole")
    assert_same_run(folder / "one_then_two", folder / "whole")
    train(energy_options(), ENERGY, table, split, folder / "two_then_one", resume=True)
    assert_same_run(folder / "two_then_one", folder / "whole")


@pytest.mark.slow
def test_two_halves_in_two_processes_are_one_doubled_batch_in_one(folder, table, split):
    train(energy_options(batch_size=16), ENERGY, table, split, folder / "doubled")
    assert_same_run(folder / "two_halves", folder / "doubled")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["energy", "forces", "odd"])
def test_gradients_are_those_of_the_whole_batch(folder, table, split, name):
    target, config = (FORCES, force_options()) if name == "forces" else (ENERGY, energy_options())
    model = build_model(config, target, table, split.train)
    module = target.module(config, model, Schedule("constant", 1e-3), table, split.train)
    size = 7 if name == "odd" else 8
    batch = next(iter(EpochlessLoader(table, split.train, size, 5.0, 3)))
    module.objective(batch).backward()
    shared = torch.load(folder / "gradients.pt", weights_only=True)[name]
    for got, parameter in zip(shared, module.parameters(), strict=True):
        want = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()) + 1e-7)


@pytest.mark.slow
def test_every_structure_comes_once_in_a_pass_and_to_one_process(reports, table, split):
    alone = iter(EpochlessLoader(table, split.train, 8, 5.0, 3))
    for k in range(2):
        parts = [report["rows"][5 * k : 5 * k + 5] for report in reports]
        assert all(len(rows) == 4 for part in parts for rows in part)
        flat = [row for part in parts for rows in part for row in rows]
        assert sorted(flat) == sorted(split.train.tolist())
        for ours in zip(*parts, strict=True):
            assert ours[0] + ours[1] == next(alone).rows.tolist()


@pytest.mark.slow
def test_one_process_writes_all_files(folder, reports):
    assert reports[1]["written"] == []
    names = sorted(path.name for path in (folder / "two").iterdir())
    assert names == [
        *("best.safetensors", "config.yaml", "last.ckpt", "log"),
        *("metrics.json", "predictions.npz", "split.npz"),
    ]
    assert len(list((folder / "two" / "log").iterdir())) == 1


@pytest.mark.slow
def test_processes_stop_together(reports):
    assert reports[0]["stopped"] == reports[1]["stopped"]
    assert reports[0]["stopped"][0] == "interrupted" and reports[0]["stopped"][1] >= 4
    assert reports[0]["timed"] == reports[1]["timed"] and reports[0]["timed"][0] == "max_time"


@pytest.mark.slow
def test_rows_of_uneven_parts_are_gathered_in_order(reports):
    want = [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert reports[0]["gathered"] == reports[1]["gathered"] == want


@pytest.mark.parametrize("accumulate", [2, 3])
def test_batches_whose_gradients_are_averaged_are_one_larger_batch(
    table, split, tmp_path, accumulate
):
    """Exactly the same batches: 40 rows make 5 batches of 8, hence steps of 2 leave one out."""
    size = 24 // accumulate
    config = energy_options(batch_size=size, accumulate_grad_batches=accumulate)
    train(config, ENERGY, table, split, tmp_path / "parts")
    train(energy_options(batch_size=24), ENERGY, table, split, tmp_path / "whole")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_run_with_averaged_gradients_resumes_bit_for_bit(table, split, tmp_path):
    options = {"accumulate_grad_batches": 3, "batch_size": 4}
    train(energy_options(**options), ENERGY, table, split, tmp_path / "whole")
    train(energy_options(max_steps=6, **options), ENERGY, table, split, tmp_path / "parts")
    train(energy_options(**options), ENERGY, table, split, tmp_path / "parts", resume=True)
    for ours, theirs in zip(
        state(tmp_path / "parts")[:2], state(tmp_path / "whole")[:2], strict=True
    ):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_shares_of_any_size_are_disjoint_and_complete():
    for size in range(1, 20):
        for count in range(1, size + 1):
            parts = [Share(rank, count).of(torch.arange(size)) for rank in range(count)]
            assert torch.cat(parts).tolist() == list(range(size))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_weights_of_the_shares_of_a_batch_add_up_to_one(table, split):
    for count in (1, 2, 3, 5):
        loaders = [
            EpochlessLoader(table, split.train, 7, 5.0, share=Share(rank, count))
            for rank in range(count)
        ]
        assert sum(loader.weight for loader in loaders) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="less than the 8 processes"):
        EpochlessLoader(table, split.train, 7, 5.0, share=Share(0, 8))


def test_the_job_of_the_example_is_understood():
    """Its shell is sound, and its options are those of the command."""
    from pyg_schnet.cli import parser
    from pyg_schnet.cli.arguments import with_paths_joined, with_underscores

    script = Path(__file__).parents[2] / "examples" / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text().replace("\\\n", " ").replace('"${begin[@]}"', "--output runs/frames")
    (line,) = (line for line in text.splitlines() if line.startswith("srun pyg-schnet"))
    words = shlex.split(line)[2:]
    chosen = parser().parse_args(with_paths_joined(with_underscores(words))).train.trajectories
    assert (chosen.devices, chosen.num_nodes, chosen.in_memory) == (4, 2, False)
    assert "--ntasks-per-node=4" in text and "--nodes=2" in text


def test_processes_are_numbered_as_their_launchers_say():
    two = energy_options(devices=2, num_nodes=3)
    assert layout(two, {}) == (2, 3) and rank_of(two, {}) == 0
    assert rank_of(two, {"NODE_RANK": "2", "LOCAL_RANK": "1"}) == 5
    assert rank_of(two, {"SLURM_PROCID": "4"}) == 4
    torchrun = {
        "TORCHELASTIC_RUN_ID": "x",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "RANK": "6",
        "LOCAL_RANK": "2",
    }
    assert layout(energy_options(), torchrun) == (4, 2)
    assert rank_of(energy_options(), torchrun) == 6
    assert rank_of(energy_options(), {"RANK": "6", "SLURM_PROCID": "6"}) == 0
    for name in ("devices", "num_nodes", "accumulate_grad_batches"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            energy_options(**{name: 0})
