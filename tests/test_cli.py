import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from small_frames import springs, write_md17
from small_qm9 import write_small_qm9

from pyg_schnet import Potential, SchNet, cli, load, save
from pyg_schnet.cli import main
from pyg_schnet.cli.tasks import qm9_property
from pyg_schnet.datasets import QM9
from pyg_schnet.simulation import atoms_to_data, predict_file

pytestmark = pytest.mark.filterwarnings("ignore:.*molecules of QM9; only they are in this data set")

SMALL = [
    "--hidden-channels=8",
    "--num-filters=8",
    "--num-interactions=1",
    "--num-gaussians=10",
    "--train-size=40",
    "--val-size=8",
    "--val-every=5",
    "--batch-size=8",
    "--tensorboard=false",
    "--accelerator=cpu",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_small_qm9(folder / "xyz")
    return folder


def train(home, run, *more):
    where = [f"--root={home / 'data'}", f"--raw={home / 'xyz'}", f"--output={home / run}"]
    return main(["train", "qm9", "--target", "U0", *SMALL, *where, *more])


@pytest.fixture(scope="module")
def trained(home):
    assert train(home, "run", "--max-steps=10") == 0
    return home / "run"


def test_training_prints_the_baselines_and_the_paper_beside_the_error(home, capsys):
    assert train(home, "printed", "--max-steps=5") == 0
    out = capsys.readouterr().out
    assert "40 molecules, 8 for validation, 11 for test" in out
    for row in ("mean of the training set", "dressed atoms", "this SchNet", "NeurIPS 2017"):
        assert row in out
    assert "0.310" in out


def test_a_run_folder_holds_everything(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        "config.yaml",
        "split.npz",
        "metrics.json",
        "log",
        "best.safetensors",
        "last.ckpt",
        "predictions.npz",
        "learning_curve.png",
        "predicted_vs_reference.png",
        "error_histogram.png",
        "summary.png",
    }
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics.keys() >= {
        "test_mae_kcal_mol",
        "test_rmse_kcal_mol",
        "n_train",
        "n_val",
        "n_test",
        "baseline_mean_mae_kcal_mol",
        "baseline_dressed_atom_mae_kcal_mol",
        "steps",
        "seconds",
    }
    assert yaml.safe_load((trained / "config.yaml").read_text())["hidden_channels"] == 8


def test_a_config_file_sets_options_and_the_command_line_overrides_it(home, trained):
    text = yaml.safe_dump({"lr": 0.5, "seed": 7, "max_steps": 5})
    (home / "options.yaml").write_text(text)
    assert train(home, "configured", f"--config={home / 'options.yaml'}", "--seed=8") == 0
    saved = yaml.safe_load((home / "configured/config.yaml").read_text())
    assert (saved["lr"], saved["seed"]) == (0.5, 8)


def test_resume_goes_on_with_the_saved_configuration(home, capsys):
    assert train(home, "resumed", "--max-steps=6") == 0
    assert main(["train", "qm9", "--resume", str(home / "resumed"), "--max-steps", "12"]) == 0
    metrics = json.loads((home / "resumed/metrics.json").read_text())
    assert metrics["steps"] == 12 and metrics["n_train"] == 40


def test_a_finished_run_is_not_overwritten_unasked(home, trained, capsys):
    assert train(home, "run", "--max-steps=5") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert train(home, "replaced", "--max-steps=5") == 0
    before = (home / "replaced/best.safetensors").read_bytes()
    assert train(home, "replaced", "--overwrite=true", "--preset=best") == 2
    assert (home / "replaced/best.safetensors").read_bytes() == before
    assert train(home, "replaced", "--max-steps=10", "--overwrite=true") == 0
    assert json.loads((home / "replaced/metrics.json").read_text())["steps"] == 10


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--target=U1"], "U0"),
        (["--train-size=1000"], "Cannot split 59 molecules"),
        (["--schedule=linear"], "schedule must be one of"),
        (["--resume=nowhere"], "no last.ckpt in nowhere"),
        (["--max-time=soon"], "max_time must look like"),
        (["--preset=best"], "preset must be one of"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_bad_options_end_with_one_sentence(home, capsys, more, sentence):
    assert train(home, "bad", "--max-steps=5", *more) == 2
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err


def test_evaluate_repeats_the_test_error(trained, capsys):
    assert main(["evaluate", str(trained)]) == 0
    out = capsys.readouterr().out
    mae = json.loads((trained / "metrics.json").read_text())["test_mae"]
    assert f"MAE {mae:.4f}" in out and "11 test molecules" in out
    assert main(["evaluate", str(trained), "--part=all"]) == 2
    assert main(["evaluate", str(trained.parent)]) == 2


def test_predict_writes_a_table_that_agrees_with_the_model(trained, tmp_path):
    structures = [molecule("H2O"), molecule("CH4"), molecule("C2H6")]
    write(tmp_path / "some.xyz", structures, format="extxyz")
    out = tmp_path / "out.csv"
    arguments = ["predict", str(tmp_path / "some.xyz"), "--model", str(trained)]
    assert main([*arguments, "--output", str(out), "--forces=true"]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    potential = Potential(load(trained / "best.safetensors")).eval()
    for row, atoms in zip(rows, structures, strict=True):
        result = potential(atoms_to_data(atoms))
        assert row["formula"] == atoms.get_chemical_formula()
        assert float(row["U0 (eV)"]) == pytest.approx(float(result["energy"]), abs=2e-6)
        largest = float(result["forces"].norm(dim=1).max())
        assert float(row["largest force (eV/Å)"]) == pytest.approx(largest, abs=2e-6)


def test_predict_to_the_screen_and_a_file_that_is_none(trained, tmp_path, capsys):
    write(tmp_path / "water.xyz", molecule("H2O"))
    assert main(["predict", str(tmp_path / "water.xyz"), f"--model={trained}"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("0,H2O,")
    (tmp_path / "junk.xyz").write_text("not a number\n")
    assert main(["predict", str(tmp_path / "junk.xyz"), f"--model={trained}"]) == 2
    assert "cannot read structure 0" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "gone.xyz"), f"--model={trained}"]) == 2
    assert "no structure file" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "water.xyz"), "--model=gone.safetensors"]) == 2
    assert "no model file or run folder at gone.safetensors" in capsys.readouterr().err


def test_periodic_structures_are_predicted_per_cell(tmp_path):
    model = SchNet(8, 8, 1, 10, 4.0, seed=0)
    write(tmp_path / "si.extxyz", [bulk("Si"), bulk("Si").repeat(2)])
    one, eight = (row["prediction"] for row in predict_file(tmp_path / "si.extxyz", model))
    assert eight == pytest.approx(8 * one, rel=1e-5)


def test_a_structure_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="Atom 1 has the position"):
        atoms_to_data(Atoms("H2", positions=[[0, 0, 0], [0, 0, float("nan")]]))
    with pytest.raises(ValueError, match="lattice vector"):
        atoms_to_data(Atoms("H", pbc=True))
    with pytest.raises(ValueError, match="model must be"):
        next(predict_file(__file__, torch.nn.Linear(1, 1)))


def test_datasets_are_listed_described_and_prepared(home, tmp_path, capsys):
    assert main(["datasets", "list"]) == 0
    assert capsys.readouterr().out.startswith("qm9")
    assert main(["datasets", "info", "qm9"]) == 0
    assert "heat capacity" in capsys.readouterr().out
    prepare = ["datasets", "prepare", "qm9", f"--root={tmp_path}", f"--raw={home / 'xyz'}"]
    assert main(prepare) == 0
    assert json.loads(capsys.readouterr().out)["molecules"] == 59
    assert main(["datasets", "info", "qm7"]) == 2


def test_targets_are_shown_in_the_papers_units(home):
    dataset = QM9(str(home / "data"), raw=str(home / "xyz"))
    energy, orbital, dipole, extent = (qm9_property(dataset, t) for t in ("U0", "gap", "mu", "r2"))
    assert energy.shown_unit == "kcal/mol" and energy.shown_per_unit == pytest.approx(
        23.0605, abs=1e-4
    )
    assert energy.extensive and energy.atomref is not None
    assert orbital.shown_unit == "meV" and not orbital.extensive
    assert dipole.head == "dipole" and extent.head == "spatial_extent"


def test_help_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "pyg_schnet.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "datasets" in done.stdout


def test_a_saved_potential_predicts_too(tmp_path, capsys):
    save(Potential(SchNet(8, 8, 1, 10, 4.0)), tmp_path / "p.safetensors")
    write(tmp_path / "water.xyz", molecule("H2O"))
    assert main(["predict", str(tmp_path / "water.xyz"), f"--model={tmp_path}/p.safetensors"]) == 0


@pytest.fixture(scope="module")
def md17(tmp_path_factory):
    folder = tmp_path_factory.mktemp("md17")
    write_md17(folder / "md17_ethanol.npz")
    return folder


def train_md17(folder, run, *more):
    where = [f"--root={folder / 'data'}", f"--raw={folder}", f"--output={folder / run}"]
    sizes = [*SMALL, "--train-size=30", "--val-size=10", "--max-steps=10"]
    return main(["train", "md17", "--molecule", "ethanol", *sizes, *where, *more])


def test_energies_and_forces_are_trained_resumed_evaluated_and_predicted(md17, capsys):
    assert train_md17(md17, "run") == 0
    out = capsys.readouterr().out
    assert "energies and forces of ethanol: 30 structures, 10 for validation, 20 for test" in out
    for row in ("mean of the training set", "this SchNet", "kcal/mol/Å"):
        assert row in out
    assert "J. Chem. Phys." not in out  # which has 1,000 training structures
    run = md17 / "run"
    assert {path.name for path in run.iterdir()} >= {"forces_vs_reference.png", "split.npz"}
    assert main(["train", "md17", f"--resume={run}", "--max-steps=15"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 15 and metrics["n_train"] == 30
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    energy, forces = capsys.readouterr().out.splitlines()
    assert f"MAE {metrics['test_energy_mae_kcal_mol']:.4f}" in energy
    assert f"MAE {metrics['test_forces_mae_kcal_mol']:.4f}" in forces
    write(md17 / "one.xyz", molecule("CH3CH2OH"))
    assert main(["predict", str(md17 / "one.xyz"), f"--model={run}", "--forces=true"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert "energy (eV)" in head and float(line.split(",")[2]) == pytest.approx(-4215, abs=20)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--molecule=ethane"], "ethane"),
        (["--rho=-1"], "rho must not be negative"),
        (["--train-size=100"], "Cannot split 60 molecules"),
        (["--published-split=1"], "no split|not in this MD17"),
        (["--precision=16-mixed"], "precision must be one of"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_bad_options_of_force_runs_end_with_one_sentence(md17, capsys, more, sentence):
    assert train_md17(md17, "bad", *more) == 2
    err = capsys.readouterr().err
    assert re.search(sentence, err) and "Traceback" not in err


def write_springs(path, first, last):
    z, pos, energy, forces = springs(60)
    frames = []
    for k in range(first, last):
        atoms = Atoms(z, pos[k])
        atoms.calc = SinglePointCalculator(atoms, energy=energy[k], forces=forces[k])
        frames.append(atoms)
    write(path, frames, format="extxyz")
    return str(path)


def test_files_that_ase_reads_are_trained_on(tmp_path, capsys):
    files = [write_springs(tmp_path / f"{a}.xyz", a, a + 30) for a in (0, 30)]
    sizes = [*SMALL, "--train-size=30", "--val-size=10", "--max-steps=5"]
    run = tmp_path / "run"
    arguments = ["train", "trajectories", "--paths", *files, *sizes, f"--output={run}"]
    assert main(arguments) == 0
    assert "20 for test" in capsys.readouterr().out
    assert json.loads((run / "metrics.json").read_text())["unit"] == "meV"
    assert main(["evaluate", str(run), "--part=val"]) == 0
    assert "meV/Å" in capsys.readouterr().out
    assert main(["train", "trajectories", "--output", str(tmp_path / "none")]) == 2
    assert "paths is empty" in capsys.readouterr().err
    assert main(["train", "trajectories", "--paths", str(tmp_path / "gone.xyz")]) == 2


@pytest.mark.parametrize("scenario", ["within", "other"])
def test_both_scenarios_of_iso17_are_trained(tmp_path, capsys, scenario):
    iso17 = pytest.importorskip("pyg_schnet.datasets.iso17")
    databases = pytest.importorskip("ase.db")
    rng = np.random.default_rng(0)
    numbers = [1] * 10 + [6] * 7 + [8] * 2
    sites = 1.4 * np.array([[i % 3, i // 3 % 3, i // 9] for i in range(19)])
    for name, count in (("reference", 40), ("test_within", 7), ("test_other", 9)):
        with databases.connect(tmp_path / f"{name}.db") as database:
            for _ in range(count):
                atoms = Atoms(numbers, sites + rng.normal(0.0, 0.03, (19, 3)))
                energy = -11_505.0 + rng.normal()
                forces = rng.normal(size=(19, 3)).tolist()
                database.write(atoms, total_energy=energy, data={"atomic_forces": forces})
    for name, ids in (("train", range(1, 31)), ("validation", range(31, 41))):
        (tmp_path / f"{name}_ids.txt").write_text("\n".join(map(str, ids)))
    assert iso17.ISO17.scenarios[scenario][-1] == f"test_{scenario}"
    arguments = ["train", "iso17", f"--scenario={scenario}", f"--raw={tmp_path}", *SMALL]
    more = ["--train-size=0", "--val-size=0", f"--root={tmp_path / 'data'}", "--max-steps=5"]
    assert main([*arguments, *more, f"--output={tmp_path / 'run'}"]) == 0
    out = capsys.readouterr().out
    assert "30 structures, 10 for validation" in out
    assert f"{7 if scenario == 'within' else 9} for test" in out


def test_data_sets_of_forces_are_described_prepared_and_made(md17, tmp_path, capsys):
    assert main(["datasets", "list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["qm9", "qm7b", "md17", "iso17", "c20", "trajectories", "mp"]
    assert main(["datasets", "info", "md17"]) == 0
    assert "eV/Å" in capsys.readouterr().out
    prepare = ["datasets", "prepare", "md17", f"--root={tmp_path}", f"--raw={md17}"]
    assert main([*prepare, "--molecule=ethanol"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 60
    assert main([*prepare, "--split=reference"]) == 2
    assert main(["datasets", "prepare", "qm9", "--molecule=ethanol"]) == 2
    assert "qm9 has no molecule" in capsys.readouterr().err
    made = ["datasets", "generate", "unobtainium", f"--output={tmp_path / 'a.extxyz'}"]
    assert main(made) == 2
    assert "unobtainium" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "pyg_schnet.cli", "datasets", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_an_interrupt_ends_with_a_sentence(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    verb = cli._VERBS["datasets"]._replace(run=interrupted)
    monkeypatch.setitem(cli._VERBS, "datasets", verb)
    assert main(["datasets", "list"]) == 130
    assert capsys.readouterr().err == "pyg-schnet: interrupted.\n"


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    """A table of copper and iron, squeezed and stretched."""
    folder = tmp_path_factory.mktemp("crystals")
    rows = ["material_id,cif,formation_energy_per_atom,band_gap"]
    for k in range(40):
        name, size = ("Cu", 3.6) if k % 2 else ("Fe", 2.87)
        atoms = bulk(name, a=size * (1 + 0.004 * (k - 20)), cubic=True)
        write(folder / "one.cif", atoms)
        text = (folder / "one.cif").read_text().replace('"', '""')
        rows.append(f'mp-{k},"{text}",{0.001 * (k - 20) ** 2},{0.1 * k}')
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_crystals_are_prepared_trained_evaluated_and_predicted(crystals, tmp_path, capsys):
    raw, root = f"--raw={crystals}/table.csv", f"--root={tmp_path}/mp"
    assert main(["datasets", "prepare", "mp", raw, root]) == 0
    assert json.loads(capsys.readouterr().out)["crystals"] == 40
    run = tmp_path / "run"
    call = ["train", "mp", raw, root, *SMALL, "--train-size=24", "--val-size=8"]
    assert main([*call, f"--output={run}", "--normalize=neighbors"]) == 0
    out = capsys.readouterr().out
    assert "formation_energy_per_atom of crystals: 24 crystals" in out and "eV/atom" in out
    assert load(run / "best.safetensors").config["normalize"] == "neighbors"
    assert load(run / "best.safetensors").config["readout"] == "mean"
    assert main(["evaluate", str(run)]) == 0
    assert "formation_energy_per_atom on 8 test crystals: MAE" in capsys.readouterr().out
    write(tmp_path / "POSCAR", bulk("Cu", cubic=True))
    files = [str(crystals / "one.cif"), str(tmp_path / "POSCAR")]
    assert main(["predict", *files, f"--model={run}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "file,index,formula,formation_energy_per_atom (eV/atom)"
    assert [line.split(",")[2] for line in lines[1:]] == ["Cu4", "Cu4"]
    # A property of the crystal, whatever cell it is told with.
    write(tmp_path / "large.cif", bulk("Cu").repeat(2))
    write(tmp_path / "small.cif", bulk("Cu"))
    both = [str(tmp_path / "large.cif"), str(tmp_path / "small.cif")]
    assert main(["predict", *both, f"--model={run}"]) == 0
    large, small = (line.split(",")[3] for line in capsys.readouterr().out.splitlines()[1:])
    assert float(large) == pytest.approx(float(small), abs=2e-6)


def test_a_bad_file_among_several_is_named_and_the_rest_goes_on(crystals, tmp_path, capsys):
    save(SchNet(8, 8, 1, 10, 4.0, readout="mean", seed=0), tmp_path / "m.safetensors")
    (tmp_path / "bad.cif").write_text("data_nothing\n")
    files = [str(tmp_path / "bad.cif"), str(crystals / "one.cif")]
    assert main(["predict", *files, f"--model={tmp_path}/m.safetensors"]) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert "bad.cif" in told.err and "1 of 2 files were left out" in told.err
    assert main(["predict", files[0], f"--model={tmp_path}/m.safetensors"]) == 2


def test_crystals_need_a_property_that_is_there(crystals, tmp_path, capsys):
    raw, root = f"--raw={crystals}/table.csv", f"--root={tmp_path}/mp"
    assert main(["train", "mp", raw, root, "--target=colour"]) == 2
    assert "colour" in capsys.readouterr().err
    assert main(["train", "mp", raw, root, "--published-split=true"]) == 2
    assert "split='train' is not in" in capsys.readouterr().err
    assert main(["train", "mp", raw, root, "--isolated=hide"]) == 2


def test_normal_modes_are_told_written_and_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    assert main(["vibrations", "ethanol.xyz", "--model=md17-ethanol"]) == 0
    out = capsys.readouterr().out
    assert "relaxed first" in out and "21" in out
    for suffix in ("extxyz", "json", "png"):
        assert (tmp_path / f"ethanol-modes.{suffix}").stat().st_size > 500
    assert json.loads((tmp_path / "ethanol-modes.json").read_text())
    assert main(["vibrations", "gone.xyz", "--model=md17-ethanol"]) == 2
