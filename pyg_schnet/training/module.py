"""The Lightning module: loss, metrics, optimiser."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.models import SchNet
from pyg_schnet.models.networks import Network
from pyg_schnet.models.sweep_rules import applies
from pyg_schnet.models.sweeps import learned_energies
from pyg_schnet.nn.readout import Atomwise, pool
from pyg_schnet.nn.tabulated import FilterTable
from pyg_schnet.training.batches import model_inputs
from pyg_schnet.training.processes import add_up, add_up_gradients, gathered, largest
from pyg_schnet.training.schedules import Schedule

REASONS = ("", "max_time", "interrupted")
"""Why a run may be asked to stop; of several reasons the last."""

_NEVER = 2**62


class PropertyTraining(L.LightningModule):
    r"""Trains a SchNet or a DTNN on one property per molecule.

    .. math::
        \ell = \frac{1}{B} \sum_m \left( \hat y_m - y_m \right)^2

    (or the mean absolute error). Both sides are compared without the constants of the readout,
    which are subtracted from the target in float64; a loss in float32 between total energies would
    see noise of 1e-3 eV. Of several properties, or components of a vector or tensor, the mean is
    taken over them too; each is divided by its ``scales`` before.

    Schütt et al., NeurIPS 2017, section 5 (squared loss, Adam); Nat. Commun. 8, 13890 (2017),
    methods (stochastic gradient descent with a momentum of 0.9).

    Args:
        model: The network, with its constants set.
        schedule: Of the learning rate.
        loss: "mse" or "mae".
        factor: What one unit of the target is in the unit that is shown.
        unit: The unit that is shown.
        gradient_clip: Largest norm of the gradient; 0 for no limit.
        val_every: Steps between validations.
        log_every: Steps between two lines of the log.
        scales: (T,) of several properties, in their units; they are then shown in these.
        optimizer: "adam" or "sgd".
        momentum: Of the latter.

    Attributes:
        after_step: Called with the module after each step.
        accumulate: Batches of a step.
        weight: Of this process in a batch that several share; None where there is one only.
        shares_validation: Whether each process validates a part of the structures.
        asked: Why the run shall stop, one of :data:`REASONS`, or 0.
        score: Which of the errors that are validated chooses the best weights.
        noted: Which of them are written into the file of the best weights.
    """

    scales: Tensor | None
    score = "val_mae"
    noted: tuple[str, ...] = ("val_mae",)

    def __init__(
        self,
        model: Network,
        schedule: Schedule,
        loss: str = "mse",
        factor: float = 1.0,
        unit: str = "eV",
        gradient_clip: float = 0.0,
        val_every: int = 5_000,
        log_every: int = 100,
        scales: Tensor | None = None,
        *,
        optimizer: str = "adam",
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.register_buffer("scales", scales, persistent=False)
        self.model = model
        self.schedule = schedule
        self.loss = loss
        self.factor = factor
        self.unit = unit
        self.gradient_clip = gradient_clip
        self.val_every = val_every
        self.log_every = log_every
        self.optimizer, self.momentum = optimizer, momentum
        self.after_step: list[Callable[[PropertyTraining], None]] = []
        self.automatic_optimization = False
        self.accumulate = 1
        self.weight: float | None = None
        self.shares_validation = False
        self.asked, self._shared_clock = 0, 0.0
        self.elapsed_before = 0.0
        self._steps_of_filters: dict[str, tuple[float, int]] = {}
        self._started = time.monotonic()
        self._errors: list[Tensor] = []
        self._found: dict[str, Tensor] | None = None

    def elapsed(self) -> float:
        """Seconds of training so far, those before a resume counted in."""
        return self.elapsed_before + time.monotonic() - self._started

    def stop(self, reason: int) -> None:
        """End the run after this step; of several processes, after this round, all together.

        Args:
            reason: Why, one of :data:`REASONS`.
        """
        self.asked = max(self.asked, reason)
        if self.weight is None:
            self.trainer.should_stop = True

    def error(self, batch: Batch) -> Tensor:
        """Prediction minus target, (B,), in the model's dtype and the unit of the target.

        (B, T) for several properties, or the components of a vector or a tensor.
        """
        head = self.model.readout
        given = model_inputs(batch)
        if not isinstance(head, Atomwise):
            # Constants of these heads do not come off the target, so float32 comes last.
            out = self.model(*given, num_graphs=batch.num_graphs, dtype=torch.float64).flatten(1)
            return (out - batch.y[:, : out.size(1)]).to(batch.pos.dtype).squeeze(1)
        known = pool(head.constant(batch.z), batch.batch, batch.num_graphs, head.readout)
        target = batch.y[:, : known.size(1)] / head.scale - known  # [B, T] float64
        dtype = batch.pos.dtype
        model = self.model
        if (
            torch.is_grad_enabled()
            and isinstance(model, SchNet)
            and applies(model, batch.pos, batch.get("cell"), batch.num_graphs)
        ):
            learned = learned_energies(model, *given, num_graphs=batch.num_graphs)
            return (learned - target.squeeze(1) * head.scale).to(dtype)
        x = model.features(*given)
        out = pool(head.learned(x).to(dtype), batch.batch, batch.num_graphs, head.readout)
        return ((out - target.to(dtype)) * head.scale.to(dtype)).squeeze(1)

    def objective(self, batch: Batch) -> Tensor:
        """The loss of a batch, in the squared unit of the target (mse) or its unit (mae)."""
        error = self.error(batch)
        if self.scales is not None:
            error = error / self.scales.to(error.dtype)
        return error.square().mean() if self.loss == "mse" else error.abs().mean()

    def on_fit_start(self) -> None:
        """Start the clock; a resumed run goes on with the grid it had."""
        table = self._table()
        if table is not None:
            table.set_steps(self._steps_of_filters)
        self._started, self._shared_clock = time.monotonic(), self.elapsed_before
        self.asked = 0

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Leave on the CPU what is there; looking at each tensor would cost more than a copy."""
        if device.type == "cpu":
            return batch
        return super().transfer_batch_to_device(batch, device, index)

    def training_step(self, batches: list[Batch], batch_idx: int) -> None:
        """Several optimiser steps, one for each batch, or fewer if the run shall stop.

        Lightning's own round costs a millisecond, a third of a step, hence several in one.

        Raises:
            FloatingPointError: If the loss is not finite, looked at every hundredth step.
        """
        optimizer = self.optimizers()
        step = self.global_step  # counted here, as Lightning looks it up through five objects
        total: Tensor | None = None
        for place, batch in enumerate(batches):
            # Of several processes the clock of the first, as it was at the beginning of the round.
            clock = self.elapsed() if self.weight is None else self._shared_clock
            rate = self.schedule.at(step, clock)
            for group in optimizer.param_groups:
                group["lr"] = rate
            # Reading the loss back stalls a GPU, so it is looked at now and then.
            watched = step % 100 == 0 or (step + 1) % self.log_every == 0
            if place % self.accumulate == 0:
                optimizer.zero_grad()
                total = None
            loss = self.differentiate(batch, watched)
            if loss is not None:
                total = loss if total is None else total + loss
            if (place + 1) % self.accumulate:
                continue
            loss = self._joined(total)
            if loss is not None and step % 100 == 0:
                self._check_finite("loss", loss)
            if self.gradient_clip:
                self.clip_gradients(optimizer, self.gradient_clip, "norm")
            optimizer.step()
            step += 1
            for call in self.after_step:
                call(self)
            if loss is not None and step % self.log_every == 0:
                self._log(loss)
            if self.trainer.should_stop:
                break
        if self.weight is not None:
            self._agree()
        # Lightning counts rounds, not steps.
        due = self.global_step % self.val_every == 0 or (
            # A run shorter than that is validated at its end.
            self.global_step >= self.trainer.max_steps > 0
            and self.score not in self.trainer.callback_metrics
        )
        self.trainer.val_check_batch = 1 if due else _NEVER
        table = self._table()
        if due and table is not None:
            # Filters sharpen as they are trained; the table they are read off has to follow.
            table.measure()

    def _table(self) -> FilterTable | None:
        """What filters are read off, where they are."""
        return self.model._table if isinstance(self.model, SchNet) else None

    def differentiate(self, batch: Batch, watched: bool) -> Tensor | None:
        """Add the gradients of the loss of a batch to those of the parameters.

        Args:
            batch: To train on.
            watched: Whether the loss itself is looked at.

        Returns:
            The loss, if it is.
        """
        loss = self.objective(batch)
        # A mixed precision scales the loss first; else Lightning has nothing to add to backward.
        if "mixed" in str(self.trainer.precision):
            self.manual_backward(loss)
        else:
            loss.backward()
        return loss.detach() if watched else None

    def _joined(self, total: Tensor | None) -> Tensor | None:
        """Make the sums over the batches of a step, and over processes, those of the whole."""
        scale = 1.0 / self.accumulate
        if self.weight is not None:
            scale *= self.weight
            add_up_gradients([p for p in self.parameters() if p.requires_grad], scale)
            return None if total is None else add_up(total, scale)
        if self.accumulate > 1:
            grads = [p.grad for p in self.parameters() if p.grad is not None]
            torch._foreach_mul_(grads, scale)
            return None if total is None else total * scale
        return total

    def _agree(self) -> None:
        """Let all processes stop if one shall, and go by one clock."""
        first = self.elapsed() if self.trainer.is_global_zero else 0.0
        asked, self._shared_clock = largest([self.asked, first], self.device)
        self.asked = int(asked)
        if self.asked:
            self.trainer.should_stop = True

    def _check_finite(self, name: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"The {name} is {float(value)} at step {self.global_step}; lower the learning rate "
                f"(lr={self.optimizers().param_groups[0]['lr']:g}) or set gradient_clip."
            )

    def _log(self, loss: Tensor) -> None:
        """One line now and then; logging every step would cost more than it tells."""
        line = {
            "train_loss": float(loss),
            "lr": self.optimizers().param_groups[0]["lr"],
            "seconds": self.elapsed(),
        }
        for logger in self.loggers:
            logger.log_metrics(line, step=self.global_step)

    def on_validation_epoch_start(self) -> None:
        """Forget earlier errors."""
        self._errors, self._found = [], None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the errors of a batch."""
        self._errors.append(self.error(batch).double())

    def validated(self) -> dict[str, Tensor]:
        """Mean absolute and root mean square error of the validation, in the shown unit."""
        if self._found is not None:
            return self._found
        errors = self._all(torch.cat(self._errors)) * self.factor
        if self.scales is not None:
            errors = errors / self.scales
        self._found = {
            "val_mae": errors.abs().mean(),
            "val_rmse": errors.square().mean().sqrt(),
        }
        return self._found

    def _all(self, values: Tensor) -> Tensor:
        """Rows of all processes, where each validates a part."""
        return gathered(values) if self.shares_validation else values

    def told(self, found: Mapping[str, Tensor]) -> str:
        """The errors of a validation in words."""
        return f"val MAE {float(found['val_mae']):.3f} {self.unit}"

    def on_validation_epoch_end(self) -> None:
        """Log the errors."""
        found = self.validated()
        self._check_finite("validation error", found[self.score])
        self.log_dict(
            found | {"val_seconds": self.elapsed(), "step": float(self.global_step)}, batch_size=1
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, or stochastic gradient descent; the schedule sets the rate at each step."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                parameters, lr=self.schedule.lr, momentum=self.momentum, fused=True
            )
        return torch.optim.Adam(parameters, lr=self.schedule.lr, fused=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the clock, and the grid of the filters."""
        checkpoint["elapsed"] = self.elapsed()
        table = self._table()
        checkpoint["steps_of_filters"] = {} if table is None else table.steps()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set the clock, and what the start of the run sets once the weights are there."""
        self.elapsed_before = checkpoint["elapsed"]
        self._steps_of_filters = checkpoint["steps_of_filters"]
