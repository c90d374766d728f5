"""A surface around molecules on which to look at them."""

import importlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from pyg_schnet.analysis.points import box_grid
from pyg_schnet.analysis.structure import Structure

LEVEL = 3.7
"""1/Å²; of the surfaces in the papers."""

_AT_ONCE = 2**22  # distances that are held at a time
_NEWTON_STEPS = 6


@dataclass(frozen=True)
class Surface:
    """A surface in triangles.

    Attributes:
        vertices: (V, 3), Å.
        faces: (F, 3) integers, the corners of each triangle.
    """

    vertices: np.ndarray
    faces: np.ndarray


def inverse_squares(pos: np.ndarray, points: np.ndarray) -> np.ndarray:
    r"""How near points are to the atoms.

    .. math::
        s(r) = \sum_i |r - r_i|^{-2}

    Args:
        pos: (N, 3) the atoms, Å.
        points: (P, 3), Å.

    Returns:
        (P,), 1/Å²; infinite on an atom.

    Example:
        >>> inverse_squares(np.zeros((1, 3)), np.array([[0.0, 0.0, 2.0]]))
        array([0.25])
    """
    out = np.empty(len(points))
    block = max(1, _AT_ONCE // max(1, len(pos)))
    with np.errstate(divide="ignore"):
        for start in range(0, len(points), block):
            away = points[start : start + block, None] - pos  # [P, N, 3]
            out[start : start + block] = (1.0 / np.square(away).sum(axis=2)).sum(axis=1)
    return out


def molecular_surface(structure: Any, level: float = LEVEL, spacing: float = 0.15) -> Surface:
    r"""The surface around a molecule on which :func:`inverse_squares` has one value.

    .. math::
        \sum_i |r - r_i|^{-2} = 3.7\ \mathrm{Å}^{-2}

    Marching cubes find it on a grid, of :math:`s^{-1/2}`, which is nearly linear across it; Newton
    steps then bring each vertex onto it. Schütt et al., Nat. Commun. 8, 13890 (2017);
    thesis (TU Berlin, 2018), chapter 3.

    Args:
        structure: See :meth:`~pyg_schnet.analysis.structure.Structure.of`; a molecule.
        level: 1/Å²; lower for a wider surface.
        spacing: Å, of the grid.

    Raises:
        ValueError: If the structure repeats, where the sum has no limit, or a number is not
            positive.
        ImportError: If scikit-image is missing.
    """
    if not (math.isfinite(level) and level > 0):
        raise ValueError(f"level must be finite and above 0 1/Å², got {level}.")
    given = Structure.of(structure)
    if given.cell is not None:
        raise ValueError(
            "A sum of inverse squares over all images of a crystal is infinite; look at planes or "
            "a grid of it, or cut a cluster out."
        )
    pos = given.pos.double().numpy(force=True)
    # So far from the nearest atom the sum is below the level, whatever the shape.
    grid = box_grid(given, math.sqrt(len(pos) / level) + 2 * spacing, spacing)
    near = inverse_squares(pos, grid.points).reshape(grid.shape)
    vertices, faces, _, _ = _skimage().marching_cubes(
        near**-0.5, level**-0.5, spacing=(spacing, spacing, spacing)
    )
    return Surface(_onto_level(vertices + grid.origin, pos, level), faces.astype(np.int64))


def _onto_level(vertices: np.ndarray, pos: np.ndarray, level: float) -> np.ndarray:
    """Newton steps along the gradient of s^-1/2."""
    vertices = vertices.astype(np.float64)
    block = max(1, _AT_ONCE // max(1, len(pos)))
    for start in range(0, len(vertices), block):
        part = vertices[start : start + block]
        for _ in range(_NEWTON_STEPS):
            away = part[:, None] - pos  # [V, N, 3]
            inverse = 1.0 / np.square(away).sum(axis=2)  # [V, N]
            total = inverse.sum(axis=1)
            slope = (total**-1.5)[:, None] * (inverse[:, :, None] ** 2 * away).sum(axis=1)
            missing = total**-0.5 - level**-0.5
            part -= (missing / np.square(slope).sum(axis=1))[:, None] * slope
    return vertices


def _skimage() -> ModuleType:
    try:
        return importlib.import_module("skimage.measure")
    except ImportError as error:
        raise ImportError(
            "Surfaces need scikit-image for its marching cubes: pip install scikit-image"
        ) from error
