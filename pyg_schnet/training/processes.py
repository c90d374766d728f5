"""One run in several processes: who does what, and how gradients and errors come together.

Every process holds the whole table (or maps the same files) and the whole model. Of each batch it
makes and differentiates its share; gradients are added up with the sizes of the shares as weights,
so that a step is that of one process with the same batch, whatever the number of processes.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from pyg_schnet.training.config import RunConfig

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=2)
"""For the other processes, as while one of them judges the trained model."""


@dataclass(frozen=True)
class Share:
    """What one of several processes does.

    Args:
        rank: Its number.
        count: Of the processes.
    """

    rank: int = 0
    count: int = 1

    def of(self, rows: Tensor) -> Tensor:
        """Its part of the last dimension; all parts together are the whole, in order.

        Example:
            >>> Share(1, 2).of(torch.arange(5)).tolist()
            [2, 3, 4]
        """
        size = rows.size(-1)
        return rows[..., size * self.rank // self.count : size * (self.rank + 1) // self.count]


def layout(config: RunConfig, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Processes on each machine, and machines: those that torchrun has started, or as configured.

    Args:
        config: Options of the run.
        environment: Of this process.

    Example:
        >>> layout(RunConfig(devices=4, num_nodes=2), {})
        (4, 2)
        >>> started = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}
        >>> layout(RunConfig(), started)
        (2, 3)
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        here = int(environment["LOCAL_WORLD_SIZE"])
        return here, int(environment["WORLD_SIZE"]) // here
    return config.devices, config.num_nodes


def rank_of(config: RunConfig, environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process in the run, known before the run begins; 0 writes all files.

    Args:
        config: Options of the run.
        environment: Of this process.

    Example:
        >>> rank_of(RunConfig(), {"SLURM_PROCID": "3"})  # one of four runs on their own
        0
        >>> rank_of(RunConfig(devices=4), {"SLURM_PROCID": "3"})
        3
    """
    devices, nodes = layout(config, environment)
    if devices * nodes == 1:
        return 0
    for name in ("RANK", "SLURM_PROCID"):
        if name in environment:
            return int(environment[name])
    node = int(environment.get("NODE_RANK", environment.get("GROUP_RANK", 0)))
    return node * devices + int(environment.get("LOCAL_RANK", 0))


class SharedGradients(DDPStrategy):
    """Lightning's DDP without its wrapper around the module, which adds up gradients itself.

    PyTorch's wrapper expects one backward pass for each forward pass through it. Here a round has
    several steps, and their gradients come from compiled sweeps.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(timeout=LONGEST_WAIT, **options)

    def configure_ddp(self) -> None:
        """Begin with the weights and constants of the first process."""
        assert self.model is not None
        with torch.no_grad():
            for value in self.model.state_dict().values():
                dist.broadcast(value, 0)


def add_up_gradients(parameters: Sequence[Tensor], weight: float) -> None:
    r"""Replace the gradient :math:`g_r` of each process by :math:`\sum_r w_r g_r`.

    Args:
        parameters: Of one dtype and device; in each process the same. Missing gradients count as
            zeros, and are zeros afterwards: those of an optimiser that has seen none change
            nothing.
        weight: :math:`w_r`, the share of this process in the batch.
    """
    flat = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    )
    flat.mul_(weight)
    dist.all_reduce(flat)
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = part.view_as(parameter)


def add_up(value: Tensor, weight: float) -> Tensor:
    r"""The sum :math:`\sum_r w_r v_r` over the processes.

    Args:
        value: A tensor of the same shape in each.
        weight: Of this process.
    """
    total = value.detach() * weight
    dist.all_reduce(total)
    return total


def largest(values: Sequence[float], device: torch.device) -> list[float]:
    """The largest of each value over the processes, the same everywhere.

    Args:
        values: Of this process.
        device: Where processes exchange tensors.
    """
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return [float(value) for value in shared.tolist()]


def gathered(value: Tensor) -> Tensor:
    """Rows of all processes, in the order of the processes, the same everywhere.

    Args:
        value: (n, ...), n may differ.
    """
    count = torch.tensor([len(value)], device=value.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    most = max(int(c) for c in counts)
    padded = value.new_zeros(most, *value.shape[1:])
    padded[: len(value)] = value
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(c)] for part, c in zip(parts, counts, strict=True)])


def shared(value: T) -> T:
    """What the first process has, in all of them; in a single process as it is.

    Args:
        value: Plain numbers, words and containers of such.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value
    held: list[Any] = [value]
    dist.broadcast_object_list(held, 0)
    found: T = held[0]
    return found
