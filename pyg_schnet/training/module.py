"""The Lightning module: loss, metrics, optimiser."""

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.models import SchNet
from pyg_schnet.nn.readout import Atomwise, pool
from pyg_schnet.training.schedules import Schedule


class PropertyTraining(L.LightningModule):
    r"""Trains a SchNet on one property per molecule.

    .. math::
        \ell = \frac{1}{B} \sum_m \left( \hat y_m - y_m \right)^2

    (or the mean absolute error). Both sides are compared without the constants of the readout,
    which are subtracted from the target in float64; a loss in float32 between total energies would
    see noise of 1e-3 eV.

    Schütt et al., NeurIPS 2017, section 5 (squared loss, Adam).

    Args:
        model: The SchNet, with its constants set.
        schedule: Of the learning rate.
        loss: "mse" or "mae".
        factor: What one unit of the target is in the unit that is shown.
        unit: The unit that is shown.
    """

    def __init__(
        self,
        model: SchNet,
        schedule: Schedule,
        loss: str = "mse",
        factor: float = 1.0,
        unit: str = "eV",
    ) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.loss = loss
        self.factor = factor
        self.unit = unit
        self.elapsed_before = 0.0
        self._started = time.monotonic()
        self._errors: list[Tensor] = []

    def elapsed(self) -> float:
        """Seconds of training so far, those before a resume counted in."""
        return self.elapsed_before + time.monotonic() - self._started

    def error(self, batch: Batch) -> Tensor:
        """Prediction minus target, (B,), in the model's dtype and the unit of the target."""
        head = self.model.readout
        edges = batch.edge_index
        if not isinstance(head, Atomwise):
            out = self.model(batch.z, batch.pos, batch.batch, edges, num_graphs=batch.num_graphs)
            return (out - batch.y[:, :1].to(out.dtype)).squeeze(1)
        x = self.model.features(batch.z, batch.pos, batch.batch, edges)
        learned = head.learned(x)
        out = pool(learned.to(batch.pos.dtype), batch.batch, batch.num_graphs, head.readout)
        known = pool(head.constant(batch.z), batch.batch, batch.num_graphs, head.readout)
        target = batch.y[:, :1] / head.scale - known  # [B, 1] float64
        return ((out - target.to(out.dtype)) * head.scale.to(out.dtype)).squeeze(1)

    def objective(self, batch: Batch) -> Tensor:
        """The loss of a batch, in the squared unit of the target (mse) or its unit (mae)."""
        error = self.error(batch)
        return error.square().mean() if self.loss == "mse" else error.abs().mean()

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch.

        Raises:
            FloatingPointError: If it is not finite, looked at every hundredth step.
        """
        rate = self.schedule.at(self.global_step, self.elapsed())
        for group in self.optimizers().param_groups:
            group["lr"] = rate
        loss = self.objective(batch)
        # Reading the loss back stalls a GPU, so it is looked at now and then.
        if self.global_step % 100 == 0:
            self._check_finite("loss", loss.detach())
        return loss

    def _check_finite(self, name: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"The {name} is {float(value)} at step {self.global_step}; lower the learning rate "
                f"(lr={self.optimizers().param_groups[0]['lr']:g}) or set gradient_clip."
            )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log now and then; logging every step would cost more than it tells."""
        if self.global_step % self.trainer.log_every_n_steps == 0:
            self.log_dict(
                {
                    "train_loss": outputs["loss"],
                    "lr": self.optimizers().param_groups[0]["lr"],
                    "seconds": self.elapsed(),
                },
                batch_size=1,
            )

    def on_validation_epoch_start(self) -> None:
        """Forget earlier errors."""
        self._errors = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the errors of a batch."""
        self._errors.append(self.error(batch).double())

    def on_validation_epoch_end(self) -> None:
        """Log mean absolute and root mean square error in the shown unit."""
        errors = torch.cat(self._errors) * self.factor
        self._check_finite("validation error", errors.abs().mean())
        self.log("val_mae", errors.abs().mean(), batch_size=1)
        self.log("val_rmse", errors.square().mean().sqrt(), batch_size=1)
        self.log("val_seconds", self.elapsed(), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam; the schedule sets its rate at each step."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=self.schedule.lr, fused=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the clock."""
        checkpoint["elapsed"] = self.elapsed()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set the clock."""
        self.elapsed_before = checkpoint["elapsed"]
