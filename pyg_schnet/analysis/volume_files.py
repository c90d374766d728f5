"""Files of volumes and surfaces for other programs: Gaussian cube and legacy VTK."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from pyg_schnet.analysis.chemical_potential import PotentialMap, PotentialSurface
from pyg_schnet.analysis.structure import Structure, symbol_of


def write_cube(found: PotentialMap, structure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a potential in a box as a Gaussian cube file: lengths in Bohr, values as they are.

    Args:
        found: Of a box, or of the cell of a crystal.
        structure: That it is of; its atoms go into the file.
        path: Where to.

    Returns:
        The file written.

    Raises:
        ValueError: If the grid is no box.
    """
    from ase import Atoms
    from ase.io.cube import write_cube as write

    _check_box(found)
    given = Structure.of(structure)
    counts = np.array(found.grid.shape)
    atoms = Atoms(
        given.z.numpy(force=True),
        given.pos.numpy(force=True),
        cell=found.grid.steps * counts[:, None],
    )
    comment = f"Local chemical potential of a probe {symbol_of(found.probe)}, {found.unit}"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    with aside.open("w") as file:
        write(file, atoms, found.values, found.grid.origin, comment)
    os.replace(aside, path)
    return path


def write_vtk(found: PotentialMap | PotentialSurface, path: str | os.PathLike[str]) -> Path:
    """Write a potential as a legacy VTK file, in ASCII: lengths in Å.

    A box along x, y and z becomes structured points, any other box or a plane a structured grid,
    and a surface polydata; the values are the scalars "omega_C" (of a probe C).

    Args:
        found: What to write.
        path: Where to.

    Returns:
        The file written.

    Example:
        >>> import tempfile
        >>> from pyg_schnet.analysis.points import Grid
        >>> line = PotentialMap(Grid(np.zeros(3), np.eye(3), (2, 1, 1)), np.zeros((2, 1, 1)), 6,
        ...                     0.0, "eV")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(write_vtk(line, f"{folder}/a.vtk").read_text().splitlines()[3])
        DATASET STRUCTURED_POINTS
    """
    name = f"omega_{symbol_of(found.probe)}"
    head = [
        "# vtk DataFile Version 3.0",
        f"Local chemical potential of a probe {symbol_of(found.probe)} ({found.unit}; lengths: A)",
        "ASCII",
    ]
    if isinstance(found, PotentialSurface):
        body, values = _polydata(found), found.values
    else:
        # VTK's first index runs fastest.
        body, values = _structured(found), found.values.ravel(order="F")
    body += [f"POINT_DATA {len(values)}", f"SCALARS {name} double 1", "LOOKUP_TABLE default"]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    aside.write_text("\n".join([*head, *body, *(f"{v:.10g}" for v in values)]) + "\n")
    os.replace(aside, path)
    return path


def _structured(found: PotentialMap) -> list[str]:
    grid = found.grid
    shape = (*grid.shape, 1)[:3]
    counts = "DIMENSIONS " + " ".join(str(n) for n in shape)
    spacing = np.diag(grid.steps) if len(grid.shape) == 3 else np.zeros(3)
    if len(grid.shape) == 3 and np.array_equal(grid.steps, np.diag(spacing)) and min(spacing) > 0:
        origin = "ORIGIN " + " ".join(f"{x:.10g}" for x in grid.origin)
        step = "SPACING " + " ".join(f"{x:.10g}" for x in spacing)
        return ["DATASET STRUCTURED_POINTS", counts, origin, step]
    points = grid.points.reshape(*grid.shape, 3)
    order = tuple(range(len(grid.shape)))[::-1]
    rows = points.transpose(*order, len(order)).reshape(-1, 3)
    return ["DATASET STRUCTURED_GRID", counts, f"POINTS {len(rows)} double", *_rows(rows)]


def _polydata(found: PotentialSurface) -> list[str]:
    vertices, faces = found.surface.vertices, found.surface.faces
    return [
        "DATASET POLYDATA",
        f"POINTS {len(vertices)} double",
        *_rows(vertices),
        f"POLYGONS {len(faces)} {4 * len(faces)}",
        *(f"3 {a} {b} {c}" for a, b, c in faces),
    ]


def _rows(points: np.ndarray) -> list[str]:
    return [f"{x:.10g} {y:.10g} {z:.10g}" for x, y, z in points]


def _check_box(found: PotentialMap) -> None:
    if len(found.grid.shape) != 3:
        raise ValueError(
            f"A cube file holds a box, but this grid has {len(found.grid.shape)} directions; take "
            "box_grid or cell_grid, or write_vtk for planes."
        )
