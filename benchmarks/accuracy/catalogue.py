"""The rows of the papers' tables, each a small YAML file beside this one, and their protocols."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROWS = Path(__file__).parent / "rows"
PROTOCOLS = Path(__file__).parent / "protocols"
QUANTITIES = ("energy", "forces", "property")
"""What may be compared: energies, force components, or the one property of a run without forces."""
SETS = ("md17", "iso17", "c20", "qm9", "mp")
DESCRIPTORS = ("sine-matrix", "ewald-matrix", "coulomb-matrix")
"""Kernel ridge regression on one of these, of :mod:`pyg_schnet.benchmarks.accuracy.descriptors`."""
CONSTANT = ("mean", "dressed-atoms")
"""What needs no geometry, of :mod:`pyg_schnet.benchmarks.accuracy.composition`."""
CLOSED_FORM = ("gdml", "sgdml")
"""Force fields of one molecule, of :mod:`pyg_schnet.benchmarks.accuracy.gdml`."""
PREDICTORS = ("schnet", *CONSTANT, *DESCRIPTORS, *CLOSED_FORM, "enn-s2s")


@dataclass(frozen=True)
class Published:
    """A mean absolute error that a paper states.

    Args:
        unit: Its unit, and that in which ours is told.
        value: The number; None where this project has found no source of it.
        found_in: Where it was read, if not in the source of the row.
    """

    unit: str
    value: float | None = None
    found_in: str | None = None


@dataclass(frozen=True)
class Protocol:
    """Options of training that rows share.

    Args:
        about: What they are, and in what they depart from the paper.
        options: Of :data:`pyg_schnet.training.tasks.CONFIGS`.
    """

    about: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        name: Of the row, and of its file.
        table: Title of the table.
        source: Paper and number of the table.
        protocol: Name of a file of options that rows share.
        data: ``set``, one of :data:`SETS`, and options of it.
        paper: What the paper states, by quantity.
        training: Options that differ from the protocol's.
        seeds: Of weights, batches and split; by default these are run.
        goal: What this project sets itself, by quantity.
        predictor: ``schnet``: a network of this package; ``mean`` or ``dressed-atoms`` of the
            training set, and no force; kernel ridge regression on one of :data:`DESCRIPTORS`; one
            of :data:`CLOSED_FORM`; or ``enn-s2s``.
        model_of: A row whose models are judged here, so nothing is trained.
        file: Name of the only file that the data are in, which ``--raw`` must then give.
        label: What a figure calls it; by default its predictor.
        note: What else is to be said.
    """

    name: str
    table: str
    source: str
    protocol: str
    data: Mapping[str, Any]
    paper: Mapping[str, Published]
    training: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    goal: Mapping[str, Published] = field(default_factory=dict)
    predictor: str = "schnet"
    model_of: str | None = None
    file: str | None = None
    label: str | None = None
    note: str | None = None

    @property
    def set(self) -> str:
        """The data set."""
        return str(self.data["set"])

    def options(self) -> dict[str, Any]:
        """Options of a run: those of the protocol, the data and the row, the later ones first."""
        data = {name: value for name, value in self.data.items() if name != "set"}
        return {**load_protocol(self.protocol).options, **data, **self.training}


@cache
def load_rows() -> dict[str, Row]:
    """All rows by name, in natural order.

    Raises:
        ValueError: If a file is no row.
    """
    paths = sorted(ROWS.glob("*.yaml"), key=lambda path: _natural(path.stem))
    return {path.stem: read_row(path) for path in paths}


def find_rows(names: list[str]) -> list[Row]:
    """Rows by name.

    Args:
        names: Of rows; ``all`` for each there is, and a ``*`` stands for anything.

    Raises:
        ValueError: If there is no such row.

    Example:
        >>> [row.name for row in find_rows(["md17-ethanol-1k*"])]
        ['md17-ethanol-1k', 'md17-ethanol-1k-energy']
    """
    rows = load_rows()
    found: dict[str, Row] = {}
    for name in names:
        pattern = re.compile(re.escape("*" if name == "all" else name).replace(r"\*", ".*"))
        matching = {key: row for key, row in rows.items() if pattern.fullmatch(key)}
        if not matching:
            part = name.partition("-")[0]
            near = [key for key in rows if key.startswith(part)] or list(rows)
            raise ValueError(
                f"There is no row {name!r}; there are {', '.join(near[:8])}"
                f"{' and more' if len(near) > 8 else ''}: see pyg-schnet benchmark accuracy list."
            )
        found |= matching
    return list(found.values())


def read_row(path: Path) -> Row:
    """One row.

    Args:
        path: Of the YAML file.

    Raises:
        ValueError: If it lacks a key, has one too many, or names what there is not.
    """
    content = yaml.safe_load(path.read_text())
    needed = {f.name for f in fields(Row) if f.default is MISSING and f.default_factory is MISSING}
    given = set(content) if isinstance(content, dict) else set()
    if lacking := needed - given:
        raise ValueError(f"{path.name} lacks {', '.join(sorted(lacking))}.")
    if unknown := given - {f.name for f in fields(Row)}:
        raise ValueError(f"{path.name} has {', '.join(sorted(unknown))}, which no row has.")
    for name in ("paper", "goal"):
        known = {key: Published(**value) for key, value in content.get(name, {}).items()}
        content[name] = known
        if wrong := set(known) - set(QUANTITIES):
            raise ValueError(f"{path.name}: {name} must be of {', '.join(QUANTITIES)}, not {wrong}")
    row = Row(**(content | {"seeds": tuple(content.get("seeds", (0,)))}))
    if row.name != path.stem:
        raise ValueError(f"{path.name} calls itself {row.name!r}; let the two be the same.")
    if row.set not in SETS or row.predictor not in PREDICTORS:
        raise ValueError(
            f"{path.name}: set must be one of {', '.join(SETS)} and predictor one of "
            f"{', '.join(PREDICTORS)}, got {row.set!r} and {row.predictor!r}."
        )
    return row


@cache
def load_protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = PROTOCOLS / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"There is no protocol {name!r} among {PROTOCOLS.name}/*.yaml.")
    return Protocol(**yaml.safe_load(path.read_text()))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts 1k before 50k, and 25k before 110k."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
