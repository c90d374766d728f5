"""Spectra of normal modes."""

import math
import os
from pathlib import Path

import numpy as np


def lorentzian_spectrum(
    frequencies: np.ndarray, grid: np.ndarray, width: float = 10.0
) -> np.ndarray:
    r"""The density of modes, each a Lorentzian of area one.

    .. math::
        g(\nu) = \frac{1}{\pi} \sum_k \frac{w/2}{(\nu - \nu_k)^2 + (w/2)^2}

    All modes count alike: this is no infrared spectrum, which would need dipole moments.

    Args:
        frequencies: (M,) cm⁻¹; negative for imaginary ones.
        grid: (K,) where to evaluate, cm⁻¹.
        width: Full width at half maximum, w, cm⁻¹.

    Returns:
        (K,) modes per cm⁻¹.

    Raises:
        ValueError: If ``width`` is not finite and positive.

    Example:
        >>> peak = lorentzian_spectrum(np.array([1000.0]), np.array([1000.0, 1005.0]), 10.0)
        >>> round(float(peak[1] / peak[0]), 6)
        0.5
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width must be finite and above 0 cm⁻¹, got {width}.")
    half = 0.5 * width
    away = np.asarray(grid)[:, None] - np.asarray(frequencies)[None]
    return (half / (away**2 + half**2)).sum(axis=1) / math.pi


def plot_frequencies(
    frequencies: np.ndarray,
    path: str | os.PathLike[str],
    width: float = 10.0,
    title: str = "",
    *,
    reference: np.ndarray | None = None,
) -> Path:
    """Draw frequencies as sticks, under their density as Lorentzians.

    Sticks of imaginary frequencies are red and stand at negative numbers.

    Args:
        frequencies: (M,) cm⁻¹; negative for imaginary ones.
        path: Of the figure; its suffix says which kind.
        width: Of the Lorentzians, cm⁻¹.
        title: Of the figure.
        reference: Frequencies to compare with, drawn below the axis.

    Returns:
        The file written.

    Raises:
        ValueError: If ``width`` is not positive, or a frequency is not finite.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path, shown = Path(path), np.asarray(frequencies, dtype=np.float64)
    below = np.zeros(0) if reference is None else np.asarray(reference, dtype=np.float64)
    both = np.concatenate([shown, below])
    if not np.isfinite(both).all():
        raise ValueError("frequencies must be finite to be drawn, got NaN or infinity.")
    low, high = min(0.0, both.min(initial=0.0)), both.max(initial=100.0)
    room = max(5 * width, 0.03 * (high - low))
    grid = np.linspace(low - (room if low < 0 else 0.0), high + room, 4000)
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    top = 0.0
    for sign, values, color, label in ((1, shown, "C0", "model"), (-1, below, "0.4", "reference")):
        if not len(values):
            continue
        curve = lorentzian_spectrum(values, grid, width)
        top = max(top, float(curve.max()))
        ax.fill_between(grid, sign * curve, color=color, alpha=0.25, lw=0)
        ax.plot(grid, sign * curve, color=color, lw=0.8, label=label)
    for sign, values, color in ((1, shown, "C0"), (-1, below, "0.4")):
        colors = ["C3" if value < 0 else color for value in values]
        ax.vlines(values, 0, sign * 0.3 * top, colors=colors, lw=1.2)
    ax.axhline(0, color="0.2", lw=0.6)
    if len(below):
        ax.legend(frameon=False)
    ax.set(
        xlim=(grid[0], grid[-1]),
        xlabel="frequency (cm⁻¹)",
        ylabel="modes per cm⁻¹",
        title=title or f"{len(shown)} modes, width {width:g} cm⁻¹",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        figure.savefig(aside, dpi=130)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def plot_motion_spectrum(
    wavenumbers: np.ndarray,
    density: np.ndarray,
    path: str | os.PathLike[str],
    lines: np.ndarray | None = None,
    width: float = 10.0,
    title: str = "",
    *,
    peaks: np.ndarray | None = None,
    highest: float | None = None,
) -> Path:
    """Draw the spectrum of a trajectory above the axis, and harmonic lines below it.

    Chapter of 2020, figure 5. With lines the spectrum is drawn with an area of as many modes as
    there are lines, each of which has the area one.

    Args:
        wavenumbers: (K,) cm⁻¹.
        density: (K,) cm, of integral one.
        path: Of the figure; its suffix says which kind.
        lines: (M,) harmonic frequencies, cm⁻¹.
        width: Of the Lorentzians that the lines are drawn as, cm⁻¹.
        title: Of the figure.
        peaks: Where the spectrum has its peaks, cm⁻¹; they are marked.
        highest: Where the axis ends, cm⁻¹; None: a little above all lines and all but a
            thousandth of the spectrum.

    Returns:
        The file written.

    Raises:
        ValueError: If spectrum or lines are not finite, or ``width`` is not positive.
    """
    from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure

    lines = np.zeros(0) if lines is None else np.asarray(lines, dtype=np.float64)
    if not (np.isfinite(density).all() and np.isfinite(lines).all()):
        raise ValueError("Spectrum and lines must be finite to be drawn, got NaN or infinity.")
    share = density.cumsum() / density.sum()
    end = max(lines.max(initial=0.0), float(wavenumbers[np.searchsorted(share, 0.999)]))
    end = 1.05 * end if highest is None else highest
    scale = max(1, len(lines))
    above, below = OKABE_ITO[0], OKABE_ITO[1]
    figure = new_figure(7.2, 3.8)
    ax = figure.add_subplot()
    ax.fill_between(wavenumbers, scale * density, color=above, alpha=0.25, lw=0)
    ax.plot(wavenumbers, scale * density, color=above, lw=0.9, label="molecular dynamics")
    shown = wavenumbers <= end
    top = scale * float(density[shown].max())
    if peaks is not None:
        heights = scale * np.interp(peaks, wavenumbers, density) + 0.04 * top
        ax.plot(peaks, heights, "v", color="0.2", ms=4, label="peaks")
    if len(lines):
        grid = np.linspace(min(0.0, lines.min()), end, 4000)
        curve = lorentzian_spectrum(lines, grid, width)
        ax.fill_between(grid, -curve, color=below, alpha=0.25, lw=0)
        ax.plot(grid, -curve, color=below, lw=0.9, label="harmonic")
        ax.vlines(lines, -0.2 * curve.max(), 0, color=below, lw=1.2)
    ax.axhline(0, color="0.2", lw=0.6)
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    ax.legend(frameon=False, fontsize="small")
    ax.set(
        xlim=(min(0.0, lines.min(initial=0.0)), end),
        xlabel="wavenumber (cm⁻¹)",
        ylabel="modes per cm⁻¹" if len(lines) else "density of states (cm)",
        title=title,
    )
    return save_figure(figure, path)


def write_motion_spectrum(
    wavenumbers: np.ndarray,
    density: np.ndarray,
    peaks: np.ndarray,
    lines: np.ndarray | None,
    path: str | os.PathLike[str],
) -> Path:
    """Write a spectrum as a table, whole or not at all; peaks and lines stand in its head.

    Args:
        wavenumbers: (K,) cm⁻¹.
        density: (K,) cm.
        peaks: (P,) cm⁻¹.
        lines: (M,) harmonic frequencies, cm⁻¹.
        path: A .csv file.

    Returns:
        The file written.
    """
    path = Path(path)
    rows = [f"# peaks: {' '.join(f'{peak:.1f}' for peak in peaks)}"]
    if lines is not None:
        rows.append(f"# harmonic: {' '.join(f'{line:.1f}' for line in lines)}")
    rows.append("wavenumber_per_cm,density_cm")
    rows += [f"{x:.3f},{y:.6g}" for x, y in zip(wavenumbers, density, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    aside.write_text("\n".join(rows) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path
