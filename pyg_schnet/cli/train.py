"""``pyg-schnet train`` and ``evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyg_schnet.cli.tasks import TASKS, TRAIN

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def train_parser() -> "ArgumentParser":
    """Options of the verb itself: none."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(description="Train a model.")


def add_data_sets(train: "ArgumentParser") -> None:
    """Add a subcommand for each data set."""
    sets = train.add_subcommands(dest="dataset")
    for name in TRAIN:
        sets.add_subcommand(name, _data_set_parser(name))


def _data_set_parser(name: str) -> "ArgumentParser":
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


def evaluate_parser() -> "ArgumentParser":
    """Options of ``evaluate``."""
    from jsonargparse import ArgumentParser

    evaluate = ArgumentParser(description="Errors of a trained model on a part of its split.")
    evaluate.add_argument("run", help="Run folder.")
    evaluate.add_argument("--part", default="test", help="train, val or test.")
    evaluate.add_argument("--root", type=str | None, help="Data folder; by default the run's.")
    return evaluate


def train(options: "Namespace") -> None:
    """Train a model, or go on with it."""
    from pyg_schnet.analysis import plot_run
    from pyg_schnet.training.processes import rank_of
    from pyg_schnet.training.tasks import CONFIGS, default_folder, train_task

    name = options.dataset
    chosen, kind = options[name], CONFIGS[name]
    config = kind(**{option: chosen[option] for option in kind.__dataclass_fields__})
    folder = Path(chosen.resume or config.output or default_folder(name, config))
    # Of several processes the first looks at what is there, as it alone writes.
    is_first = rank_of(config) == 0
    if chosen.ensemble is not None:
        _train_ensemble(name, config, chosen, folder)
        return
    if chosen.resume and not (folder / "last.ckpt").is_file():
        raise FileNotFoundError(f"There is no last.ckpt in {folder} to resume from.")
    if (
        is_first
        and not chosen.resume
        and (folder / "config.yaml").exists()
        and not chosen.overwrite
    ):
        raise FileExistsError(
            f"{folder} holds a run already; go on with --resume {folder}, choose another "
            "--output, or replace it with --overwrite true."
        )
    task = TASKS[name](config, folder if chosen.resume else None)
    train_task(task, config, folder, resume=chosen.resume is not None)
    if not is_first:
        return
    figures = plot_run(folder)
    print(f"Wrote {folder}/metrics.json, best.safetensors, {', '.join(f.name for f in figures)}")


def _train_ensemble(name: str, config: Any, chosen: "Namespace", folder: Path) -> None:
    from pyg_schnet.analysis import plot_calibration
    from pyg_schnet.training.ensembles import train_ensemble
    from pyg_schnet.training.processes import rank_of

    is_first = rank_of(config) == 0
    begun = sorted(folder.glob("seed*/config.yaml"))
    if is_first and begun and not chosen.resume and not chosen.overwrite:
        raise FileExistsError(
            f"{folder} holds an ensemble already; go on with --resume {folder}, choose another "
            "--output, or replace it with --overwrite true."
        )
    # All members share the split of the first.
    task = TASKS[name](config, begun[0].parent if chosen.resume and begun else None)
    resume = chosen.resume is not None
    metrics = train_ensemble(task, config, folder, chosen.ensemble, resume)
    if not is_first:
        return
    if metrics["stopped"] == "interrupted":
        print(f"Interrupted; go on with --resume {folder} --ensemble {chosen.ensemble}.")
        return
    figures = plot_calibration(folder)
    print(f"Wrote {folder}/metrics.json, best.safetensors, {', '.join(f.name for f in figures)}")


def evaluate(options: "Namespace") -> None:
    """Print the errors of a trained model."""
    from pyg_schnet.training.tasks import evaluate_task, read_config

    folder = Path(options.run)
    name, config = read_config(folder)
    config.root = options.root or config.root
    task = TASKS[name](config, folder)
    print(evaluate_task(task, folder, options.part, config.eval_batch_size))
