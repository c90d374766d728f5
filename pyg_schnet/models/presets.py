"""The SchNets that people mean by the name.

They differ in more than sizes (docs/paper_vs_code.md): the papers' own code ends the filter network
in a shifted softplus and has no cutoff function; SchNetPack and PyG end it in a linear layer and
multiply by a cosine.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Constructor arguments of :class:`~pyg_schnet.SchNet` and where they come from.

    Attributes:
        source: Paper and section, or program and version.
        arguments: What differs from the defaults, by name.

    Example:
        >>> PRESETS["neurips-2017"].arguments["num_interactions"]
        3
        >>> "NeurIPS 2017" in PRESETS["neurips-2017"].source
        True
    """

    source: str
    arguments: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "neurips-2017": Preset(
        "Schütt et al., NeurIPS 2017, section 4.1 and figure 2: T=3, 64 features, Gaussians every "
        "0.1 Å from 0 to 30 Å with gamma = 10, ssp after both filter layers, all pairs.",
        {
            "hidden_channels": 64,
            "num_filters": 64,
            "num_interactions": 3,
            "num_gaussians": 300,
            "cutoff": 30.0,
            "gamma": 10.0,
            "filter_activation": "ssp",
            "cutoff_fn": "none",
        },
    ),
    "jcp-2018": Preset(
        "Schütt et al., J. Chem. Phys. 148, 241722 (2018): T=6, 64 features; grid to 20 Å every "
        "0.1 Å as in the authors' published code and C20 models, ssp after both filter layers.",
        {
            "hidden_channels": 64,
            "num_filters": 64,
            "num_interactions": 6,
            "num_gaussians": 200,
            "cutoff": 20.0,
            "gamma": 10.0,
            "filter_activation": "ssp",
            "cutoff_fn": "none",
        },
    ),
    "jcp-2018-crystals": Preset(
        "Schütt et al., J. Chem. Phys. 148, 241722 (2018), bulk crystals: T=6, 64 features, hard "
        "cutoff at 5 Å, divided by the number of neighbours; for a mean over atoms say "
        "readout='mean'. Gaussians every 0.1 Å and ssp after both filter layers as in the "
        "authors' published code.",
        {
            "hidden_channels": 64,
            "num_filters": 64,
            "num_interactions": 6,
            "num_gaussians": 51,
            "cutoff": 5.0,
            "gamma": 10.0,
            "filter_activation": "ssp",
            "cutoff_fn": "hard",
            "normalize": "neighbors",
        },
    ),
    "chapter-2020": Preset(
        "Schütt, Tkatchenko, Müller, Learning Representations of Molecules and Materials with "
        "Atomistic Neural Networks (2020): the cosine cutoff at 5 Å; sizes of SchNetPack's models.",
        {
            "hidden_channels": 128,
            "num_filters": 128,
            "num_interactions": 6,
            "num_gaussians": 25,
            "cutoff": 5.0,
        },
    ),
    "schnetpack": Preset(
        "SchNetPack's published QM9 models: 128 features, 6 blocks, 50 Gaussians, cosine to 10 Å.",
        {
            "hidden_channels": 128,
            "num_filters": 128,
            "num_interactions": 6,
            "num_gaussians": 50,
            "cutoff": 10.0,
        },
    ),
    "pyg": Preset("The defaults of torch_geometric.nn.SchNet, but with every neighbour.", {}),
}
