"""``pyg-schnet analyze errors``: of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyg_schnet.analysis.command_options import (
    Command,
    Reader,
    add_structure,
    named_structures,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from pyg_schnet.analysis.errors import PropertyErrors


def _errors_options(parser: "ArgumentParser") -> None:
    parser.add_argument("--run", required=True, help="Folder of a run; of a curve with commas.")
    parser.add_argument(
        "--kind", default="histogram", help="histogram, outliers, size, isomers or curve."
    )
    parser.add_argument("--property", type=str | None, help="By default the first.")
    parser.add_argument("--formula", type=str | None, help="Of isomers; else the most frequent.")
    parser.add_argument("--count", type=int, default=20, help="Worst structures that are listed.")
    add_structure(parser, ":")


def _errors(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis import error_figures
    from pyg_schnet.analysis.error_statistics import learning_curves
    from pyg_schnet.analysis.errors import read_errors

    kinds, out = ("histogram", "outliers", "size", "isomers", "curve"), Path(options.out)
    if options.kind not in kinds:
        raise ValueError(f"--kind must be one of {', '.join(kinds)}, got {options.kind!r}.")
    if options.kind == "curve":
        curves = learning_curves(options.run.split(","))
        return [error_figures.plot_learning_curves(curves, out)]
    found = read_errors(options.run)
    if options.kind == "histogram":
        known = [one for one in found if one.owner is not None]
        files = [out.with_name(f"{out.stem}-{one.name.replace('/', '_')}.csv") for one in known]
        tables = [
            error_figures.write_outliers(one, file, options.count)
            for one, file in zip(known, files, strict=True)
        ]
        return [error_figures.plot_errors(found, out), *tables]
    names = [one.name for one in found]
    name = names[0] if options.property is None else options.property
    if name not in names:
        raise ValueError(f"--property must be one of {', '.join(names)}, got {name!r}.")
    draw = {"outliers": _outliers, "size": _sizes, "isomers": _isomers}[options.kind]
    return [draw(found[names.index(name)], options, read)]


def _outliers(found: "PropertyErrors", options: "Namespace", read: Reader) -> Path:
    from pyg_schnet.analysis.error_statistics import worst
    from pyg_schnet.analysis.ring_stability import draw_molecules

    bad = worst(found, options.count)
    labels = [
        f"row {row}: {error:.3g} {found.unit}"
        for row, error in zip(bad.rows, bad.error, strict=True)
    ]
    return draw_molecules(_rows_of(options, read, bad.rows), labels, Path(options.out))


def _sizes(found: "PropertyErrors", options: "Namespace", read: Reader) -> Path:
    from pyg_schnet.analysis.error_figures import plot_error_by_size
    from pyg_schnet.analysis.error_statistics import error_by_size

    sizes = found.num_atoms
    if sizes is None:
        sizes = np.array([len(z) for z in _numbers_of_rows(options, read, found.rows)])
    by_size = error_by_size(found.by_structure(), sizes)
    return plot_error_by_size(by_size, options.out, found.name, found.unit)


def _isomers(found: "PropertyErrors", options: "Namespace", read: Reader) -> Path:
    from pyg_schnet.analysis.error_figures import plot_isomers
    from pyg_schnet.analysis.errors import formula_of

    if not found.is_scalar:
        raise ValueError(f"Isomers are ranked by one number each, but {found.name} has more.")
    numbers = _numbers_of_rows(options, read, found.rows)
    formulas = np.array([formula_of(z) for z in numbers])
    if options.formula is not None:
        from ase.formula import Formula

        formula = Formula(options.formula).format("hill")
    else:
        of, count = np.unique(formulas, return_counts=True)
        formula = str(of[count.argmax()])
    same = formulas == formula
    values = found.reference[same], found.prediction[same]
    return plot_isomers(*values, options.out, formula, found.unit)


def _rows_of(options: "Namespace", read: Reader, rows: np.ndarray) -> list[Any]:
    """The structures of a test set, which are rows of the data set."""
    if options.structure is None:
        raise ValueError(
            "The run does not say what its structures are; name its data set with --structure."
        )
    structures = named_structures(options.structure, read, options.index)
    if rows.max() >= len(structures):
        raise ValueError(
            f"--structure holds {len(structures)} structures, but the run tested row {rows.max()}; "
            "give the whole data set, in its order."
        )
    return [structures[row] for row in rows]


def _numbers_of_rows(options: "Namespace", read: Reader, rows: np.ndarray) -> list[np.ndarray]:
    from pyg_schnet.analysis.structure import Structure

    found = _rows_of(options, read, rows)
    return [Structure.of(structure).z.numpy(force=True) for structure in found]


ERRORS = {
    "errors": Command(
        "Errors of a run: histograms, outliers, by size, of isomers, learning curves.",
        _errors_options,
        _errors,
    ),
}
"""Analyses of this file by the word that calls them."""
