import json

import numpy as np
import pytest
from small_frames import spring_table, write_md17

from pyg_schnet import Ensemble, load
from pyg_schnet.analysis import calibration_curve, plot_calibration
from pyg_schnet.cli import main
from pyg_schnet.training.ensembles import spread_against_error, train_ensemble
from pyg_schnet.training.force_config import MD17Config
from pyg_schnet.training.splits import random_split
from pyg_schnet.training.targets import EnergyAndForces
from pyg_schnet.training.tasks import Task, evaluate_task

SMALL = {
    "hidden_channels": 8,
    "num_filters": 8,
    "num_interactions": 1,
    "num_gaussians": 10,
    "batch_size": 8,
    "max_steps": 20,
    "val_every": 10,
    "tensorboard": False,
    "accelerator": "cpu",
}


@pytest.fixture(scope="module")
def task():
    table = spring_table(40)
    split = random_split(40, 20, 8)
    return Task("springs", EnergyAndForces("springs", "meV"), table, split, "frames")


def test_members_differ_and_their_mean_is_kept(task, tmp_path, capsys):
    config = MD17Config(**SMALL, unit="meV")
    metrics = train_ensemble(task, config, tmp_path, 3)
    assert metrics["members"] == 3 and metrics["n_test"] == 12
    ensemble = load(tmp_path / "best.safetensors")
    assert isinstance(ensemble, Ensemble) and ensemble.info["members"] == 3
    batch = task.table.batch(task.split.test, 5.0)
    result = ensemble(batch)
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as file:
        for name in ("energy", "forces"):
            want = result[name].double().flatten().numpy()
            np.testing.assert_allclose(file[f"{name}_mean"], want, rtol=1e-6, atol=1e-6)
            want = result[f"{name}_std"].double().flatten().numpy()
            np.testing.assert_allclose(file[f"{name}_std"], want, rtol=1e-3, atol=1e-5)
        error = np.abs(file["forces_mean"] - file["forces_reference"]).mean()
    assert metrics["test_forces_mae"] == pytest.approx(error)
    assert metrics["test_forces_mae"] <= metrics["test_forces_mae_of_one"]
    assert "3 models, 12 test frames" in capsys.readouterr().out
    assert f"MAE {1000 * metrics['test_forces_mae']:.4f}" in evaluate_task(
        task, tmp_path, "test", 8
    )
    (figure,) = plot_calibration(tmp_path)
    assert figure.stat().st_size > 10_000


def test_finished_members_are_kept_on_resume(task, tmp_path):
    config = MD17Config(**SMALL)
    train_ensemble(task, config, tmp_path, 2)
    before = (tmp_path / "seed0/best.safetensors").stat().st_mtime_ns
    (tmp_path / "seed1/metrics.json").unlink()
    first = (tmp_path / "best.safetensors").read_bytes()
    metrics = train_ensemble(task, config, tmp_path, 2, resume=True)
    assert (tmp_path / "seed0/best.safetensors").stat().st_mtime_ns == before
    assert metrics["members"] == 2
    assert (tmp_path / "best.safetensors").read_bytes() == first


def test_the_command_trains_and_goes_on(tmp_path, capsys):
    raw = write_md17(tmp_path / "md17_ethanol.npz", 40)
    output = tmp_path / "both"
    call = ["train", "md17", f"--raw={raw}", f"--root={tmp_path}/root", f"--output={output}"]
    call += [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    call += ["--train-size=20", "--val-size=8", "--ensemble=2"]
    assert main(call) == 0
    assert json.loads((output / "metrics.json").read_text())["members"] == 2
    assert main(call) == 2
    assert "holds an ensemble already" in capsys.readouterr().err
    (output / "metrics.json").unlink()
    assert main(["train", "md17", "--resume", str(output)]) == 0
    assert json.loads((output / "metrics.json").read_text())["members"] == 2
    assert main(["evaluate", str(output)]) == 0
    assert "rank correlation" in capsys.readouterr().out


def test_an_honest_spread_is_seen_as_one():
    rng = np.random.default_rng(0)
    std = rng.uniform(0.5, 2.0, 20_000)
    error = std * rng.normal(size=len(std))
    known = {"reference": np.zeros(len(std)), "mean": error, "std": std}
    found = spread_against_error(known)
    assert found["scale"] == pytest.approx(1.0, abs=0.02)
    assert 0.2 < found["rank"] < 0.5
    spread, rms, uncertain = calibration_curve(error, std)
    assert (np.abs(rms - spread) < 4 * uncertain).all()
    half = spread_against_error(known | {"std": 0.5 * std})
    assert half["scale"] == pytest.approx(2 * found["scale"])
    assert spread_against_error(known | {"std": np.abs(error)})["rank"] == pytest.approx(1.0)


def test_one_model_is_no_ensemble(task, tmp_path):
    with pytest.raises(ValueError, match="ensemble must be at least 2, got 1"):
        train_ensemble(task, MD17Config(**SMALL), tmp_path, 1)
    with pytest.raises(FileNotFoundError, match="no trained ensemble"):
        plot_calibration(tmp_path)
