"""``pyg-schnet analyze alchemy``, ``dimer``, ``h2``, ``energy-partition``, ``ring-stability``."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyg_schnet.analysis.command_options import (
    Command,
    Reader,
    add_model,
    add_structure,
    load_members,
    load_model,
    one_structure,
    read_integers,
    read_pair,
    several_structures,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _alchemy_options(parser: "ArgumentParser") -> None:
    add_model(parser)
    add_structure(parser)
    parser.add_argument(
        "--sites",
        default="0;0,3;0,2,4",
        help="Atoms that change; several pathways with semicolons between.",
    )
    parser.add_argument("--element", default="N", help="What they become.")
    parser.add_argument("--names", type=str | None, help="Of the pathways, with commas between.")
    parser.add_argument("--end", type=str | None, help="Structure at the end, of one pathway.")
    parser.add_argument("--steps", type=int, default=21, help="Points of a pathway.")


def _alchemy(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.alchemy import alchemical_path, plot_paths, substitute, with_end

    model, start = load_model(options.model), one_structure(options.structure, read, options.index)
    sites = [read_integers("sites", words) for words in options.sites.split(";")]
    names = options.names.split(",") if options.names else options.sites.split(";")
    if len(names) != len(sites):
        raise ValueError(f"--names must be {len(sites)} names, one for each pathway.")
    if options.end is not None and len(sites) != 1:
        raise ValueError("--end is the end of one pathway; give the --sites of one.")
    paths = {}
    for name, one in zip(names, sites, strict=True):
        change = substitute(start, one, options.element)
        paths[name] = alchemical_path(model, change, options.steps)
        if options.end is not None:
            change = with_end(change, one_structure(options.end, read))
            moving = alchemical_path(model, change, options.steps, positions="interpolated")
            paths |= {f"{name}, fixed": paths.pop(name), f"{name}, interpolated": moving}
    return [plot_paths(paths, options.out)]


def _dimer_options(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "--model", required=True, help="Files, run folders or names, with commas between."
    )
    parser.add_argument("--elements", default="C-H", help="Two elements.")
    parser.add_argument("--from", type=float, default=0.4, help="Shortest distance, Å.")
    parser.add_argument("--to", type=float, default=6.0, help="Longest distance, Å.")
    parser.add_argument(
        "--relative", type=bool, default=False, help="Less the energies of the atoms alone."
    )
    parser.add_argument("--window", type=float, default=15.0, help="Energies that are shown, eV.")


def _dimer(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.bond_breaking import dimer_curves, plot_dimer

    models = [load_model(name) for name in options.model.split(",")]
    distances = np.linspace(options["from"], options.to, 281)
    found = dimer_curves(models, read_pair("elements", options.elements), distances)
    found = found.relative() if options.relative else found
    return [plot_dimer(found, options.out, window=options.window)]


def _h2_options(parser: "ArgumentParser") -> None:
    parser.add_argument("--steps", type=int, default=1000, help="Of Adam.")
    parser.add_argument("--seed", type=int, default=0, help="Of the first weights.")


def _h2(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.h2 import fit_h2, plot_h2

    fits = [fit_h2(basis, steps=options.steps, seed=options.seed) for basis in (True, False)]
    return [plot_h2(fits, options.out)]


def _models_options(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "--model", required=True, help="Files, run folders or names, with commas between."
    )
    add_structure(parser, ":")


def _partition_options(parser: "ArgumentParser") -> None:
    _models_options(parser)
    parser.add_argument("--elements", type=str | None, help="That are drawn; by default all.")


def _partition(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.energy_partition import atom_contributions, plot_partition

    structures, models = several_structures(options, read), load_members(options.model)
    found = atom_contributions(list(models.values()), structures)
    elements = options.elements.split(",") if options.elements else None
    return [plot_partition(found, options.out, [Path(name).name for name in models], elements)]


def _rings_options(parser: "ArgumentParser") -> None:
    _models_options(parser)
    parser.add_argument("--count", type=int, default=10, help="Rings drawn of each end.")


def _rings(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.ring_stability import draw_rings, ring_stability, write_rings

    structures, models = several_structures(options, read), load_members(options.model)
    found = ring_stability(list(models.values()), structures)
    drawn = draw_rings(found, structures, options.out, options.count)
    return [drawn, write_rings(found, drawn.with_suffix(".csv"))]


ENERGIES = {
    "alchemy": Command(
        "Energies while atoms of a molecule become another element.", _alchemy_options, _alchemy
    ),
    "dimer": Command("Energies of two atoms by several models.", _dimer_options, _dimer),
    "h2": Command("A fit of H2 with and without a radial basis.", _h2_options, _h2),
    "energy-partition": Command(
        "How models share out an energy among the atoms.", _partition_options, _partition
    ),
    "ring-stability": Command(
        "Rings of six carbon atoms, ranked and drawn.", _rings_options, _rings, ".png or .svg"
    ),
}
"""Analyses of this file by the word that calls them."""
