"""Models that come with the package, made of runs of a few lines."""

import json

import pytest
import torch
import yaml
from helpers import methanol, small_schnet
from safetensors import safe_open
from torch.testing import assert_close

import pyg_schnet
from pyg_schnet import Potential, SchNet, save
from pyg_schnet.datasets.qm9_properties import SCALARS
from pyg_schnet.models import pretrained, read_header
from pyg_schnet.models.pretrained import find_model, trained_elements, write_card

FORCES = {
    "target": "ethanol",
    "unit": "kcal/mol",
    "forces_unit": "kcal/mol/Å",
    "shown_per_unit": 23.0,
    "test_energy_mae": 0.004,
    "test_energy_rmse": 0.005,
    "test_forces_mae": 0.02,
    "test_forces_rmse": 0.03,
}
PROPERTY = {
    "target": "U0",
    "unit": "kcal/mol",
    "shown_per_unit": 23.0,
    "test_mae": 0.61,
    "test_rmse": 0.92,
}
COMMON = {
    "n_train": 1000, "n_val": 500, "n_test": 8568, "parameters": 1234, "steps": 9000,
    "best_step": 8500, "seconds": 1830.0, "threads": 2, "stopped": "max_time", "seed": 7,
}  # fmt: skip


def make_run(folder, metrics, config, info, model=None):
    """The files of a run, as training leaves them."""
    model = trained_model() if model is None else model
    save(model, folder / "best.safetensors", info)
    (folder / "metrics.json").write_text(json.dumps(metrics | COMMON))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return model


def trained_model() -> SchNet:
    """Of C, O and H, by an optimiser that leaves other elements alone."""
    model = small_schnet(torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    data = methanol(torch.float32)
    for _ in range(2):
        optimizer.zero_grad()
        model(data.z, data.pos).square().sum().backward()
        optimizer.step()
    return model.eval()


def make_force_run(folder, **changes):
    config = {"molecule": "ethanol", "train_size": 1000, "rho": 0.01, "root": "/home/x/data",
              "output": "/home/x/run", "raw": None, "preset": None, "revised": False}  # fmt: skip
    info = {"target": "energy", "unit": "eV", "data": "ethanol", "val_loss": 0.1, "step": 8500}
    return make_run(folder, FORCES, config | changes, info)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The folder of the package's models, with one for forces and one for a property."""
    shelf = tmp_path / "shelf"
    monkeypatch.setattr(pretrained, "FOLDER", shelf)
    make_force_run(tmp_path / "forces")
    write_card(tmp_path / "forces", "md17-ethanol", shelf, notes="For ethanol near 500 K.")
    make_run(tmp_path / "u0", PROPERTY, {"target": "U0"}, {"target": "U0", "unit": "eV"})
    write_card(tmp_path / "u0", "qm9-U0", shelf, command="pyg-schnet train qm9 --seed 7")
    return shelf


def test_every_model_of_the_package_loads_and_has_a_card():
    for name in pretrained.names():
        model = pyg_schnet.pretrained(name)
        assert not model.training
        assert f"# {name}\n" in pretrained.card(name)
        path = find_model(name)
        assert path.stat().st_size <= 1_000_000
        info = read_header(path)["info"]
        target = name.removeprefix("qm9-")
        assert info["unit"] == (SCALARS[target].unit if target in SCALARS else "eV")


def test_a_model_gives_the_numbers_of_its_run(shelf, tmp_path):
    assert pretrained.names() == ["md17-ethanol", "qm9-U0"]
    data = methanol(torch.float32)
    potential = pyg_schnet.pretrained("md17-ethanol")
    assert isinstance(potential, Potential)
    trained = Potential(pyg_schnet.load(tmp_path / "forces" / "best.safetensors")).eval()
    got, want = potential(data), trained(data)
    assert torch.equal(got["energy"], want["energy"])
    assert torch.equal(got["forces"], want["forces"])
    model = pyg_schnet.pretrained("qm9-U0", dtype=torch.float64)
    assert isinstance(model, SchNet) and model.embedding.weight.dtype == torch.float64
    want = pyg_schnet.load(tmp_path / "u0" / "best.safetensors")
    assert_close(
        model(data.z, data.pos.double()).float(), want(data.z, data.pos), rtol=1e-5, atol=0
    )


def test_the_header_says_what_the_model_knows(shelf):
    info = read_header(shelf / "md17-ethanol.safetensors")["info"]
    assert info["elements"] == ["H", "C", "O"]
    assert (info["name"], info["unit"], info["data"]) == ("md17-ethanol", "eV", "ethanol")
    assert info["test"]["test_forces_mae"] == 0.02
    assert pyg_schnet.pretrained("md17-ethanol").info == info
    with safe_open(shelf / "md17-ethanol.safetensors", framework="pt") as file:
        assert set(file.metadata()) == {"pyg_schnet"}


def test_a_calculator_refuses_elements_that_the_model_has_not_seen(shelf):
    from ase.build import molecule

    from pyg_schnet.simulation import Calculator

    for source in ("md17-ethanol", pyg_schnet.pretrained("md17-ethanol")):
        atoms = molecule("CH3OH")
        atoms.calc = Calculator(source)
        assert atoms.get_forces().shape == (6, 3)
        atoms.numbers[0] = 7
        with pytest.raises(ValueError, match="knows nothing of N"):
            atoms.get_forces()


def test_a_card_says_data_protocol_errors_and_command(shelf):
    text = pretrained.card("md17-ethanol")
    for line in (
        "# md17-ethanol",
        "MD17: Chmiela et al.",
        "Elements: H, C, O.",
        "For ethanol near 500 K.",
        "On 8,568 structures",
        "| energy | kcal/mol | 0.092 | 0.115 |",
        "| force components | kcal/mol/Å | 0.46 | 0.69 |",
        "| training structures | 1,000 |",
        "| training time | 30.5 minutes |",
        "| seed | 7 |",
        "pyg-schnet train md17 --config md17-ethanol.yaml",
        "rho: 0.01",
    ):
        assert line in text
    assert "/home/x" not in text
    other = pretrained.card("qm9-U0")
    assert "| U0 | kcal/mol | 0.61 | 0.92 |" in other
    assert "pyg-schnet train qm9 --seed 7" in other and "qm9-U0.yaml" not in other


def test_the_configuration_in_a_card_is_one(shelf):
    text = pretrained.card("md17-ethanol")
    config = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert config == {"molecule": "ethanol", "train_size": 1000, "rho": 0.01, "revised": False}


def test_a_card_of_the_revised_set_names_it(tmp_path):
    make_force_run(tmp_path / "run", revised=True)
    _, page = write_card(tmp_path / "run", "rmd17-ethanol", tmp_path / "out")
    assert "Revised MD17: Christensen" in page.read_text(encoding="utf-8")


def test_an_unknown_name_lists_the_known_ones(shelf):
    sentence = r"\(md17-ethanol, qm9-U0\), got 'md17-etanol'. Did you mean 'md17-ethanol'\?"
    for ask in (pyg_schnet.pretrained, pretrained.card, find_model):
        with pytest.raises(ValueError, match=sentence):
            ask("md17-etanol")


def test_without_models_the_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "nothing")
    assert pretrained.names() == []
    with pytest.raises(ValueError, match=r"\(none in this installation\)"):
        pyg_schnet.pretrained("qm9-U0")


def test_a_model_is_found_by_file_run_and_name(shelf, tmp_path, monkeypatch):
    named = shelf / "qm9-U0.safetensors"
    assert find_model("qm9-U0") == named
    assert find_model(named) == find_model(str(named)) == named
    assert find_model(tmp_path / "u0") == tmp_path / "u0" / "best.safetensors"
    for wrong in (tmp_path / "none", "runs/none", "none.safetensors"):
        with pytest.raises(FileNotFoundError, match="no model file or run folder at .*qm9-U0"):
            find_model(wrong)
    (tmp_path / "begun").mkdir()
    with pytest.raises(FileNotFoundError, match="best.safetensors is missing"):
        find_model(tmp_path / "begun")
    # A folder of the same name without a model does not hide the model of the package.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qm9-U0").mkdir()
    assert find_model("qm9-U0") == named
    save(small_schnet(), tmp_path / "qm9-U0" / "best.safetensors")
    assert find_model("qm9-U0").resolve() == tmp_path / "qm9-U0" / "best.safetensors"


def test_unfinished_runs_bad_names_and_large_models_are_refused(tmp_path):
    make_force_run(tmp_path / "run")
    for name in ("a/b", ""):
        with pytest.raises(ValueError, match="name must be a plain file name"):
            write_card(tmp_path / "run", name, tmp_path / "out")
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="no finished run: metrics.json is missing"):
        write_card(tmp_path / "run", "a", tmp_path / "out")
    large = SchNet(128, 128, 6, 50, 5.0)
    make_run(tmp_path / "large", PROPERTY, {"target": "U0"}, {"target": "U0", "unit": "eV"}, large)
    with pytest.raises(ValueError, match="a model of the package may have 1,000,000"):
        write_card(tmp_path / "large", "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_elements_are_those_whose_embedding_moved():
    assert trained_elements(trained_model()) == ["H", "C", "O"]
    assert trained_elements(trained_model().double()) == ["H", "C", "O"]
    assert trained_elements(small_schnet(torch.float32)) is None
    assert trained_elements(small_schnet(torch.float32, seed=None)) is None
    other = trained_model()
    with torch.no_grad():
        other.embedding.weight += 1.0
    assert trained_elements(other) is None


def test_elements_may_be_given(tmp_path):
    make_force_run(tmp_path / "run")
    path, _ = write_card(tmp_path / "run", "a", tmp_path / "out", elements=["C", "N"])
    assert read_header(path)["info"]["elements"] == ["C", "N"]
