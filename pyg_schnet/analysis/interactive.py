"""Surfaces to turn with the mouse: pages of plotly that open without the net."""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pyg_schnet.analysis.chemical_potential import PotentialSurface
from pyg_schnet.analysis.structure import Structure, symbol_of

_SHOWN = (0.02, 0.98)  # quantiles between which colours run, as in the static figure


def surface_figure(found: PotentialSurface | Sequence[PotentialSurface], structure: Any) -> Any:
    """Potentials on a molecule's surface, and its atoms, as a figure of plotly.

    Args:
        found: Of one probe or of several, which buttons choose from.
        structure: Whose surface it is: ``Data`` or ASE's ``Atoms``.

    Returns:
        A ``plotly.graph_objects.Figure``.

    Raises:
        ImportError: If plotly is missing.
        ValueError: If there is no surface.
    """
    surfaces = [found] if isinstance(found, PotentialSurface) else list(found)
    if not surfaces:
        raise ValueError("found is empty; give the potential of one probe at least.")
    objects = _plotly("graph_objects")
    meshes = [_mesh(objects, one, number == 0) for number, one in enumerate(surfaces)]
    figure = objects.Figure([*meshes, _atoms(objects, structure)])
    titles = [f"probe {symbol_of(one.probe)}" for one in surfaces]
    hidden = {"visible": False}
    figure.update_layout(
        title=titles[0],
        scene={"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data"},
        margin={"l": 0, "r": 0, "t": 48, "b": 0},
    )
    if len(surfaces) > 1:
        buttons = [
            {
                "label": title,
                "method": "update",
                "args": [
                    {"visible": [k == number for k in range(len(surfaces))] + [True]},
                    {"title.text": title},
                ],
            }
            for number, title in enumerate(titles)
        ]
        figure.update_layout(
            updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, "y": 1.05}]
        )
    return figure


def write_surface(
    found: PotentialSurface | Sequence[PotentialSurface],
    structure: Any,
    path: str | os.PathLike[str],
) -> Path:
    """Write :func:`surface_figure` as one page with plotly's script in it, whole or not at all.

    Args:
        found: As there.
        structure: As there.
        path: The page, .html, some five megabytes.

    Returns:
        The file written.

    Raises:
        ImportError: If plotly is missing.
        ValueError: If the suffix is another, or there is no surface.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"An interactive figure is written as .html, got {path.name!r}.")
    text = surface_figure(found, structure).to_html(include_plotlyjs=True, include_mathjax=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(f"<!DOCTYPE html>\n{text}", encoding="utf-8")
    os.replace(aside, path)
    return path


def _plotly(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"plotly.{name}")
    except ImportError as error:
        raise ImportError(
            "plotly, which draws interactive figures, is missing; install it with "
            "pip install plotly."
        ) from error


def _mesh(objects: ModuleType, one: PotentialSurface, visible: bool) -> Any:
    low, high = (float(value) for value in np.quantile(one.values, _SHOWN))
    corners = dict(zip("xyz", one.surface.vertices.T, strict=True))
    faces = dict(zip("ijk", one.surface.faces.T, strict=True))
    symbol = symbol_of(one.probe)
    return objects.Mesh3d(
        **corners,
        **faces,
        intensity=one.values,
        cmin=low,
        cmax=high,
        colorscale="Viridis",
        colorbar={"title": {"text": f"Ω<sub>{symbol}</sub> ({one.unit})"}},
        hovertemplate=f"%{{intensity:.4f}} {one.unit}<extra></extra>",
        opacity=0.85,
        visible=visible,
        showlegend=False,
        name=symbol,
    )


def _atoms(objects: ModuleType, structure: Any) -> Any:
    given = Structure.of(structure)
    colors = importlib.import_module("ase.data.colors").jmol_colors
    numbers = given.z.tolist()
    rgb = [tuple(int(255 * part) for part in colors[number]) for number in numbers]
    return objects.Scatter3d(
        **dict(zip("xyz", given.pos.double().numpy(force=True).T, strict=True)),
        mode="markers",
        marker={
            "size": 8,
            "color": [f"rgb{one}" for one in rgb],
            "line": {"width": 1, "color": "#444"},
        },
        text=[f"{symbol_of(number)} {place}" for place, number in enumerate(numbers)],
        hoverinfo="text",
        showlegend=False,
    )
