"""The report of the study: the same blocks as Markdown, and as HTML with the figures inside."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyg_schnet.benchmarks.c20.stages import write_text

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
"""


@dataclass(frozen=True)
class Heading:
    """A heading."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Plain words."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of words under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file."""

    path: Path
    caption: str


Block = Heading | Paragraph | Table | Picture


def write(title: str, blocks: Sequence[Block], folder: Path) -> tuple[Path, Path]:
    """Write ``report.md``, which refers to the figures, and ``report.html``, which holds them.

    Args:
        title: Of the report.
        blocks: In their order.
        folder: To write to.
    """
    files = folder / "report.md", folder / "report.html"
    all_blocks = [Heading(title, 1), *blocks]
    write_text(files[0], "\n\n".join(as_markdown(block, folder) for block in all_blocks) + "\n")
    body = "\n".join(as_html(block) for block in all_blocks)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    write_text(files[1], f"<!doctype html>\n<html lang=en><head>{head}</head><body>{body}</body>\n")
    return files


def as_markdown(block: Block, folder: Path) -> str:
    """A block as Markdown.

    Args:
        block: The block.
        folder: Of the file, to which paths are relative.

    Example:
        >>> print(as_markdown(Table(["a", "b"], [["1", "2"]]), Path(".")))
        | a | b |
        | :-- | --: |
        | 1 | 2 |
    """
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Picture(path, caption):
            return f"![{caption}]({path.relative_to(folder).as_posix()})\n\n{caption}"
        case Table(head, rows):
            marks = [":--"] + ["--:"] * (len(head) - 1)
            return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows))


def as_html(block: Block) -> str:
    """A block as HTML.

    Example:
        >>> as_html(Paragraph("a < b"))
        '<p>a &lt; b</p>'
    """
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Picture(path, caption):
            code = base64.b64encode(path.read_bytes()).decode()
            words = html.escape(caption)
            image = f'<img alt="{words}" src="data:image/png;base64,{code}">'
            return f"<figure>{image}<figcaption>{words}</figcaption></figure>"
        case Table(head, rows):
            top = "".join(f"<th>{html.escape(word)}</th>" for word in head)
            lines = ["".join(f"<td>{html.escape(word)}</td>" for word in row) for row in rows]
            body = "".join(f"<tr>{line}</tr>" for line in lines)
            return f"<table><tr>{top}</tr>{body}</table>"
