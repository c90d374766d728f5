"""``pyg-schnet analyze``: which analyses there are, and how one is run."""

from pathlib import Path
from typing import TYPE_CHECKING

from pyg_schnet.analysis.command_options import Command, Reader
from pyg_schnet.analysis.energy_commands import ENERGIES
from pyg_schnet.analysis.error_commands import ERRORS
from pyg_schnet.analysis.feature_commands import FEATURES
from pyg_schnet.analysis.map_commands import MAPS

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

COMMANDS: dict[str, Command] = {**MAPS, **FEATURES, **ENERGIES, **ERRORS}
"""Analyses by the word that calls them."""


def parsers() -> dict[str, "ArgumentParser"]:
    """One parser for each analysis, by the word that calls it."""
    from jsonargparse import ArgumentParser

    found = {}
    for name, command in COMMANDS.items():
        parser = ArgumentParser(description=command.description)
        command.add_options(parser)
        parser.add_argument("--out", default=f"{name}.png", help=f"To write: {command.files}.")
        found[name] = parser
    return found


def run(what: str, options: "Namespace", read: Reader) -> list[Path]:
    """Run an analysis.

    Args:
        what: Its word.
        options: What its parser read.
        read: Reads the structures of a file.

    Returns:
        The files written.

    Raises:
        ValueError: As the analysis, and if options do not fit together.
        FileNotFoundError: If there is no such model or structure.
    """
    return COMMANDS[what].run(options, read)
