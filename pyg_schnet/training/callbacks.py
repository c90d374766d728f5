"""What happens around the steps: best weights, clean stops, resuming, progress."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pyg_schnet.models import save
from pyg_schnet.training.module import REASONS, PropertyTraining


class BestModel(Callback):
    """Writes the model of the best validation so far, and remembers its error.

    Must stand before the weight averaging among the callbacks: at the end of a validation the
    averaged weights are still in place then.

    Args:
        path: The ``.safetensors`` file.
        info: What to write into its header besides.
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self.best = float("inf")
        self.best_step = -1
        self.checks_since = 0

    def on_validation_epoch_end(self, trainer: L.Trainer, module: PropertyTraining) -> None:
        """Keep the weights if they are the best."""
        if trainer.sanity_checking:
            return
        found = {name: float(value) for name, value in module.validated().items()}
        self.checks_since += 1
        score = found[module.score]
        if score < self.best:
            self.best, self.best_step, self.checks_since = score, trainer.global_step, 0
            noted = {name: found[name] for name in module.noted}
            info = {**self.info, **noted, "step": trainer.global_step}
            if trainer.is_global_zero:
                save(module.model, self.path, info=info)

    def state_dict(self) -> dict[str, Any]:
        """The best error and when it was reached."""
        return {"best": self.best, "step": self.best_step, "checks_since": self.checks_since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.best_step = state["best"], state["step"]
        self.checks_since = state["checks_since"]


class StopCleanly(Callback):
    """Ends the run after the current step on Ctrl-C, at the time limit, or without improvement.

    A second Ctrl-C interrupts at once. Stops of other kinds (``max_steps``) are Lightning's.

    Args:
        best: Whose patience is watched.
        max_seconds: Training time, or None.
        patience: Validations without improvement.
    """

    def __init__(self, best: BestModel, max_seconds: float | None, patience: int) -> None:
        self.best = best
        self.max_seconds = max_seconds
        self.patience = patience
        self.reason: str | None = None
        self._previous: Any = None

    def on_fit_start(self, trainer: L.Trainer, module: PropertyTraining) -> None:
        """Take over Ctrl-C; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return

        def handle(number: int, frame: FrameType | None) -> None:
            self.reason = "interrupted"
            module.stop(REASONS.index("interrupted"))
            signal.signal(signal.SIGINT, self._previous or signal.default_int_handler)
            if trainer.is_global_zero:
                print("\nStopping after this step; Ctrl-C again to stop at once.", file=sys.stderr)

        self._previous = signal.signal(signal.SIGINT, handle)

    def after_step(self, module: PropertyTraining) -> None:
        """Look at the clock."""
        if self.max_seconds is not None and module.elapsed() >= self.max_seconds:
            self.reason = self.reason or "max_time"
            module.stop(REASONS.index("max_time"))

    def on_train_batch_end(
        self, trainer: L.Trainer, module: PropertyTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take over why another process has asked to stop."""
        if module.asked:
            self.reason = self.reason or REASONS[module.asked]

    def on_validation_end(self, trainer: L.Trainer, module: PropertyTraining) -> None:
        """Look at the patience."""
        if self.best.checks_since >= self.patience:
            self.reason = self.reason or "no improvement"
            trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, module: PropertyTraining, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._previous is not None and stage == "fit":
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


class AverageWeights(WeightAveraging):
    """An exponential moving average of the weights, used for validation and kept at the end.

    Lightning's, but updated after each step of a round, and without walking through the modules.

    Args:
        decay: Of the average.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Make the averaged model, and remember whose weights belong together."""
        super().setup(trainer, module, stage)
        self._pairs = None

    @torch.no_grad()
    def after_step(self, module: PropertyTraining) -> None:
        """Take the weights in."""
        average = self._average_model
        assert average is not None
        if self._pairs is None:
            self._pairs = list(average.module.parameters()), list(module.parameters())
        if int(average.n_averaged) == 0:
            torch._foreach_copy_(*self._pairs)
        else:
            torch._foreach_lerp_(*self._pairs, 1.0 - self.decay)
        average.n_averaged += 1
        self._latest_update_step = module.global_step

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Nothing: the steps of the round have been taken in one by one."""

    def on_train_epoch_end(self, *arguments: Any) -> None:
        """Nothing, likewise."""


class ResumePoint(Callback):
    """Keeps a file from which the run goes on bit for bit: at validations and at the end.

    Must stand before the weight averaging among the callbacks, which at the end replaces the
    weights by their average.

    Args:
        path: The ``.ckpt`` file, of tensors and plain numbers only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def _save(self, trainer: L.Trainer) -> None:
        aside = self.path.with_suffix(".part")
        trainer.save_checkpoint(aside)
        if trainer.is_global_zero:
            os.replace(aside, self.path)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save."""
        self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save, but not on the sanity check."""
        if not trainer.sanity_checking and trainer.global_step > 0:
            self._save(trainer)


class ShowProgress(Callback):
    """One bar on a terminal, one line per validation elsewhere, errors in the paper's unit.

    Args:
        name: What is trained.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, module: PropertyTraining) -> None:
        """Show the bar."""
        if not sys.stderr.isatty() or not trainer.is_global_zero:
            return
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            refresh_per_second=2,
        )
        self.bar.start()
        self.task = self.bar.add_task(self.name, total=1000, state="")

    def on_train_batch_end(
        self, trainer: L.Trainer, module: PropertyTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self.bar is not None:
            done = module.schedule.progress(trainer.global_step, module.elapsed())
            self.bar.update(self.task, completed=int(1000 * done))

    def on_validation_end(self, trainer: L.Trainer, module: PropertyTraining) -> None:
        """Tell the error."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        errors = module.told(trainer.callback_metrics)
        rate = module.optimizers().param_groups[0]["lr"]
        if self.bar is not None:
            self.bar.update(self.task, state=errors)
            return
        print(
            f"step {trainer.global_step:>8,}  {module.elapsed():7.0f} s  lr {rate:.2e}  {errors}",
            flush=True,
        )

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Take the bar down."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
