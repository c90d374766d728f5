r"""enn-s2s: message passing along bonds and distances, read out by set2set.

Gilmer, Schoenholz, Riley, Vinyals and Dahl, "Neural message passing for quantum chemistry", ICML
2017, with PyG's ``NNConv`` and ``Set2Set``:

.. math::
    m_i^{t+1} &= \sum_j A(e_{ij})\, h_j^t \\
    h_i^{t+1} &= \mathrm{GRU}(h_i^t, m_i^{t+1})

where a network makes the matrix :math:`A` of each edge from the type of its bond and its length.
"""

import copy
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch_geometric.data import Batch
from torch_geometric.nn import NNConv, Set2Set

from pyg_schnet.benchmarks.accuracy import bonds, composition
from pyg_schnet.benchmarks.accuracy.molecules import only_used
from pyg_schnet.training.config import TrainingConfig, seconds
from pyg_schnet.training.evaluation import Evaluation
from pyg_schnet.training.loaders import EpochlessLoader, OrderedLoader
from pyg_schnet.training.schedules import Schedule
from pyg_schnet.training.targets import Property
from pyg_schnet.training.tasks import Task

EDGE_FEATURES = 1 + len(bonds.ORDERS) + 1
"""No bond, the types of bonds, and the distance in Å."""
ROUNDS = 3
"""Of attention in the readout."""


class EnnS2S(nn.Module):
    """A property of a molecule, in units of its spread in the training set.

    The weights of all passes are the same, so matrices are made once for each edge. As in the
    paper, atoms are read out together with their initial features.

    Args:
        in_channels: Features of an atom.
        hidden_channels: Size of its state.
        edge_channels: Hidden width of the network that makes matrices.
        passes: Messages that an atom gets, one after the other, T.

    Example:
        >>> model = EnnS2S(3, hidden_channels=8, edge_channels=8, passes=2)
        >>> x, edges = torch.rand(3, 3), torch.tensor([[0, 1], [1, 0]])
        >>> batch = torch.tensor([0, 0, 1])
        >>> model(x, edges, torch.rand(2, EDGE_FEATURES), batch, num_graphs=2).shape
        torch.Size([2])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 64,
        edge_channels: int = 64,
        passes: int = 3,
    ) -> None:
        super().__init__()
        self.passes = passes
        self.begin = nn.Linear(in_channels, hidden_channels)
        self.matrices = nn.Sequential(
            nn.Linear(EDGE_FEATURES, edge_channels),
            nn.ReLU(),
            nn.Linear(edge_channels, hidden_channels**2),
        )
        # Its own network would be asked again in each pass, for the same matrices.
        self.messages = NNConv(
            hidden_channels, hidden_channels, nn.Identity(), aggr="add", root_weight=False
        )
        self.update = nn.GRUCell(hidden_channels, hidden_channels)
        self.joined = nn.Linear(hidden_channels + in_channels, hidden_channels)
        self.readout = Set2Set(hidden_channels, processing_steps=ROUNDS)
        self.end = nn.Sequential(
            nn.Linear(2 * hidden_channels, hidden_channels),
            nn.ReLU(),
            nn.Linear(hidden_channels, 1),
        )

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: Tensor, num_graphs: int
    ) -> Tensor:
        """One number for each molecule, (B,).

        Args:
            x: (N, in_channels) features of atoms.
            edge_index: (2, E), row 0 the source of a message and row 1 its target.
            edge_attr: (E, 6): no bond, single, double, triple, aromatic; and the distance in Å.
            batch: (N,) molecule of each atom, ascending.
            num_graphs: Number of molecules, B.
        """
        matrices = self.matrices(edge_attr)
        state = torch.relu(self.begin(x))
        for _ in range(self.passes):
            state = self.update(self.messages(state, edge_index, matrices), state)
        atoms = self.joined(torch.cat([state, x], dim=1))
        return self.end(self.readout(atoms, batch, dim_size=num_graphs)).squeeze(1)


@dataclass(frozen=True)
class Graphs:
    """Makes inputs of :class:`EnnS2S` from batches of a table.

    Args:
        known: Chemistry of the table.
        elements: (K,) atomic numbers that are told apart.
        ptr: (M + 1,) first atom of each molecule of the table.
    """

    known: bonds.Chemistry
    elements: Tensor
    ptr: Tensor

    @property
    def in_channels(self) -> int:
        """Features of an atom."""
        return len(self.elements) + self.known.atoms.size(1)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """What the model takes."""
        atoms = composition.atoms_of(self.ptr, batch.rows)
        one_hot = (batch.z[:, None] == self.elements).float()
        x = torch.cat([one_hot, self.known.atoms[atoms]], dim=1)
        source, target = batch.edge_index
        molecule = batch.batch[source]
        first, size = batch.ptr[:-1][molecule], batch.ptr.diff()[molecule]
        pair = self.known.begin[:-1][batch.rows][molecule]
        pair = pair + (source - first) * size + target - first
        kind = nn.functional.one_hot(self.known.bonds[pair].long(), 1 + len(bonds.ORDERS)).float()
        distance = (batch.pos[source] - batch.pos[target]).norm(dim=1, keepdim=True)
        edge_attr = torch.cat([kind, distance.float()], dim=1)
        return x, batch.edge_index, edge_attr, batch.batch, batch.num_graphs


def run(task: Task, config: TrainingConfig, state: str | Path | None = None) -> dict[str, Any]:
    """Train within the limits of a run, keep the weights that validation prefers, and test.

    Of the options of a run, ``hidden_channels`` is the size of states, ``num_filters`` the hidden
    width of the network of the matrices, ``num_interactions`` the number of passes, T; others mean
    what they mean for a SchNet, whose split, batches, schedule and moving average these are. What
    is learned is the property less what dressed atoms say, in units of its spread. Finding bonds is
    not counted as time of training.

    Args:
        task: A property of neutral molecules.
        config: Options of the run.
        state: File to which the run is written at each validation, and from which an interrupted
            one with the same options goes on; it is removed in the end. None keeps nothing.

    Returns:
        As metrics.json of a run; ``guessed_bonds`` is the number of molecules without bond orders.

    Raises:
        ImportError: If there is no RDKit.
        ValueError: If the task is not one property of molecules.
    """
    if not isinstance(task.target, Property) or task.table.cell is not None:
        raise ValueError(f"enn-s2s predicts one property of molecules, not {task.title}.")
    target, task = task.target, only_used(task)
    graphs = Graphs(bonds.chemistry(task.table), task.table.z.unique(), task.table.ptr)
    training = _Training(task, config, graphs)
    found = training.run(None if state is None else Path(state))
    test = task.split.test
    errors = Evaluation(task.table.y[test, 0], training.predict(test))
    factor = target.shown_per_unit
    return {
        "unit": target.shown_unit,
        "test_mae": errors.mae() * factor,
        "test_rmse": errors.rmse() * factor,
        **found,
        "guessed_bonds": graphs.known.guessed,
        **{f"n_{part}": getattr(task.split, part).numel() for part in ("train", "val", "test")},
    }


@dataclass
class _Progress:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    best_step: int = 0
    since: int = 0
    """Validations since the best one."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """Of the average, when it was best."""


class _Training:
    """One run; afterwards the averaged weights are the best ones."""

    def __init__(self, task: Task, config: TrainingConfig, graphs: Graphs) -> None:
        self.task, self.config, self.graphs = task, config, graphs
        rows = torch.cat([task.split.train, task.split.val, task.split.test])
        self.known = torch.empty(len(task.table), dtype=torch.float64)
        self.known[rows] = composition.guess(task, "dressed-atoms", rows)
        left = task.table.y[:, 0] - self.known
        spread = float(left[task.split.train].std()) if task.split.train.numel() > 1 else 0.0
        self.spread = spread if spread > 1e-8 else 1.0
        self.wanted = (left / self.spread).float()
        self.cutoff = None if config.cutoff_fn == "none" else config.cutoff
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = EnnS2S(
                graphs.in_channels,
                config.hidden_channels,
                config.num_filters,
                config.num_interactions,
            )
        average = get_ema_multi_avg_fn(config.ema)
        self.average = AveragedModel(self.model, multi_avg_fn=average)

    @torch.no_grad()
    def predict(self, rows: Tensor) -> Tensor:
        """The property by the averaged weights, (n,), float64, in the unit of the table."""
        batches = OrderedLoader(self.task.table, rows, self.config.eval_batch_size, self.cutoff)
        out = [self.average(*self.graphs.inputs(batch)).double() for batch in batches]
        return torch.cat(out) * self.spread + self.known[rows]

    def run(self, state: Path | None) -> dict[str, Any]:
        """Train; how far it went, and the error of validation, in the shown unit."""
        config, split = self.config, self.task.split
        limit = seconds(config.max_time)
        schedule = Schedule(
            config.schedule,
            config.lr,
            config.min_lr,
            config.decay,
            config.decay_steps,
            config.restart_steps,
            config.max_steps,
            limit,
        )
        optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr)
        at = self._go_on(state, optimizer)
        loader = EpochlessLoader(
            self.task.table, split.train, config.batch_size, self.cutoff, config.seed, at.step
        )
        before, begun, stopped = at.seconds, time.monotonic(), ""
        for batch in loader:
            for group in optimizer.param_groups:
                group["lr"] = schedule.at(at.step, before + time.monotonic() - begun)
            optimizer.zero_grad()
            error = self.model(*self.graphs.inputs(batch)) - self.wanted[batch.rows]
            loss = error.square().mean() if config.loss == "mse" else error.abs().mean()
            loss.backward()
            if config.gradient_clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
            optimizer.step()
            at.step += 1
            self.average.update_parameters(self.model)
            at.seconds = before + time.monotonic() - begun
            if limit is not None and at.seconds >= limit:
                stopped = "max_time"
            elif at.step >= config.max_steps:
                stopped = "max_steps"
            if at.step % config.val_every == 0 or stopped:
                found = self._validate(at.step)
                at.since += 1
                if found < at.best:
                    at.best, at.best_step, at.since = found, at.step, 0
                    at.weights = copy.deepcopy(self.average.state_dict())
                if at.since >= config.patience and not stopped:
                    stopped = "patience"
                self._keep(state, optimizer, at)
            if stopped:
                break
        self.average.load_state_dict(at.weights)
        if state is not None:
            state.unlink(missing_ok=True)
            with suppress(OSError):  # the folder stays if it holds something else
                state.parent.rmdir()
        return {
            "val_mae": at.best,
            "best_step": at.best_step,
            "steps": at.step,
            "seconds": round(at.seconds, 1),
            "stopped": stopped,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def _keep(self, path: Path | None, optimizer: torch.optim.Adam, at: _Progress) -> None:
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.part")
        state = {
            "config": asdict(self.config),
            "at": asdict(at),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(state, aside)
        os.replace(aside, path)

    def _go_on(self, path: Path | None, optimizer: torch.optim.Adam) -> _Progress:
        """What an interrupted run had reached; the beginning where there is none."""
        if path is None or not path.is_file():
            return _Progress()
        state = torch.load(path, weights_only=True)
        if state["config"] != asdict(self.config):
            raise ValueError(
                f"{path} is of a run with other options; remove it, or give those again."
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        return _Progress(**state["at"])

    def _validate(self, step: int) -> float:
        assert isinstance(self.task.target, Property)
        rows = self.task.split.val
        found = Evaluation(self.task.table.y[rows, 0], self.predict(rows)).mae()
        if not np.isfinite(found):
            raise FloatingPointError(
                f"enn-s2s has diverged at step {step}: lower the learning rate "
                f"(lr={self.config.lr:g}) or set gradient_clip."
            )
        return found * self.task.target.shown_per_unit
