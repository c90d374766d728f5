"""``pyg-schnet relax``, ``vibrations``, ``md`` and ``pimd``."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def relax_parser() -> "ArgumentParser":
    """Options of ``relax``."""
    from jsonargparse import ArgumentParser

    relax = ArgumentParser(description="Relax structures of any file that ASE reads.")
    relax.add_argument("file", help="Structures.")
    relax.add_argument("--model", required=True, help="File, run folder, or name of a model.")
    relax.add_argument("--fmax", type=float, default=0.01, help="Largest force to leave, eV/Å.")
    relax.add_argument("--steps", type=int, default=1000, help="Most of them, per structure.")
    relax.add_argument("--optimizer", default="BFGS", help="BFGS, FIRE or LBFGS.")
    relax.add_argument("--cell", type=bool, default=False, help="Relax the cell too.")
    relax.add_argument("--output", type=str | None, help="File; by default NAME-relaxed.extxyz.")
    return relax


def relax(options: "Namespace") -> int:
    """Relax structures; 1 if some have not converged."""
    from tqdm import tqdm

    from pyg_schnet.simulation import relax_file

    output = options.output or f"{Path(options.file).stem}-relaxed.extxyz"
    wanted = options.fmax, options.steps
    chosen = {"optimizer": options.optimizer, "cell": options.cell}
    failed = number = 0
    for found in relax_file(options.file, options.model, output, *wanted, **chosen):
        tqdm.write(f"{number} {found.sentence()}")  # above the bar
        failed += not found.converged
        number += 1
    print(f"Wrote {number} structures to {output}")
    if failed:
        print(
            f"pyg-schnet: {failed} of {number} structures have not converged to "
            f"{options.fmax:g} eV/Å in {options.steps} steps; allow more --steps.",
            file=sys.stderr,
        )
    return 1 if failed else 0


def vibrations_parser() -> "ArgumentParser":
    """Options of ``vibrations``."""
    from jsonargparse import ArgumentParser

    vib = ArgumentParser(description="Normal modes of the last structure of a file.")
    vib.add_argument("file", help="Any file that ASE reads; its last structure.")
    vib.add_argument("--model", required=True, help="File, run folder, or name of a model.")
    vib.add_argument("--fmax", type=float, default=1e-4, help="Relax until forces are below, eV/Å.")
    vib.add_argument("--steps", type=int, default=1000, help="Of the relaxation; 0 for none.")
    vib.add_argument("--optimizer", default="BFGS", help="BFGS, FIRE or LBFGS.")
    vib.add_argument("--width", type=float, default=10.0, help="Of the lines in the figure, cm⁻¹.")
    vib.add_argument("--output", type=str | None, help="File; by default NAME-modes.extxyz.")
    return vib


def vibrations(options: "Namespace") -> None:
    """Write normal modes and their figure."""
    from pyg_schnet.analysis import plot_frequencies
    from pyg_schnet.simulation import vibrations_file

    output = Path(options.output or f"{Path(options.file).stem}-modes.extxyz")
    wanted = options.fmax, options.steps
    found, relaxed = vibrations_file(
        options.file, options.model, output, *wanted, optimizer=options.optimizer
    )
    if relaxed is not None:
        print(f"Forces exceeded {options.fmax:g} eV/Å: relaxed first, {relaxed.sentence()}")
    print(found.sentence())
    formula = found.atoms.get_chemical_formula()
    figure = plot_frequencies(found.frequencies, output.with_suffix(".png"), options.width, formula)
    print(f"Wrote {output}, {output.with_suffix('.json')} and {figure}")


def md_parser() -> "ArgumentParser":
    """Options of ``md``."""
    from jsonargparse import ArgumentParser

    md = ArgumentParser(description="Molecular dynamics; the same command again goes on.")
    md.add_argument("file", help="The start, of any file that ASE reads; its last structure.")
    md.add_argument("--model", required=True, help="File, run folder, or name of a model.")
    md.add_argument("--time", type=float, default=10.0, help="ps.")
    md.add_argument("--timestep", type=float, default=0.5, help="fs.")
    md.add_argument("--temperature", type=float, default=300.0, help="K.")
    md.add_argument("--thermostat", default="none", help="none, langevin or nose-hoover.")
    md.add_argument("--time_constant", type=float, default=100.0, help="Of the thermostat, fs.")
    md.add_argument("--every", type=int, default=8, help="Steps between frames.")
    md.add_argument(
        "--replicas",
        type=int,
        default=1,
        help="Trajectories, moved at once; replica r has the seed plus r.",
    )
    md.add_argument(
        "--engine",
        type=str | None,
        help="own, ase or torch-sim; by default own, or ase with constraints.",
    )
    md.add_argument(
        "--stop_on_uncertainty",
        type=float | None,
        help="End where an ensemble's forces on an atom differ by more, eV/Å.",
    )
    md.add_argument("--report", type=bool, default=True, help="Spectrum and distributions too.")
    md.add_argument("--seed", type=int, default=0, help="Of velocities and noise.")
    md.add_argument("--keep_velocities", type=bool, default=False, help="Those of the file.")
    md.add_argument("--output", type=str | None, help="File; by default NAME-md.extxyz.")
    return md


def md(options: "Namespace") -> int:
    """Run molecular dynamics, or go on with it."""
    from pyg_schnet.simulation import run_md
    from pyg_schnet.simulation.relax import check_output, read_structures

    output = options.output or f"{Path(options.file).stem}-md.extxyz"
    check_output(output, options.file)
    names = [
        *("thermostat", "time_constant", "every", "seed", "keep_velocities"),
        *("replicas", "engine", "report", "stop_on_uncertainty"),
    ]
    try:
        done = run_md(
            options.model,
            read_structures(options.file)[-1],
            output,
            options.time,
            options.temperature,
            options.timestep,
            **{name: options[name] for name in names},
        )
    except KeyboardInterrupt:
        print("pyg-schnet: interrupted; the same command goes on.", file=sys.stderr)
        return 130
    print(done.sentence())
    if done.stopped:
        print(f"Stopped early: {done.stopped}")
    files = ", ".join(map(str, done.outputs))
    print(f"Wrote {done.frames:,} frames to {files}, energies beside them in .csv")
    if done.report:
        print(f"Wrote {done.report}")
        with suppress(ImportError):  # matplotlib comes with training
            from pyg_schnet.analysis import plot_dynamics

            print(f"Wrote {plot_dynamics(done.report)}")
    return 0


def pimd_parser() -> "ArgumentParser":
    """Options of ``pimd``."""
    from jsonargparse import ArgumentParser

    pimd = ArgumentParser(description="Path integrals by i-PI; the same command again goes on.")
    pimd.add_argument("file", help="The start, of any file that ASE reads; its last structure.")
    pimd.add_argument("--model", required=True, help="File, run folder, or name of a model.")
    pimd.add_argument("--beads", type=int, default=8, help="Of the ring polymer.")
    pimd.add_argument("--time", type=float, default=10.0, help="ps.")
    pimd.add_argument("--timestep", type=float, default=0.5, help="fs.")
    pimd.add_argument("--temperature", type=float, default=300.0, help="K.")
    pimd.add_argument("--thermostat", default="pile_g", help="pile_g or pile_l.")
    pimd.add_argument("--time_constant", type=float, default=100.0, help="Of the centroid, fs.")
    pimd.add_argument("--every", type=int, default=20, help="Steps between frames.")
    pimd.add_argument("--seed", type=int, default=0, help="Of velocities and noise.")
    pimd.add_argument("--transport", default="unix", help="Sockets: unix or tcp.")
    pimd.add_argument("--output", type=str | None, help="Folder; by default NAME-pimd.")
    return pimd


def pimd(options: "Namespace") -> int:
    """Run path integrals, or go on with them."""
    from pyg_schnet.simulation import run_pimd
    from pyg_schnet.simulation.relax import read_structures

    output = options.output or f"{Path(options.file).stem}-pimd"
    names = ("beads", "thermostat", "time_constant", "every", "seed", "transport")
    try:
        done = run_pimd(
            options.model,
            read_structures(options.file)[-1],
            output,
            options.time,
            options.temperature,
            options.timestep,
            **{name: options[name] for name in names},
        )
    except KeyboardInterrupt:
        print("pyg-schnet: interrupted; the same command goes on.", file=sys.stderr)
        return 130
    print(done.sentence())
    print(f"Wrote {done.trajectory}, {done.centroids} and {done.report}")
    return 0
