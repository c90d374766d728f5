"""The Lightning module that trains on energies and forces."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.models import Potential, SchNet
from pyg_schnet.models.networks import Network
from pyg_schnet.models.sweep_rules import applies
from pyg_schnet.models.sweeps import energy_and_forces
from pyg_schnet.nn.readout import Atomwise
from pyg_schnet.training.batches import MoleculeTable, model_inputs
from pyg_schnet.training.evaluation import fit_constant
from pyg_schnet.training.module import PropertyTraining
from pyg_schnet.training.schedules import Schedule
from pyg_schnet.units import KCAL_PER_MOL

ROWS_OF_A_CONSTANT = 1_000
"""Structures of the training set from which the integration constant is fitted."""


class ForceTraining(PropertyTraining):
    r"""Trains a SchNet or a DTNN on the energies and forces of structures.

    .. math::
        \ell = \frac{1}{B} \sum_m \Big( \rho\,(\hat E_m - E_m)^2
        + \frac{1}{n_m} \sum_{i \in m} \|\hat{\mathbf F}_i - \mathbf F_i\|^2 \Big)

    with :math:`n_m` atoms in structure m (J. Chem. Phys. 148, 241722 (2018), the combined loss of
    its section on energies and forces; there with a factor of one too).

    **The unit of rho** is 1/Å²: it makes a squared energy as large as a squared force. It does not
    depend on the unit of energy, since both terms change by the same factor with it; with lengths
    in Bohr, 0.01/Å² would be 0.0028/Bohr². The square root of 1/rho is the length over which a
    wrong force weighs as much as the wrong energy it leads to: 10 Å for the papers' 0.01, so the
    forces lead, and 1 Å for rho = 1.

    **Its effect.** A force field has 3n force components and one energy to learn from each
    structure, and errors of forces are those a trajectory feels at each step: a large rho (1 and
    more) fits the few energies first, and the forces, hence the stability of dynamics, suffer.
    With a small one the energies follow from the forces, up to one constant. With rho = 0 that
    constant is not trained at all; it is fitted to the energies of the training set at each
    validation (:meth:`fit_constant`).

    Energies are compared in float64 with all their constants: 1e-5 eV count in the -17,600 eV of
    aspirin. Where :func:`pyg_schnet.models.sweep_rules.applies`, gradients come from compiled
    sweeps, else from autograd through autograd.

    Args:
        model: The network, with its constants set.
        schedule: Of the learning rate.
        rho: Weight of the energies, 1/Å²; 0 trains on forces alone.
        forces: Train on forces; else the loss is that of the energies alone, without rho.
        energy_per_atom: Compare energies per atom, which keeps large molecules from leading.
        constant: What the constant of energies is fitted to if rho is 0: structures and rows.
        gradient_clip: Largest norm of the gradient; 0 for no limit.
        factor: What one eV is in the unit that is shown.
        unit: The unit that is shown, of energies.
        val_every: Steps between validations.
        log_every: Steps between two lines of the log.
        optimizer: "adam" or "sgd".
        momentum: Of the latter.

    Raises:
        ValueError: If rho is negative, or the readout is not a sum over atoms.
    """

    score = "val_loss"
    noted = ("val_loss", "val_energy_mae", "val_forces_mae")

    def __init__(
        self,
        model: Network,
        schedule: Schedule,
        rho: float = 0.01,
        forces: bool = True,
        energy_per_atom: bool = False,
        constant: tuple[MoleculeTable, Tensor] | None = None,
        factor: float = 1.0 / KCAL_PER_MOL,
        unit: str = "kcal/mol",
        gradient_clip: float = 0.0,
        val_every: int = 500,
        log_every: int = 100,
        *,
        optimizer: str = "adam",
        momentum: float = 0.9,
    ) -> None:
        common = gradient_clip, val_every, log_every
        super().__init__(
            model, schedule, "mse", factor, unit, *common, optimizer=optimizer, momentum=momentum
        )
        if rho < 0:
            raise ValueError(f"rho must not be negative, got {rho}.")
        if not isinstance(model.readout, Atomwise) or model.readout.readout != "add":
            raise ValueError("Forces need a model whose energy is a sum over atoms: readout='add'.")
        self.rho, self.on_forces, self.energy_per_atom = rho, forces, energy_per_atom
        self.constant = constant if rho == 0 and forces else None
        # In a list, as a module of its own would count every weight twice.
        self._potential: list[Potential] = []
        self._by_sweeps: bool | None = None
        self._parts: list[tuple[Tensor, ...]] = []

    def objective(self, batch: Batch) -> Tensor:
        """The loss of a batch, eV²/Å² (eV² for energies alone), float64."""
        if not self.on_forces:
            return self._of_energies(self.error(batch).double(), batch).mean()
        energy, forces = self._differentiable(batch)
        loss = self._of_forces(forces, batch).mean()
        if self.rho:
            loss = loss + self.rho * self._of_energies(energy - batch.y[:, 0], batch).mean()
        return loss

    def differentiate(self, batch: Batch, watched: bool) -> Tensor | None:
        """Gradients of the loss; where sweeps apply, those of its two terms written out.

        Autograd through the dozen operators of the loss would take as long as a sweep.
        """
        if self._by_sweeps is None:
            self._by_sweeps = self.on_forces and applies(
                self.model, batch.pos, batch.get("cell"), batch.num_graphs
            )
        if not self._by_sweeps:
            return super().differentiate(batch, watched)
        energy, forces = self._by_sweep(batch)
        with torch.no_grad():
            sizes = batch.ptr.diff()
            error = energy - batch.y[:, 0]
            weight = self.rho / sizes.square() if self.energy_per_atom else self.rho
            energy_bar = error * weight
            wrong = forces - batch.forces
            forces_bar = wrong * sizes.to(wrong.dtype).reciprocal()[batch.batch, None]
            # Energies without weight have no gradient, rather than one of zeros.
            outputs, bars = [forces], [forces_bar * (2.0 / batch.num_graphs)]
            if self.rho:
                outputs.append(energy)
                bars.append(energy_bar * (2.0 / batch.num_graphs))
        torch.autograd.backward(outputs, bars)
        if not watched:
            return None
        total = (error * energy_bar).sum() + (wrong * forces_bar).sum(dtype=torch.float64)
        return (total / batch.num_graphs).detach()

    def on_train_batch_start(self, batch: list[Batch], batch_idx: int) -> None:
        """Ask anew in each round of steps whether sweeps apply."""
        self._by_sweeps = None

    def _by_sweep(self, batch: Batch) -> tuple[Tensor, Tensor]:
        model = cast(SchNet, self.model)  # sweeps apply to no other
        return energy_and_forces(model, *model_inputs(batch), num_graphs=batch.num_graphs)[:2]

    def _differentiable(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Energies (B,) in float64 and forces (N, 3), to be differentiated in the parameters."""
        if applies(self.model, batch.pos, batch.get("cell"), batch.num_graphs):
            return self._by_sweep(batch)
        result = Potential(self.model)(batch)  # in training mode, as it is new
        return result["energy"], result["forces"]

    def _of_energies(self, error: Tensor, batch: Batch) -> Tensor:
        """Squared errors of energies, (B,)."""
        return (error / batch.ptr.diff() if self.energy_per_atom else error).square()

    def _of_forces(self, forces: Tensor, batch: Batch) -> Tensor:
        """Mean over the atoms of each structure of the squared errors of forces, (B,)."""
        squares = (forces - batch.forces).square().sum(1)
        zeros = torch.zeros(batch.num_graphs, dtype=torch.float64, device=squares.device)
        total = zeros.index_add(0, batch.batch, squares.double())
        return total / batch.ptr.diff().clamp(min=1)

    def on_validation_epoch_start(self) -> None:
        """Forget earlier errors; with rho = 0, fit the constant of the weights to be validated."""
        self._parts, self._found = [], None
        self._potential = [Potential(self.model).eval()]
        if self.constant is not None:
            table, rows = self.constant
            fit_constant(self.model, table, rows[:ROWS_OF_A_CONSTANT])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the errors of a batch."""
        result = self._potential[0](batch)
        error = result["energy"] - batch.y[:, 0]
        wrong = (result["forces"] - batch.forces).double()
        self._parts.append(
            (
                error,
                self._of_energies(error, batch),
                self._of_forces(result["forces"], batch),
                wrong.flatten(),
            )
        )

    def validated(self) -> dict[str, Tensor]:
        """Loss, and errors of energies (eV) and of force components (eV/Å), of the validation."""
        if self._found is not None:
            return self._found
        error, energies, squares, wrong = (
            self._all(torch.cat(part)) for part in zip(*self._parts, strict=True)
        )
        loss = self.rho * energies.mean() + squares.mean() if self.on_forces else energies.mean()
        self._found = {
            "val_loss": loss,
            "val_energy_mae": error.abs().mean(),
            "val_energy_rmse": error.square().mean().sqrt(),
            "val_forces_mae": wrong.abs().mean(),
            "val_forces_rmse": wrong.square().mean().sqrt(),
        }
        return self._found

    def told(self, found: Mapping[str, Tensor]) -> str:
        """The errors of a validation in words, in the shown unit."""
        energy, forces = (
            self.factor * float(found[f"val_{of}_mae"]) for of in ("energy", "forces")
        )
        return f"val MAE {energy:.3f} {self.unit}, {forces:.3f} {self.unit}/Å"
