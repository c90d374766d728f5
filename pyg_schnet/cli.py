"""The command line: each verb calls one function of the rooms."""

import csv
import inspect
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from pyg_schnet.datasets import QM9
    from pyg_schnet.training.config import TrainingConfig
    from pyg_schnet.training.run import Property

PAPER_MAE_KCAL_MOL = {"U0": 0.31}  # NeurIPS 2017, table 1: 110,000 training molecules


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
    arguments = _with_underscores(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(_with_resumed_config(arguments))
    try:
        _VERBS[options.verb](options[options.verb])
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
    return 0


def _parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="pyg-schnet", description="SchNet for PyTorch Geometric.")
    verbs = parser.add_subcommands(dest="verb")
    train = ArgumentParser(description="Train a model.")
    verbs.add_subcommand("train", train)
    verbs.add_subcommand("evaluate", _evaluate_parser())
    verbs.add_subcommand("predict", _predict_parser())
    datasets = ArgumentParser(description="Data sets.")
    verbs.add_subcommand("datasets", datasets)
    benchmark = ArgumentParser(description="Measure.")
    verbs.add_subcommand("benchmark", benchmark)
    # jsonargparse wants the levels added from the top.
    train.add_subcommands(dest="dataset").add_subcommand("qm9", _train_qm9_parser())
    _add_datasets_actions(datasets)
    benchmark.add_subcommands(dest="what").add_subcommand("speed", _benchmark_speed_parser())
    return parser


def _train_qm9_parser() -> "ArgumentParser":
    from jsonargparse import ActionConfigFile, ArgumentParser

    from pyg_schnet.training.config import TrainingConfig

    qm9 = ArgumentParser(description="Train a SchNet on a property of QM9.")
    qm9.add_argument("--config", action=ActionConfigFile, help="YAML file of options.")
    qm9.add_class_arguments(TrainingConfig)
    qm9.add_argument("--resume", type=str | None, help="Run folder to go on with.")
    qm9.add_argument("--overwrite", type=bool, default=False, help="Replace a finished run.")
    return qm9


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
    predict.add_argument("file", help="Structures.")
    predict.add_argument("--model", required=True, help="A .safetensors file or a run folder.")
    predict.add_argument("--output", type=str | None, help="CSV file; by default the screen.")
    predict.add_argument("--index", default=":", help="Which structures, in ASE's notation.")
    predict.add_argument("--forces", type=bool, default=False, help="Largest force too.")
    return predict


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
    actions.add_subcommand("prepare", prepare)


def _benchmark_speed_parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    speed = ArgumentParser(description="Speed against PyG's SchNet, same weights and edges.")
    speed.add_argument(
        "--groups",
        type=list[str] | None,
        help="Of inference, training, kernels, loading, neighbors and scaling; by default all.",
    )
    speed.add_argument("--output", type=str | None, help="Folder for JSON, table and figure.")
    speed.add_argument("--seconds", type=float, default=4.0, help="For each row.")
    speed.add_argument("--device", default="cpu", help="cpu or cuda.")
    return speed


def _with_underscores(arguments: list[str]) -> list[str]:
    """Let --train-size mean --train_size: options are fields of a dataclass."""
    return [
        re.sub(r"^--[^=]+", lambda m: "--" + m[0][2:].replace("-", "_"), argument)
        for argument in arguments
    ]


def _with_resumed_config(arguments: list[str]) -> list[str]:
    """Put the configuration of a resumed run before the options that change it."""
    for i, argument in enumerate(arguments):
        folder = None
        if argument == "--resume" and i + 1 < len(arguments):
            folder = arguments[i + 1]
        elif argument.startswith("--resume="):
            folder = argument.removeprefix("--resume=")
        if folder is not None and (Path(folder) / "config.yaml").is_file() and "qm9" in arguments:
            at = arguments.index("qm9") + 1
            return [*arguments[:at], f"--config={folder}/config.yaml", *arguments[at:]]
    return arguments


def _train(options: "Namespace") -> None:
    from pyg_schnet.training.config import TrainingConfig

    chosen = options.qm9
    fields = {name: chosen[name] for name in TrainingConfig.__dataclass_fields__}
    config = TrainingConfig(**fields)
    folder = Path(chosen.resume or config.output or f"runs/qm9-{config.target}")
    if chosen.resume and not (folder / "last.ckpt").is_file():
        raise FileNotFoundError(f"There is no last.ckpt in {folder} to resume from.")
    if not chosen.resume and (folder / "config.yaml").exists() and not chosen.overwrite:
        raise FileExistsError(
            f"{folder} holds a run already; go on with --resume {folder}, choose another "
            "--output, or replace it with --overwrite true."
        )
    train_qm9(config, folder, resume=chosen.resume is not None)


def train_qm9(config: "TrainingConfig", folder: Path, resume: bool = False) -> dict[str, Any]:
    """Train on QM9 as configured, draw the figures, print the result.

    Args:
        config: Options of the run.
        folder: Of the run.
        resume: Go on from its last.ckpt.

    Returns:
        The metrics, as in metrics.json.
    """
    import torch

    from pyg_schnet.analysis import plot_run
    from pyg_schnet.datasets import QM9
    from pyg_schnet.training.batches import MoleculeTable
    from pyg_schnet.training.run import train
    from pyg_schnet.training.splits import Split, random_split

    dataset = QM9(config.root, target=config.target, raw=config.raw)
    if resume or config.split_file is not None:
        split = Split.load(folder / "split.npz" if resume else str(config.split_file))
    else:
        split = random_split(
            len(dataset), config.train_size, config.val_size, config.test_size, config.split_seed
        )
    dtype = torch.float64 if config.precision == "64-true" else torch.float32
    table = MoleculeTable.from_dataset(dataset, dtype)
    print(
        f"Training on {config.target} of QM9: {split.train.numel():,} molecules, "
        f"{split.val.numel():,} for validation, {split.test.numel():,} for test; run folder "
        f"{folder}",
        flush=True,
    )
    metrics = train(config, qm9_property(dataset, config.target), table, split, folder, resume)
    figures = plot_run(folder)
    _print_result(metrics)
    print(f"Wrote {folder}/metrics.json, best.safetensors, {', '.join(f.name for f in figures)}")
    return metrics


def qm9_property(dataset: "QM9", target: str) -> "Property":
    """How a target of QM9 is learned, and in which unit its errors are told: the papers'.

    Args:
        dataset: QM9.
        target: One of its properties.
    """
    from pyg_schnet.training.run import Property
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
        dipole=target == "mu",
        atomref=dataset.atomref(target),
    )


def _print_result(metrics: dict[str, Any]) -> None:
    unit = metrics["unit"]
    key = next(name for name in metrics if name.startswith("baseline_mean_mae_"))
    suffix = key.removeprefix("baseline_mean_mae_")
    rows = [
        ("mean of the training set", metrics[key]),
        ("dressed atoms (composition only)", metrics[f"baseline_dressed_atom_mae_{suffix}"]),
        ("this SchNet", metrics["test_mae"]),
    ]
    if metrics["target"] in PAPER_MAE_KCAL_MOL:
        rows.append(("SchNet, NeurIPS 2017 (110k)", PAPER_MAE_KCAL_MOL[metrics["target"]]))
    print(f"\nMAE on {metrics['n_test']:,} test molecules, {unit}:")
    for name, value in rows:
        print(f"  {name:<34}{value:12.3f}")
    print(
        f"after {metrics['steps']:,} steps in {metrics['seconds']:.0f} s "
        f"({metrics['stopped']}), RMSE {metrics['test_rmse']:.3f} {unit}"
    )


def _evaluate(options: "Namespace") -> None:
    import yaml

    from pyg_schnet.datasets import QM9
    from pyg_schnet.models import SchNet, load
    from pyg_schnet.training.batches import MoleculeTable
    from pyg_schnet.training.evaluation import evaluate
    from pyg_schnet.training.splits import Split

    folder = Path(options.run)
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"There is no run in {folder}: config.yaml is missing.")
    if options.part not in ("train", "val", "test"):
        raise ValueError(f"part must be train, val or test, got {options.part!r}.")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    dataset = QM9(options.root or config["root"], target=config["target"], raw=config["raw"])
    model = load(folder / "best.safetensors")
    assert isinstance(model, SchNet)
    table = MoleculeTable.from_dataset(dataset, model.embedding.weight.dtype)
    rows = getattr(Split.load(folder / "split.npz"), options.part)
    result = evaluate(model, table, rows, config["eval_batch_size"])
    known = qm9_property(dataset, config["target"])
    print(
        f"{config['target']} on {rows.numel():,} {options.part} molecules: "
        f"MAE {result.mae() * known.shown_per_unit:.4f}, "
        f"RMSE {result.rmse() * known.shown_per_unit:.4f} {known.shown_unit}"
    )


def _predict(options: "Namespace") -> None:
    import numpy as np

    from pyg_schnet.models import load, read_header
    from pyg_schnet.simulation import predict_file

    path = Path(options.model)
    path = path / "best.safetensors" if path.is_dir() else path
    info = read_header(path)["info"]
    name = f"{info.get('target', 'prediction')} ({info.get('unit', 'unit of the model')})"
    columns = ["index", "formula", name] + (["largest force (eV/Å)"] if options.forces else [])
    rows = []
    for row in predict_file(options.file, load(path), options.forces, options.index):
        line = [row["index"], row["formula"], f"{row['prediction']:.6f}"]
        if options.forces:
            line.append(f"{np.linalg.norm(np.asarray(row['forces']), axis=1).max(initial=0.0):.6f}")
        rows.append(line)
    if options.output is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
        return
    aside = Path(f"{options.output}.part")
    with aside.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    aside.replace(options.output)
    print(f"Wrote {len(rows)} predictions to {options.output}")


def _datasets(options: "Namespace") -> None:
    from pyg_schnet.datasets import QM9

    if options.action == "list":
        print(f"qm9    {(QM9.__doc__ or '').splitlines()[0]}")
        return
    chosen = options[options.action]
    if chosen.name != "qm9":
        raise ValueError(f"name must be one of qm9, got {chosen.name!r}.")
    if options.action == "info":
        print(inspect.getdoc(QM9).partition("\nArgs:")[0])  # type: ignore[union-attr]
        print("Properties:")
        for name, known in QM9.properties.items():
            print(f"  {name:<10} {known.unit:<14} {known.description}")
        return
    dataset = QM9(chosen.root or f"data/{chosen.name}", raw=chosen.raw)
    print(json.dumps({"name": chosen.name, "molecules": len(dataset), "folder": dataset.root}))


def _benchmark(options: "Namespace") -> None:
    from pyg_schnet.benchmarks.speed import suite

    chosen = options[options.what]
    suite.run(
        chosen.groups or suite.GROUPS,
        Path(chosen.output) if chosen.output else None,
        chosen.seconds,
        chosen.device,
    )


_VERBS = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "datasets": _datasets,
    "benchmark": _benchmark,
}

if __name__ == "__main__":
    raise SystemExit(main())
