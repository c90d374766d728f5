"""A small table of molecules with energies and forces, and runs on it."""

import torch
from helpers import random_molecule

from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.config import TrainingConfig
from pyg_schnet.training.force_config import TrajectoriesConfig


def small_table(count: int = 60) -> MoleculeTable:
    """Sums of elements plus a little of the distances, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    parts = [random_molecule(4 + k % 5, k, torch.float32) for k in range(count)]
    sizes = torch.tensor([part.z.numel() for part in parts])
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    y = torch.stack([part.z.sum() * -1.5 + part.pos.norm(dim=1).sum() for part in parts])
    pos = torch.cat([part.pos for part in parts])
    forces = 0.3 * torch.randn(pos.shape, generator=generator)
    return MoleculeTable(torch.cat([p.z for p in parts]), pos, ptr, y.double()[:, None], forces)


SMALL = {
    "hidden_channels": 8,
    "num_filters": 8,
    "num_interactions": 2,
    "num_gaussians": 10,
    "batch_size": 8,
    "max_steps": 12,
    "val_every": 6,
    "log_every": 3,
    "tensorboard": False,
    "accelerator": "cpu",
    "eval_batch_size": 4,
}


def energy_options(**changes) -> TrainingConfig:
    return TrainingConfig(**(SMALL | changes))


def force_options(**changes) -> TrajectoriesConfig:
    return TrajectoriesConfig(**(SMALL | {"rho": 0.1} | changes))
