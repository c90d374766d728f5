"""Models applied to structures from elsewhere."""

from pyg_schnet.simulation.predict import atoms_to_data, predict_file

__all__ = ["atoms_to_data", "predict_file"]
