"""The command line: each verb calls one function of the rooms."""

import csv
import inspect
import json
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from pyg_schnet.datasets import QM9
    from pyg_schnet.training.targets import Property
    from pyg_schnet.training.tasks import Task

PAPER_MAE_KCAL_MOL = {"U0": 0.31}  # NeurIPS 2017, table 1: 110,000 training molecules
TRAIN = {
    "qm9": "Train a SchNet or a DTNN on a property of QM9.",
    "md17": "Train a SchNet or a DTNN on energies and forces of a molecule of MD17.",
    "iso17": "Train a SchNet or a DTNN on energies and forces of ISO17.",
    "trajectories": "Train a SchNet or a DTNN on energies and forces of any files that ASE reads.",
    "mp": "Train a SchNet or a DTNN on crystals, of the Materials Project or your own.",
}


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


def main(argv: list[str] | None = None) -> int:
    """Run ``pyg-schnet``; bad input ends with one sentence and exit code 2.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        The exit code.
    """
    try:
        parser = _parser()
    except ImportError as error:
        print(
            f"pyg-schnet: {error.name} is missing; install the command line with "
            "pip install 'pyg_schnet[train]'.",
            file=sys.stderr,
        )
        return 2
    arguments = _with_paths_joined(_with_underscores(sys.argv[1:] if argv is None else argv))
    options = parser.parse_args(_with_resumed_config(arguments))
    try:
        return _VERBS[options.verb](options[options.verb]) or 0
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


def _parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    from pyg_schnet.analysis import commands as analyses
    from pyg_schnet.benchmarks.accuracy import command as accuracy
    from pyg_schnet.benchmarks.c20 import command as c20

    parser = ArgumentParser(prog="pyg-schnet", description="SchNet for PyTorch Geometric.")
    verbs = parser.add_subcommands(dest="verb")
    train = ArgumentParser(description="Train a model.")
    verbs.add_subcommand("train", train)
    verbs.add_subcommand("evaluate", _evaluate_parser())
    verbs.add_subcommand("predict", _predict_parser())
    verbs.add_subcommand("relax", _relax_parser())
    verbs.add_subcommand("vibrations", _vibrations_parser())
    verbs.add_subcommand("md", _md_parser())
    verbs.add_subcommand("pimd", _pimd_parser())
    datasets = ArgumentParser(description="Data sets.")
    verbs.add_subcommand("datasets", datasets)
    verbs.add_subcommand("report", _report_parser())
    analyze = ArgumentParser(description="Look into a model: figures and tables.")
    verbs.add_subcommand("analyze", analyze)
    benchmark = ArgumentParser(description="Measure.")
    verbs.add_subcommand("benchmark", benchmark)
    # jsonargparse wants the levels added from the top.
    sets = train.add_subcommands(dest="dataset")
    for name in TRAIN:
        sets.add_subcommand(name, _train_parser(name))
    _add_datasets_actions(datasets)
    kinds = analyze.add_subcommands(dest="what")
    for name, of_kind in analyses.parsers().items():
        kinds.add_subcommand(name, of_kind)
    measures = benchmark.add_subcommands(dest="what")
    measures.add_subcommand("speed", _benchmark_speed_parser())
    measures.add_subcommand("accuracy", accuracy.parser())
    measures.add_subcommand("c20", c20.parser())
    return parser


def _train_parser(name: str) -> "ArgumentParser":
    from jsonargparse import ActionConfigFile, ArgumentParser

    from pyg_schnet.training.tasks import CONFIGS

    parser = ArgumentParser(description=TRAIN[name])
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of options.")
    parser.add_class_arguments(CONFIGS[name])
    parser.add_argument("--resume", type=str | None, help="Run folder to go on with.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace a finished run.")
    parser.add_argument(
        "--ensemble", type=int | None, help="Train so many models, from seeds that count on."
    )
    return parser


def _evaluate_parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    evaluate = ArgumentParser(description="Errors of a trained model on a part of its split.")
    evaluate.add_argument("run", help="Run folder.")
    evaluate.add_argument("--part", default="test", help="train, val or test.")
    evaluate.add_argument("--root", type=str | None, help="Data folder; by default the run's.")
    return evaluate


def _predict_parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    predict = ArgumentParser(description="Predict structures of any file that ASE reads.")
    predict.add_argument("file", nargs="+", help="Structures; crystals as CIF, POSCAR or JSON.")
    predict.add_argument(
        "--model",
        required=True,
        help="File, run folder, or name of a model; qm9 for a table of all properties.",
    )
    predict.add_argument("--output", type=str | None, help="CSV file; by default the screen.")
    predict.add_argument("--index", default=":", help="Which structures, in ASE's notation.")
    predict.add_argument("--forces", type=bool, default=False, help="Largest force too.")
    return predict


def _relax_parser() -> "ArgumentParser":
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


def _vibrations_parser() -> "ArgumentParser":
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


def _md_parser() -> "ArgumentParser":
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


def _pimd_parser() -> "ArgumentParser":
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


def _add_datasets_actions(datasets: "ArgumentParser") -> None:
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


def _report_parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    report = ArgumentParser(description="One page of a finished run, whole in itself.")
    report.add_argument("run", help="Folder of the run.")
    report.add_argument("--output", type=str | None, help="By default report.html in the folder.")
    return report


def _benchmark_speed_parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    speed = ArgumentParser(description="Speed against PyG's SchNet, same weights and edges.")
    speed.add_argument(
        "--groups",
        type=list[str] | None,
        help="Of inference, training, kernels, loading, neighbors, dynamics and scaling; by "
        "default all.",
    )
    speed.add_argument("--output", type=str | None, help="Folder for JSON, table and figure.")
    speed.add_argument("--seconds", type=float, default=4.0, help="For each row.")
    speed.add_argument("--device", default="cpu", help="cpu or cuda.")
    speed.add_argument(
        "--schnetpack_python",
        type=str | None,
        help="Python of an environment with SchNetPack 2, to compare with it too.",
    )
    return speed


def _with_underscores(arguments: list[str]) -> list[str]:
    """Let --train-size mean --train_size: options are fields of a dataclass."""
    return [
        re.sub(r"^--[^=]+", lambda m: "--" + m[0][2:].replace("-", "_"), argument)
        for argument in arguments
    ]


def _with_paths_joined(arguments: list[str]) -> list[str]:
    """Let --paths take all words up to the next option, as a shell's patterns give them."""
    if "--paths" not in arguments:
        return arguments
    first = arguments.index("--paths") + 1
    last = next((i for i in range(first, len(arguments)) if arguments[i][:2] == "--"), None)
    words = arguments[first:last]
    if len(words) == 1 and words[0].startswith("["):
        return arguments
    rest = [] if last is None else arguments[last:]
    return [*arguments[: first - 1], f"--paths={json.dumps(words)}", *rest]


def _with_resumed_config(arguments: list[str]) -> list[str]:
    """Put the configuration of a resumed run before the options that change it."""
    named = next((place for place, a in enumerate(arguments) if a in TRAIN), None)
    for i, argument in enumerate(arguments):
        folder = None
        if argument == "--resume" and i + 1 < len(arguments):
            folder = arguments[i + 1]
        elif argument.startswith("--resume="):
            folder = argument.removeprefix("--resume=")
        if folder is not None and (Path(folder) / "config.yaml").is_file() and named is not None:
            at = named + 1
            return [*arguments[:at], f"--config={folder}/config.yaml", *arguments[at:]]
    return arguments


def _train(options: "Namespace") -> None:
    from pyg_schnet.analysis import plot_run
    from pyg_schnet.training.tasks import CONFIGS, default_folder, train_task

    name = options.dataset
    chosen, kind = options[name], CONFIGS[name]
    config = kind(**{option: chosen[option] for option in kind.__dataclass_fields__})
    folder = Path(chosen.resume or config.output or default_folder(name, config))
    if chosen.ensemble is not None:
        _train_ensemble(name, config, chosen, folder)
        return
    if chosen.resume and not (folder / "last.ckpt").is_file():
        raise FileNotFoundError(f"There is no last.ckpt in {folder} to resume from.")
    if not chosen.resume and (folder / "config.yaml").exists() and not chosen.overwrite:
        raise FileExistsError(
            f"{folder} holds a run already; go on with --resume {folder}, choose another "
            "--output, or replace it with --overwrite true."
        )
    task = _TASKS[name](config, folder if chosen.resume else None)
    train_task(task, config, folder, resume=chosen.resume is not None)
    figures = plot_run(folder)
    print(f"Wrote {folder}/metrics.json, best.safetensors, {', '.join(f.name for f in figures)}")


def _train_ensemble(name: str, config: Any, chosen: "Namespace", folder: Path) -> None:
    from pyg_schnet.analysis import plot_calibration
    from pyg_schnet.training.ensembles import train_ensemble

    begun = sorted(folder.glob("seed*/config.yaml"))
    if begun and not chosen.resume and not chosen.overwrite:
        raise FileExistsError(
            f"{folder} holds an ensemble already; go on with --resume {folder}, choose another "
            "--output, or replace it with --overwrite true."
        )
    # All members share the split of the first.
    task = _TASKS[name](config, begun[0].parent if chosen.resume and begun else None)
    resume = chosen.resume is not None
    metrics = train_ensemble(task, config, folder, chosen.ensemble, resume)
    if metrics["stopped"] == "interrupted":
        print(f"Interrupted; go on with --resume {folder} --ensemble {chosen.ensemble}.")
        return
    figures = plot_calibration(folder)
    print(f"Wrote {folder}/metrics.json, best.safetensors, {', '.join(f.name for f in figures)}")


def _qm9(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets import QM9
    from pyg_schnet.training.targets import Properties
    from pyg_schnet.training.tasks import Task, make_split, make_table

    names = [name.strip() for name in config.target.split(",")]
    dataset = QM9(config.root, target=names, raw=config.raw)
    table = make_table(config, dataset)
    known = PAPER_MAE_KCAL_MOL.get(config.target) if config.model == "schnet" else None
    parts = [qm9_property(dataset, name) for name in names]
    return Task(
        f"{config.target} of QM9",
        parts[0] if len(parts) == 1 else Properties(tuple(parts)),
        table,
        make_split(config, table, folder),
        published={} if known is None else {"SchNet, NeurIPS 2017 (110k)": (known,)},
    )


def _md17(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets import MD17
    from pyg_schnet.training.force_tasks import md17_task

    dataset = MD17(config.root, config.molecule, config.revised, config.level, raw=config.raw)
    return md17_task(config, dataset, folder)


def _iso17(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets.iso17 import ISO17
    from pyg_schnet.training.force_tasks import iso17_task

    if config.scenario not in ISO17.scenarios:
        raise ValueError(
            f"scenario must be one of {', '.join(ISO17.scenarios)}, got {config.scenario!r}."
        )
    parts = ISO17.scenarios[config.scenario]
    test = ISO17(config.root, parts[-1], config.raw)
    return iso17_task(config, ISO17(config.root, "reference", config.raw), test, parts[:2], folder)


def _trajectories(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets import Trajectories
    from pyg_schnet.training.force_tasks import trajectories_task

    if not config.paths:
        raise ValueError("paths is empty; name the files to train on, such as --paths a.xyz b.xyz.")
    keys = config.energy_key, config.forces_key, False
    dataset = Trajectories(config.paths, *keys, energy_unit=config.energy_unit, root=config.root)
    return trajectories_task(config, dataset, folder)


def _mp(config: Any, folder: Path | None) -> "Task":
    from pyg_schnet.datasets import MaterialsProject
    from pyg_schnet.training.crystal_tasks import crystal_task

    dataset = MaterialsProject(
        config.root, config.target, config.raw, cutoff=config.cutoff, isolated=config.isolated
    )
    return crystal_task(config, dataset, dataset.properties[dataset.targets[0]].unit, folder)


QM9_HEADS = {
    "mu": "dipole",
    "alpha": "polarizability",
    "r2": "spatial_extent",
}
"""Heads made for properties of QM9 that are neither sums nor means of contributions."""


def qm9_property(dataset: "QM9", target: str) -> "Property":
    """How a target of QM9 is learned, and in which unit its errors are told: the papers'.

    Args:
        dataset: QM9.
        target: One of its properties.
    """
    from pyg_schnet.training.targets import Property
    from pyg_schnet.units import KCAL_PER_MOL

    known = dataset.properties[target]
    shown, factor = known.unit, 1.0
    if known.is_energy:
        orbital = target in ("homo", "lumo", "gap", "zpve")
        shown, factor = ("meV", 1000.0) if orbital else ("kcal/mol", 1.0 / KCAL_PER_MOL)
    return Property(
        target,
        known.unit,
        shown,
        factor,
        # <R^2> grows faster than the molecule, but a sum over atoms fits it and a mean does not.
        extensive=known.is_extensive or target == "r2",
        head=QM9_HEADS.get(target, "atomwise"),
        atomref=dataset.atomref(target),
    )


def _evaluate(options: "Namespace") -> None:
    from pyg_schnet.training.tasks import evaluate_task, read_config

    folder = Path(options.run)
    name, config = read_config(folder)
    config.root = options.root or config.root
    task = _TASKS[name](config, folder)
    print(evaluate_task(task, folder, options.part, config.eval_batch_size))


def _predict(options: "Namespace") -> int:
    import numpy as np

    from pyg_schnet.models import load, read_header
    from pyg_schnet.models.pretrained import find_model
    from pyg_schnet.simulation import families, predict_structures

    if options.model in families() and not Path(options.model).exists():
        return _predict_properties(options)
    path = find_model(options.model)
    info = read_header(path)["info"]
    name = f"{info.get('target', 'prediction')} ({info.get('unit', 'unit of the model')})"
    columns = ["index", "formula", name] + (["largest force (eV/Å)"] if options.forces else [])
    files, failed = options.file, 0
    if len(files) > 1:
        columns = ["file", *columns]
    model, rows = load(path), []
    for file in files:
        try:
            structures = _structures(file, options.index)
            for row in predict_structures(structures, model, options.forces):
                line = [row["index"], row["formula"], f"{row['prediction']:.6f}"]
                if options.forces:
                    size = np.linalg.norm(np.asarray(row["forces"]), axis=1).max(initial=0.0)
                    line.append(f"{size:.6f}")
                rows.append([file, *line] if len(files) > 1 else line)
        except (ValueError, FileNotFoundError) as error:
            if len(files) == 1:
                raise
            print(f"pyg-schnet: {error}", file=sys.stderr)
            failed += 1
    if options.output is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
    else:
        _write_table(options.output, [columns, *rows])
    return _left_out(failed, len(files))


def _write_table(output: str, rows: list[list[Any]]) -> None:
    aside = Path(f"{output}.part")
    with aside.open("w", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows(rows)
    aside.replace(output)
    print(f"Wrote {len(rows) - 1} predictions to {output}")


def _left_out(failed: int, files: int) -> int:
    """Tell of files that could not be predicted, and the exit code."""
    if failed:
        print(f"pyg-schnet: {failed} of {files} files were left out.", file=sys.stderr)
    return 1 if failed else 0


def _predict_properties(options: "Namespace") -> int:
    """Each structure by each model of a family: a table for each on the screen, or one CSV."""
    from pyg_schnet.datasets.qm9_properties import SCALARS
    from pyg_schnet.simulation import load_family, predict_properties

    if options.forces:
        raise ValueError(
            f"--forces needs one energy model, such as --model {options.model}-U0, not the models "
            f"of {options.model} together."
        )
    order = list(SCALARS)
    models = load_family(options.model)
    models = dict(sorted(models.items(), key=lambda m: order.index(m[0]) if m[0] in order else 99))
    infos: dict[str, Any] = {name: model.info for name, model in models.items()}
    units = {name: info["unit"] for name, info in infos.items()}
    known = {name: SCALARS[name].description if name in SCALARS else name for name in models}
    width = max(map(len, known.values()))
    columns = ["file", "index", "formula", *(f"{name} ({unit})" for name, unit in units.items())]
    rows, failed = [columns], 0
    for file in options.file:
        try:
            for row in predict_properties(_structures(file, options.index), models):
                values = [f"{row[name]:.6f}" for name in models]
                rows.append([file, str(row["index"]), row["formula"], *values])
                if options.output is not None:
                    continue
                print(f"{file}, structure {row['index']}: {row['formula']}")
                for name, info in infos.items():
                    error = info.get("mae")
                    around = "" if error is None else f"  ± {error:.2g}"
                    value = f"{row[name]:14.4f} {units[name]}"
                    print(f"  {name:<6}{known[name]:<{width}}{value:<28}{around}")
        except (ValueError, FileNotFoundError) as error:
            if len(options.file) == 1:
                raise
            print(f"pyg-schnet: {error}", file=sys.stderr)
            failed += 1
    if options.output is not None:
        _write_table(options.output, rows)
    return _left_out(failed, len(options.file))


def _structures(file: str, index: str) -> Any:
    """The structures of a file: of CIFs and pymatgen's JSON by their own reader, else by ASE's.

    ``qm9:FOLDER`` stands for the molecules of the data set that is stored there.
    """
    from pyg_schnet.simulation import read_file

    if file.startswith("qm9:"):
        return _molecules_of_qm9(file.removeprefix("qm9:"), index)
    if not {".cif", ".json"} & {suffix.lower() for suffix in Path(file).suffixes}:
        return read_file(file, index)
    from ase.io.formats import string2index

    from pyg_schnet.datasets.crystal_files import read_crystals

    chosen = string2index(index)
    crystals = list(read_crystals(file))
    return crystals[chosen] if isinstance(chosen, slice) else [crystals[chosen]]


def _molecules_of_qm9(root: str, index: str) -> list[Any]:
    from ase.io.formats import string2index

    from pyg_schnet.datasets import QM9

    rows, chosen = QM9(root, target="U0"), string2index(index)
    picked = range(len(rows))[chosen] if isinstance(chosen, slice) else [chosen]
    return [rows[row] for row in picked]


def _relax(options: "Namespace") -> int:
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


def _vibrations(options: "Namespace") -> None:
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


def _md(options: "Namespace") -> int:
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


def _pimd(options: "Namespace") -> int:
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


def _datasets(options: "Namespace") -> None:
    if options.action == "list":
        for name in _DATASETS:
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
    if name not in _DATASETS:
        raise ValueError(f"name must be one of {', '.join(_DATASETS)}, got {name!r}.")
    module, kind = _DATASETS[name]
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


def _analyze(options: "Namespace") -> None:
    from pyg_schnet.analysis import commands

    for path in commands.run(options.what, options[options.what], _structures):
        print(f"Wrote {path}")


def _report(options: "Namespace") -> None:
    from pyg_schnet.analysis.run_report import write_report

    print(f"Wrote {write_report(options.run, options.output)}")


def _benchmark(options: "Namespace") -> None:
    from pyg_schnet.benchmarks.accuracy import command as accuracy
    from pyg_schnet.benchmarks.c20 import command as c20
    from pyg_schnet.benchmarks.speed import suite

    chosen = options[options.what]
    if options.what == "accuracy":
        accuracy.main(chosen)
        return
    if options.what == "c20":
        try:
            c20.main(chosen)
        except RuntimeError as error:  # such as a reference calculation that failed
            raise ValueError(str(error)) from error
        return
    suite.run(
        chosen.groups or suite.GROUPS,
        Path(chosen.output) if chosen.output else None,
        chosen.seconds,
        chosen.device,
        chosen.schnetpack_python,
    )


_TASKS = {"qm9": _qm9, "md17": _md17, "iso17": _iso17, "trajectories": _trajectories, "mp": _mp}

_DATASETS = {
    "qm9": ("qm9", "QM9"),
    "qm7b": ("qm7b", "QM7b"),
    "md17": ("md17", "MD17"),
    "iso17": ("iso17", "ISO17"),
    "c20": ("fullerene", "C20"),
    "trajectories": ("trajectories", "Trajectories"),
    "mp": ("materials_project", "MaterialsProject"),
}

_VERBS: dict[str, Callable[[Any], int | None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "relax": _relax,
    "analyze": _analyze,
    "report": _report,
    "vibrations": _vibrations,
    "md": _md,
    "pimd": _pimd,
    "datasets": _datasets,
    "benchmark": _benchmark,
}

if __name__ == "__main__":
    raise SystemExit(main())
