"""What the study of C20 is asked for."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

TRAINED_AT = 500.0
"""Temperature of the reference trajectory, K, as in the paper."""
EVERY = 10
"""Steps of 1 fs from one of its frames to the next: the default of the data set."""


@dataclass(frozen=True)
class Options:
    """Options of the study.

    Args:
        output: Folder of all that is made.
        rows: Of the table of models, of ``pyg-schnet benchmark accuracy list``; a ``*`` stands for
            anything.
        frames: Of the reference trajectory.
        displaced: Structures displaced from the minimum along the reference's normal modes, each
            by a temperature up to that of the trajectory; with them, forces are known
            closely where frequencies come from. Of ten frames and displaced structures, eight are
            trained on, one is for validation and one for test.
        along_modes: Structures displaced along a single mode each, by amounts from tiny to thermal,
            which the chosen model is polished on
            (:func:`~pyg_schnet.benchmarks.c20.polish.polish`).
        polish_steps: Of it; 0 leaves the model as it was trained.
        equilibration: fs before the first frame.
        select_time: Of the training of each row, by which one is chosen; with a single row there
            is nothing to choose.
        max_time: Of the training of the chosen one, such as ``"1h"``.
        training: Other options of all trainings, such as ``{"val_every": 500}``.
        starts: Structures that are relaxed; the lowest minimum counts.
        temperature: Of the dynamics with the model, K.
        timestep: fs.
        md_time: Of each replica, ps.
        replicas: Trajectories of classical dynamics.
        pimd_time: ps.
        beads: Of path integrals.
        seed: Of the trajectory, the training and the dynamics.
        cost_seconds: For which each kind of step is timed.

    Raises:
        ValueError: If a number is out of range.
    """

    output: Path
    rows: tuple[str, ...] = ("c20-*",)
    frames: int = 2_000
    displaced: int = 6_000
    along_modes: int = 1_000
    polish_steps: int = 250
    equilibration: float = 2000.0
    select_time: str = "10m"
    max_time: str = "1h"
    training: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 4
    temperature: float = 300.0
    timestep: float = 0.5
    md_time: float = 100.0
    replicas: int = 8
    pimd_time: float = 25.0
    beads: int = 8
    seed: int = 0
    cost_seconds: float = 4.0

    def __post_init__(self) -> None:
        least = {"frames": 20, "displaced": 0, "starts": 1, "replicas": 1, "beads": 1}
        least |= {"along_modes": 1 if self.polish_steps else 0, "polish_steps": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}.")
        for name in ("temperature", "timestep", "md_time", "pimd_time", "cost_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0, got {value}.")

    @property
    def data(self) -> Path:
        """Folder of the data set."""
        return self.output / "data"

    def told(self) -> dict[str, Any]:
        """All of them but the folder, as a report tells them."""
        return {name: value for name, value in asdict(self).items() if name != "output"}

    def quick(self) -> "Options":
        """A run of some minutes, which shows that all works and not how good it gets."""
        return replace(
            self,
            rows=("c20-t3-f64-rho0.01",),
            frames=200,
            displaced=400,
            along_modes=100,
            polish_steps=20,
            equilibration=200.0,
            max_time="1m",
            starts=2,
            md_time=2.0,
            replicas=4,
            pimd_time=0.5,
            cost_seconds=1.0,
        )
