"""Structures, tolerances and slow references that the tests share."""

import math

import torch
from torch import Tensor
from torch_geometric.data import Data

from pyg_schnet import SchNet

TOL = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float64: {"rtol": 1e-9, "atol": 1e-11},
}


def water(dtype: torch.dtype = torch.float64) -> Data:
    pos = torch.tensor(
        [[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.1, -0.7572, -0.4692]], dtype=dtype
    )
    return Data(z=torch.tensor([8, 1, 1]), pos=pos)


def methanol(dtype: torch.dtype = torch.float64) -> Data:
    pos = [
        [-0.0187, 1.5256, 0.0104],
        [0.0021, -0.0039, 0.0020],
        [-0.8737, 1.8713, 0.1000],
        [1.0303, -0.3700, -0.0200],
        [-0.5000, -0.4000, 0.9000],
        [-0.5300, -0.3600, -0.8800],
    ]
    return Data(z=torch.tensor([8, 6, 1, 1, 1, 1]), pos=torch.tensor(pos, dtype=dtype))


def random_molecule(num_atoms: int, seed: int, dtype: torch.dtype = torch.float64) -> Data:
    """Atoms on a jittered grid of 1.3 Å, so that no two are near one point."""
    generator = torch.Generator().manual_seed(seed)
    side = math.ceil(num_atoms ** (1 / 3))
    axis = torch.arange(side, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)[:num_atoms] * 1.3
    pos = grid + 0.2 * torch.randn(num_atoms, 3, generator=generator, dtype=torch.float64)
    return Data(z=torch.randint(1, 10, (num_atoms,), generator=generator), pos=pos.to(dtype))


def skewed_crystal(dtype: torch.dtype = torch.float64) -> Data:
    """Four atoms in a triclinic cell smaller than twice the cutoffs of the tests."""
    cell = torch.tensor([[3.6, 0.2, 0.1], [0.9, 3.9, -0.3], [-0.7, 1.1, 4.2]], dtype=torch.float64)
    fractional = torch.tensor(
        [[0.02, 0.01, 0.03], [0.48, 0.53, 0.06], [0.51, 0.04, 0.47], [-0.05, 0.46, 1.56]],
        dtype=torch.float64,
    )
    return Data(
        z=torch.tensor([11, 17, 8, 6]),
        pos=(fractional @ cell).to(dtype),
        cell=cell[None].to(dtype),
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )


def all_pairs(num_atoms: int) -> Tensor:
    pairs = [(j, i) for i in range(num_atoms) for j in range(num_atoms) if i != j]
    return torch.tensor(pairs, dtype=torch.long).view(-1, 2).T.contiguous()


def distances(pos: Tensor, edge_index: Tensor) -> Tensor:
    return (pos[edge_index[0]] - pos[edge_index[1]]).norm(dim=-1)


def rotation(seed: int = 0, reflect: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    want = -1.0 if reflect else 1.0
    return q * (want * torch.sign(torch.det(q)))


def randomize(module: torch.nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Give every bias a value: the initial zeros would hide a forgotten one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(scale * noise)


def small_schnet(dtype: torch.dtype = torch.float64, **overrides: object) -> SchNet:
    arguments = {
        "hidden_channels": 12,
        "num_filters": 10,
        "num_interactions": 2,
        "num_gaussians": 8,
        "cutoff": 4.0,
        "seed": 1,
    }
    model = SchNet(**{**arguments, **overrides}).to(dtype)
    randomize(model)
    return model.eval()


def ssp(x: float) -> float:
    return math.log(0.5 * math.exp(x) + 0.5) if x < 20 else x - math.log(2.0)


def dense(layer: torch.nn.Linear, x: list[float]) -> list[float]:
    rows = layer.weight.tolist()
    bias = layer.bias.tolist() if layer.bias is not None else [0.0] * len(rows)
    return [
        b + sum(w * v for w, v in zip(row, x, strict=True))
        for row, b in zip(rows, bias, strict=True)
    ]


def cosine(d: float, cutoff: float) -> float:
    return 0.5 * (math.cos(math.pi * d / cutoff) + 1.0) if d < cutoff else 0.0


def finite_difference(function, x: Tensor, step: float = 1e-4) -> Tensor:
    """d function / d x by fourth-order central differences; ``function`` gives a scalar."""
    slope = torch.zeros_like(x)
    flat = x.detach().clone().view(-1)
    for k in range(flat.numel()):
        value = float(flat[k])
        samples = []
        for shift in (-2, -1, 1, 2):
            flat[k] = value + shift * step
            samples.append(float(function(flat.view_as(x))))
        flat[k] = value
        low2, low1, high1, high2 = samples
        slope.view(-1)[k] = (low2 - 8 * low1 + 8 * high1 - high2) / (12 * step)
    return slope
