"""All properties of a structure at once, by the models of a family."""

import pytest
import torch
from ase.build import molecule

from pyg_schnet import SchNet, save
from pyg_schnet.cli import main
from pyg_schnet.models import pretrained as shelf
from pyg_schnet.simulation import atoms_to_data, families, load_family, predict_properties


@pytest.fixture
def family(tmp_path, monkeypatch):
    """Two small models in place of those of the package."""
    elements = ["H", "C", "O"]
    made = {
        "U0": (SchNet(16, 16, 1, 10, 5.0, mean=-5.0, seed=0), "eV", 0.02),
        "mu": (SchNet(16, 16, 1, 10, 5.0, head="dipole", seed=1), "D", 0.1),
    }
    for name, (model, unit, mae) in made.items():
        info = {"target": name, "unit": unit, "mae": mae, "elements": elements}
        save(model, tmp_path / f"qm9-{name}.safetensors", info)
    monkeypatch.setattr(shelf, "FOLDER", tmp_path)
    return {name: model for name, (model, _, _) in made.items()}


def water(tmp_path):
    path = tmp_path / "water.xyz"
    molecule("H2O").write(path)
    return path


def test_each_property_is_that_of_its_model(family):
    assert families() == ["qm9"]
    data = atoms_to_data(molecule("H2O"))
    (row,) = predict_properties([data], load_family("qm9"))
    assert row["formula"] == "H2O" and row["index"] == 0
    for name, model in family.items():
        want = model(data.z, data.pos, dtype=torch.float64).item()
        assert row[name] == pytest.approx(want, rel=1e-6)


def test_the_command_prints_a_table_with_units_and_errors(family, tmp_path, capsys):
    path = water(tmp_path)
    assert main(["predict", str(path), "--model", "qm9"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"{path}, structure 0: H2O"
    energy = family["U0"](atoms_to_data(molecule("H2O")).z, pos_of("H2O")).item()
    # In the order of QM9's own table.
    for line, words in zip(
        lines,
        (
            ("mu", "dipole moment", " D ", "± 0.1"),
            ("U0", "internal energy at 0 K", f"{energy:.4f} eV", "± 0.02"),
        ),
        strict=True,
    ):
        assert all(word in line for word in words), line


def pos_of(name):
    return atoms_to_data(molecule(name)).pos


def test_the_command_writes_one_csv(family, tmp_path, capsys):
    path, out = water(tmp_path), tmp_path / "all.csv"
    assert main(["predict", str(path), str(path), "--model", "qm9", "--output", str(out)]) == 0
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows[0] == ["file", "index", "formula", "mu (D)", "U0 (eV)"]
    assert len(rows) == 3 and rows[1] == rows[2]


def test_what_the_models_do_not_know_is_refused(family, tmp_path, capsys):
    path = tmp_path / "salt.xyz"
    molecule("NaCl").write(path)
    assert main(["predict", str(path), "--model", "qm9"]) == 2
    error = capsys.readouterr().err
    assert "Structure 0 holds Cl, Na" in error and "H, C, O only" in error
    assert main(["predict", str(water(tmp_path)), "--model", "qm9", "--forces", "true"]) == 2
    assert "--forces needs one energy model" in capsys.readouterr().err
    with pytest.raises(ValueError, match="beginning of models' names \\(qm9\\), got 'md17'"):
        load_family("md17")
