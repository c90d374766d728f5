"""SchNetPack's side of a comparison; run by the Python of another environment, not imported.

``python schnetpack_peer.py CASE.npz`` builds SchNetPack's ``NeuralNetworkPotential`` with the
weights and the structures of the file (written by ``peers.py``, which lists what is in it) and
prints one line of JSON: energies and forces, and versions. For every line on its standard input it
then takes a turn, one call that is not timed and two that are, and prints their median. Where it
cannot, it prints ``{"error": SENTENCE}``, with ``"unusable": true`` if no other case would do
better.

Only NumPy, PyTorch and SchNetPack are imported, and the syntax is Python 3.8's: the environment may
be an old one.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version

if __name__ == "__main__":
    # The folder of a script comes first in the search, and modules here have plain names.
    folder = os.path.dirname(os.path.realpath(__file__))
    sys.path = [path for path in sys.path if os.path.realpath(path) != folder]


def installed_version() -> str:
    """SchNetPack's version; its module has none before 2.1."""
    try:
        return version("schnetpack")
    except PackageNotFoundError:
        return str(getattr(sys.modules.get("schnetpack"), "__version__", "unknown"))


PROBLEM = None
try:
    import numpy as np
    import schnetpack  # noqa: F401
    import torch

    VERSION = installed_version()
    if VERSION.split(".")[0] not in ("0", "1"):
        from schnetpack import properties, transform
        from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
        from schnetpack.model import NeuralNetworkPotential
        from schnetpack.nn import CosineCutoff, GaussianRBF, shifted_softplus
        from schnetpack.representation import SchNet
    else:
        PROBLEM = f"{sys.executable} has SchNetPack {VERSION}"
except Exception as error:  # a broken environment fails in many ways
    PROBLEM = f"{sys.executable} cannot import SchNetPack ({error})"


class Peer:
    """SchNetPack's model and the structures of one case.

    Args:
        path: The ``.npz`` file.
    """

    def __init__(self, path: str) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        self.settings = settings = json.loads(str(arrays.pop("settings")))
        torch.set_num_threads(settings["threads"])
        prefix = "weights/"
        names = [name for name in arrays if name.startswith(prefix)]
        weights = {name[len(prefix) :]: torch.from_numpy(arrays.pop(name)) for name in names}
        self.system = {
            name: torch.from_numpy(array).to(settings["device"]) for name, array in arrays.items()
        }
        self.build(weights)
        self.inputs = self.as_inputs()
        self.pos = self.inputs.pop(properties.R)
        self.steps = 0

    def build(self, weights: dict[str, torch.Tensor]) -> None:
        """Two models of the same modules: one ends with the energy, one goes on to forces."""
        s = self.settings
        representation = SchNet(
            n_atom_basis=s["features"],
            n_interactions=s["blocks"],
            radial_basis=GaussianRBF(n_rbf=s["gaussians"], cutoff=s["cutoff"]),
            cutoff_fn=CosineCutoff(s["cutoff"]),
            n_filters=s["features"],
        )
        head = Atomwise(
            n_in=s["features"], activation=shifted_softplus, output_key=properties.energy
        )

        def potential(*outputs: torch.nn.Module) -> torch.nn.Module:
            model = NeuralNetworkPotential(representation, [PairwiseDistances()], list(outputs))
            return model.to(s["device"]).eval()

        self.energy_model = potential(head)
        self.force_model = potential(head, Forces())
        parameters = dict(self.energy_model.named_parameters())
        if set(parameters) != set(weights):
            names = ", ".join(sorted(set(parameters) ^ set(weights)))
            raise ValueError(f"SchNetPack {VERSION} has other parameters: {names}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])

    def as_inputs(self) -> dict[str, torch.Tensor]:
        """A batch as SchNetPack's loader makes it; Rij points from the centre i to j."""
        s = self.system
        j, i = s["edge_index"]
        count = int(s["batch"][-1]) + 1
        cell = s.get("cell", s["pos"].new_zeros(count, 3, 3)).view(-1, 3, 3)
        offsets = s["pos"].new_zeros(len(i), 3)
        if "cell_shift" in s:
            cell = cell.expand(count, 3, 3)
            shift = s["cell_shift"].to(cell.dtype)
            offsets = torch.bmm(shift[:, None], cell[s["batch"][i]])[:, 0]
        return {
            properties.idx: torch.arange(count, device=i.device),
            properties.Z: s["z"],
            properties.R: s["pos"],
            properties.idx_i: i.contiguous(),
            properties.idx_j: j.contiguous(),
            properties.offsets: offsets.contiguous(),
            properties.idx_m: s["batch"],
            properties.n_atoms: torch.bincount(s["batch"], minlength=count),
            properties.cell: cell,
            properties.pbc: torch.full((3 * count,), "cell" in s, device=i.device),
        }

    def evaluate(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """One evaluation; the model writes into the dictionary that it is given."""
        return model({**self.inputs, properties.R: self.pos.clone()})

    def results(self) -> dict[str, object]:
        """Energies and forces to compare, before anything is timed."""
        found = self.evaluate(self.force_model)
        return {
            "energy": found[properties.energy].detach().view(-1).tolist(),
            "forces": found[properties.forces].detach().tolist(),
            "versions": {
                "schnetpack": VERSION,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": sys.version.split()[0],
            },
        }

    def energy(self) -> None:
        """Energies without gradients."""
        with torch.no_grad():
            self.evaluate(self.energy_model)

    def forces(self) -> None:
        """Energies and forces."""
        self.evaluate(self.force_model)

    def dynamics(self) -> None:
        """Forces at the next place of a walk, with SchNetPack's own neighbours within a skin."""
        if not hasattr(self, "neighbors"):
            search = getattr(transform, "MatScipyNeighborList", transform.ASENeighborList)
            cutoff = self.settings["cutoff"]
            self.neighbors = transform.SkinNeighborList(search(cutoff=cutoff))
        walk = self.system["walk"]
        self.steps += 1
        inputs = {**self.inputs, properties.R: self.pos + walk[self.steps % len(walk)]}
        self.force_model(self.neighbors(inputs))

    def training_on_energies(self) -> None:
        """Forward and backward of a squared loss of energies."""
        self.energy_model.train().zero_grad(set_to_none=True)
        self.evaluate(self.energy_model)[properties.energy].square().mean().backward()

    def training_on_forces(self) -> None:
        """Forward and backward of a squared loss of energies and forces."""
        self.force_model.train().zero_grad(set_to_none=True)
        found = self.evaluate(self.force_model)
        energy, forces = found[properties.energy], found[properties.forces]
        (energy.square().mean() + forces.square().mean()).backward()

    def turn(self) -> float:
        """Seconds of a call: the median of two after one that is not timed."""
        call = getattr(self, self.settings["task"])
        call()
        seconds = []
        for _ in range(2):
            self.synchronize()
            start = time.perf_counter()
            call()
            self.synchronize()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.settings["device"] != "cpu":
            torch.cuda.synchronize()


def answer(**found: object) -> None:
    """One line of JSON."""
    print(json.dumps(found), flush=True)


def main() -> None:
    """Serve one case."""
    if PROBLEM is not None:
        answer(error=PROBLEM, unusable=True)
        return
    try:
        peer = Peer(sys.argv[1])
        answer(**peer.results())
        for _ in sys.stdin:
            answer(seconds=peer.turn())
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
