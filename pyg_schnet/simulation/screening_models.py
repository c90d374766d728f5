"""Models for screenings: many structures in, columns of numbers and what is bad out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch_geometric.data import Batch

from pyg_schnet.models import Ensemble, Potential
from pyg_schnet.models.networks import Network
from pyg_schnet.nn.tabulated import fixed_filters
from pyg_schnet.simulation.screening_rows import Row, element_symbols
from pyg_schnet.simulation.structure_streams import Structure


class Predictor:
    """Models that predict many structures at once, and the columns that this makes.

    Args:
        model: A network, a Potential of one or an Ensemble; or several by name.
        forces: Forces too: the length of the largest is a column.
        as_xyz: For extended XYZ, which has energies only, and all forces.

    Attributes:
        columns: Names, with units.
        has_spread: Whether the second column is the spread of an ensemble.
        cutoff: The largest, Å; infinite where all pairs are taken.
        identity: A hash of the weights.

    Raises:
        ValueError: If a model is another, or has no energy or forces where they are asked for.

    Example:
        >>> from pyg_schnet import SchNet
        >>> predictor = Predictor(SchNet(8, 8, 1, 10, 5.0, seed=0), forces=True)
        >>> rows, bad = predictor([Structure(np.array([8, 1, 1]), np.eye(3))])
        >>> predictor.columns, len(rows[0][0]), bad
        (['prediction (unit of the model)', 'largest force (eV/Å)'], 2, {})
    """

    def __init__(
        self, model: nn.Module | Mapping[str, nn.Module], forces: bool, as_xyz: bool = False
    ) -> None:
        named = {"": model} if isinstance(model, nn.Module) else dict(model)
        if not named:
            raise ValueError("model is empty; give at least one.")
        if len(named) > 1 and (forces or as_xyz):
            raise ValueError(
                "forces and extended XYZ need one energy model, not those of "
                f"{', '.join(named)} together; give one, and a table (.csv) without forces for all."
            )
        self.forces, self.keep_forces = forces, forces and as_xyz
        self.cutoff, self.has_spread, self.columns = 0.0, isinstance(model, Ensemble), []
        self._parts: list[tuple[nn.Module, bool]] = []
        self._elements: set[int] | None = None
        hasher = hashlib.sha256()
        for name, one in named.items():
            networks = _networks(one)
            every_pair = any(n.cutoff_fn == "none" for n in networks)
            reach = float("inf") if every_pair else max(float(n.cutoff) for n in networks)
            self.cutoff = max(self.cutoff, reach)
            self._parts.append(self._callable(one, networks[0], forces))
            if as_xyz and not self._parts[-1][1]:
                raise ValueError("extended XYZ is of energies; write other properties as .csv.")
            self.columns += _columns(name, one, networks[0])
            self._restrict(one)
            hasher.update(json.dumps([n.config for n in networks], sort_keys=True).encode())
            for key, value in one.state_dict().items():
                hasher.update(key.encode())
                hasher.update(np.ascontiguousarray(value.cpu().numpy()).tobytes())
        if forces:
            self.columns.append("largest force (eV/Å)")
        self.identity = hasher.hexdigest()[:32]

    def _callable(self, model: nn.Module, network: Network, forces: bool) -> tuple[nn.Module, bool]:
        """What is called, and whether as a potential."""
        if isinstance(model, Ensemble):
            return Ensemble([cast(Potential, m) for m in model.members], forces=forces).eval(), True
        atomwise = getattr(network, "head", "atomwise") == "atomwise"
        if atomwise and getattr(network, "out_channels", 1) == 1:
            return Potential(network, forces=forces).eval(), True
        if forces:
            raise ValueError("forces need an energy model: one property, with an atomwise head.")
        return network.eval(), False

    def _restrict(self, model: nn.Module) -> None:
        known = (getattr(model, "info", None) or {}).get("elements")
        if known:
            from ase.data import atomic_numbers

            numbers = {atomic_numbers[symbol] for symbol in known}
            self._elements = numbers if self._elements is None else self._elements & numbers

    def __call__(self, structures: Sequence[Structure]) -> tuple[list[Row], dict[int, str]]:
        """Values of each structure, with its forces if they are kept; and what is bad of which."""
        if not structures:
            return [], {}
        bad: dict[int, str] = {}
        if self._elements is not None:
            for k, one in enumerate(structures):
                unknown = set(one.z.tolist()) - self._elements
                if unknown:
                    bad[k] = _untrained(unknown, self._elements)
        values: dict[int, Row] = {}
        self._predict([k for k in range(len(structures)) if k not in bad], structures, values, bad)
        for k, (numbers, _) in values.items():
            if not np.isfinite(numbers).all():
                bad[k] = f"its prediction is {numbers}, which is not finite"
        empty: Row = ([], None)
        return [values.get(k, empty) for k in range(len(structures))], bad

    def _predict(
        self,
        rows: list[int],
        structures: Sequence[Structure],
        values: dict[int, Row],
        bad: dict[int, str],
    ) -> None:
        """Fill in ``values``; where they cannot be predicted together, halves tell which is bad."""
        try:
            values |= zip(rows, self._evaluate([structures[k] for k in rows]), strict=True)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            if len(rows) == 1:
                bad[rows[0]] = str(error).strip().split("\n")[0]
                return
            half = len(rows) // 2
            self._predict(rows[:half], structures, values, bad)
            self._predict(rows[half:], structures, values, bad)

    def _evaluate(self, structures: Sequence[Structure]) -> list[Row]:
        if not structures:
            return []
        found: list[np.ndarray] = []
        force: np.ndarray | None = None
        sizes = [len(one.z) for one in structures]
        for model, is_potential in self._parts:
            weight = next(model.parameters())
            batch = collate(structures, weight.dtype).to(weight.device)
            if not is_potential:
                with torch.no_grad(), fixed_filters():
                    out = model(
                        batch.z,
                        batch.pos,
                        batch.batch,
                        cell=batch.get("cell"),
                        pbc=batch.get("pbc"),
                        num_graphs=len(structures),
                        dtype=torch.float64,
                    )
                found.append(out.view(len(structures), -1).cpu().numpy())
                continue
            result = model(batch)
            found.append(result["energy"].detach().cpu().numpy()[:, None])
            if "energy_std" in result:
                found.append(result["energy_std"].detach().cpu().numpy()[:, None])
            if self.forces:
                force = result["forces"].detach().cpu().numpy()
                starts = np.cumsum([0, *sizes[:-1]])
                lengths = np.linalg.norm(force.astype(np.float64), axis=1)
                found.append(np.maximum.reduceat(lengths, starts)[:, None])
        rows = np.concatenate(found, axis=1).tolist()
        if force is None or not self.keep_forces:
            return [(row, None) for row in rows]
        return list(zip(rows, np.split(force, np.cumsum(sizes[:-1])), strict=True))


def collate(structures: Sequence[Structure], dtype: torch.dtype = torch.float32) -> Batch:
    """One batch of all, without edges; with cells where one of them is periodic.

    Example:
        >>> water = Structure(np.array([8, 1, 1]), np.eye(3))
        >>> collate([water, water]).batch.tolist()
        [0, 0, 0, 1, 1, 1]
    """
    sizes = [len(one.z) for one in structures]
    batch = Batch(
        z=torch.from_numpy(np.concatenate([one.z for one in structures])),
        pos=torch.from_numpy(np.concatenate([one.pos for one in structures])).to(dtype),
        batch=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
    )
    if any(one.cell is not None for one in structures):
        none = np.zeros((3, 3))
        cells = [none if one.cell is None else one.cell for one in structures]
        batch.cell = torch.from_numpy(np.stack(cells)).to(dtype)
        batch.pbc = torch.tensor([one.pbc for one in structures])
    batch._num_graphs = len(sizes)
    return batch


def _networks(model: nn.Module) -> list[Network]:
    members = list(model.members) if isinstance(model, Ensemble) else [model]
    networks: list[Network] = []
    for member in members:
        network = member.model if isinstance(member, Potential) else member
        if isinstance(network, Network):
            networks.append(network)
        else:
            raise ValueError(
                "model must be a SchNet or a DTNN, a Potential of one or an Ensemble of such, got "
                f"{type(network).__name__}."
            )
    return networks


def _columns(name: str, model: nn.Module, network: Network) -> list[str]:
    """Names of the values of a model, each with its unit."""
    info: Mapping[str, Any] = getattr(model, "info", None) or {}
    target = str(name or info.get("target", "prediction"))
    unit = str(info.get("unit", "unit of the model"))
    targets, units = target.split(","), unit.split(",")
    outputs = getattr(network, "out_channels", 1)
    if outputs == 1:
        columns = [f"{target} ({unit})"]
    elif len(targets) == outputs:
        units = units if len(units) == outputs else [unit] * outputs
        columns = [f"{t} ({u})" for t, u in zip(targets, units, strict=True)]
    else:
        columns = [f"{target} {k} ({unit})" for k in range(outputs)]
    return [*columns, f"std ({unit})"] if isinstance(model, Ensemble) else columns


def _untrained(unknown: set[int], known: set[int]) -> str:
    symbols = element_symbols()
    names, trained = (", ".join(symbols[z] for z in sorted(s)) for s in (unknown, known))
    return f"it holds {names}, and the model was trained on {trained} only"
