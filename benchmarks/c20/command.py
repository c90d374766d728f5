"""``pyg-schnet benchmark c20``: its options, and what it does with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def parser() -> "ArgumentParser":
    """The options of the command."""
    from jsonargparse import ArgumentParser

    from pyg_schnet.benchmarks.c20.options import Options

    known: Any = {name: f.default for name, f in Options.__dataclass_fields__.items()}
    parser = ArgumentParser(
        description="The papers' study of C20: data, models, normal modes, dynamics, a report."
    )
    parser.add_argument("--output", required=True, help="Folder; a study in it goes on.")
    parser.add_argument("--quick", action="store_true", help="All stages in some minutes.")
    parser.add_argument(
        "--rows", nargs="+", default=list(known["rows"]), help="Models to choose from."
    )
    words = {
        "frames": "Of the reference trajectory.",
        "displaced": "Structures displaced along normal modes, to train on too.",
        "along_modes": "Structures displaced along one mode each, to polish the model on.",
        "polish_steps": "Of the polish; 0 leaves it out.",
        "equilibration": "Of it, fs.",
        "select_time": "Of the training of each model, to choose one.",
        "max_time": "Of the training of the chosen one, such as 30m.",
        "starts": "Structures to relax.",
        "temperature": "Of the dynamics with the model, K.",
        "timestep": "fs.",
        "md_time": "Of each replica, ps.",
        "replicas": "Of classical dynamics.",
        "pimd_time": "Of path integrals, ps.",
        "beads": "Of path integrals.",
        "seed": "Of training and dynamics.",
    }
    for name, text in words.items():
        parser.add_argument(f"--{name}", type=type(known[name]), default=known[name], help=text)
    parser.add_argument("--options", nargs="+", help="Others of trainings, as key=value.")
    return parser


def main(chosen: "Namespace") -> None:
    """Run the study, or go on with it.

    Args:
        chosen: What :func:`parser` read.

    Raises:
        ValueError: As :func:`~pyg_schnet.benchmarks.c20.study.run`.
    """
    from pyg_schnet.benchmarks.accuracy.command import _pairs
    from pyg_schnet.benchmarks.c20 import study
    from pyg_schnet.benchmarks.c20.options import Options

    given = {name: chosen[name] for name in Options.__dataclass_fields__ if name in chosen}
    given |= {"output": Path(chosen.output), "rows": tuple(chosen.rows)}
    options = Options(**given, training=_pairs(chosen.options or []))
    study.run(options.quick() if chosen.quick else options)
