"""Buffers that stay in float64 whatever the model is cast to.

A total energy of 1e4 eV has a spacing of 1e-3 eV in float32, and a Gaussian grid rounded to float32
stays rounded when the model is cast up again. Both kinds of constants cost nothing in float64.
"""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class Float64Buffers(nn.Module):
    """A module whose buffers named in ``float64_buffers`` keep their dtype.

    ``.to(dtype)``, ``.float()``, ``.half()`` and ``.double()`` cast every floating point buffer of
    an ordinary module; here they move the named ones between devices only.

    Example:
        >>> import torch
        >>> class Offset(Float64Buffers):
        ...     float64_buffers = ("mean",)
        ...     def __init__(self) -> None:
        ...         super().__init__()
        ...         self.register_buffer("mean", torch.tensor(-11178.96, dtype=torch.float64))
        >>> Offset().float().mean.dtype
        torch.float64
    """

    float64_buffers: tuple[str, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: self._buffers[name] for name in self.float64_buffers}
        super()._apply(fn, recurse)
        for name, exact in before.items():
            moved = self._buffers[name]
            if exact is not None and moved is not None and moved.dtype != exact.dtype:
                self._buffers[name] = exact.to(moved.device)
        return self
