"""A fingerprint of memory, compiled for the CPU."""

import ctypes

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.ops.backends.cpu.simd import at_address
from pyg_schnet.ops.backends.cpu.threads import Kernel

_SUMS = 4


def _fingerprint(args):  # type: ignore[no-untyped-def]
    """256 polynomials in an odd number, side by side, so that LLVM can vectorise; then their mix.

    A single changed word always changes its polynomial, since an odd number has an inverse.
    """
    blocks = at_address(args[2], np.int64(0))
    lanes = np.ones(256, dtype=np.uint32)
    for block in range(args[3]):
        words = at_address(blocks[2 * block], np.uint32(0))
        count = blocks[2 * block + 1]
        whole = count // 256 * 256
        for i in range(0, whole, 256):
            for lane in range(256):
                lanes[lane] = lanes[lane] * np.uint32(0x9E3779B1) + words[i + lane]
        for i in range(whole, count):
            lanes[i - whole] = lanes[i - whole] * np.uint32(0x85EBCA77) + words[i]
    out = at_address(args[4], np.uint64(0))
    for s in range(4):
        mixed = np.uint64(s + 1)
        for lane in range(s, 256, 4):
            mixed = (mixed ^ np.uint64(lanes[lane])) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        out[s] = mixed


_FINGERPRINT = Kernel(_fingerprint)


def fingerprint(tensors: list[Tensor]) -> tuple[int, ...]:
    """As :func:`pyg_schnet.ops.fingerprint`."""
    blocks: list[int] = []
    kept = [t if t.is_contiguous() else t.contiguous() for t in tensors]
    for place, t in enumerate(kept):
        if t.numel() * t.element_size() % 4:
            # Of two bytes each, and of odd number: filled up to whole words.
            octets = t.view(-1).view(torch.uint8)
            kept[place] = torch.nn.functional.pad(octets, (0, -octets.numel() % 4))
    for t in kept:
        blocks += (t.data_ptr(), t.numel() * t.element_size() // 4)
    addresses = (ctypes.c_int64 * len(blocks))(*blocks)
    out = (ctypes.c_uint64 * _SUMS)()
    _FINGERPRINT(1, 1, ctypes.addressof(addresses), len(kept), ctypes.addressof(out))
    return tuple(out)
