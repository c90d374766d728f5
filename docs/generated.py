"""Parts of the pages that are made from the package when the site is built.

A line ``<!-- generated: KIND ARGUMENT -->`` of a page is replaced by what the function of that kind
returns; links are turned to where the site has what they name.
"""

import ast
import builtins
import importlib
import inspect
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "index.md#citation",
    "examples": "examples.md",
    "pyg_schnet/pretrained": "pretrained.md",
    "benchmarks/results/speed_cpu.md": "speed.md",
    "datasets/README.md": "data_sets.md",
}
"""Where the site has files that lie elsewhere in the repository."""

_MARKER = re.compile(r"^<!-- generated: (\w+) ?(.*?) -->$", flags=re.MULTILINE)
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)")


def fill_in(app: Any, page: str, source: list[str]) -> None:
    """Replace the markers of a page, and turn its links."""
    text = turn_links(source[0], ROOT / "docs")
    source[0] = _MARKER.sub(lambda found: KINDS[found[1]](found[2]), text)


def turn_links(text: str, folder: Path) -> str:
    """The text with links that lead where the site has what they name; a warning if nowhere.

    Args:
        text: Markdown.
        folder: Of the file that it is from.
    """

    def turned(link: re.Match[str]) -> str:
        label, target, anchor = link[1], link[2], link[3] or ""
        if re.match(r"\w+:", target):
            return link[0]
        path = (folder / target).resolve()
        inside = path.relative_to(ROOT).as_posix()
        if not path.exists() and not (ROOT / "docs" / target).exists():
            from sphinx.util import logging

            logging.getLogger(__name__).warning("A page links to %s, which is not there.", inside)
            return link[0]
        if inside in PAGES:
            return f"{label}({PAGES[inside]}{anchor})"
        if inside.startswith("docs/"):
            return f"{label}({inside.removeprefix('docs/')}{anchor})"
        if path.is_dir():
            words = label[1:-1]
            return f"`{inside}`" if words == inside else f"{words} (`{inside}`)"
        return f"{label}(../{inside}{anchor})"  # Sphinx copies the file

    return _LINK.sub(turned, text)


def readme(title: str) -> str:
    """A section of the README without its heading; with no title what comes before the first."""
    text = turn_links((ROOT / "README.md").read_text(encoding="utf-8"), ROOT)
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    return sections[title] if title else parts[0].split("\n", 1)[1]


def file(path: str) -> str:
    """A Markdown file of the repository without its first heading."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return turn_links(re.sub(r"\A# .*\n", "", text), (ROOT / path).parent)


def api(room: str) -> str:
    """The names of a room, or of a module without ``__all__`` all that it defines."""
    module = importlib.import_module(room)
    if hasattr(module, "__all__"):
        names = list(module.__all__)
    else:
        names = [
            name
            for name, thing in vars(module).items()
            if getattr(thing, "__module__", None) == room and not name.startswith("_")
        ]
    if room != "pyg_schnet":
        top = importlib.import_module("pyg_schnet")
        names = [name for name in names if name not in top.__all__]
    lines = [f".. currentmodule:: {room}", ""]
    for name in sorted(names, key=lambda name: (name.lower(), name)):
        thing = getattr(module, name)
        if inspect.isclass(thing):
            lines.append(f".. autoclass:: {room}.{name}")
        elif callable(thing):
            lines.append(f".. autofunction:: {room}.{name}")
        elif isinstance(thing, dict):
            keys = ", ".join(f"``{key!r}``" for key in thing)
            lines += [f".. py:data:: {name}", "", f"   A dictionary; its keys are {keys}."]
        lines.append("")
    return "\n".join(["```{eval-rst}", *lines, "```"])


def commands(_: str) -> str:
    """Usage and options of each verb, from its parser."""
    from pyg_schnet.cli import parser

    os.environ["COLUMNS"] = "96"  # else lines are as long as the terminal is wide
    made: list[str] = []

    def describe(one: Any, words: str, level: int) -> None:
        choices = next((a for a in one._actions if hasattr(a, "_name_parser_map")), None)
        one.prog = words
        made.append(f"{'#' * level} {words}\n\n````text\n{one.format_help().rstrip()}\n````\n")
        for name, below in (choices._name_parser_map if choices else {}).items():
            describe(below, f"{words} {name}", min(level + 1, 4))

    whole = parser()
    verbs = next(a for a in whole._actions if hasattr(a, "_name_parser_map"))
    for name, one in verbs._name_parser_map.items():
        describe(one, f"pyg-schnet {name}", 2)
    return "\n".join(made).replace(str(Path.home()), "~")


def extras(_: str) -> str:
    """A table of the package's extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = ["| extra | packages |", "| --- | --- |"]
    for name, packages in project["optional-dependencies"].items():
        names = dict.fromkeys(re.split(r"[<>=;! ]", package)[0] for package in packages)
        rows.append(f"| `{name}` | {', '.join(names)} |")
    return "\n".join(rows)


def examples(_: str) -> str:
    """Each example: what it shows, and its code."""
    made = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        said = inspect.cleandoc(ast.get_docstring(ast.parse(text)) or "")
        title, _, rest = said.partition("\n")
        code = text.split('"""', 2)[2].lstrip()
        head = f"## {title.rstrip('.').replace('``', '`')}\n\n`examples/{path.name}`\n\n"
        made.append(head + rest.replace("``", "`").strip() + f"\n\n```python\n{code}```\n")
    return "\n".join(made)


def cards(_: str) -> str:
    """The cards of the models that come with the package, their headings one level down."""
    folder = ROOT / "pyg_schnet" / "pretrained"
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))]
    return "\n".join(re.sub(r"^(#+) ", r"#\1 ", text, flags=re.MULTILINE) for text in texts)


KINDS = {
    "api": api,
    "cards": cards,
    "commands": commands,
    "examples": examples,
    "extras": extras,
    "file": file,
    "readme": readme,
}


def clean_docstring(
    app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Make plain text of what reStructuredText or Napoleon would take for something else."""
    # A star in a shape or in the pattern of a file begins no emphasis.
    lines[:] = [re.sub(r"(?<=[(/ ])\*(?=[\w/])", r"\\*", line) for line in lines]
    first, colon, rest = lines[0].partition(": ")
    if colon and kind in ("attribute", "data", "property"):
        lines[:1] = [f"{first}:", rest]  # else what stands before the colon is taken for a type


def find_name(app: Any, environment: Any, node: Any, content: Any) -> Any:
    """Link a name to where it is documented, or show it plainly; None if there is no such name.

    Sphinx warns of the last. Names of other packages stay without a link, for their documentation
    is on the net; those in signatures are not checked, since some are imported for types alone.
    """
    from docutils import nodes

    if node.get("refdomain") != "py":
        return None
    known = _documented(environment)
    places = [known[id(thing)] for thing in _things(node) if id(thing) in known]
    if places:
        page, anchor = places[0]
        uri = app.builder.get_relative_uri(node["refdoc"], page)
        return nodes.reference("", "", content, internal=True, refuri=f"{uri}#{anchor}")
    checked = "refwarn" in node and next(_things(node), None) is None
    return None if checked else content


def _documented(environment: Any) -> dict[int, tuple[str, str]]:
    """Page and anchor of each documented object, by its identity."""
    if not hasattr(environment, "pyg_schnet_objects"):
        environment.pyg_schnet_objects = {
            id(thing): (place.docname, place.node_id)
            for name, place in environment.domains["py"].objects.items()
            if callable(thing := _imported(name))
        }
    found: dict[int, tuple[str, str]] = environment.pyg_schnet_objects
    return found


def _things(node: Any) -> Iterator[Any]:
    """What a reference may mean, seen from where it stands."""
    target, room, owner = node["reftarget"], node.get("py:module"), node.get("py:class")
    place = _imported(f"{room}.{owner}") if owner else None
    homes = [room, f"{room}.{owner}", getattr(place, "__module__", None)]
    for prefix in ("", *(f"{home}." for home in homes if home)):
        thing = _imported(prefix + target.lstrip("."))
        if thing is not None:
            yield thing
    # A name of the same file, seen from a docstring that is shown elsewhere.
    yield from _defined().get(target, ())


@cache
def _defined() -> dict[str, list[Any]]:
    """What the modules of the package define, by its last name; called when all are imported."""
    found: dict[str, list[Any]] = {}
    for module, content in list(sys.modules.items()):
        if module.startswith("pyg_schnet."):
            for name, thing in vars(content).items():
                if getattr(thing, "__module__", None) == module:
                    found.setdefault(name, []).append(thing)
    return found


@cache
def _imported(name: str) -> Any:
    """The module, or what one holds, of a dotted name; None if there is none."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except (ImportError, ValueError):
            continue
        for part in parts[length:]:
            thing = getattr(thing, part, None)
        return thing
    return getattr(builtins, name, None)
