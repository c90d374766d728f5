"""The gallery of the documentation: its commands, its page and its pictures."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jsonargparse")

from pyg_schnet.benchmarks.accuracy.catalogue import load_rows
from pyg_schnet.benchmarks.gallery import command, pictures
from pyg_schnet.benchmarks.gallery.entries import SECTIONS
from pyg_schnet.benchmarks.gallery.models import MODELS
from pyg_schnet.benchmarks.gallery.page import page
from pyg_schnet.cli import main, parser
from pyg_schnet.cli.arguments import with_underscores

DOCS = Path(__file__).resolve().parents[1] / "docs"
ENTRIES = [entry for section in SECTIONS for entry in section.entries]


def test_every_command_of_the_page_can_be_typed():
    of_all = parser()
    lines = [line for entry in ENTRIES for line in entry.lines]
    lines += [model.command for model in MODELS.values()]
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "pyg-schnet"
        of_all.parse_args(with_underscores(words))
    assert {model.row for model in MODELS.values()} <= set(load_rows())
    assert {name for entry in ENTRIES for name in entry.models} == set(MODELS)
    structures = {word for line in lines for word in line.split() if word.startswith("docs/")}
    assert structures and all((DOCS.parent / name).is_file() for name in structures)


def test_the_page_shows_each_figure_with_its_command():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    images = DOCS / "images" / "gallery"
    assert {path.stem for path in images.iterdir()} == set(names)
    assert sum(path.stat().st_size for path in images.iterdir()) < 2_500_000
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    for entry in ENTRIES:
        assert f"(images/gallery/{entry.name}.png)" in text
        assert "```\n" + "\n".join(entry.lines) + "\n```" in text and entry.text in text
    fake = {name: [{"n_train": 1, "test_mae": 0.5, "unit": "eV"}] * len(model.seeds)
            for name, model in MODELS.items()}  # fmt: skip
    made = page(SECTIONS, fake)
    start = "## Local chemical potential"
    assert made[made.index(start) :] == text[text.index(start) :]
    for model in MODELS.values():
        assert model.command in made and model.command in text


def test_pictures_are_made_small_without_being_changed_much(tmp_path):
    from PIL import Image

    ramp = np.linspace(0, 255, 1500, dtype=np.uint8)
    image = np.stack([np.tile(ramp, (60, 1)), np.zeros((60, 1500), np.uint8),
                      np.full((60, 1500), 100, np.uint8)], -1)  # fmt: skip
    Image.fromarray(image).save(tmp_path / "a.png")
    small = pictures.shrink(tmp_path / "a.png", tmp_path / "b" / "a.png", 500)
    with Image.open(small) as opened:
        assert opened.mode == "P" and opened.size == (500, 20)
        found = np.asarray(opened.convert("RGB")).astype(int)
    wanted = image[::3, 1::3].astype(int)[:20]
    assert abs(found - wanted).max() <= 4
    assert [*small.parent.iterdir()] == [small]


def test_a_figure_is_drawn_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["benchmark", "gallery", "filters", "--output", "docs"]
    assert main(words) == 0
    image = tmp_path / "docs" / "images" / "gallery" / "filters.png"
    assert image.read_bytes()[:4] == b"\x89PNG" and not (tmp_path / "docs/gallery.md").exists()
    done = json.loads((tmp_path / "runs/gallery/done.json").read_text())
    assert list(done) == ["filters"] and capsys.readouterr().out.startswith(
        f"$ {done['filters'][0]}"
    )
    assert main(words) == 0
    assert capsys.readouterr().out == "filters: drawn before, kept\n"
    assert main([*words[:2], "no-such"]) == 2
    assert "names must be of potential-benzene" in capsys.readouterr().err


def test_a_command_that_fails_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    entry = command_entry("analyze filters --model no-such-model")
    with pytest.raises(ValueError, match="The figure broken was not made"):
        command._draw(entry, tmp_path / "a.png")
    assert "no-such-model" in capsys.readouterr().err


def command_entry(words):
    from pyg_schnet.benchmarks.gallery.entries import Entry

    return Entry("broken", words, "", "")
