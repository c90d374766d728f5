"""Learning rates as functions of progress."""

import math
from dataclasses import dataclass

SCHEDULES = ("exponential", "cosine", "sgdr", "constant")


@dataclass(frozen=True)
class Schedule:
    r"""The learning rate at a step.

    .. math::
        \mathrm{exponential:}\quad & \eta_0\,\lambda^{n/N} \\
        \mathrm{cosine:}\quad & \eta_{min} + \tfrac{1}{2}(\eta_0 - \eta_{min})(1 + \cos \pi p) \\
        \mathrm{sgdr:}\quad & \mathrm{as\ cosine\ with\ } p = (n \bmod R) / R

    with step n and progress p = the larger of n / max_steps and elapsed / max_time.

    Exponential with 0.96 per 100,000 steps is the protocol of the papers (NeurIPS 2017, section 5;
    the authors' code); sgdr is Loshchilov and Hutter, ICLR 2017, without lengthening restarts.

    Args:
        kind: One of "exponential", "cosine", "sgdr", "constant".
        lr: Initial rate.
        min_lr: Final rate of cosine and sgdr.
        decay: Factor of exponential.
        decay_steps: Steps in which it acts once.
        restart_steps: Length of a cycle of sgdr.
        max_steps: Length of the run in steps, or None.
        max_seconds: Length of the run in seconds, or None.

    Raises:
        ValueError: If the kind is unknown, or cosine has no end to go to.

    Example:
        >>> Schedule("exponential", lr=1e-3).at(100_000)
        0.00096
    """

    kind: str
    lr: float
    min_lr: float = 0.0
    decay: float = 0.96
    decay_steps: int = 100_000
    restart_steps: int = 50_000
    max_steps: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.kind!r}.")
        if self.kind == "cosine" and self.max_steps is None and self.max_seconds is None:
            raise ValueError("schedule='cosine' needs an end: give max_steps or max_time.")

    def progress(self, step: int, elapsed: float = 0.0) -> float:
        """How much of the run is over, 0 to 1, by steps or time, whichever is further."""
        by_step = step / self.max_steps if self.max_steps else 0.0
        by_time = elapsed / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(by_step, by_time))

    def at(self, step: int, elapsed: float = 0.0) -> float:
        """The learning rate at ``step``, ``elapsed`` seconds into the run."""
        if self.kind == "constant":
            return self.lr
        if self.kind == "exponential":
            return self.lr * self.decay ** (step / self.decay_steps)
        if self.kind == "sgdr":
            part = (step % self.restart_steps) / self.restart_steps
        else:
            part = self.progress(step, elapsed)
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + math.cos(math.pi * part))
