"""Where to look at a structure: boxes, cells and planes of points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyg_schnet.analysis.structure import Structure


@dataclass(frozen=True)
class Grid:
    r"""Points in rows, on a plane or in a box.

    .. math::
        r_{ij(k)} = o + i\,a_1 + j\,a_2 \;(+\; k\,a_3)

    Attributes:
        origin: (3,) the first point, o, Å.
        steps: (2, 3) or (3, 3) vectors from one point to the next, as rows, Å.
        shape: Number of points along each of them.

    Example:
        >>> grid = Grid(np.zeros(3), np.eye(3) * 0.5, (2, 1, 3))
        >>> grid.points[-1].tolist()
        [0.5, 0.0, 1.0]
    """

    origin: np.ndarray
    steps: np.ndarray
    shape: tuple[int, ...]

    @property
    def points(self) -> np.ndarray:
        """All points, (product of ``shape``, 3), the last index running fastest, Å."""
        places = np.indices(self.shape).reshape(len(self.shape), -1).T  # [P, 2 or 3]
        return self.origin + places @ self.steps

    @property
    def lengths(self) -> tuple[float, ...]:
        """From the first to the last point along each direction, Å."""
        steps = np.linalg.norm(self.steps, axis=1)
        return tuple(float(s * (n - 1)) for s, n in zip(steps, self.shape, strict=True))


def box_grid(structure: Any, margin: float = 3.0, spacing: float = 0.25) -> Grid:
    """A box around the atoms with edges along x, y and z, centred on them.

    Args:
        structure: See :meth:`~pyg_schnet.analysis.structure.Structure.of`.
        margin: Å, at least, from the outermost atoms to the faces.
        spacing: Å, from one point to the next.

    Raises:
        ValueError: If ``margin`` is negative or ``spacing`` not positive.

    Example:
        >>> from ase import Atoms
        >>> box_grid(Atoms("H"), margin=1.0, spacing=0.5).shape
        (5, 5, 5)
    """
    _check_positive("spacing", spacing)
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin must be finite and at least 0 Å, got {margin}.")
    pos = Structure.of(structure).pos.double().numpy(force=True)
    low, high = pos.min(axis=0) - margin, pos.max(axis=0) + margin
    # A point more than fits, rather than a corner left out.
    intervals = np.ceil((high - low) / spacing - 1e-9).astype(int)
    origin = 0.5 * (low + high) - 0.5 * spacing * intervals
    return Grid(origin, spacing * np.eye(3), tuple(int(n) + 1 for n in intervals))


def cell_grid(structure: Any, spacing: float = 0.25) -> Grid:
    """The cell of a crystal in steps that divide its lattice vectors; the far faces are left out.

    They are the near ones again, which is what cube files want.

    Args:
        structure: See :meth:`~pyg_schnet.analysis.structure.Structure.of`; with a cell.
        spacing: Å, at most, from one point to the next.

    Raises:
        ValueError: If the structure has no cell, or ``spacing`` is not positive.

    Example:
        >>> from ase.build import bulk
        >>> cell_grid(bulk("Cu", cubic=True), spacing=0.5).shape
        (8, 8, 8)
    """
    _check_positive("spacing", spacing)
    cell = Structure.of(structure).cell
    if cell is None:
        raise ValueError("The structure has no cell to divide; use box_grid for molecules.")
    rows = cell.double().numpy(force=True)
    counts = np.ceil(np.linalg.norm(rows, axis=1) / spacing - 1e-9).astype(int)
    return Grid(np.zeros(3), rows / counts[:, None], tuple(int(n) for n in counts))


def plane_grid(
    center: Sequence[float] | np.ndarray,
    normal: Sequence[float] | np.ndarray,
    size: float | tuple[float, float] = 10.0,
    spacing: float = 0.1,
    along: Sequence[float] | np.ndarray | None = None,
) -> Grid:
    """A rectangle, given by a point and the direction that it faces.

    Args:
        center: (3,) its middle, Å.
        normal: (3,) vector at right angles to it, of any length.
        size: Å, both sides, or one for each.
        spacing: Å, from one point to the next.
        along: (3,) vector whose part within the plane is the first side; None takes x, or y
            where the plane faces x.

    Raises:
        ValueError: If ``normal`` is zero, ``along`` parallel to it, or a length not positive.

    Example:
        >>> grid = plane_grid([0, 0, 1], normal=[0, 0, 2], size=1.0, spacing=0.5)
        >>> grid.points[0].tolist(), grid.shape
        ([-0.5, -0.5, 1.0], (3, 3))
    """
    _check_positive("spacing", spacing)
    facing = np.asarray(normal, dtype=np.float64)
    length = float(np.linalg.norm(facing))
    if not (math.isfinite(length) and length > 0):
        raise ValueError(f"normal must be a direction, got {facing.tolist()}.")
    facing = facing / length
    if along is None:
        along = np.array([1.0, 0.0, 0.0]) if abs(facing[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    given = np.asarray(along, dtype=np.float64)
    first = given - facing * (given @ facing)
    if not np.linalg.norm(first) > 1e-6 * np.linalg.norm(given):
        raise ValueError(
            f"along, {given.tolist()}, is parallel to the normal; give another direction."
        )
    first /= np.linalg.norm(first)
    steps = spacing * np.stack([first, np.cross(facing, first)])
    sizes = size if isinstance(size, tuple) else (size, size)
    for side in sizes:
        _check_positive("size", side)
    intervals = [math.ceil(side / spacing - 1e-9) for side in sizes]
    origin = np.asarray(center, dtype=np.float64) - 0.5 * np.array(intervals) @ steps
    return Grid(origin, steps, (intervals[0] + 1, intervals[1] + 1))


def plane_through(
    points: Sequence[Sequence[float]] | np.ndarray,
    size: float | tuple[float, float] = 10.0,
    spacing: float = 0.1,
) -> Grid:
    """The rectangle around three points, in their plane; from the first to the second is one side.

    Args:
        points: (3, 3) the points as rows, Å.
        size: Å, both sides, or one for each.
        spacing: Å, from one point to the next.

    Raises:
        ValueError: If the points lie on one line, or a length is not positive.

    Example:
        >>> plane_through([[0, 0, 0], [2, 0, 0], [1, 3, 0]], size=2.0, spacing=1.0).origin.tolist()
        [0.0, 0.0, 0.0]
    """
    rows = np.asarray(points, dtype=np.float64)
    if rows.shape != (3, 3):
        raise ValueError(f"points must be three points, shape (3, 3), got {rows.shape}.")
    one, other = rows[1] - rows[0], rows[2] - rows[0]
    normal = np.cross(one, other)
    if not np.linalg.norm(normal) > 1e-6 * np.linalg.norm(one) * np.linalg.norm(other):
        raise ValueError("The three points lie on one line; give points that span a plane.")
    return plane_grid(rows.mean(axis=0), normal, size, spacing, along=one)


def molecular_plane(
    structure: Any, size: float | tuple[float, float] | None = None, spacing: float = 0.1
) -> Grid:
    """The plane that fits the atoms best, in the least squares of their distances from it.

    Args:
        structure: See :meth:`~pyg_schnet.analysis.structure.Structure.of`.
        size: Å, both sides, or one for each; None leaves 2.5 Å around the atoms.
        spacing: Å, from one point to the next.

    Raises:
        ValueError: If a length is not positive, or there is one atom only.

    Example:
        >>> from ase.build import molecule
        >>> grid = molecular_plane(molecule("C6H6"))
        >>> abs(grid.points[:, 2]).max() < 1e-6  # benzene lies in the plane z = 0
        np.True_
    """
    pos = Structure.of(structure).pos.double().numpy(force=True)
    if len(pos) < 2:
        raise ValueError("One atom has no plane; use plane_grid, with a point and a normal.")
    center = pos.mean(axis=0)
    _, _, axes = np.linalg.svd(pos - center)
    if size is None:
        away = (pos - center) @ axes.T  # [N, 3]
        middle = 0.5 * (away.max(axis=0) + away.min(axis=0))
        middle[2] = 0.0
        center = center + middle @ axes
        span = np.ptp(away, axis=0) + 5.0
        size = float(span[0]), float(span[1])
    return plane_grid(center, axes[2], size, spacing, along=axes[0])


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and above 0 Å, got {value}.")
