"""``pyg-schnet analyze chemical-potential`` and ``filters``: what is seen in space."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyg_schnet.analysis.command_options import (
    PAGES,
    Command,
    Reader,
    add_model,
    add_structure,
    load_model,
    one_structure,
    read_integers,
    read_numbers,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from pyg_schnet.analysis.points import Grid


def _potential_options(parser: "ArgumentParser") -> None:
    add_model(parser)
    add_structure(parser)
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
    from pyg_schnet.analysis.interactive import is_page, write_page, write_surface
    from pyg_schnet.analysis.points import box_grid, cell_grid

    places = ("plane", "surface", "box", "cell")
    if options.where not in places:
        raise ValueError(f"--where must be one of {', '.join(places)}, got {options.where!r}.")
    model = load_model(options.model)
    structure = one_structure(options.structure, read, options.index)
    probes, out = options.probe.split(","), Path(options.out)
    is_file = out.suffix.lower() in (".cube", ".vtk")
    if options.where in ("box", "cell") and not is_file:
        raise ValueError(f"A {options.where} is written as .cube or .vtk, got --out {out}.")
    if options.where == "surface":
        spacing = options.spacing or 0.15
        surfaces = [
            omega.potential_on_surface(
                model, structure, probe, level=options.level, spacing=spacing
            )
            for probe in probes
        ]
        if is_page(out):
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
    if is_page(out):
        from pyg_schnet.analysis.interactive_plots import plane_figure

        return [write_page(plane_figure(maps, structure), out)]
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
        atoms = read_integers("through", options.through)
        if len(atoms) != 3 or not all(0 <= atom < len(pos) for atom in atoms):
            raise ValueError(
                f"--through must be three atoms in 0..{len(pos) - 1}, got {options.through!r}."
            )
        return plane_through(pos[atoms], options.size or 10.0, spacing)
    normal = read_numbers("normal", options.normal, 3)
    center = read_numbers("center", options.center, 3)
    if normal is None:
        if center is not None:
            raise ValueError("--center needs the --normal of the plane too.")
        return molecular_plane(structure, options.size, spacing)
    return plane_grid(
        pos.mean(axis=0) if center is None else center, normal, options.size or 10.0, spacing
    )


def _filters_options(parser: "ArgumentParser") -> None:
    add_model(parser)
    add_structure(parser)
    parser.add_argument("--kind", default="curves", help="curves, cuts or periodic.")
    parser.add_argument("--layers", type=str | None, help="From 0, with commas; by default all.")
    parser.add_argument("--filters", type=str | None, help="From 0, with commas; by default six.")
    parser.add_argument("--normal", default="0,0,1", help="Of the plane of periodic filters.")
    parser.add_argument("--size", type=float, default=10.0, help="Of cuts, Å.")
    parser.add_argument("--spacing", type=float, default=0.05, help="From point to point, Å.")


def _filters(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis import filters
    from pyg_schnet.analysis.interactive import is_page, write_page
    from pyg_schnet.analysis.points import plane_grid
    from pyg_schnet.analysis.structure import network_of

    kinds = ("curves", "cuts", "periodic")
    if options.kind not in kinds:
        raise ValueError(f"--kind must be one of {', '.join(kinds)}, got {options.kind!r}.")
    model = load_model(options.model)
    if is_page(options.out) and options.kind != "curves":
        raise ValueError(f"A page is of --kind curves; give {options.kind} an image, such as .png.")
    if options.kind == "curves":
        curves = filters.filter_curves(model)
        if is_page(options.out):
            from pyg_schnet.analysis.interactive_plots import filters_figure

            return [write_page(filters_figure(curves), options.out)]
        return [filters.plot_filter_curves(curves, options.out)]
    all_layers = range(len(network_of(model).interactions))
    layers = all_layers if options.layers is None else read_integers("layers", options.layers)
    chosen = None if options.filters is None else read_integers("filters", options.filters)
    lengths = {"size": options.size, "spacing": options.spacing}
    if options.kind == "cuts":
        maps = [filters.filter_cut(model, layer, chosen, **lengths) for layer in layers]
    else:
        structure = one_structure(options.structure, read, options.index)
        normal = read_numbers("normal", options.normal, 3)
        assert normal is not None
        grid = plane_grid([0.0, 0.0, 0.0], normal, **lengths)
        maps = [
            filters.periodic_filter_map(model, structure, grid, layer, chosen) for layer in layers
        ]
    return [filters.plot_filter_map(maps, options.out)]


MAPS = {
    "chemical-potential": Command(
        "What a probe atom would contribute, on planes, surfaces and in boxes.",
        _potential_options,
        _potential,
        ".png, .pdf, .svg, .html, .cube or .vtk",
    ),
    "filters": Command(
        "Filters by distance, on cuts, and summed over a lattice.",
        _filters_options,
        _filters,
        PAGES,
    ),
}
"""Analyses of this file by the word that calls them."""
