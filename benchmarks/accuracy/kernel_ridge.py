"""Kernel ridge regression on descriptors, as strong as a validation set can make it."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.benchmarks.accuracy.composition import guess
from pyg_schnet.benchmarks.accuracy.descriptors import describe_table
from pyg_schnet.benchmarks.accuracy.molecules import describe_molecules, only_used
from pyg_schnet.training.targets import Property
from pyg_schnet.training.tasks import Task

KERNELS = ("laplacian", "rbf")
WIDTHS = tuple(2.0**k for k in range(-5, 5))
"""Of a kernel, in medians of the distances between training structures."""
REGULARIZATIONS = tuple(10.0**k for k in range(-7, 0))
LEAST = 1e-10
"""Regularization below which round-off would choose."""
FIRST = 1_000
"""Training structures, and validation structures, with which all combinations are tried."""
FINALISTS = 4
"""Combinations of those that are tried on all training structures."""
PREDICTED_TOGETHER = 4_096


@dataclass(frozen=True)
class Choice:
    """What is free in a kernel ridge regression.

    Args:
        representation: ``spectrum`` of the matrix, or the ``sorted`` matrix itself.
        kernel: ``laplacian``, exp(-|x - y|_1 / width), or ``rbf``, exp(-|x - y|_2^2 / width^2).
        width: In units of the descriptor.
        regularization: Added to the diagonal of the kernel matrix, which is one.
    """

    representation: str
    kernel: str
    width: float
    regularization: float


class Regression:
    """Kernel ridge regressions of one target on one part of the data, for any :class:`Choice`.

    Distances are kept, and so is the last kernel matrix, since choices mostly differ in numbers.

    Args:
        vectors: Descriptors of all structures, by representation.
        y: (M,) target of all structures.
        train: Rows to train on.
        val: Rows to validate with.
    """

    def __init__(
        self, vectors: dict[str, np.ndarray], y: np.ndarray, train: np.ndarray, val: np.ndarray
    ) -> None:
        self.vectors, self.y, self.train, self.val = vectors, y, train, val
        self._distances: tuple[tuple[str, str], list[np.ndarray]] | None = None
        self._scores: dict[Choice, float] = {}

    def median(self, representation: str, kernel: str) -> float:
        """The median distance between training structures that differ; 1 if none do."""
        among = self._known(representation, kernel)[0]
        return float(np.median(among[among > 0])) if (among > 0).any() else 1.0

    def score(self, choice: Choice) -> float:
        """Mean absolute error of the validation set."""
        if choice not in self._scores:
            among, to_val = self._known(choice.representation, choice.kernel)
            weights = self._weights(among, choice)
            guess = _similarity(to_val, choice) @ weights + self.y[self.train].mean()
            self._scores[choice] = float(np.abs(guess - self.y[self.val]).mean())
        return self._scores[choice]

    def predict(self, choice: Choice, rows: np.ndarray) -> np.ndarray:
        """The target of any structures."""
        among, _ = self._known(choice.representation, choice.kernel)
        weights = self._weights(among, choice)
        vectors = self.vectors[choice.representation]
        parts = []
        for start in range(0, len(rows), PREDICTED_TOGETHER):
            here = vectors[rows[start : start + PREDICTED_TOGETHER]]
            distance = _distance(here, vectors[self.train], choice.kernel)
            parts.append(_similarity(distance, choice) @ weights)
        return np.concatenate(parts) + self.y[self.train].mean()

    def _known(self, representation: str, kernel: str) -> list[np.ndarray]:
        key = representation, kernel
        if self._distances is None or self._distances[0] != key:
            self._distances = None  # frees the memory of the old ones first
            vectors = self.vectors[representation]
            to = vectors[self.train]
            both = [_distance(vectors[rows], to, kernel) for rows in (self.train, self.val)]
            self._distances = key, both
        return self._distances[1]

    def _weights(self, among: np.ndarray, choice: Choice) -> np.ndarray:
        from scipy.linalg import LinAlgWarning
        from sklearn.kernel_ridge import KernelRidge

        ridge = KernelRidge(alpha=choice.regularization, kernel="precomputed")
        y = self.y[self.train]
        with warnings.catch_warnings():
            # Two equal structures and little regularization; validation judges the outcome.
            warnings.simplefilter("ignore", LinAlgWarning)
            warnings.filterwarnings("ignore", "Singular matrix in solving dual problem")
            return np.asarray(ridge.fit(_similarity(among, choice), y - y.mean()).dual_coef_)


def choose(
    vectors: dict[str, np.ndarray], y: np.ndarray, train: np.ndarray, val: np.ndarray
) -> tuple[Choice, Regression]:
    """The choice with the smallest validation error, and the regressions that it is one of.

    All combinations of representation, kernel, width and regularization are tried on at most
    :data:`FIRST` training structures; the best :data:`FINALISTS` on all of them, and from the best
    of these one walks in factors of two and ten while the validation error gets smaller.

    Args:
        vectors: Descriptors of all structures, by representation.
        y: (M,) target of all structures.
        train: Rows to train on.
        val: Rows to validate with.
    """
    few = Regression(vectors, y, train[:FIRST], val[:FIRST])
    ranked = sorted(_grid(few), key=few.score)
    whole = Regression(vectors, y, train, val)
    # In order of their distances, which are kept for one representation and kernel at a time.
    finalists = sorted(ranked[:FINALISTS], key=lambda c: (c.representation, c.kernel))
    best = min(finalists, key=whole.score)
    while (step := min(_neighbors(best), key=whole.score)) != best:
        best = step
    return best, whole


def run(task: Task, name: str, folder: Path) -> dict[str, Any]:
    """Choose by validation, train, and test.

    Args:
        task: A property of crystals, or of molecules, of which dressed atoms are taken off first.
        name: Of the descriptor, such as ``sine-matrix``; of molecules ``coulomb-matrix``.
        folder: Where descriptors of crystals are kept.

    Returns:
        As metrics.json of a run: errors in the shown unit, sizes, and what was chosen.

    Raises:
        ImportError: If there is no scikit-learn.
        ValueError: If forces are to be learned, or structures are not periodic that must be.
    """
    try:
        import sklearn.kernel_ridge  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{name} needs scikit-learn; install it with pip install 'pyg_schnet[baselines]'."
        ) from error
    if not isinstance(task.target, Property):
        raise ValueError(f"{name} predicts one property of a structure, not {task.target.name}.")
    molecular = task.table.cell is None and name == "coulomb-matrix"
    if molecular:
        task = only_used(task)
        described = describe_molecules(task.table)
    else:
        described = describe_table(task.table, name, folder)
    start = time.monotonic()
    y = task.table.y[:, 0].numpy()
    if molecular:
        y = y - guess(task, "dressed-atoms", torch.arange(len(task.table))).numpy()
    train, val, test = (_rows(getattr(task.split, part)) for part in ("train", "val", "test"))
    choice, regression = choose(described.by_name(), y, train, val)
    wrong = regression.predict(choice, test) - y[test]
    assert isinstance(task.target, Property)
    factor = task.target.shown_per_unit
    return {
        "unit": task.target.shown_unit,
        "test_mae": float(np.abs(wrong).mean()) * factor,
        "test_rmse": float(np.sqrt(np.square(wrong).mean())) * factor,
        "val_mae": regression.score(choice) * factor,
        "chosen": asdict(choice),
        "seconds": round(time.monotonic() - start, 1),
        "n_train": len(train),
        "n_val": len(val),
        "n_test": len(test),
    }


def _grid(regression: Regression) -> Iterator[Choice]:
    for representation in regression.vectors:
        for kernel in KERNELS:
            median = regression.median(representation, kernel)
            for width in WIDTHS:
                for regularization in REGULARIZATIONS:
                    yield Choice(representation, kernel, width * median, regularization)


def _neighbors(choice: Choice) -> list[Choice]:
    """The choice itself first, so that equal ones do not move it."""
    width, regularization = choice.width, choice.regularization
    weaker, stronger = max(regularization / 10, LEAST), regularization * 10
    return [
        choice,
        *(replace(choice, width=width * factor) for factor in (0.5, 2.0)),
        *(replace(choice, regularization=value) for value in (weaker, stronger)),
    ]


def _distance(a: np.ndarray, b: np.ndarray, kernel: str) -> np.ndarray:
    from sklearn.metrics import pairwise

    if kernel == "laplacian":
        return np.asarray(pairwise.manhattan_distances(a, b))
    return np.asarray(pairwise.euclidean_distances(a, b))


def _similarity(distance: np.ndarray, choice: Choice) -> np.ndarray:
    scaled = distance / -choice.width
    if choice.kernel == "rbf":
        np.multiply(scaled, -scaled, out=scaled)
    return np.exp(scaled, out=scaled)


def _rows(rows: Tensor) -> np.ndarray:
    return rows.numpy()
