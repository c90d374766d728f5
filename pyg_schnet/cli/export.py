"""``pyg-schnet export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

SUFFIXES = {"metatomic": ".pt", "torch-export": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}
"""Formats, and how their files end."""


def export_parser() -> "ArgumentParser":
    """Options of ``export``."""
    from jsonargparse import ArgumentParser

    export = ArgumentParser(description="Write a model for engines that run without this package.")
    export.add_argument("--model", required=True, help="File, run folder, or name of a model.")
    export.add_argument(
        "--format",
        type=Literal["metatomic", "torch-export", "aoti", "onnx"],
        required=True,
        help="metatomic: for i-PI, LAMMPS, PLUMED, ASE and others; torch-export: a program of "
        "torch; aoti: the same compiled for this CPU; onnx: for ONNX Runtime.",
    )
    export.add_argument(
        "--output",
        type=str | None,
        help="File to write; by default the name of the model with .pt, .pt2 or .onnx.",
    )
    export.add_argument(
        "--dtype",
        type=Literal["float32", "float64"] | None,
        help="In which the network computes; by default float64 for metatomic, float32 for onnx, "
        "else that of the model.",
    )
    export.add_argument(
        "--elements",
        type=list[str] | None,
        help="Symbols that the model knows, [H, C, O]; by default what its file says.",
    )
    return export


def export(options: "Namespace") -> None:
    """Write the file, and say where."""
    import torch
    from ase.data import atomic_numbers

    from pyg_schnet.interop import to_aoti, to_metatomic, to_onnx, to_torch_export
    from pyg_schnet.models import load
    from pyg_schnet.models.pretrained import find_model

    model = load(find_model(options.model))
    output = options.output
    if output is None:
        output = Path(options.model).stem + SUFFIXES[options.format]
    unknown = [symbol for symbol in options.elements or [] if symbol not in atomic_numbers]
    if unknown:
        raise ValueError(f"--elements takes symbols of elements, got {unknown[0]!r}.")
    elements = options.elements and [atomic_numbers[symbol] for symbol in options.elements]
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    if options.format == "metatomic":
        to_metatomic(
            model,
            output,
            dtype=dtype or torch.float64,
            elements=elements,
            name=Path(options.model).stem,
        )
    elif options.format == "onnx":
        if dtype == torch.float64:
            raise ValueError(
                "--format onnx computes in float32, since ONNX Runtime has no softplus in float64."
            )
        to_onnx(model, output, elements=elements)
    else:
        write = to_torch_export if options.format == "torch-export" else to_aoti
        write(model, output, dtype=dtype, elements=elements)
    print(f"Wrote {output}.")
