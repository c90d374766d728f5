"""A fingerprint of memory, compiled for the CPU."""

import ctypes

import numpy as np
from torch import Tensor

from pyg_schnet.ops.backends.cpu.simd import at_address
from pyg_schnet.ops.backends.cpu.threads import Kernel

_LANES = 8


def _fingerprint(args):  # type: ignore[no-untyped-def]
    """Eight sums side by side, each s <- (s + word) * odd number, over blocks of 32-bit words."""
    blocks = at_address(args[2], np.int64(0))
    s0, s1, s2, s3 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    s4, s5, s6, s7 = np.uint64(5), np.uint64(6), np.uint64(7), np.uint64(8)
    factor = np.uint64(0x9E3779B97F4A7C15)
    for block in range(args[3]):
        words = at_address(blocks[2 * block], np.uint32(0))
        count = blocks[2 * block + 1]
        whole = count // 8 * 8
        for i in range(0, whole, 8):
            s0 = (s0 + np.uint64(words[i])) * factor
            s1 = (s1 + np.uint64(words[i + 1])) * factor
            s2 = (s2 + np.uint64(words[i + 2])) * factor
            s3 = (s3 + np.uint64(words[i + 3])) * factor
            s4 = (s4 + np.uint64(words[i + 4])) * factor
            s5 = (s5 + np.uint64(words[i + 5])) * factor
            s6 = (s6 + np.uint64(words[i + 6])) * factor
            s7 = (s7 + np.uint64(words[i + 7])) * factor
        for i in range(whole, count):
            s0 = (s0 + np.uint64(words[i])) * factor
    out = at_address(args[4], np.uint64(0))
    out[0], out[1], out[2], out[3] = s0, s1, s2, s3
    out[4], out[5], out[6], out[7] = s4, s5, s6, s7


_FINGERPRINT = Kernel(_fingerprint)


def fingerprint(tensors: list[Tensor]) -> tuple[int, ...]:
    """As :func:`pyg_schnet.ops.fingerprint`."""
    blocks: list[int] = []
    kept = [t if t.is_contiguous() else t.contiguous() for t in tensors]
    for t in kept:
        blocks += (t.data_ptr(), t.numel() * t.element_size() // 4)
    addresses = (ctypes.c_int64 * len(blocks))(*blocks)
    out = (ctypes.c_uint64 * _LANES)()
    _FINGERPRINT(1, 1, ctypes.addressof(addresses), len(kept), ctypes.addressof(out))
    return tuple(out)
