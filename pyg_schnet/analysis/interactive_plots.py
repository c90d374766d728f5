"""Planes, embeddings and filters as pages of plotly that open without the net."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyg_schnet.analysis.chemical_potential import PotentialMap, atoms_on_plane
from pyg_schnet.analysis.embeddings import FAMILIES, EmbeddingPCA, group_of, period_of
from pyg_schnet.analysis.filters import FilterCurves
from pyg_schnet.analysis.interactive import choice_of, color_range, plotly
from pyg_schnet.analysis.structure import Structure, symbol_of


def plane_figure(found: PotentialMap | Sequence[PotentialMap], structure: Any) -> Any:
    """Potentials on a plane, and the atoms near it, as a figure of plotly.

    Args:
        found: Of one probe or of several, which buttons choose from; on one plane.
        structure: That they are of.

    Returns:
        A ``plotly.graph_objects.Figure``.

    Raises:
        ImportError: If plotly is missing.
        ValueError: If there is no map, or a grid is no plane.
    """
    maps = [found] if isinstance(found, PotentialMap) else list(found)
    if not maps:
        raise ValueError("found is empty; give the potential of one probe at least.")
    if any(len(one.grid.shape) != 2 for one in maps):
        raise ValueError("A plane has two directions; write boxes with write_cube or write_vtk.")
    objects = plotly("graph_objects")
    layers = []
    for number, one in enumerate(maps):
        symbol, (low, high) = symbol_of(one.probe), color_range(one.values)
        steps = np.linalg.norm(one.grid.steps, axis=1)
        x, y = (np.arange(count) * step for count, step in zip(one.grid.shape, steps, strict=True))
        layers.append(
            objects.Heatmap(
                x=x,
                y=y,
                z=one.values.T,
                zmin=low,
                zmax=high,
                colorscale="Viridis",
                colorbar={"title": {"text": f"Ω<sub>{symbol}</sub> ({one.unit})"}},
                hovertemplate=f"%{{x:.2f}}, %{{y:.2f}} Å: %{{z:.4f}} {one.unit}<extra></extra>",
                visible=number == 0,
                name=symbol,
            )
        )
    flat, z = atoms_on_plane(maps[0].grid, Structure.of(structure))
    symbols = [symbol_of(int(number)) for number in z]
    atoms = objects.Scatter(
        x=flat[:, 0],
        y=flat[:, 1],
        mode="markers+text",
        text=symbols,
        marker={"size": 18, "color": "white", "line": {"width": 1, "color": "#444"}},
        hoverinfo="skip",
        showlegend=False,
    )
    figure = objects.Figure([*layers, atoms])
    width, height = maps[0].grid.lengths
    figure.update_layout(
        xaxis={"title": {"text": "x (Å)"}, "range": [0, width], "constrain": "domain"},
        yaxis={"title": {"text": "y (Å)"}, "range": [0, height], "scaleanchor": "x"},
    )
    return choice_of(figure, [f"probe {symbol_of(one.probe)}" for one in maps], always=1)


def embeddings_figure(found: EmbeddingPCA) -> Any:
    """Elements along the first three principal axes, or two, as a figure of plotly.

    Families are chosen by a click on their names.

    Args:
        found: At least two axes.

    Returns:
        A ``plotly.graph_objects.Figure``.

    Raises:
        ImportError: If plotly is missing.
        ValueError: If there is one axis only.
    """
    from matplotlib.colors import to_hex

    axes = min(3, len(found.axes))
    if axes < 2:
        raise ValueError("A picture needs two axes; take components=2 or more.")
    objects = plotly("graph_objects")
    groups = np.array([group_of(int(z)) for z in found.elements])
    groups[found.elements == 1] = -1
    shapes = {"o": "circle", "s": "square", "D": "diamond", "^": "cross"}
    traces = []
    for name, members, color, marker in (("hydrogen", (-1,), "white", "o"), *FAMILIES):
        of = np.isin(groups, members)
        if not of.any():
            continue
        numbers = found.elements[of].tolist()
        about = [
            f"{symbol_of(z)} ({z}), {'f-block' if g == 0 else f'group {abs(g)}'}, "
            f"period {period_of(z)}"
            for z, g in zip(numbers, groups[of].tolist(), strict=True)
        ]
        kind = objects.Scatter3d if axes == 3 else objects.Scatter
        traces.append(
            kind(
                **dict(zip("xyz", found.coordinates[of].T[:axes], strict=False)),
                mode="markers+text",
                text=[symbol_of(z) for z in numbers],
                textposition="top center",
                hovertext=about,
                hoverinfo="text",
                marker={
                    "size": 6 if axes == 3 else 10,
                    "color": to_hex(color),
                    "symbol": shapes[marker],
                    "line": {"width": 1, "color": "#333"},
                },
                name=name,
            )
        )
    figure = objects.Figure(traces)
    titles = [
        {"title": {"text": f"axis {k + 1} ({100 * found.explained[k]:.0f} %)"}} for k in range(axes)
    ]
    if axes == 3:
        figure.update_layout(scene=dict(zip(("xaxis", "yaxis", "zaxis"), titles, strict=True)))
    else:
        figure.update_layout(xaxis=titles[0], yaxis=titles[1])
    title = f"embeddings of {len(found.elements)} elements"
    figure.update_layout(title={"text": title, "x": 0.5, "xanchor": "center"})
    return figure


def filters_figure(found: FilterCurves) -> Any:
    """Filters against the distance as a figure of plotly; buttons choose the layer.

    Args:
        found: What :func:`~pyg_schnet.analysis.filters.filter_curves` gave.

    Returns:
        A ``plotly.graph_objects.Figure``.

    Raises:
        ImportError: If plotly is missing.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    objects = plotly("graph_objects")
    layers, _, count = found.values.shape
    figure = objects.Figure(
        [
            objects.Scatter(
                x=found.distances,
                y=found.values[layer, :, f],
                mode="lines",
                line={"width": 1, "color": to_hex(colormaps["viridis"](f / max(1, count - 1)))},
                hovertemplate=f"filter {f}: %{{y:.3f}} at %{{x:.2f}} Å<extra></extra>",
                visible=layer == 0,
                showlegend=False,
            )
            for layer in range(layers)
            for f in range(count)
        ]
    )
    figure.update_layout(
        xaxis={"title": {"text": "distance (Å)"}}, yaxis={"title": {"text": "filter times cutoff"}}
    )
    return choice_of(figure, [f"layer {layer}" for layer in range(layers)], each=count)
