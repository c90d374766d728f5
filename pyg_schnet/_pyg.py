"""Imports PyTorch Geometric once, without its remarks about its own dependencies.

PyG 2.8 warns on import that it ignores torch-cluster (which ``graph`` calls directly) and uses
``torch.jit.script``, which torch 2.13 deprecates. Neither is the business of whoever imports this
package; the user's filters are as they were afterwards.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_geometric.nn  # noqa: F401
