"""Models applied to structures from elsewhere."""

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.simulation.predict import atoms_to_data, predict_file

__all__ = ["atoms_to_data", "predict_file"]
