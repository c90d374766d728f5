"""``pyg-schnet datasets list``, ``info``, ``prepare`` and ``generate``."""

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

PREPARED = (
    "raw",
    "molecule",
    "revised",
    "split",
    "paths",
    "target",
    "cutoff",
    "isolated",
    "search",
    "num_workers",
)
"""Options of ``datasets prepare`` that are handed to the data set."""

DATASETS = {
    "qm9": ("qm9", "QM9"),
    "qm7b": ("qm7b", "QM7b"),
    "md17": ("md17", "MD17"),
    "iso17": ("iso17", "ISO17"),
    "c20": ("fullerene", "C20"),
    "trajectories": ("trajectories", "Trajectories"),
    "mp": ("materials_project", "MaterialsProject"),
}


def datasets_parser() -> "ArgumentParser":
    """Options of the verb itself: none."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(description="Data sets.")


def add_actions(datasets: "ArgumentParser") -> None:
    """Add what can be done with data sets."""
    from jsonargparse import ArgumentParser

    actions = datasets.add_subcommands(dest="action")
    actions.add_subcommand("list", ArgumentParser(description="What there is."))
    info = ArgumentParser(description="Size, units, licence and source of a data set.")
    info.add_argument("name", help="Of the data set.")
    actions.add_subcommand("info", info)
    prepare = ArgumentParser(description="Get and process a data set.")
    prepare.add_argument("name", help="Of the data set.")
    prepare.add_argument("--root", type=str | None, help="Folder; by default data/NAME.")
    prepare.add_argument("--raw", type=str | None, help="Raw folder or archive to read from.")
    prepare.add_argument("--molecule", type=str | None, help="Of MD17; by default ethanol.")
    prepare.add_argument("--revised", type=bool | None, help="rMD17 instead of MD17.")
    prepare.add_argument("--split", type=str | None, help="Of ISO17; by default reference.")
    prepare.add_argument("--paths", type=list[str] | None, help="Files of trajectories.")
    prepare.add_argument("--target", type=str | None, help="Property of crystals that is needed.")
    prepare.add_argument("--cutoff", type=float | None, help="Å; crystals with atoms alone go.")
    prepare.add_argument("--isolated", type=str | None, help="drop or keep crystals with such.")
    prepare.add_argument("--search", type=dict | None, help="Criteria of the Materials Project.")
    prepare.add_argument("--num_workers", type=int | None, help="Processes that read CIFs.")
    actions.add_subcommand("prepare", prepare)
    generate = ArgumentParser(description="Run dynamics of a molecule with GFN2-xTB.")
    generate.add_argument("molecule", help="Its name (ethanol, C20, ...) or a structure file.")
    generate.add_argument("--frames", type=int, default=2000, help="Frames to write.")
    generate.add_argument("--temperature", type=float, default=500.0, help="K.")
    generate.add_argument("--every", type=int, default=10, help="Steps of 1 fs between frames.")
    generate.add_argument("--seed", type=int, default=0, help="Of the velocities.")
    generate.add_argument("--output", type=str | None, help="File; by default MOLECULE.extxyz.")
    actions.add_subcommand("generate", generate)


def datasets(options: "Namespace") -> None:
    """List, describe, prepare or generate data sets."""
    if options.action == "list":
        for name in DATASETS:
            print(f"{name:<14}{(inspect.getdoc(_dataset(name)) or '').splitlines()[0]}")
        return
    chosen = options[options.action]
    if options.action == "generate":
        _generate(chosen)
        return
    kind = _dataset(chosen.name)
    if options.action == "info":
        print(inspect.getdoc(kind).partition("\nArgs:")[0])  # type: ignore[union-attr]
        if chosen.name in ("qm9", "qm7b"):
            print("Properties:")
            for name, known in kind.properties.items():
                print(f"  {name:<10} {known.unit:<14} {known.description}")
        return
    if chosen.name == "trajectories" and not chosen.paths:
        raise ValueError("paths is empty; name the files, such as --paths a.xyz b.xyz.")
    wanted = {option: chosen[option] for option in PREPARED if chosen[option] is not None}
    unknown = wanted.keys() - inspect.signature(kind).parameters.keys()
    if unknown:
        raise ValueError(f"{chosen.name} has no {' and no '.join(sorted(unknown))}; leave it out.")
    dataset = kind(root=chosen.root or f"data/{chosen.name}", **wanted)
    print(json.dumps({"name": chosen.name, dataset.noun: len(dataset), "folder": dataset.root}))


def _dataset(name: str) -> Any:
    """The class of a data set; only its own file is imported."""
    if name not in DATASETS:
        raise ValueError(f"name must be one of {', '.join(DATASETS)}, got {name!r}.")
    module, kind = DATASETS[name]
    return getattr(import_module(f"pyg_schnet.datasets.{module}"), kind)


def _generate(chosen: "Namespace") -> None:
    from pyg_schnet.datasets.generate import generate

    output = chosen.output or f"{Path(chosen.molecule).stem}.extxyz"
    size = chosen.frames, chosen.temperature
    try:
        written = generate(chosen.molecule, output, *size, every=chosen.every, seed=chosen.seed)
    except RuntimeError as error:  # a calculation that failed, or a molecule that fell apart
        raise ValueError(str(error)) from error
    print(f"Wrote {chosen.frames:,} frames to {written}")
