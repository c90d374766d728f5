"""A training run from data to metrics, in one folder."""

import errno
import json
import logging
import os
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor

from pyg_schnet.models import DTNN, SchNet, load
from pyg_schnet.models.networks import Network
from pyg_schnet.nn.head import AtomicValues
from pyg_schnet.nn.spatial_extent import SpatialExtent
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.callbacks import (
    AverageWeights,
    BestModel,
    ResumePoint,
    ShowProgress,
    StopCleanly,
)
from pyg_schnet.training.config import RunConfig, seconds
from pyg_schnet.training.evaluation import edge_cutoff
from pyg_schnet.training.loaders import EpochlessLoader, OrderedLoader, Rounds
from pyg_schnet.training.module import PropertyTraining
from pyg_schnet.training.processes import Share, SharedGradients, layout, rank_of, shared
from pyg_schnet.training.schedules import Schedule
from pyg_schnet.training.splits import Split
from pyg_schnet.training.statistics import ENOUGH, fit_extent
from pyg_schnet.training.targets import EnergyAndForces, Properties, Property, Target

__all__ = ["EnergyAndForces", "Properties", "Property", "build_model", "train"]

STEPS_OF_A_ROUND = 20


def build_model(config: RunConfig, wanted: Target, table: MoleculeTable, train: Tensor) -> Network:
    """The untrained network of a run, with its constants from the training set.

    Args:
        config: Options of the run.
        wanted: What is learned.
        table: The molecules.
        train: Rows of the training set.

    Raises:
        ValueError: If crystals shall have edges between all pairs; and as
            :class:`~pyg_schnet.SchNet`, :class:`~pyg_schnet.DTNN` and
            :func:`~pyg_schnet.training.statistics.offsets`.
    """
    common = {**wanted.architecture(config), "seed": config.seed}
    model = (_dtnn if config.model == "dtnn" else _schnet)(config, common)
    if model.cutoff_fn == "none" and table.pbc is not None and table.pbc.any():
        raise ValueError(
            "cutoff_fn='none' takes all pairs of atoms, and a crystal has no end of them; use "
            "cutoff_fn='cosine' or 'hard', and no preset that is without a cutoff."
        )
    head = model.readout
    if isinstance(head, SpatialExtent):
        fit_extent(head, table, train)
    elif isinstance(head, AtomicValues):
        known = wanted.offsets(config, table, train)
        head.set_statistics(known.mean, known.std, known.atomref)
    return model.double() if config.precision == "64-true" else model


def _schnet(config: RunConfig, common: dict[str, Any]) -> Network:
    if config.preset is not None:
        return SchNet.preset(config.preset, filters=config.filters, **common)
    return SchNet(
        config.hidden_channels,
        config.num_filters,
        config.num_interactions,
        config.num_gaussians,
        config.cutoff,
        cutoff_fn=config.cutoff_fn,
        filters=config.filters,
        filter_activation=config.filter_activation,
        normalize=None if config.normalize == "none" else config.normalize,
        shared_filters=config.shared_filters,
        **common,
    )


def _dtnn(config: RunConfig, common: dict[str, Any]) -> Network:
    # It has one head, so it takes no name of one.
    given = {k: v for k, v in common.items() if k not in ("head", "head_options")}
    if config.preset is not None:
        return DTNN(**given)
    return DTNN(
        config.hidden_channels,
        config.num_factors,
        config.num_interactions,
        config.num_gaussians,
        config.cutoff,
        cutoff_fn=config.cutoff_fn,
        **given,
    )


def train(
    config: RunConfig,
    wanted: Target,
    table: MoleculeTable,
    split: Split,
    folder: Path,
    resume: bool = False,
) -> dict[str, Any]:
    """Train, keep the best weights, test them, and write everything down.

    An earlier run in ``folder`` is replaced. Written there: config.yaml, split.npz,
    best.safetensors, last.ckpt, log/*/metrics.csv, tensorboard/, predictions.npz and metrics.json.

    Args:
        config: Options of the run.
        wanted: What is learned.
        table: The molecules.
        split: Rows for training, validation and test.
        folder: Of the run, made if needed.
        resume: Go on from last.ckpt.

    Returns:
        What metrics.json holds.

    Raises:
        FileNotFoundError: If there is nothing to resume.
        ValueError: If an option or the split does not fit the data, or last.ckpt is damaged.
    """
    start = _steps_done(folder / "last.ckpt") if resume else None
    if split.val.numel() == 0 or split.test.numel() == 0:
        raise ValueError(
            "val_size and test_size must be at least 1: best weights are chosen by "
            "validation and judged by test."
        )
    model = build_model(config, wanted, table, split.train)
    schedule = Schedule(
        config.schedule,
        config.lr,
        config.min_lr,
        config.decay,
        config.decay_steps,
        config.restart_steps,
        config.max_steps,
        seconds(config.max_time),
    )
    is_first = rank_of(config) == 0
    if is_first:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            _clear(folder)
        split.save(folder / "split.npz")
        _write_text(folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
    module = wanted.module(config, model, schedule, table, split.train)
    info = wanted.info() | {"elements": _elements(table, split.train)}
    progress = _fit(config, module, table, split, folder, info, start)
    metrics: dict[str, Any] = {}
    if is_first:
        metrics = _judge(config, wanted, module, table, split, folder) | progress
        _write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return shared(metrics)


def _judge(
    config: RunConfig,
    wanted: Target,
    module: PropertyTraining,
    table: MoleculeTable,
    split: Split,
    folder: Path,
) -> dict[str, Any]:
    """Test the best model, write its predictions, and return what metrics.json says of it."""
    trained = load(folder / "best.safetensors", device=module.device)
    assert isinstance(trained, Network)
    metrics, arrays = wanted.judge(config, trained, table, split)
    metrics |= {
        "n_train": split.train.numel(),
        "n_val": split.val.numel(),
        "n_test": split.test.numel(),
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in trained.parameters()),
    }
    aside = folder / "predictions.part.npz"
    np.savez(aside, rows=split.test.numpy(), **arrays)  # type: ignore[arg-type]
    os.replace(aside, folder / "predictions.npz")
    return metrics


def _elements(table: MoleculeTable, rows: Tensor) -> list[str]:
    """Symbols of the elements that are trained on."""
    from ase.data import chemical_symbols

    counts = torch.stack([table.composition(some).sum(0) for some in rows.split(ENOUGH)])
    present = counts.sum(0).nonzero().flatten()
    return [chemical_symbols[number] for number in present.tolist()]


def _fit(
    config: RunConfig,
    module: PropertyTraining,
    table: MoleculeTable,
    split: Split,
    folder: Path,
    info: dict[str, Any],
    start: int | None,
) -> dict[str, Any]:
    """Train until a limit is met, from step ``start`` of last.ckpt or anew; say how far it went."""
    last = folder / "last.ckpt"
    best = BestModel(folder / "best.safetensors", info)
    stop = StopCleanly(best, module.schedule.max_seconds, config.patience)
    average = AverageWeights(config.ema)
    module.after_step = [average.after_step, stop.after_step]
    callbacks = [best, stop, ResumePoint(last), ShowProgress(info["target"]), average]
    cutoff = edge_cutoff(module.model)
    with _quiet():
        trainer = _trainer(config, folder, callbacks, start or 0)
        share = Share(trainer.global_rank, trainer.world_size)
        loader = EpochlessLoader(
            *(table, split.train, config.batch_size, cutoff, config.seed, start or 0),
            accumulate=config.accumulate_grad_batches,
            share=share,
        )
        module.accumulate = config.accumulate_grad_batches
        module.weight = loader.weight if share.count > 1 else None
        # So few structures that some process would have none are validated by all.
        module.shares_validation = 1 < share.count <= split.val.numel()
        mine = share.of(split.val) if module.shares_validation else split.val
        validation = OrderedLoader(table, mine, config.eval_batch_size, cutoff)
        trainer.fit(
            module,
            Rounds(loader, STEPS_OF_A_ROUND, config.val_every, config.max_steps),
            validation,
            ckpt_path=None if start is None else last,
            weights_only=True,
        )
    return {
        module.score: best.best,
        "best_step": best.best_step,
        "steps": trainer.global_step,
        "seconds": round(module.elapsed(), 1),
        "stopped": stop.reason or "max_steps",
    }


def _steps_done(last: Path) -> int:
    """Steps behind a resume point; reading it first keeps a damaged one from half a start."""
    if not last.is_file():
        raise FileNotFoundError(f"There is no {last} to resume from.")
    try:
        # torch does not look at the checksums of the archive, and turned bits would be trained on.
        with zipfile.ZipFile(last) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        return int(torch.load(last, map_location="cpu", weights_only=True)["global_step"])
    except Exception as error:  # zipfile and torch's unpickler raise whatever the bytes lead to
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ValueError(
            f"{last} cannot be read as a point to resume from ({type(error).__name__}); start the "
            "run again, without resume."
        ) from error


def _clear(folder: Path) -> None:
    """Remove what an earlier run left here, now that the options of the new one are known good."""
    for name in ("log", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("last.ckpt", "best.safetensors", "metrics.json", "predictions.npz"):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's remarks on hardware, loaders and its own deprecations from the user."""
    logs = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Loaders in the main process are on purpose: a batch costs a millisecond.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*")
            # What is logged of a validation is the same in all processes.
            warnings.filterwarnings("ignore", ".*sync_dist=True.*")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _trainer(config: RunConfig, folder: Path, callbacks: list[Any], start: int) -> L.Trainer:
    # A resumed run logs beside, not over, what it logged before.
    part = f"from_step_{start:08d}"
    loggers: list[Logger] = [CSVLogger(folder, name="log", version=part)]
    if config.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=part))
    devices, nodes = layout(config)
    several = devices * nodes > 1 or config.strategy == "ddp"
    return L.Trainer(
        accelerator=config.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=SharedGradients() if several else "auto",
        use_distributed_sampler=False,  # the loaders know their shares
        precision=config.precision,
        max_steps=config.max_steps,
        max_epochs=-1,
        val_check_interval=1,  # in rounds; the module says after which
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        logger=loggers,
        default_root_dir=folder,
    )


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    os.replace(aside, path)
