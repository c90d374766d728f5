"""What every model demands of its input, said in one sentence where it is not so."""

from typing import Any

import torch
from torch import Tensor

from pyg_schnet.nn.readout import MAX_ATOMIC_NUMBER


def checked_batch(z: Tensor, pos: Tensor, batch: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Check atoms against each other and return ``batch``, zeros where it is None.

    Values of ``z`` are looked at on the CPU only, since reading them back from a GPU would stall
    it; there, and under torch.compile, an atomic number out of range raises from the embedding.

    Args:
        z: (N,) atomic numbers; 0 is padding.
        pos: (N, 3), Å.
        batch: (N,) or None.
        dtype: Of the model's parameters.

    Raises:
        ValueError: If shapes, dtypes or atomic numbers do not fit.
    """
    if z.dim() != 1 or z.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise ValueError(
            f"z must be one integer atomic number per atom, shape (N,), got {_kind(z)}; "
            "convert with z.long()."
        )
    if pos.dim() != 2 or pos.size(1) != 3 or pos.size(0) != z.numel():
        raise ValueError(
            f"pos must have shape ({z.numel()}, 3) to match z, got {tuple(pos.shape)}."
        )
    if pos.dtype != dtype:
        raise ValueError(
            f"pos is {_name(pos.dtype)} but the model is {_name(dtype)}: convert one, with "
            f"pos.to(torch.{_name(dtype)}) or model.to(torch.{_name(pos.dtype)})."
        )
    if batch is None:
        batch = torch.zeros(z.numel(), dtype=torch.long, device=z.device)
    elif batch.shape != z.shape or batch.is_floating_point():
        raise ValueError(
            f"batch must be one integer per atom, shape ({z.numel()},), got {_kind(batch)}."
        )
    if z.device.type == "cpu" and not torch.compiler.is_compiling() and z.numel():
        low, high = (int(v) for v in torch.aminmax(z))
        if low < 0 or high > MAX_ATOMIC_NUMBER:
            wrong = low if low < 0 else high
            raise ValueError(
                f"z must lie in 0..{MAX_ATOMIC_NUMBER} (0 is padding), got {wrong}; "
                "atomic numbers, not symbols or masses, belong here."
            )
    return batch.long()


def count_graphs(z: Tensor, batch: Tensor | None) -> int:
    """Number of molecules: the largest number in ``batch`` plus one.

    Args:
        z: (N,) atomic numbers.
        batch: (N,) molecule of each atom, or None for one molecule.

    Raises:
        ValueError: If the values of ``batch`` would be needed under torch.compile, which cannot
            know them.
    """
    if batch is None or not batch.numel():
        return min(z.numel(), 1)
    if torch.compiler.is_compiling():
        raise ValueError("Under torch.compile num_graphs must be given with batch, got None.")
    return int(batch.max()) + 1


def volumes(cell: Tensor, *, checked: bool = True) -> Tensor:
    """Volumes of the cells, (B, 1, 1), Å³, by which virials are divided to give stresses.

    Args:
        cell: (3, 3) or (B, 3, 3), Å; left-handed ones have a volume too.
        checked: Look at the values, which stalls a GPU.

    Raises:
        ValueError: If a cell has no volume, as that of a slab whose third vector is zero.

    Example:
        >>> volumes(torch.diag(torch.tensor([2.0, 3.0, -4.0])))
        tensor([[[24.]]])
    """
    cells = cell.view(-1, 3, 3)
    volume = torch.linalg.det(cells).abs()  # [B]
    if checked and not torch.compiler.is_compiling():
        # Of a flat cell rounding leaves a little; of a NaN, the comparison is false as well.
        flat = ~(volume > 1e-6 * torch.linalg.vector_norm(cells, dim=-1).prod(-1))
        if bool(flat.any()):
            graph = int(flat.nonzero()[0])
            raise ValueError(
                f"The stress needs a volume, but the cell of structure {graph} is "
                f"{cells[graph].tolist()}; give it three lattice vectors, also along directions "
                "that are not periodic, or ask for no stress."
            )
    return volume.view(-1, 1, 1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kind(tensor: Tensor) -> str:
    return f"{_name(tensor.dtype)} of shape {tuple(tensor.shape)}"


def copied(value: Any) -> Any:
    """A copy of a tensor, without its history; anything else as it is."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def same(value: Any, kept: Any) -> bool:
    """Whether an entry of a ``Data`` still is what was kept of it."""
    if isinstance(value, Tensor) and isinstance(kept, Tensor):
        alike = value.dtype == kept.dtype and value.device == kept.device
        return alike and torch.equal(value, kept)
    return type(value) is type(kept) and value == kept
