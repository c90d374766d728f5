"""Fine-tuning a model that comes with the package: experimental enthalpies from few molecules.

``qm9-U0`` knows energies of density functional theory. On 24 measured enthalpies of formation (the
G2/97 set, in ASE) the same network is trained three ways: from scratch, from these weights, and not
at all. What the elements alone account for is fitted before.
"""

import torch
from ase.build import molecule
from ase.data.g2 import data as g2
from torch import Tensor
from torch_geometric.data import Batch, Data

import pyg_schnet
from pyg_schnet import SchNet
from pyg_schnet.units import KCAL_PER_MOL

ELEMENTS = (1, 6, 7, 8)


def molecules() -> list[Data]:
    """Closed shells of at least two heavy atoms with C and H: what QM9 has; y in eV."""
    found = []
    for name, entry in sorted(g2.items()):
        atoms = molecule(name)
        kinds = set(atoms.numbers.tolist())
        alike = {1, 6} <= kinds <= set(ELEMENTS) and (atoms.numbers > 1).sum() > 1
        if alike and entry["magmoms"] is None:
            z, pos = torch.tensor(atoms.numbers), torch.tensor(atoms.positions).float()
            found.append(Data(z=z, pos=pos, y=entry["enthalpy"] * KCAL_PER_MOL))
    return found


def counts(batch: Batch) -> Tensor:
    """How many atoms of each element, (B, 4), float64."""
    ones = (batch.z[:, None] == torch.tensor(ELEMENTS)).double()
    return ones.new_zeros(batch.num_graphs, len(ELEMENTS)).index_add(0, batch.batch, ones)


def energies(model: SchNet, batch: Batch) -> Tensor:
    return model(batch.z, batch.pos, batch.batch, dtype=torch.float64).view(-1)


def error(model: SchNet, known: Batch, new: Batch, steps: int, lr: float) -> float:
    """Fit the elements, train, and return the mean absolute error on ``new``, kcal/mol."""
    with torch.no_grad():
        missing = (known.y - energies(model, known))[:, None]
        of_elements = torch.linalg.lstsq(counts(known), missing).solution
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        found = energies(model, known) + (counts(known) @ of_elements).view(-1)
        (found - known.y).abs().mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = energies(model, new) + (counts(new) @ of_elements).view(-1)
        return float((found - new.y).abs().mean()) / KCAL_PER_MOL


def main(steps: int = 300) -> dict[str, float]:
    """Return the errors on molecules that no training saw, kcal/mol."""
    frames = molecules()
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(1)).tolist()
    known = Batch.from_data_list([frames[i] for i in order[:24]])
    new = Batch.from_data_list([frames[i] for i in order[24:]])
    known.y, new.y = known.y.double(), new.y.double()
    torch.manual_seed(0)
    start = pyg_schnet.pretrained("qm9-U0")
    scratch = SchNet(**start.config)
    result = {
        "from scratch": error(scratch, known, new, steps, lr=1e-3),
        "not trained": error(start, known, new, 0, lr=0.0),
        "fine-tuned": error(start, known, new, steps, lr=1e-4),
    }
    errors = ", ".join(f"{name} {value:.1f}" for name, value in result.items())
    print(f"error on {len(order) - 24} new molecules, kcal/mol: {errors}")
    return result


if __name__ == "__main__":
    main()
