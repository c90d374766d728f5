"""The documentation site: whole links, every public name, and a build without a warning."""

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pyg_schnet.cli import parser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*DOCS.glob("*.md"), *ROOT.glob("*.md"), ROOT / "datasets" / "README.md"]
ROOMS = ["pyg_schnet", *(f"pyg_schnet.{room}" for room in ("nn", "models", "graph", "datasets"))]
ROOMS += [f"pyg_schnet.{room}" for room in ("simulation", "analysis", "interop", "ops")]


def load(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if not re.match(r"\w+:", target):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_room_has_a_page():
    text = "".join(path.read_text() for path in DOCS.glob("api*.md"))
    assert set(ROOMS) <= set(re.findall(r"<!-- generated: api (\S+) -->", text))


@pytest.mark.parametrize("room", ROOMS[:4])
def test_every_public_name_has_an_example(room):
    module = importlib.import_module(room)
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert ">>>" in thing.__doc__, f"{room}.{name}"


def test_commands_come_from_the_parsers():
    made = load("generated").commands("")
    verbs = next(a for a in parser()._actions if hasattr(a, "_name_parser_map"))
    for verb in verbs._name_parser_map:
        assert f"## pyg-schnet {verb}\n" in made
    assert "--train_size" in made and "## pyg-schnet train qm9\n" in made
    assert str(Path.home()) not in made


def test_links_are_turned_to_the_pages_of_the_site():
    turned = load("generated").turn_links
    assert turned("[a](docs/crystals.md#stress)", ROOT) == "[a](crystals.md#stress)"
    assert turned("[a](../README.md) [b](https://c.d)", DOCS) == "[a](index.md) [b](https://c.d)"
    assert turned("[examples/](examples)", ROOT) == "[examples/](examples.md)"
    assert turned("[tests](tests)", ROOT) == "`tests`"


def test_examples_are_shown_whole():
    made = load("generated").examples("")
    for path in (ROOT / "examples").glob("*.py"):
        assert path.read_text().split('"""', 2)[2].strip() in made


class Asked(HTMLParser):
    """What a page loads, and its words."""

    def __init__(self):
        super().__init__()
        self.urls, self.ids, self.formulas = [], set(), 0

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.ids.add(known.get("id"))
        self.formulas += tag == "math"
        if tag in ("script", "img", "iframe", "source"):
            self.urls.append(known.get("src") or "")
        if tag == "link" and known.get("rel") in ("stylesheet", "preload", "icon"):
            self.urls.append(known["href"])


def read(path):
    page = Asked()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def test_the_site_is_built_without_a_warning_and_asks_nothing_of_the_net(tmp_path):
    for name in ("sphinx", "furo", "myst_parser", "latex2mathml"):
        pytest.importorskip(name, reason="the extra [docs] is not installed")
    built = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-d", tmp_path / "trees", DOCS, built],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    pages = {path: read(path) for path in built.glob("*.html")}
    for path, page in pages.items():
        assert not [url for url in page.urls if "//" in url], path.name
    for style in built.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?(https?:)?//", style.read_text()), style.name
    known = set().union(*(page.ids for page in pages.values()))
    top = set(importlib.import_module("pyg_schnet").__all__)
    for room in ROOMS:
        for name in importlib.import_module(room).__all__:
            home = "pyg_schnet" if name in top else room
            assert f"{home}.{name}" in known or name.startswith("__"), f"{room}.{name}"
    assert pages[built / "api_nn.html"].formulas > 50
