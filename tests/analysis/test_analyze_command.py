"""Analyses by the command line."""

import pytest
from ase.build import bulk
from helpers import small_schnet
from small_qm9 import write_small_qm9

from pyg_schnet import save
from pyg_schnet.cli import main
from pyg_schnet.datasets import QM9, MaterialsProject


def test_a_figure_is_written_and_named(tmp_path, capsys):
    out = tmp_path / "curves.png"
    assert main(["analyze", "filters", "--model", "md17-benzene", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Wrote {out}\n"
    assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["filters", "--model", "md17-water"], "md17-water"),
        (["chemical-potential", "--model", "md17-benzene"], "name one with --structure"),
        (
            ["chemical-potential", "--model=md17-benzene", "--structure=C6H6", "--where=sky"],
            "--where must be one of plane, surface, box, cell, got 'sky'",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(arguments, sentence, tmp_path, capsys):
    assert main(["analyze", *arguments, "--out", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*holds 59 of")
def test_molecules_of_a_stored_qm9_are_analysed(tmp_path, capsys):
    root, out = tmp_path / "qm9", tmp_path / "energies.png"
    QM9(root, raw=write_small_qm9(tmp_path / "raw"))
    chosen = ["--structure", f"qm9:{root}", "--index", "0:9"]
    assert main(["analyze", "energy-partition", "--model=qm9-U0", *chosen, "--out", str(out)]) == 0
    assert f"Wrote {out}" in capsys.readouterr().out


def test_crystals_of_a_stored_data_set_are_analysed_and_elements_chosen(tmp_path, capsys):
    raw, root, out = tmp_path / "raw", tmp_path / "mp", tmp_path / "energies.png"
    raw.mkdir()
    for name in ("Fe", "Cu", "Al"):
        bulk(name).write(raw / f"{name}.cif")
    (raw / "id_prop.csv").write_text("Fe,0.0\nCu,0.1\nAl,0.2\n")
    MaterialsProject(root, raw=raw)
    save(small_schnet(readout="mean").float(), tmp_path / "a.safetensors")
    words = [f"--model={tmp_path / 'a.safetensors'}", "--structure", f"mp:{root}"]
    words = ["analyze", "energy-partition", *words, "--out", str(out)]
    assert main([*words, "--elements", "Cu,Fe"]) == 0 and out.stat().st_size > 3000
    two = out.stat().st_size
    assert main(words) == 0 and out.stat().st_size > two  # a panel more
    capsys.readouterr()
    assert main([*words, "--elements", "Cu,C"]) == 2
    assert "elements must be some of those of the structures, got 'C'" in capsys.readouterr().err


def test_a_report_of_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
