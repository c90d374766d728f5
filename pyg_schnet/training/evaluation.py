"""Errors of a trained model on molecules it has not seen, and the constant that forces leave."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_schnet.models import Potential
from pyg_schnet.models.networks import Network
from pyg_schnet.nn.readout import Atomwise
from pyg_schnet.training.batches import MoleculeTable, model_inputs
from pyg_schnet.training.loaders import OrderedLoader
from pyg_schnet.training.statistics import fit_composition


@dataclass(frozen=True)
class Evaluation:
    """Predictions and references of one shape, in the unit of the target.

    That is (M,) in float64, (M, T) for several properties or the components of a vector or
    tensor, or (N, 3) for forces: errors are then those of force components, as in the papers'
    tables, not of the lengths of force vectors.
    """

    reference: Tensor
    prediction: Tensor

    def mae(self) -> float:
        """Mean absolute error."""
        return float((self.prediction - self.reference).double().abs().mean())

    def rmse(self) -> float:
        """Root mean square error."""
        return float((self.prediction - self.reference).double().square().mean().sqrt())


@dataclass(frozen=True)
class ForceEvaluation:
    """Energies (M,), eV, float64, and forces (N, 3), eV/Å, structure after structure."""

    energy: Evaluation
    forces: Evaluation


def edge_cutoff(model: Network) -> float | None:
    """The cutoff of the edges that a model wants: None (all pairs) where it has no cutoff."""
    return None if model.cutoff_fn == "none" else model.cutoff


@torch.no_grad()
def evaluate(
    model: Network, table: MoleculeTable, rows: Tensor, batch_size: int = 256
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
        for name in ("pos", "cell"):
            if name in batch:
                batch[name] = batch[name].to(dtype)
        out = model(*model_inputs(batch), num_graphs=batch.num_graphs, dtype=torch.float64)
        parts.append(out.flatten(1).cpu())
    model.train(was_training)
    prediction = torch.cat(parts)
    reference = table.y[rows][:, : prediction.size(1)].cpu()
    return Evaluation(reference.squeeze(1), prediction.squeeze(1))


def evaluate_forces(
    model: Network, table: MoleculeTable, rows: Tensor, batch_size: int = 256
) -> ForceEvaluation:
    """Predict energies and forces of ``rows`` of a table with forces.

    Args:
        model: On any device; on the CPU, what :class:`~pyg_schnet.Potential` compiles serves.
        table: The structures.
        rows: (M,) those to predict.
        batch_size: Structures at a time.

    Raises:
        ValueError: If there is no row, or the table has no forces.
    """
    if rows.numel() == 0:
        raise ValueError("There is no molecule to evaluate; the set of rows is empty.")
    if table.forces is None:
        raise ValueError("The data set has no forces to compare with.")
    was_training = model.training
    potential = Potential(model).eval()
    weight = model.embedding.weight
    energies, forces, references = [], [], []
    with torch.no_grad():
        for batch in OrderedLoader(table, rows, batch_size, edge_cutoff(model)):
            references.append(batch.forces.cpu())
            for name in ("pos", "cell"):
                if name in batch:
                    batch[name] = batch[name].to(weight.dtype)
            result = potential(batch.to(weight.device))
            energies.append(result["energy"].cpu())
            forces.append(result["forces"].cpu())
    model.train(was_training)
    return ForceEvaluation(
        Evaluation(table.y[rows, 0].cpu(), torch.cat(energies)),
        Evaluation(torch.cat(references), torch.cat(forces)),
    )


@torch.no_grad()
def fit_constant(model: Network, table: MoleculeTable, rows: Tensor, batch_size: int = 256) -> None:
    """Set the constants of the readout so that energies are right on average.

    Forces determine energies up to a constant for each composition. It is fitted as one number per
    element to the energies of ``rows``; of a single molecule this is the mean of its error. What
    was there before makes no difference. In float64.

    Args:
        model: Whose readout sums over atoms; changed in place.
        table: The structures.
        rows: (M,) those to fit, of the training set.
        batch_size: Structures at a time.
    """
    head = model.readout
    assert isinstance(head, Atomwise)
    head.set_statistics(mean=0.0, atomref=torch.zeros_like(head.atomref))
    left = evaluate(model, table, rows, batch_size)
    known = fit_composition(table.composition(rows), (left.reference - left.prediction)[:, None])
    head.set_statistics(atomref=known)
