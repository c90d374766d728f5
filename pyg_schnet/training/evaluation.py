"""Errors of a trained model on molecules it has not seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_schnet.models import SchNet
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.loaders import OrderedLoader


@dataclass(frozen=True)
class Evaluation:
    """Predictions and references (M,), float64, in the unit of the target."""

    reference: Tensor
    prediction: Tensor

    def mae(self) -> float:
        """Mean absolute error."""
        return float((self.prediction - self.reference).abs().mean())

    def rmse(self) -> float:
        """Root mean square error."""
        return float((self.prediction - self.reference).square().mean().sqrt())


def edge_cutoff(model: SchNet) -> float | None:
    """The cutoff of the edges that a model wants: None (all pairs) where it has no cutoff."""
    return None if model.cutoff_fn == "none" else model.cutoff


@torch.no_grad()
def evaluate(
    model: SchNet, table: MoleculeTable, rows: Tensor, batch_size: int = 256
) -> Evaluation:
    """Predict ``rows`` of the table.

    Constants and sums are in float64, so an error of 1e-4 eV in a total energy of 1e4 eV counts.

    Args:
        model: On any device.
        table: The molecules.
        rows: (M,) those to predict.
        batch_size: Molecules at a time.

    Raises:
        ValueError: If there is no row.
    """
    if rows.numel() == 0:
        raise ValueError("There is no molecule to evaluate; the set of rows is empty.")
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    dtype = model.embedding.weight.dtype
    parts = []
    for batch in OrderedLoader(table, rows, batch_size, edge_cutoff(model)):
        batch = batch.to(device)
        out = model(
            batch.z,
            batch.pos.to(dtype),
            batch.batch,
            batch.edge_index,
            num_graphs=batch.num_graphs,
            dtype=torch.float64,
        )
        parts.append(out[:, 0].cpu())
    model.train(was_training)
    return Evaluation(table.y[rows, 0], torch.cat(parts))
