"""The last part of the training: forces close to the minimum, to which frequencies answer."""

import itertools
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch
from tqdm import tqdm

from pyg_schnet import Potential, SchNet, load, save
from pyg_schnet.benchmarks.c20.options import Options
from pyg_schnet.benchmarks.c20.reference import (
    along_modes_path,
    displaced_path,
    trajectory_path,
)
from pyg_schnet.benchmarks.c20.stages import Result
from pyg_schnet.models.checkpoint import read_header
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.evaluation import edge_cutoff, evaluate_forces, fit_constant
from pyg_schnet.training.splits import Split
from pyg_schnet.units import KCAL_PER_MOL

OTHERS = 800
"""Structures of the training set that are fitted too, so that nothing is forgotten."""
FLOOR = 0.005
"""Below this part of the root mean square force component, forces all count alike."""
_ROUND = 50  # evaluations from one table of filters to the next
_FALL = 0.999  # of the loss in a round, by which it goes on
_MEMORY = 60  # of the curvature, in steps
_BATCH = 64  # structures at a time, for the memory
_TRUE = ("target", "unit", "data", "elements")  # of what a run writes of its model


def polish(model: Path, options: Options, folder: Path) -> Result:
    r"""Train on relative errors of forces, without noise of batches.

    .. math::
        \ell = \frac{1}{M} \sum_m \frac{\|\hat{\mathbf F}_m - \mathbf F_m\|^2}
        {\|\mathbf F_m\|^2 + n\,\epsilon^2}

    over the structures displaced along one mode each and 800 of the training set, n components
    each, ε 0.005 of the root mean square component of the latter, by L-BFGS with a line search
    (Nocedal and Wright, Numerical Optimization, 2nd edition, algorithms 7.5 and 3.5), all
    structures in each step, in float64.

    Squared errors of forces are made up of those of hot structures: of thermal displacements below
    10 K the share is 1/10,000, and the curvature at the minimum is left to what follows from the
    rest. Relative errors of structures displaced along one mode are relative errors of the square
    of its frequency.

    Args:
        model: File of the trained model, with ``split.npz`` of its run beside it.
        options: Of the study.
        folder: To write ``polished.safetensors`` and ``predictions.npz`` of the test set to.

    Returns:
        The loss before and after, and errors of the test set in kcal/mol and Å.

    Raises:
        ArithmeticError: If the loss is not finite.
    """
    table = structures(options)
    split = Split.load(model.parent / "split.npz")
    start = load(model)
    assert isinstance(start, SchNet)
    network = SchNet(**(start.config | {"filters": "tabulated"})).double()
    network.load_state_dict(start.state_dict())
    along = torch.arange(len(table) - options.along_modes, len(table))
    generator = torch.Generator().manual_seed(options.seed)
    drawn = torch.randperm(len(split.train), generator=generator)[:OTHERS]
    others = split.train[drawn]
    batches = [
        table.batch(rows, edge_cutoff(network)) for rows in torch.cat([along, others]).split(_BATCH)
    ]
    sizes = _squares(table.batch(others, edge_cutoff(network)))
    losses = _fit(network, batches, FLOOR**2 * float(sizes.mean()), options.polish_steps)
    fit_constant(network, table, split.train[:1000])
    start.load_state_dict(network.state_dict())
    path = folder / "polished.safetensors"
    known = read_header(model)["info"]
    save(start, path, info={key: known[key] for key in _TRUE if key in known})
    return {
        "steps": len(losses) - 1,
        "loss_before": losses[0],
        "loss_after": losses[-1],
        "along_modes": len(along),
        "others": len(others),
        "file": str(path.relative_to(options.output)),
        **_test(start, table, split.test, folder),
    }


def _fit(network: SchNet, batches: list[Batch], floor: float, steps: int) -> list[float]:
    """The loss at each evaluation, and after the last; the weights are those that it led to.

    Args:
        network: To train.
        batches: All structures.
        floor: Added to the mean square of a structure's force components, eV²/Å².
        steps: Evaluations at most; fewer if the loss falls no further.
    """
    potential = Potential(network).train()
    weights = [1.0 / (_squares(batch) + floor) for batch in batches]
    weights = [weight / sum(map(len, weights)) for weight in weights]
    losses: list[float] = []

    def closure() -> Tensor:
        network.zero_grad()
        losses.append(_loss(potential, batches, weights))
        bar.update()
        bar.set_postfix(loss=f"{losses[-1]:.3e}")
        return torch.tensor(losses[-1], dtype=torch.float64)

    with tqdm(total=steps, desc="Polish", disable=None) as bar:
        optimizer, least, is_new = _lbfgs(network), math.inf, True
        while len(losses) < steps:
            optimizer.param_groups[0]["max_eval"] = min(_ROUND, steps - len(losses))
            optimizer.step(closure)
            # The table follows the filters when weights are loaded.
            network.load_state_dict(network.state_dict())
            with torch.no_grad():
                found = _loss(potential, batches, weights)
            if found > _FALL * least:
                if is_new:
                    break
                # A line search that finds nothing lower: perhaps it has a wrong memory.
                optimizer, is_new = _lbfgs(network), True
            else:
                is_new = False
            least = min(found, least)
    return [*losses, found]


def _lbfgs(network: SchNet) -> torch.optim.LBFGS:
    return torch.optim.LBFGS(
        [p for p in network.parameters() if p.requires_grad],
        max_iter=_ROUND,
        history_size=_MEMORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )


def _loss(potential: Potential, batches: list[Batch], weights: list[Tensor]) -> float:
    """The loss, its gradients added to those of the parameters where they are enabled."""
    total = 0.0
    for batch, weight in zip(batches, weights, strict=True):
        wrong = potential(batch)["forces"] - batch.forces
        part = (weight * _means(wrong.square(), batch)).sum()
        if torch.is_grad_enabled():
            part.backward()
        total += part.item()
    if not math.isfinite(total):
        raise ArithmeticError(f"The loss of the polish is {total}; leave it out (polish_steps=0).")
    return total


def _means(values: Tensor, batch: Batch) -> Tensor:
    """Of (N, 3), the mean over atoms and components of each structure, (B,)."""
    sums = values.new_zeros(batch.num_graphs).index_add(0, batch.batch, values.mean(1))
    return sums / batch.ptr.diff()


def _squares(batch: Batch) -> Tensor:
    """Mean square of the components of the reference's forces, (B,), eV²/Å²."""
    return _means(batch.forces.square(), batch)


def structures(options: Options) -> MoleculeTable:
    """All structures in float64: those that models are trained on, then those along one mode.

    Displacements of the smallest are lost where positions are rounded to float32.
    """
    from ase.io import read

    paths = [trajectory_path(options)] + [displaced_path(options)] * bool(options.displaced)
    frames = [read(path, ":") for path in (*paths, along_modes_path(options))]
    all_frames = list(itertools.chain(*frames))
    energies = [[atoms.get_potential_energy()] for atoms in all_frames]
    return MoleculeTable(
        torch.from_numpy(np.concatenate([atoms.numbers for atoms in all_frames])),
        torch.from_numpy(np.concatenate([atoms.positions for atoms in all_frames])),
        torch.tensor([0, *itertools.accumulate(map(len, all_frames))]),
        torch.tensor(energies, dtype=torch.float64),
        torch.from_numpy(np.concatenate([atoms.get_forces() for atoms in all_frames])),
    )


def _test(model: SchNet, table: MoleculeTable, rows: Tensor, folder: Path) -> Result:
    """Errors of the test set; as a run writes them, its predictions are written."""
    found = evaluate_forces(model, table, rows)
    aside = folder / "predictions.part.npz"
    np.savez(
        aside,
        rows=rows.numpy(),
        num_atoms=table.num_atoms[rows].numpy(),
        forces_prediction=found.forces.prediction.numpy(),
        forces_reference=found.forces.reference.numpy(),
    )
    os.replace(aside, folder / "predictions.npz")
    return {
        "energy": found.energy.mae() / KCAL_PER_MOL,
        "energy_rmse": found.energy.rmse() / KCAL_PER_MOL,
        "forces": found.forces.mae() / KCAL_PER_MOL,
        "forces_rmse": found.forces.rmse() / KCAL_PER_MOL,
    }
