"""``pyg-schnet analyze spectrum``: what a trajectory vibrates at, beside harmonic lines."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def spectrum_parser() -> "ArgumentParser":
    """Options of ``analyze spectrum``."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        description="Vibrational spectrum of molecular dynamics, beside harmonic lines."
    )
    parser.add_argument(
        "--trajectory", required=True, help="Files of pyg-schnet md, with commas between."
    )
    parser.add_argument("--model", type=str | None, help="File, run folder, or name; for lines.")
    parser.add_argument(
        "--structure", type=str | None, help="Where lines are sought; else the first frame."
    )
    parser.add_argument("--interval", type=float | None, help="Between frames, fs.")
    parser.add_argument("--skip", type=float, default=0.1, help="Share left out at the beginning.")
    parser.add_argument("--correlation", type=float, default=4.0, help="Longest time lag, ps.")
    parser.add_argument("--rigid", type=bool, default=False, help="Keep the motion of the whole.")
    parser.add_argument("--fmax", type=float, default=1e-4, help="Of the minimum, eV/Å.")
    parser.add_argument("--highest", type=float | None, help="End of the axis, cm⁻¹.")
    parser.add_argument(
        "--out", default="spectrum.png", help="Figure to write; the numbers beside it as .csv."
    )
    return parser


def spectrum(options: "Namespace") -> None:
    """Write the figure, the spectrum and its lines."""
    from pyg_schnet.analysis.spectra import plot_motion_spectrum, write_motion_spectrum
    from pyg_schnet.cli.structures import read_structures
    from pyg_schnet.simulation.spectrum import harmonic_lines, motion_spectrum, read_motion

    motions = [read_motion(name) for name in options.trajectory.split(",")]
    found = motion_spectrum(
        motions,
        interval=options.interval,
        skip=options.skip,
        correlation=options.correlation,
        rigid=options.rigid,
    )
    atoms, lines = motions[0].atoms, None
    if options.model is not None:
        start = atoms
        if options.structure is not None:
            start = list(read_structures(options.structure, "-1"))[0]
        lines = harmonic_lines(options.model, start, options.fmax).frequencies
    formula = atoms.get_chemical_formula()
    out, peaks = Path(options.out), found.peaks()
    title = f"{formula} at {found.temperature:.0f} K, resolution {found.resolution:.0f} cm⁻¹"
    figure = plot_motion_spectrum(
        found.wavenumbers,
        found.density,
        out,
        lines,
        found.resolution,
        title,
        peaks=peaks,
        highest=options.highest,
    )
    table = write_motion_spectrum(
        found.wavenumbers, found.density, peaks, lines, out.with_suffix(".csv")
    )
    print(f"Wrote {figure}\nWrote {table}")
