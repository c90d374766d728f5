"""``pyg-schnet benchmark gallery``: its options, and what it does with them."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from pyg_schnet.benchmarks.gallery.entries import Entry


def parser() -> "ArgumentParser":
    """The options of the command."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        description="All figures of analyses, of models trained where they are missing; run it in "
        "the folder of the repository."
    )
    parser.add_argument("names", nargs="*", help="Figures; by default all.")
    parser.add_argument("--output", default="docs", help="Folder of gallery.md and its images.")
    parser.add_argument("--qm9", type=str | None, help="Original files of QM9.")
    parser.add_argument("--mp20", type=str | None, help="The file mp20_subset.csv.gz.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Draw anew what is drawn.")
    return parser


def main(options: "Namespace") -> None:
    """Train what is missing, run the command of each figure, write the page.

    Everything but the page and its images is written to ``runs/``. What is there of an earlier call
    is kept: runs that are finished, and figures whose command is the same.

    Args:
        options: What :func:`parser` read.

    Raises:
        ValueError: If there is no such figure, or a command fails.
    """
    from pyg_schnet.benchmarks.gallery.entries import SECTIONS
    from pyg_schnet.benchmarks.gallery.models import GALLERY, MODELS
    from pyg_schnet.benchmarks.gallery.page import page

    entries = [entry for section in SECTIONS for entry in section.entries]
    known = [entry.name for entry in entries]
    if wrong := set(options.names) - set(known):
        raise ValueError(f"names must be of {', '.join(known)}, got {', '.join(sorted(wrong))}.")
    chosen = [entry for entry in entries if not options.names or entry.name in options.names]
    files = {"qm9": options.qm9, "mp": options.mp20}
    metrics = {}
    needed = {name for entry in chosen for name in entry.models}
    given = {kind: file for kind, file in files.items() if file is not None}
    for name in MODELS:
        if name in needed:
            metrics[name] = MODELS[name].train(given)
    output, done = Path(options.output), Path(GALLERY) / "done.json"
    finished = json.loads(done.read_text()) if done.is_file() else {}
    for entry in chosen:
        image = output / "images" / "gallery" / f"{entry.name}.png"
        if image.is_file() and finished.get(entry.name) == entry.lines and not options.overwrite:
            print(f"{entry.name}: drawn before, kept")
            continue
        if _draw(entry, image):
            finished[entry.name] = entry.lines
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text(json.dumps(finished, indent=1) + "\n")
    if not options.names:
        file = output / "gallery.md"
        file.write_text(page(SECTIONS, metrics), encoding="utf-8")
        print(f"Wrote {file}")


def _draw(entry: "Entry", image: Path) -> bool:
    """Whether the figure was made; not where it takes a browser that is not there."""
    from pyg_schnet.benchmarks.gallery.pictures import photograph, shrink
    from pyg_schnet.cli import main as pyg_schnet

    for line in entry.lines:
        print(f"$ {line}", flush=True)
        if pyg_schnet(shlex.split(line)[1:]):
            raise ValueError(f"The figure {entry.name} was not made: its command failed.")
    made: Path | None = Path(entry.made)
    if entry.made.endswith(".html"):
        made = photograph(Path(entry.made), Path(entry.made).with_suffix(".png"))
    if made is None:
        print(f"{entry.name}: no browser to photograph {entry.made} with; its picture is as it was")
        return False
    shrink(made, image)
    return True
