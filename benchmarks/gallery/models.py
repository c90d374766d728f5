"""Models that figures are of: the package's own, and those that are trained where missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyg_schnet.benchmarks.accuracy.catalogue import load_rows
from pyg_schnet.benchmarks.accuracy.runner import metrics_of

ACCURACY = "runs/accuracy"
GALLERY = "runs/gallery"
SIZES = (125, 250, 500, 1000)
"""Training sets of the learning curve."""


@dataclass(frozen=True)
class Trained:
    """Runs of a row of the accuracy benchmark.

    Attributes:
        row: Its name.
        seeds: Of the runs.
        runs: Folder of the run folders, ROW/seedS.
        overrides: Options that differ from the row's.
        size: Train on the first so many structures only.
        words: What the models are, in half a sentence.
    """

    row: str
    seeds: tuple[int, ...]
    runs: str = ACCURACY
    overrides: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    words: str = ""

    @property
    def folders(self) -> list[Path]:
        """Of the runs."""
        name = self.row if self.size is None else f"{self.row}-of-{self.size}"
        return [Path(self.runs) / name / f"seed{seed}" for seed in self.seeds]

    @property
    def command(self) -> str:
        """What trains the same; of a learning curve, all of it and the descriptors beside it."""
        seeds = " ".join(map(str, self.seeds))
        if self.size is not None:
            return (
                f"pyg-schnet benchmark accuracy curve {self.row} --seeds {seeds} "
                f"--sizes {' '.join(map(str, SIZES))} --output {GALLERY}/results/accuracy"
            )
        others = "".join(f" --{k.replace('_', '-')} {v}" for k, v in self.overrides.items())
        return (
            f"pyg-schnet benchmark accuracy {self.row} --seeds {seeds}{others} "
            f"--runs {self.runs} --output {GALLERY}/results/accuracy"
        )

    def train(self, files: Mapping[str, str]) -> list[dict[str, Any]]:
        """Metrics of the runs; each is trained unless it is finished, or goes on.

        Args:
            files: Original files of data sets, by the set's name, where they are not processed yet.

        Raises:
            ValueError: As :func:`~pyg_schnet.benchmarks.accuracy.runner.metrics_of`.
        """
        row = load_rows()[self.row]
        options = dict(self.overrides)
        if row.set in files:
            options["raw"] = files[row.set]
        return [
            metrics_of(row, seed, options, Path(self.runs), size=self.size) for seed in self.seeds
        ]


MODELS = {
    "qm9": Trained(
        "qm9-cpu-U0",
        (0,),
        words="energies of QM9, by the training that the package's `qm9-U0` is of",
    ),
    "qm9-again": Trained(
        "qm9-small-U0",
        (0, 1, 2),
        GALLERY,
        {"train_size": 110_000, "max_steps": 12_000},
        words="the same energies, three shorter trainings that differ in seed and split",
    ),
    "dtnn": Trained("dtnn-qm9-U0-t3", (0,), words="the same energies by a DTNN"),
    "mp20": Trained(
        "mp20", (0, 1, 2), words="formation energies of crystals of the Materials Project"
    ),
    **{
        f"mp20-{size}": Trained("mp20", (0,), size=size, words="the same with fewer crystals")
        for size in SIZES
    },
}
"""By the word that figures ask for them with."""
