"""Formulas of the site as MathML, which browsers draw by themselves."""

import re
from typing import Any


def inline(translator: Any, node: Any) -> None:
    """Write a formula within a line."""
    translator.body.append(convert(node.astext(), "inline"))
    _done()


def block(translator: Any, node: Any) -> None:
    """Write a displayed formula."""
    translator.body.append(f'<div class="math">{convert(node.astext(), "block")}</div>')
    _done()


def convert(formula: str, display: str) -> str:
    r"""MathML of a formula in TeX.

    Args:
        formula: TeX; lines end with ``\\``, and are aligned at ``&``.
        display: "inline" or "block".

    Raises:
        ValueError: If a command of the formula is unknown.
    """
    rows = [[_row(cell, display) for cell in row.split("&")] for row in formula.split(r"\\")]
    inner = rows[0][0]
    if len(rows) > 1 or len(rows[0]) > 1:
        lines = ("".join(f"<mtd>{cell}</mtd>" for cell in row) for row in rows)
        table = "".join(f"<mtr>{line}</mtr>" for line in lines)
        inner = f'<mtable displaystyle="true" class="aligned">{table}</mtable>'
    return f'<math display="{display}">{inner}</math>'


def _row(formula: str, display: str) -> str:
    from latex2mathml.converter import convert

    formula = re.sub(r"\\[Bb]igg?[lr]?(?=\\)", "", formula)  # known before plain brackets only
    if display == "block":
        formula = re.sub(r"\\(sum|prod|min|max)(?=_)", r"\\\1\\limits", formula)
    made: str = convert(formula)
    unknown = re.search(r"\\[A-Za-z]+", made)
    if unknown:
        raise ValueError(f"The formula {formula!r} uses {unknown[0]}, which is not known here.")
    return made[made.index(">") + 1 : made.rindex("</math>")]


def _done() -> None:
    from docutils import nodes

    raise nodes.SkipNode
