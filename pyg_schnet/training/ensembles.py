"""Several runs that differ in their seed, and what their spread says of their errors."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from pyg_schnet.models import Ensemble, load, save
from pyg_schnet.models.networks import Network
from pyg_schnet.training.config import RunConfig
from pyg_schnet.training.evaluation import evaluate, evaluate_forces
from pyg_schnet.training.processes import rank_of, shared
from pyg_schnet.training.targets import Property
from pyg_schnet.training.tasks import Task, train_task

PARTS = ("energy", "forces")


def train_ensemble(
    task: Task, config: RunConfig, folder: Path, size: int, resume: bool = False
) -> dict[str, Any]:
    """Train ``size`` models on one split, from seeds that count on from ``config.seed``.

    Each has its run folder, ``folder/seedS``; finished ones are kept and an interrupted one goes on
    if ``resume``. Then ``folder/best.safetensors`` holds an :class:`~pyg_schnet.Ensemble` of all,
    ``predictions.npz`` mean and spread on the test set, ``metrics.json`` the errors.

    Args:
        task: What to train on.
        config: Options of the runs.
        folder: Of the ensemble.
        size: Number of models, two at least.
        resume: Go on with what was interrupted.

    Returns:
        The metrics; "stopped" is "interrupted" if not all were trained.

    Raises:
        ValueError: If ``size`` is below two; and as :func:`~pyg_schnet.training.run.train`.
    """
    if size < 2:
        raise ValueError(f"ensemble must be at least 2, got {size}; leave it out for one model.")
    is_first = rank_of(config) == 0
    if is_first:
        folder.mkdir(parents=True, exist_ok=True)
        task.split.save(folder / "split.npz")
        options = asdict(config) | {"ensemble": size}
        _write(folder / "config.yaml", yaml.safe_dump(options, sort_keys=False))
    parts = []
    for seed in range(config.seed, config.seed + size):
        part = folder / f"seed{seed}"
        metrics = finished(part) if resume else None
        if metrics is None:
            again = resume and (part / "last.ckpt").is_file()
            metrics = train_task(task, replace(config, seed=seed), part, again)
        if metrics["stopped"] == "interrupted":
            return metrics
        parts.append(part)
    return shared(_join(task, config, folder, parts) if is_first else {})


def finished(folder: Path) -> dict[str, Any] | None:
    """The metrics of a run that came to its end, else None.

    Args:
        folder: Of the run.
    """
    path = folder / "metrics.json"
    try:
        metrics: dict[str, Any] = dict(json.loads(path.read_bytes())) if path.is_file() else {}
    except (ValueError, TypeError, RecursionError) as error:
        what = str(error)[:100]
        raise ValueError(f"{path} is damaged ({what}); train the member anew.") from error
    return metrics if metrics.get("stopped", "interrupted") != "interrupted" else None


def evaluate_ensemble(
    ensemble: Ensemble, task: Task, rows: Tensor, batch_size: int
) -> dict[str, dict[str, np.ndarray]]:
    """References, means and spreads on some rows.

    Args:
        ensemble: Of networks of the package.
        task: The data.
        rows: (M,) those to predict.
        batch_size: Structures at a time.

    Returns:
        By "energy" (or the property's values, M of them) and, of runs on forces, "forces" (their
        components): "reference", "mean" and "std", float64, in the unit of the table.
    """
    models = [member.get_submodule("model") for member in ensemble.members]
    found: dict[str, list[Any]] = {}
    for model in models:
        assert isinstance(model, Network)
        if isinstance(task.target, Property):
            found.setdefault("energy", []).append(evaluate(model, task.table, rows, batch_size))
        else:
            both = evaluate_forces(model, task.table, rows, batch_size)
            found.setdefault("energy", []).append(both.energy)
            found.setdefault("forces", []).append(both.forces)
    result = {}
    for name, evaluations in found.items():
        values = torch.stack([each.prediction.double().flatten() for each in evaluations])
        result[name] = {
            "reference": evaluations[0].reference.double().flatten().numpy(),
            "mean": values.mean(0).numpy(),
            "std": values.std(0).numpy(),
        }
    return result


def spread_against_error(known: Mapping[str, np.ndarray]) -> dict[str, float]:
    r"""How well a spread tells errors.

    Args:
        known: "reference", "mean" and "std", all of one shape.

    Returns:
        ``mae`` and ``rmse`` of the mean; ``rms_std``, the root mean square of the spread;
        ``scale``, the factor :math:`(\sum e^2 / \sum s^2)^{1/2}` that would make the spread as
        large as the errors (1 is honest, above 1 the ensemble is too sure); and ``rank``,
        Spearman's correlation of :math:`|e|` and :math:`s` (1: larger spread, larger error).

    Example:
        >>> reference, std = np.zeros(3), np.array([1.0, 2.0, 3.0])
        >>> spread_against_error({"reference": reference, "mean": 2 * std, "std": std})["scale"]
        2.0
    """
    error, std = known["mean"] - known["reference"], known["std"]
    rms, rms_std = (float(np.sqrt(np.square(v).mean())) for v in (error, std))
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": rms,
        "rms_std": rms_std,
        "scale": rms / rms_std if rms_std > 0 else float("inf"),
        "rank": _correlation(_ranks(np.abs(error)), _ranks(std)),
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0


def _join(task: Task, config: RunConfig, folder: Path, parts: list[Path]) -> dict[str, Any]:
    networks = [load(part / "best.safetensors") for part in parts]
    ensemble = Ensemble(networks).eval()
    info = dict(getattr(networks[0], "info", {})) | {"members": len(parts)}
    save(ensemble, folder / "best.safetensors", info)
    rows = task.split.test
    known = evaluate_ensemble(ensemble, task, rows, config.eval_batch_size)
    alone = [json.loads((part / "metrics.json").read_text()) for part in parts]
    metrics: dict[str, Any] = {
        "target": alone[0]["target"],
        "unit": alone[0]["unit"],
        "shown_per_unit": alone[0]["shown_per_unit"],
        "members": len(parts),
        "n_train": alone[0]["n_train"],
        "n_test": alone[0]["n_test"],
        "seconds": sum(each["seconds"] for each in alone),
        "stopped": alone[-1]["stopped"],
    }
    arrays: dict[str, np.ndarray] = {}
    for name, values in known.items():
        prefix = "test" if isinstance(task.target, Property) else f"test_{name}"
        metrics |= {f"{prefix}_{key}": v for key, v in spread_against_error(values).items()}
        metrics[f"{prefix}_mae_of_one"] = float(
            np.mean([each[f"{prefix}_mae"] for each in alone])
            / (alone[0]["shown_per_unit"] if isinstance(task.target, Property) else 1.0)
        )
        arrays |= {f"{name}_{key}": value for key, value in values.items()}
    aside = folder / "predictions.part.npz"
    np.savez(aside, rows=rows.numpy(), **arrays)  # type: ignore[arg-type]
    os.replace(aside, folder / "predictions.npz")
    _write(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _tell(metrics, task)
    return metrics


def _write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    os.replace(aside, path)


def _tell(metrics: Mapping[str, Any], task: Task) -> None:
    of_property = isinstance(task.target, Property)
    factor, unit = metrics["shown_per_unit"], metrics["unit"]
    print(f"\n{metrics['members']} models, {metrics['n_test']:,} test {task.noun}:")
    for name, prefix, shown in (
        [(task.target.name, "test", unit)]
        if of_property
        else [("energy", "test_energy", unit), ("forces", "test_forces", f"{unit}/Å")]
    ):
        one, mean, spread = (
            factor * metrics[f"{prefix}_{key}"] for key in ("mae_of_one", "mae", "rms_std")
        )
        print(
            f"  {name}: MAE {mean:.4f} {shown} (one model {one:.4f}); spread {spread:.4f} rms, "
            f"errors are {metrics[f'{prefix}_scale']:.2f} times as large, "
            f"rank correlation {metrics[f'{prefix}_rank']:.2f}"
        )
