"""What the commands of analyses share: what one is, and reading options, models and structures."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace
    from torch import nn

Reader = Callable[[str, str], Iterable[Any]]
"""Structures of a file: of its name and which ones, in ASE's notation."""

PAGES = ".png, .pdf, .svg or .html"
"""Kinds of files of an analysis that has an interactive figure too."""


@dataclass(frozen=True)
class Command:
    """An analysis as a command.

    Attributes:
        description: In one sentence.
        add_options: Adds its own options to a parser.
        run: From options and a reader of structures to the files written.
        files: Kinds of files that it writes, for its help.
    """

    description: str
    add_options: Callable[["ArgumentParser"], None]
    run: Callable[["Namespace", Reader], list[Path]]
    files: str = ".png, .pdf or .svg"


def add_model(parser: "ArgumentParser") -> None:
    """The option that names one model."""
    parser.add_argument("--model", required=True, help="File, run folder, or name of a model.")


def add_structure(parser: "ArgumentParser", index: str = "-1") -> None:
    """The options that name structures."""
    parser.add_argument(
        "--structure", type=str | None, help="File, or a molecule that ASE knows, such as C6H6."
    )
    parser.add_argument("--index", default=index, help="Which structures, in ASE's notation.")


def load_model(name: str) -> "nn.Module":
    """A model of a file, of a run folder, or of the package."""
    from pyg_schnet.models import load
    from pyg_schnet.models.pretrained import find_model

    return load(find_model(name))


def load_members(names: str) -> dict[str, "nn.Module"]:
    """Models by name; an ensemble is its members."""
    from pyg_schnet.models import Ensemble

    found: dict[str, nn.Module] = {}
    for name in names.split(","):
        model = load_model(name)
        if isinstance(model, Ensemble):
            found |= {f"{name} {k}": member for k, member in enumerate(model.members)}
        else:
            found[name] = model
    return found


def one_structure(name: str | None, read: Reader, index: str = "-1") -> Any:
    """The last structure of a file, or a molecule that ASE knows by its name."""
    if name is None:
        raise ValueError("This analysis is of a structure; name one with --structure.")
    found = named_structures(name, read, index)
    if len(found) != 1:
        raise ValueError(
            f"{name!r} with --index {index!r} holds {len(found)} structures; choose one."
        )
    return found[0]


def named_structures(name: str, read: Reader, index: str) -> list[Any]:
    """Structures of a file, or a molecule that ASE knows by its name."""
    if not Path(name).exists():
        from ase.build import molecule
        from ase.collections import g2

        if name in g2.names:
            return [molecule(name)]
    return list(read(name, index))


def several_structures(options: "Namespace", read: Reader) -> list[Any]:
    """What --structure and --index name; it must be given."""
    if options.structure is None:
        raise ValueError("This analysis is of structures; name a file with --structure.")
    return named_structures(options.structure, read, options.index)


def read_numbers(name: str, words: str | None, count: int) -> np.ndarray | None:
    """So many numbers with commas between them."""
    if words is None:
        return None
    try:
        values = [float(word) for word in words.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise ValueError(f"--{name} must be {count} numbers with commas between, got {words!r}.")
    return np.array(values)


def read_integers(name: str, words: str) -> list[int]:
    """Integers with commas between them."""
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise ValueError(f"--{name} must be integers with commas between, got {words!r}.") from None


def read_pair(name: str, words: str) -> tuple[str, str]:
    """Two elements with a dash between them."""
    first, dash, second = words.partition("-")
    if not (first and dash and second):
        raise ValueError(f"--{name} must be two elements such as C-H, got {words!r}.")
    return first, second
