"""Whether weights are still what they were."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from pyg_schnet.ops.backends import choose_backend, kernel


def fingerprint(tensors: Iterable[Tensor]) -> tuple[object, ...]:
    """A value that changes when any bit of the tensors does, with all but certainty.

    Version counters do not see ``p.data.copy_(...)``, by which weights are averaged and swapped.

    Args:
        tensors: Contiguous, on the CPU.

    Example:
        >>> weight = torch.ones(3)
        >>> before = fingerprint([weight])
        >>> weight.data[1] += 1e-6
        >>> fingerprint([weight]) == before
        False
    """
    flat = [t.detach() for t in tensors]
    if choose_backend(torch.device("cpu")) == "cpu":
        return kernel("cpu", "fingerprint")(flat)
    digest = hashlib.blake2b(digest_size=16)
    for t in flat:
        digest.update(t.contiguous().view(torch.uint8).numpy().data)
    return (digest.digest(),)
