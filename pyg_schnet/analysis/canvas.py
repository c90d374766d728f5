"""What all figures share: colours, the canvas, and writing without half-written files."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OKABE_ITO = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008)."""

SEQUENTIAL = "viridis"
"""The map of values; perceptually uniform, and told apart by any kind of colour vision."""


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure on the Agg canvas, which needs no screen.

    Args:
        width: Inches.
        height: Inches.

    Example:
        >>> new_figure(4.0, 3.0).get_size_inches().tolist()
        [4.0, 3.0]
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Write a figure, whole or not at all.

    Args:
        figure: What to write.
        path: Its suffix says which kind: .png, .pdf, .svg.
        dpi: Of bitmaps.

    Returns:
        The file written.

    Raises:
        ValueError: If the suffix is none that matplotlib can write.
    """
    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ValueError(
            f"A figure cannot be written as {path.name!r}; end its name in "
            f"{', '.join(f'.{kind}' for kind in ('png', 'pdf', 'svg'))}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        figure.savefig(aside, dpi=dpi)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path
