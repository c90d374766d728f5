"""``pyg-schnet analyze`` and ``report``."""

from typing import TYPE_CHECKING

from pyg_schnet.cli.spectrum import spectrum, spectrum_parser
from pyg_schnet.cli.structures import read_structures

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def analyze_parser() -> "ArgumentParser":
    """Options of the verb itself: none."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(description="Look into a model: figures and tables.")


def add_analyses(analyze: "ArgumentParser") -> None:
    """Add a subcommand for each analysis."""
    from pyg_schnet.analysis import commands

    kinds = analyze.add_subcommands(dest="what")
    for name, of_kind in commands.parsers().items():
        kinds.add_subcommand(name, of_kind)
    kinds.add_subcommand("spectrum", spectrum_parser())


def report_parser() -> "ArgumentParser":
    """Options of ``report``."""
    from jsonargparse import ArgumentParser

    report = ArgumentParser(description="One page of a finished run, whole in itself.")
    report.add_argument("run", help="Folder of the run.")
    report.add_argument("--output", type=str | None, help="By default report.html in the folder.")
    return report


def analyze(options: "Namespace") -> None:
    """Write the figures of an analysis."""
    from pyg_schnet.analysis import commands

    if options.what == "spectrum":
        spectrum(options[options.what])
        return
    for path in commands.run(options.what, options[options.what], read_structures):
        print(f"Wrote {path}")


def report(options: "Namespace") -> None:
    """Write the page of a run."""
    from pyg_schnet.analysis.run_report import write_report

    print(f"Wrote {write_report(options.run, options.output)}")
