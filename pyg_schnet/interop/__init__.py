"""Models from elsewhere, and back."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.interop.metatomic import to_metatomic
from pyg_schnet.interop.original import from_original
from pyg_schnet.interop.programs import to_aoti, to_onnx, to_torch_export
from pyg_schnet.interop.pyg import from_pyg, to_pyg
from pyg_schnet.interop.qm9_pretrained import from_qm9_pretrained
from pyg_schnet.interop.schnetpack import from_schnetpack

__all__ = [
    "from_original",
    "from_pyg",
    "from_qm9_pretrained",
    "from_schnetpack",
    "to_aoti",
    "to_metatomic",
    "to_onnx",
    "to_pyg",
    "to_torch_export",
]
