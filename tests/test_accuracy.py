"""The rows of the papers' tables and the runner; how small the errors get is not for a test."""

import json
import math
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from small_frames import TOTAL, springs, write_md17
from small_qm9 import write_small_qm9

from pyg_schnet.benchmarks.accuracy import command, energy_only, results, runner
from pyg_schnet.benchmarks.accuracy.catalogue import (
    PROTOCOLS,
    ROWS,
    Published,
    find_rows,
    load_protocol,
    load_rows,
    read_row,
)
from pyg_schnet.datasets.fullerene import C20
from pyg_schnet.training.force_tasks import PAPER_MD17
from pyg_schnet.training.splits import Split
from pyg_schnet.units import KCAL_PER_MOL

NAMES = list(load_rows())
UNITS = {
    "kcal/mol",
    "kcal/mol/Å",
    "eV",
    "eV/atom",
    "eV/Å",
    "meV",
    "D",
    "Bohr^3",
    "Bohr^2",
    "cal/(mol K)",
}
SHORT = {
    "train_size": 20,
    "val_size": 10,
    "max_steps": 40,
    "val_every": 20,
    "hidden_channels": 16,
    "num_filters": 16,
    "num_interactions": 1,
}


@pytest.fixture
def places(tmp_path):
    """Where a test keeps results and runs."""
    return {"output": tmp_path / "accuracy", "runs": tmp_path / "runs"}


@pytest.fixture
def short(tmp_path):
    """Options of a short run on a small MD17."""
    raw = write_md17(tmp_path / "md17_ethanol.npz")
    return {**SHORT, "raw": str(raw), "root": str(tmp_path / "data")}


@pytest.fixture
def counted(monkeypatch):
    """How each run was started."""
    calls = []
    train = runner.train_task

    def counting(task, config, folder, resume):
        calls.append((folder.parent.name, config.seed, resume))
        return train(task, config, folder, resume)

    monkeypatch.setattr(runner, "train_task", counting)
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_a_source_units_and_known_options(name):
    row = load_rows()[name]
    assert row.source and row.table and row.paper and row.seeds
    for known in (*row.paper.values(), *row.goal.values()):
        assert known.unit in UNITS
        assert known.value is None or 0 < known.value < 100
    one = row.set in ("qm9", "mp")
    assert set(row.paper) == ({"property"} if one else {"energy", "forces"})
    config = runner.config_of(row, 3, {"raw": row.file} if row.file else {})
    assert config.seed == config.split_seed == 3
    for option, value in row.options().items():
        assert option == "frames" or getattr(config, option) == value


def test_the_tables_are_whole():
    molecules = ["ethanol", "malonaldehyde", "uracil", "benzene"]
    molecules += ["toluene", "naphthalene", "salicylic", "aspirin"]
    wanted = {f"md17-{m}-{n}{e}" for m in molecules for n in ("1k", "50k") for e in ("", "-energy")}
    wanted |= {f"iso17-{s}{e}" for s in ("within", "other") for e in ("", "-energy", "-mean")}
    wanted |= {f"qm9-U0-{n}k-t{t}" for n in (25, 50, 100, 110) for t in (1, 2, 3, 6)}
    wanted |= {f"thesis-{f}-filters-t{t}" for f in ("own", "shared") for t in (1, 2, 3, 6)}
    targets = "homo lumo gap zpve mu alpha r2 U0 U H G Cv"
    wanted |= {f"{q}-{target}" for q in ("qm9", "qm9-cpu") for target in targets.split()}
    wanted |= {f"qm9-cpu-{v}" for v in ("mu-sum", "r2-sum", "gap-sum", "gap-softmax")}
    wanted |= {"rmd17-aspirin"}
    wanted |= {f"dtnn-qm9-U0-t{t}{net}" for t in (1, 2, 3) for net in ("", "-schnet")}
    wanted |= {f"qm9-U0-{n}k-dtnn" for n in (25, 50, 100)}
    crystals = ("mp20", "perov5", "mp-perovskite", "mp-3k")
    wanted |= {f"{d}{k}" for d in crystals for k in ("", "-sine", "-ewald", "-coulomb")}
    wanted |= {"mp-60k"}
    wanted |= {f"chapter-{d}-{c}" for d in ("qm9-U0", "aspirin") for c in ("cutoff", "all-pairs")}
    ends = ("", "-coulomb", "-mean", "-dressed", "-enn-s2s")
    wanted |= {f"qm9-small-{target}{end}" for target in ("U0", "gap") for end in ends}
    wanted |= {f"{name}-ethanol-1k" for name in ("gdml", "sgdml", "mean")}
    assert wanted == {name for name in NAMES if not name.startswith("c20-")}
    assert len({(r["num_interactions"], r["num_filters"], r["rho"]) for r in c20_options()}) >= 6
    used = {row.protocol for row in load_rows().values()}
    assert used == {path.stem for path in PROTOCOLS.glob("*.yaml")}
    assert all(load_protocol(name).about for name in used)


def c20_options():
    return [row.options() for row in load_rows().values() if row.set == "c20"]


def test_numbers_of_the_paper_are_those_that_runs_print():
    for molecule, (energy, forces) in PAPER_MD17.items():
        paper = load_rows()[f"md17-{molecule}-1k"].paper
        assert paper["energy"] == Published("kcal/mol", energy)
        assert paper["forces"] == Published("kcal/mol/Å", forces)


@pytest.mark.parametrize("name", [name for name in NAMES if load_rows()[name].model_of])
def test_rows_judged_with_models_of_others_would_train_alike(name):
    row = load_rows()[name]
    other = load_rows()[row.model_of]
    assert row.options() | {"scenario": ""} == other.options() | {"scenario": ""}
    assert other.model_of is None


def test_energies_and_forces_go_into_the_file_and_onto_the_screen(places, short, capsys, counted):
    found = runner.run(["md17-ethanol-1k"], [0, 1], overrides=short, **places)["md17-ethanol-1k"]
    assert counted == [("md17-ethanol-1k", 0, False), ("md17-ethanol-1k", 1, False)]
    text = (places["output"] / "md17-ethanol-1k.json").read_text()
    assert json.loads(text) == found and str(places["runs"].parent) not in text
    assert found["overrides"]["raw"] == "md17_ethanol.npz"

    unseen = []
    for seed in "01":
        folder = places["runs"] / "md17-ethanol-1k" / f"seed{seed}"
        split = Split.load(folder / "split.npz")
        assert (len(split.train), len(split.val), len(split.test)) == (20, 10, 30)
        unseen.append(split.test.tolist())
        forces = springs(60)[3][split.test].reshape(-1, 3)
        with np.load(folder / "predictions.npz") as file:
            want = np.abs(file["forces_prediction"] - forces).mean() / KCAL_PER_MOL
        assert math.isclose(found["seeds"][seed]["forces"], want, rel_tol=1e-4)
    assert unseen[0] != unseen[1]

    a, b = (found["seeds"][seed]["forces"] for seed in "01")
    error = found["errors"]["forces"]
    assert math.isclose(error["mean"], (a + b) / 2)
    assert math.isclose(error["standard_error"], abs(a - b) / 2)  # of two, with n - 1 below
    assert math.isclose(error["ratio"], error["mean"] / 0.39)
    shown = capsys.readouterr().out.splitlines()
    line = next(line for line in shown if line.startswith("  forces "))
    assert "0.39" in line and f"{error['mean']:.4g} ± " in line and f"{error['ratio']:.2f}" in line
    assert "2 seeds, 20 to train, 30 to test, 40 steps" in shown[-1]
    assert "train_size=20 instead of 1000" in shown[-1]


def test_what_is_finished_is_kept_and_what_was_interrupted_goes_on(places, short, counted):
    def run(seeds, **changes):
        return runner.run(["md17-ethanol-1k"], seeds, overrides=short | changes, **places)

    first = run([0])["md17-ethanol-1k"]
    file = places["output"] / "md17-ethanol-1k.json"
    assert run([0, 1])["md17-ethanol-1k"]["seeds"]["0"] == first["seeds"]["0"]
    assert counted == [("md17-ethanol-1k", 0, False), ("md17-ethanol-1k", 1, False)]

    file.unlink()  # the run folder is enough, also one from before there was an option
    config = places["runs"] / "md17-ethanol-1k" / "seed0" / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("momentum")]
    config.write_text("\n".join(lines) + "\n")
    again = run([0])["md17-ethanol-1k"]
    assert len(counted) == 2 and again["seeds"]["0"]["forces"] == first["seeds"]["0"]["forces"]

    file.unlink()
    metrics = places["runs"] / "md17-ethanol-1k" / "seed0" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"stopped": "interrupted"}))
    again = run([0])["md17-ethanol-1k"]
    assert counted[2:] == [("md17-ethanol-1k", 0, True)]
    assert again["seeds"]["0"]["steps"] == 40
    assert math.isclose(again["seeds"]["0"]["forces"], first["seeds"]["0"]["forces"], rel_tol=1e-5)

    with pytest.raises(ValueError, match="found with .*max_steps=40.*max_steps=60.* is asked for"):
        run([0], max_steps=60)
    file.unlink()
    with pytest.raises(ValueError, match=r"holds a run with max_steps=40 \(now 60\)"):
        run([0], max_steps=60)
    over = runner.run(
        ["md17-ethanol-1k"], [0], overrides=short | {"max_steps": 60}, overwrite=True, **places
    )
    assert over["md17-ethanol-1k"]["seeds"]["0"]["steps"] == 60


def test_an_interrupted_seed_is_not_written_down(places, short, monkeypatch, capsys):
    interrupted = {"stopped": "interrupted"}
    monkeypatch.setattr(runner, "train_task", lambda *arguments: interrupted)
    found = runner.run(["md17-ethanol-1k*"], [0, 1], overrides=short, **places)
    assert list(found) == ["md17-ethanol-1k"]  # no other row is begun
    assert found["md17-ethanol-1k"]["seeds"] == {} and not places["output"].exists()
    out = capsys.readouterr().out
    assert "seed 0: interrupted" in out and "seed 1" not in out and results.NOT_YET in out


def test_a_property_of_qm9_is_told_in_the_unit_of_the_paper(places, tmp_path):
    raw = write_small_qm9(tmp_path / "raw")
    options = {"raw": str(raw), "root": str(tmp_path / "data"), "train_size": 40, "val_size": 10}
    options |= {"max_steps": 20, "val_every": 20, "preset": "chapter-2020"}
    with pytest.warns(UserWarning, match="holds 59 of"):
        found = runner.run(["qm9-U0"], overrides=options, **places)["qm9-U0"]
    folder = places["runs"] / "qm9-U0" / "seed0"
    metrics = json.loads((folder / "metrics.json").read_text())
    want = metrics["test_mae_kcal_mol"] * KCAL_PER_MOL * 1000
    assert math.isclose(found["seeds"]["0"]["property"], want, rel_tol=1e-9)
    error = found["errors"]["property"]
    assert math.isclose(error["ratio"], error["mean"] / 14.0)
    assert found["seeds"]["0"]["n_test"] == 9


def test_the_mean_of_the_training_set_needs_no_training(places, short, monkeypatch):
    row = load_rows()["md17-ethanol-1k"]
    mean = type(row)(**(vars(row) | {"predictor": "mean"}))
    monkeypatch.setattr(runner, "find_rows", lambda names: [mean])
    found = runner.run(["anything"], overrides=short, **places)["md17-ethanol-1k"]
    split = runner.make_task(mean, runner.config_of(mean, 0, short)).split
    _, _, energy, forces = springs(60)
    guess = energy[split.train].mean()
    want = np.abs(energy[split.test] - guess).mean() / KCAL_PER_MOL
    assert abs(guess - TOTAL) < 10
    assert math.isclose(found["seeds"]["0"]["energy"], want, rel_tol=1e-6)
    want = np.abs(forces[split.test]).mean() / KCAL_PER_MOL
    assert math.isclose(found["seeds"]["0"]["forces"], want, rel_tol=1e-5)
    assert not places["runs"].exists()


def test_models_of_another_row_are_judged_without_training_again(
    places, short, counted, monkeypatch
):
    rows = load_rows()
    row = rows["md17-ethanol-1k"]
    other = type(row)(**(vars(row) | {"name": "judged", "model_of": "md17-ethanol-1k"}))
    monkeypatch.setattr(runner, "find_rows", lambda names: [row, other])
    found = runner.run(["both"], overrides=short, **places)
    assert counted == [("md17-ethanol-1k", 0, False)]
    a, b = (found[name]["seeds"]["0"] for name in ("md17-ethanol-1k", "judged"))
    assert a["n_test"] == b["n_test"] == 30
    assert math.isclose(a["forces"], b["forces"], rel_tol=1e-6)


def test_the_table_tells_what_was_run_and_what_was_not(places, short, capsys):
    def act(*words):
        options = ["--output", str(places["output"]), "--runs", str(places["runs"])]
        command.main(command.parser().parse_args([*words, *options]))

    act("table")
    file = places["output"].with_name("accuracy.md")
    empty = file.read_text()
    assert f"0 of {len(NAMES)} rows have been run" in empty
    assert all(f"| {name} |" in empty for name in NAMES)
    assert "| md17-ethanol-1k | energy | 0.08 | not yet run | - | kcal/mol |  |" in empty
    assert "| forces | not known here (goal: 0.95) | not yet run |" in empty
    numbers = sum(len(row.paper) for row in load_rows().values())
    assert empty.count("| not yet run |") == numbers

    own = [f"{key}={value}" for key, value in short.items()]
    act("md17-ethanol-1k", "--seeds", "4", "--options", *own)
    act("table")
    record = json.loads((places["output"] / "md17-ethanol-1k.json").read_text())
    assert list(record["seeds"]) == ["4"]
    text = file.read_text()
    assert f"1 of {len(NAMES)} rows" in text and text.count("| not yet run |") == numbers - 2
    assert f"| energy | 0.08 | {record['errors']['energy']['mean']:.4g} |" in text
    assert "1 seed, 20 to train, 30 to test, 40 steps" in text
    capsys.readouterr()
    act("list")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMES)
    assert sum("not yet run" in line for line in lines) == len(NAMES) - 1


def test_training_on_forces_is_drawn_against_energies_only(places, short, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "figure.png"
    where = ["ethanol", "--results", str(places["output"]), "--output", str(output)]
    with pytest.raises(FileNotFoundError, match="run pyg-schnet benchmark accuracy md17-ethanol"):
        energy_only.main(where)
    found = runner.run(["md17-ethanol-1k*"], overrides=short, **places)
    energy_only.main(where)
    assert output.read_bytes()[:4] == b"\x89PNG" and output.stat().st_size > 5_000
    both, energies = (found[f"md17-ethanol-1k{end}"] for end in ("", "-energy"))
    factor = energies["errors"]["forces"]["mean"] / both["errors"]["forces"]["mean"]
    assert f"forces {factor:.1f} times" in capsys.readouterr().out
    both["seeds"]["0"]["n_train"] = 21
    with pytest.raises(ValueError, match="other numbers of structures"):
        energy_only.improvement(both, energies)


def test_errors_change_units_only_within_a_kind():
    assert results.convert(2.0, "eV/Å", "eV/Å") == 2.0
    assert math.isclose(results.convert(1.0, "kcal/mol/Å", "eV/Å"), KCAL_PER_MOL)
    assert math.isclose(results.convert(0.127, "eV/atom", "meV/atom"), 127.0)
    assert results.convert(0.5, results.UNSTATED, "eV") == 0.5
    for unit, wanted in (
        ("D", "meV"),
        ("eV", "eV/Å"),
        ("Bohr^2", "Bohr^3"),
        ("eV/atom", "eV"),
        ("eV/Å", "eV/atom"),
    ):
        with pytest.raises(ValueError, match="cannot be told in"):
            results.convert(1.0, unit, wanted)


def test_what_there_is_not_is_refused_with_one_sentence(places, tmp_path):
    with pytest.raises(ValueError, match="There is no row 'md17-water-1k'; there are md17-"):
        find_rows(["md17-water-1k"])
    assert [row.name for row in find_rows(["all"])] == NAMES
    with pytest.raises(ValueError, match="speed is no option of runs on md17, which row md17-eth"):
        runner.run(["md17-ethanol-1k"], overrides={"speed": 2}, **places)
    with pytest.raises(ValueError, match="--options takes key=value, got 'rho'"):
        command._pairs(["rho"])
    with pytest.raises(FileNotFoundError, match="no protocol 'none'"):
        load_protocol("none")
    places["output"].mkdir()
    (places["output"] / "md17-ethanol-1k.json").write_text('{"name"')
    with pytest.raises(ValueError, match="is damaged"):
        results.read(places["output"], "md17-ethanol-1k")

    good = yaml.safe_load((ROWS / "md17-ethanol-1k.yaml").read_text())
    for changes, sentence in (
        ({"name": "other"}, "calls itself 'other'"),
        ({"lunch": 1}, "has lunch, which no row has"),
        ({"data": {"set": "md18"}}, "set must be one of md17"),
        ({"paper": {"stress": {"unit": "eV"}}}, "must be of energy, forces, property"),
    ):
        path = Path(tmp_path, "row.yaml")
        path.write_text(yaml.safe_dump(good | {"name": "row"} | changes))
        with pytest.raises(ValueError, match=sentence):
            read_row(path)
    path.write_text("name: row\n")
    with pytest.raises(ValueError, match=r"row.yaml lacks data, paper, protocol, source, table"):
        read_row(path)


def test_c20_is_made_into_a_run_with_its_own_frames(tmp_path, monkeypatch):
    asked = {}

    def made(root, frames):
        asked.update(root=root, frames=frames)
        raise RuntimeError("no xTB in this test")

    monkeypatch.setattr("pyg_schnet.datasets.fullerene.C20", made)
    row = load_rows()["c20-t3-f64-rho0.01"]
    with pytest.raises(RuntimeError):
        runner.make_task(row, runner.config_of(row, 0, {"root": str(tmp_path)}))
    assert asked == {"root": str(tmp_path), "frames": 10_000}
    assert torch.get_default_dtype() == torch.float32


def test_the_first_frames_of_a_longer_trajectory_are_a_data_set_of_their_own(tmp_path):
    path = C20.path(tmp_path)
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    frames = []
    for k in range(30):
        atoms = ase.Atoms("C20", 2.0 * rng.normal(size=(20, 3)))
        atoms.calc = SinglePointCalculator(atoms, energy=-float(k), forces=np.zeros((20, 3)))
        frames.append(atoms)
    ase.io.write(path, frames)
    row = load_rows()["c20-t3-f64-rho0.01"]
    row = replace(row, training={**row.training, "frames": 24, "train_size": 16, "val_size": 4})
    task = runner.make_task(row, runner.config_of(row, 0, {"root": str(tmp_path)}))
    assert task.table.y[:, 0].tolist() == [-float(k) for k in range(24)]
    assert task.split.test.numel() == 4
