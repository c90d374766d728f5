"""Surfaces to turn with the mouse, and pages of plotly that open without the net."""

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
    objects = plotly("graph_objects")
    meshes = [_mesh(objects, one, number == 0) for number, one in enumerate(surfaces)]
    figure = objects.Figure([*meshes, _atoms(objects, structure)])
    hidden = {"visible": False}
    figure.update_layout(
        scene={"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data"},
        margin={"l": 0, "r": 0, "t": 48, "b": 0},
    )
    return choice_of(figure, [f"probe {symbol_of(one.probe)}" for one in surfaces], always=1)


def choice_of(figure: Any, titles: Sequence[str], each: int = 1, always: int = 0) -> Any:
    """Buttons that choose which traces are shown, where there are several sets of them.

    Args:
        figure: Of plotly; its traces are ``each`` for each title, and ``always`` behind them.
        titles: One for each set; that of the set is the figure's.
        each: Traces of a set.
        always: Traces that are shown with all.

    Returns:
        The figure.
    """
    figure.update_layout(title={"text": titles[0], "x": 0.5, "xanchor": "center"})
    if len(titles) < 2:
        return figure
    buttons = []
    for number, title in enumerate(titles):
        shown = [k == number for k in range(len(titles)) for _ in range(each)] + [True] * always
        args = [{"visible": shown}, {"title.text": title}]
        buttons.append({"label": title, "method": "update", "args": args})
    # In the corner, where they cover neither the title nor the bar of colours.
    is_scene = bool(figure.layout.scene.to_plotly_json())
    place = {"x": 0.0, "xanchor": "left", "y": 1.0, "yanchor": "top"}
    if not is_scene:
        place |= {"y": 1.02, "yanchor": "bottom"}
    figure.update_layout(
        updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, **place}]
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
    _check_page(path)
    return write_page(surface_figure(found, structure), path)


def write_page(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a figure of plotly as one page with plotly's script in it, whole or not at all.

    Args:
        figure: The figure.
        path: The page, .html, some five megabytes.

    Returns:
        The file written.

    Raises:
        ValueError: If the suffix is another.
    """
    path = _check_page(path)
    text = figure.to_html(include_plotlyjs=True, include_mathjax=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(f"<!DOCTYPE html>\n{text}", encoding="utf-8")
    os.replace(aside, path)
    return path


def is_page(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a page by its name.

    Example:
        >>> is_page("a.html"), is_page("a.png")
        (True, False)
    """
    return Path(path).suffix.lower() in (".html", ".htm")


def plotly(name: str) -> ModuleType:
    """A module of plotly.

    Args:
        name: Such as ``graph_objects``.

    Raises:
        ImportError: If plotly is missing; the sentence says how to install it.
    """
    try:
        return importlib.import_module(f"plotly.{name}")
    except ImportError as error:
        raise ImportError(
            "plotly, which draws interactive figures, is missing; install it with "
            "pip install plotly."
        ) from error


def color_range(values: np.ndarray) -> tuple[float, float]:
    """Ends of the colours of potentials, as in the static figures: the quantiles 2 % and 98 %.

    Args:
        values: Of any shape.

    Example:
        >>> color_range(np.arange(101.0))
        (2.0, 98.0)
    """
    low, high = np.quantile(values, _SHOWN)
    return float(low), float(high)


def _check_page(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not is_page(path):
        raise ValueError(f"An interactive figure is written as .html, got {path.name!r}.")
    return path


def _mesh(objects: ModuleType, one: PotentialSurface, visible: bool) -> Any:
    low, high = color_range(one.values)
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
