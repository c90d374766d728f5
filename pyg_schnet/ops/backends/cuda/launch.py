"""How kernels are launched: on the device of their tensors, in tiles of powers of two."""

import struct
from typing import Any

import torch
import triton
from torch import Tensor


def launch(
    kernel: Any, grid: tuple[int, ...], like: Tensor, *arguments: Any, **options: Any
) -> None:
    """Start a kernel on the device of ``like``; an empty grid starts nothing.

    Triton launches on the current device, which need not be that of the tensors.
    """
    if 0 in grid:
        return
    # Products and sums may be fused, as in torch's own kernels; Triton's default will change.
    options["enable_fp_fusion"] = True
    if like.is_cuda and like.device.index != torch.cuda.current_device():
        with torch.cuda.device(like.device):
            kernel[grid](*arguments, **options)
    else:
        kernel[grid](*arguments, **options)


def varying(*numbers: str, pointers: tuple[str, ...] = ()) -> Any:
    """As ``triton.jit``, for kernels with arguments that change from graph to graph.

    Triton compiles anew for numbers and addresses that are multiples of 16, or are not. That widens
    loads along features, but for these it would only stop a simulation now and then to compile.
    """
    return triton.jit(do_not_specialize=numbers, do_not_specialize_on_alignment=pointers)


def power_of_two(size: int) -> int:
    """The least power of two that is not less than ``size``, at least 1."""
    return 1 << max(size - 1, 0).bit_length()


def tiles(size: int, tile: int) -> int:
    """Tiles that cover ``size``."""
    return -(-size // tile)


def bits(value: float) -> int:
    """The 64 bits of a number as an integer.

    Triton hands Python floats to a kernel as float32; the bits of a float64 arrive whole.
    """
    return int(struct.unpack("<q", struct.pack("<d", value))[0])
