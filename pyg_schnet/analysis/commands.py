"""``pyg-schnet analyze``: which analyses there are, their options, and what each does with them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace
    from torch import nn

    from pyg_schnet.analysis.points import Grid

Reader = Callable[[str, str], Iterable[Any]]
"""Structures of a file: of its name and which ones, in ASE's notation."""


@dataclass(frozen=True)
class Command:
    """An analysis as a command.

    Attributes:
        description: In one sentence.
        add_options: Adds its own options to a parser.
        run: From options and a reader of structures to the files written.
    """

    description: str
    add_options: Callable[["ArgumentParser"], None]
    run: Callable[["Namespace", Reader], list[Path]]


def parsers() -> dict[str, "ArgumentParser"]:
    """One parser for each analysis, by the word that calls it."""
    from jsonargparse import ArgumentParser

    found = {}
    for name, command in COMMANDS.items():
        parser = ArgumentParser(description=command.description)
        command.add_options(parser)
        suffix = "png" if name != "chemical-potential" else "png, .pdf, .html, .cube or .vtk"
        parser.add_argument("--out", default=f"{name}.png", help=f"File to write: .{suffix}.")
        found[name] = parser
    return found


def run(what: str, options: "Namespace", read: Reader) -> list[Path]:
    """Run an analysis.

    Args:
        what: Its word.
        options: What its parser read.
        read: Reads the structures of a file.

    Returns:
        The files written.

    Raises:
        ValueError: As the analysis, and if options do not fit together.
        FileNotFoundError: If there is no such model or structure.
    """
    return COMMANDS[what].run(options, read)


def _load(name: str) -> "nn.Module":
    from pyg_schnet.models import load
    from pyg_schnet.models.pretrained import find_model

    return load(find_model(name))


def _structure(name: str | None, read: Reader, index: str = "-1") -> Any:
    """The last structure of a file, or a molecule that ASE knows by its name."""
    if name is None:
        raise ValueError("This analysis is of a structure; name one with --structure.")
    found = _structures(name, read, index)
    if len(found) != 1:
        raise ValueError(
            f"{name!r} with --index {index!r} holds {len(found)} structures; choose one."
        )
    return found[0]


def _structures(name: str, read: Reader, index: str) -> list[Any]:
    if not Path(name).exists():
        from ase.build import molecule
        from ase.collections import g2

        if name in g2.names:
            return [molecule(name)]
    return list(read(name, index))


def _model_option(parser: "ArgumentParser") -> None:
    parser.add_argument("--model", required=True, help="File, run folder, or name of a model.")


def _structure_options(parser: "ArgumentParser", index: str = "-1") -> None:
    parser.add_argument(
        "--structure", type=str | None, help="File, or a molecule that ASE knows, such as C6H6."
    )
    parser.add_argument("--index", default=index, help="Which structures, in ASE's notation.")


def _numbers(name: str, words: str | None, count: int) -> np.ndarray | None:
    """So many numbers with commas between them."""
    if words is None:
        return None
    try:
        values = [float(word) for word in words.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise ValueError(f"--{name} must be {count} numbers with commas between, got {words!r}.")
    return np.array(values)


def _integers(name: str, words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise ValueError(f"--{name} must be integers with commas between, got {words!r}.") from None


def _potential_options(parser: "ArgumentParser") -> None:
    _model_option(parser)
    _structure_options(parser)
    parser.add_argument("--probe", default="C", help="Elements with commas between, such as H,C.")
    parser.add_argument("--where", default="plane", help="plane, surface, box or cell.")
    parser.add_argument("--center", type=str | None, help="Of the plane, x,y,z in Å.")
    parser.add_argument("--normal", type=str | None, help="Of the plane, x,y,z; else it is fitted.")
    parser.add_argument("--through", type=str | None, help="Atoms i,j,k that span the plane.")
    parser.add_argument("--size", type=float | None, help="Of the plane, Å.")
    parser.add_argument("--margin", type=float, default=3.0, help="Of the box, Å.")
    parser.add_argument("--spacing", type=float | None, help="From point to point, Å.")
    parser.add_argument("--level", type=float, default=3.7, help="Of the surface, 1/Å².")


def _potential(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis import chemical_potential as omega
    from pyg_schnet.analysis import volume_files
    from pyg_schnet.analysis.points import box_grid, cell_grid

    places = ("plane", "surface", "box", "cell")
    if options.where not in places:
        raise ValueError(f"--where must be one of {', '.join(places)}, got {options.where!r}.")
    model, structure = _load(options.model), _structure(options.structure, read, options.index)
    probes, out = options.probe.split(","), Path(options.out)
    is_file = out.suffix.lower() in (".cube", ".vtk")
    if options.where in ("box", "cell") and not is_file:
        raise ValueError(f"A {options.where} is written as .cube or .vtk, got --out {out}.")
    is_page = out.suffix.lower() == ".html"
    if is_page and options.where != "surface":
        raise ValueError(f"What is interactive is a surface; add --where surface for {out.name}.")
    if options.where == "surface":
        spacing = options.spacing or 0.15
        surfaces = [
            omega.potential_on_surface(
                model, structure, probe, level=options.level, spacing=spacing
            )
            for probe in probes
        ]
        if is_page:
            from pyg_schnet.analysis.interactive import write_surface

            return [write_surface(surfaces, structure, out)]
        if not is_file:
            return [omega.plot_surface(surfaces, out)]
        return [
            volume_files.write_vtk(one, _named(out, probe, probes))
            for one, probe in zip(surfaces, probes, strict=True)
        ]
    if options.where == "plane":
        grid = _plane(options, structure)
    elif options.where == "box":
        grid = box_grid(structure, options.margin, options.spacing or 0.25)
    else:
        grid = cell_grid(structure, options.spacing or 0.25)
    maps = [omega.potential_on_grid(model, structure, grid, probe) for probe in probes]
    if not is_file:
        return [omega.plot_plane(maps, structure, out)]
    written = []
    for one, probe in zip(maps, probes, strict=True):
        path = _named(out, probe, probes)
        if path.suffix.lower() == ".cube":
            written.append(volume_files.write_cube(one, structure, path))
        else:
            written.append(volume_files.write_vtk(one, path))
    return written


def _named(out: Path, probe: str, probes: list[str]) -> Path:
    """One file for each probe, where there are several."""
    return out if len(probes) == 1 else out.with_name(f"{out.stem}-{probe}{out.suffix}")


def _plane(options: "Namespace", structure: Any) -> "Grid":
    from pyg_schnet.analysis.points import molecular_plane, plane_grid, plane_through
    from pyg_schnet.analysis.structure import Structure

    spacing = options.spacing or 0.05
    pos = Structure.of(structure).pos.numpy(force=True)
    if options.through is not None:
        atoms = _integers("through", options.through)
        if len(atoms) != 3 or not all(0 <= atom < len(pos) for atom in atoms):
            raise ValueError(
                f"--through must be three atoms in 0..{len(pos) - 1}, got {options.through!r}."
            )
        return plane_through(pos[atoms], options.size or 10.0, spacing)
    normal = _numbers("normal", options.normal, 3)
    center = _numbers("center", options.center, 3)
    if normal is None:
        if center is not None:
            raise ValueError("--center needs the --normal of the plane too.")
        return molecular_plane(structure, options.size, spacing)
    return plane_grid(
        pos.mean(axis=0) if center is None else center, normal, options.size or 10.0, spacing
    )


def _filters_options(parser: "ArgumentParser") -> None:
    _model_option(parser)
    _structure_options(parser)
    parser.add_argument("--kind", default="curves", help="curves, cuts or periodic.")
    parser.add_argument("--layers", type=str | None, help="From 0, with commas; by default all.")
    parser.add_argument("--filters", type=str | None, help="From 0, with commas; by default six.")
    parser.add_argument("--normal", default="0,0,1", help="Of the plane of periodic filters.")
    parser.add_argument("--size", type=float, default=10.0, help="Of cuts, Å.")
    parser.add_argument("--spacing", type=float, default=0.05, help="From point to point, Å.")


def _filters(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis import filters
    from pyg_schnet.analysis.points import plane_grid
    from pyg_schnet.analysis.structure import network_of

    kinds = ("curves", "cuts", "periodic")
    if options.kind not in kinds:
        raise ValueError(f"--kind must be one of {', '.join(kinds)}, got {options.kind!r}.")
    model = _load(options.model)
    if options.kind == "curves":
        return [filters.plot_filter_curves(filters.filter_curves(model), options.out)]
    all_layers = range(len(network_of(model).interactions))
    layers = all_layers if options.layers is None else _integers("layers", options.layers)
    chosen = None if options.filters is None else _integers("filters", options.filters)
    lengths = {"size": options.size, "spacing": options.spacing}
    if options.kind == "cuts":
        maps = [filters.filter_cut(model, layer, chosen, **lengths) for layer in layers]
    else:
        structure = _structure(options.structure, read, options.index)
        normal = _numbers("normal", options.normal, 3)
        assert normal is not None
        grid = plane_grid([0.0, 0.0, 0.0], normal, **lengths)
        maps = [
            filters.periodic_filter_map(model, structure, grid, layer, chosen) for layer in layers
        ]
    return [filters.plot_filter_map(maps, options.out)]


def _embeddings_options(parser: "ArgumentParser") -> None:
    _model_option(parser)
    parser.add_argument(
        "--elements", type=str | None, help="With commas; by default those of the training."
    )
    parser.add_argument("--components", type=int | None, help="Axes; by default up to five.")


def _embeddings(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.embeddings import embedding_pca, plot_embeddings
    from pyg_schnet.analysis.structure import atomic_number

    model = _load(options.model)
    info = getattr(model, "info", None) or {}
    elements = options.elements.split(",") if options.elements else info.get("elements")
    count = options.components
    if count is None:
        count = max(1, min(5, len({atomic_number(one) for one in elements or []}) - 1))
    return [plot_embeddings(embedding_pca(model, elements, count), options.out)]


def _sensitivity_options(parser: "ArgumentParser") -> None:
    _model_option(parser)
    _structure_options(parser, ":")
    parser.add_argument(
        "--pairs", type=str | None, help="Such as C-C,C-H,H-H; by default the most frequent."
    )


def _sensitivity(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.sensitivity import feature_sensitivity, plot_sensitivity

    if options.structure is None:
        raise ValueError("Sensitivities are of structures; name a file with --structure.")
    pairs = None
    if options.pairs is not None:
        pairs = [_pair("pairs", words) for words in options.pairs.split(",")]
    structures = _structures(options.structure, read, options.index)
    found = feature_sensitivity(_load(options.model), structures)
    return [plot_sensitivity(found, options.out, pairs)]


def _pair(name: str, words: str) -> tuple[str, str]:
    first, dash, second = words.partition("-")
    if not (first and dash and second):
        raise ValueError(f"--{name} must be two elements such as C-H, got {words!r}.")
    return first, second


def _alchemy_options(parser: "ArgumentParser") -> None:
    _model_option(parser)
    _structure_options(parser)
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

    model, start = _load(options.model), _structure(options.structure, read, options.index)
    sites = [_integers("sites", words) for words in options.sites.split(";")]
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
            change = with_end(change, _structure(options.end, read))
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

    models = [_load(name) for name in options.model.split(",")]
    distances = np.linspace(options["from"], options.to, 281)
    found = dimer_curves(models, _pair("elements", options.elements), distances)
    found = found.relative() if options.relative else found
    return [plot_dimer(found, options.out, window=options.window)]


def _h2_options(parser: "ArgumentParser") -> None:
    parser.add_argument("--steps", type=int, default=1000, help="Of Adam.")
    parser.add_argument("--seed", type=int, default=0, help="Of the first weights.")


def _h2(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.h2 import fit_h2, plot_h2

    fits = [fit_h2(basis, steps=options.steps, seed=options.seed) for basis in (True, False)]
    return [plot_h2(fits, options.out)]


def _partition_options(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "--model", required=True, help="Files, run folders or names, with commas between."
    )
    _structure_options(parser, ":")


def _members(names: str) -> dict[str, "nn.Module"]:
    """Models by name; an ensemble is its members."""
    from pyg_schnet.models import Ensemble

    found: dict[str, nn.Module] = {}
    for name in names.split(","):
        model = _load(name)
        if isinstance(model, Ensemble):
            found |= {f"{name} {k}": member for k, member in enumerate(model.members)}
        else:
            found[name] = model
    return found


def _several(options: "Namespace", read: Reader) -> list[Any]:
    if options.structure is None:
        raise ValueError("This analysis is of structures; name a file with --structure.")
    return _structures(options.structure, read, options.index)


def _partition(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.energy_partition import atom_contributions, plot_partition

    structures, models = _several(options, read), _members(options.model)
    found = atom_contributions(list(models.values()), structures)
    return [plot_partition(found, options.out, [Path(name).name for name in models])]


def _rings_options(parser: "ArgumentParser") -> None:
    _partition_options(parser)
    parser.add_argument("--count", type=int, default=10, help="Rings drawn of each end.")


def _rings(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.ring_stability import draw_rings, ring_stability, write_rings

    structures, models = _several(options, read), _members(options.model)
    found = ring_stability(list(models.values()), structures)
    drawn = draw_rings(found, structures, options.out, options.count)
    return [drawn, write_rings(found, drawn.with_suffix(".csv"))]


def _errors_options(parser: "ArgumentParser") -> None:
    parser.add_argument("--run", required=True, help="Folder of a run; of a curve with commas.")
    parser.add_argument(
        "--kind", default="histogram", help="histogram, outliers, size, isomers or curve."
    )
    parser.add_argument("--property", type=str | None, help="By default the first.")
    parser.add_argument("--formula", type=str | None, help="Of isomers; else the most frequent.")
    parser.add_argument("--count", type=int, default=20, help="Worst structures that are listed.")
    _structure_options(parser, ":")


def _errors(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis import errors

    kinds, out = ("histogram", "outliers", "size", "isomers", "curve"), Path(options.out)
    if options.kind not in kinds:
        raise ValueError(f"--kind must be one of {', '.join(kinds)}, got {options.kind!r}.")
    if options.kind == "curve":
        curves = errors.learning_curves(options.run.split(","))
        return [errors.plot_learning_curves(curves, out)]
    found = errors.read_errors(options.run)
    if options.kind == "histogram":
        known = [one for one in found if one.owner is not None]
        files = [out.with_name(f"{out.stem}-{one.name.replace('/', '_')}.csv") for one in known]
        tables = [
            errors.write_outliers(one, file, options.count)
            for one, file in zip(known, files, strict=True)
        ]
        return [errors.plot_errors(found, out), *tables]
    names = [one.name for one in found]
    chosen = found[0] if options.property is None else None
    if options.property in names:
        chosen = found[names.index(options.property)]
    if chosen is None:
        raise ValueError(f"--property must be one of {', '.join(names)}, got {options.property!r}.")
    if options.kind == "outliers":
        from pyg_schnet.analysis.ring_stability import draw_molecules

        bad = errors.worst(chosen, options.count)
        labels = [
            f"row {row}: {error:.3g} {chosen.unit}"
            for row, error in zip(bad.rows, bad.error, strict=True)
        ]
        return [draw_molecules(_rows_of(options, read, bad.rows), labels, out)]
    if options.kind == "size":
        sizes = chosen.num_atoms
        if sizes is None:
            sizes = np.array([len(z) for z in _numbers_of_rows(options, read, chosen.rows)])
        by_size = errors.error_by_size(chosen.by_structure(), sizes)
        return [errors.plot_error_by_size(by_size, out, chosen.name, chosen.unit)]
    if not chosen.is_scalar:
        raise ValueError(f"Isomers are ranked by one number each, but {chosen.name} has more.")
    numbers = _numbers_of_rows(options, read, chosen.rows)
    formulas = np.array([errors.formula_of(z) for z in numbers])
    if options.formula is not None:
        from ase.formula import Formula

        formula = Formula(options.formula).format("hill")
    else:
        of, count = np.unique(formulas, return_counts=True)
        formula = str(of[count.argmax()])
    same = formulas == formula
    values = chosen.reference[same], chosen.prediction[same]
    return [errors.plot_isomers(*values, out, formula, chosen.unit)]


def _rows_of(options: "Namespace", read: Reader, rows: np.ndarray) -> list[Any]:
    """The structures of a test set, which are rows of the data set."""
    if options.structure is None:
        raise ValueError(
            "The run does not say what its structures are; name its data set with --structure."
        )
    structures = _structures(options.structure, read, options.index)
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


COMMANDS: dict[str, Command] = {
    "chemical-potential": Command(
        "What a probe atom would contribute, on planes, surfaces and in boxes.",
        _potential_options,
        _potential,
    ),
    "filters": Command(
        "Filters by distance, on cuts, and summed over a lattice.", _filters_options, _filters
    ),
    "embeddings": Command(
        "Principal axes of the embeddings of elements.", _embeddings_options, _embeddings
    ),
    "sensitivity": Command(
        "How features of an atom change when another one moves.",
        _sensitivity_options,
        _sensitivity,
    ),
    "alchemy": Command(
        "Energies while atoms of a molecule become another element.", _alchemy_options, _alchemy
    ),
    "dimer": Command("Energies of two atoms by several models.", _dimer_options, _dimer),
    "h2": Command("A fit of H2 with and without a radial basis.", _h2_options, _h2),
    "energy-partition": Command(
        "How models share out an energy among the atoms.", _partition_options, _partition
    ),
    "ring-stability": Command(
        "Rings of six carbon atoms, ranked and drawn.", _rings_options, _rings
    ),
    "errors": Command(
        "Errors of a run: histograms, outliers, by size, of isomers, learning curves.",
        _errors_options,
        _errors,
    ),
}
"""Analyses by the word that calls them."""
