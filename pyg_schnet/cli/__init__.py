"""The command line: each verb calls one function of the rooms."""

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pyg_schnet.cli import analyze, benchmark, datasets, export, predict, simulate, train
from pyg_schnet.cli.arguments import with_paths_joined, with_resumed_config, with_underscores

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Verb(NamedTuple):
    """A verb of the command line."""

    parser: "Callable[[], ArgumentParser]"
    run: Callable[[Any], int | None]
    """Takes the verb's options; returns the exit code, None for 0."""
    add_levels: "Callable[[ArgumentParser], None] | None" = None
    """Adds the verb's own subcommands, which jsonargparse wants after the verb itself."""


_VERBS = {
    "train": Verb(train.train_parser, train.train, train.add_data_sets),
    "evaluate": Verb(train.evaluate_parser, train.evaluate),
    "predict": Verb(predict.predict_parser, predict.predict),
    "relax": Verb(simulate.relax_parser, simulate.relax),
    "vibrations": Verb(simulate.vibrations_parser, simulate.vibrations),
    "md": Verb(simulate.md_parser, simulate.md),
    "pimd": Verb(simulate.pimd_parser, simulate.pimd),
    "export": Verb(export.export_parser, export.export),
    "datasets": Verb(datasets.datasets_parser, datasets.datasets, datasets.add_actions),
    "report": Verb(analyze.report_parser, analyze.report),
    "analyze": Verb(analyze.analyze_parser, analyze.analyze, analyze.add_analyses),
    "benchmark": Verb(benchmark.benchmark_parser, benchmark.benchmark, benchmark.add_measures),
}


def main(argv: list[str] | None = None) -> int:
    """Run ``pyg-schnet``; bad input ends with one sentence and exit code 2.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        The exit code.
    """
    try:
        made = parser()
    except ImportError as error:
        print(
            f"pyg-schnet: {error.name} is missing; install the command line with "
            "pip install 'pyg_schnet[train]'.",
            file=sys.stderr,
        )
        return 2
    arguments = with_paths_joined(with_underscores(sys.argv[1:] if argv is None else argv))
    options = made.parse_args(with_resumed_config(arguments))
    try:
        code = _VERBS[options.verb].run(options[options.verb]) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (
        ValueError,
        FileNotFoundError,
        FileExistsError,
        ImportError,
        OSError,
        ArithmeticError,
    ) as error:
        print(f"pyg-schnet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pyg-schnet: interrupted.", file=sys.stderr)
        return 130


def parser() -> "ArgumentParser":
    """The parser of the whole command line.

    Raises:
        ImportError: jsonargparse is missing.
    """
    from jsonargparse import ArgumentParser

    made = ArgumentParser(prog="pyg-schnet", description="SchNet for PyTorch Geometric.")
    verbs = made.add_subcommands(dest="verb")
    for name, verb in _VERBS.items():
        of_verb = verb.parser()
        verbs.add_subcommand(name, of_verb)
        if verb.add_levels is not None:
            verb.add_levels(of_verb)
    return made
