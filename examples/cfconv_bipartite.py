"""CFConv between two sets of points: from sensors to places where nothing was measured."""

import torch

from pyg_schnet.nn import CFConv, FilterNetwork, GaussianSmearing


def main() -> torch.Size:
    """Convolve from 50 sources to 7 targets; return the shape of the result."""
    torch.manual_seed(0)
    cutoff = 0.5
    sensors, places = torch.rand(50, 2), torch.rand(7, 2)
    measured = torch.rand(50, 3)
    distance = torch.cdist(sensors, places)  # [50, 7]
    edge_index = (distance < cutoff).nonzero().T  # row 0 sensors, row 1 places
    d = distance[edge_index[0], edge_index[1]]
    basis = GaussianSmearing(0.0, cutoff, 16)
    conv = CFConv(
        3, 4, num_filters=8, nn=FilterNetwork(16, 8), cutoff=cutoff, normalize="neighbors"
    )
    # Targets without features of their own: the sizes say how many there are.
    out = conv((measured, None), edge_index, d, basis(d), size=(50, 7))
    print(f"{edge_index.size(1)} edges from 50 sensors to 7 places -> {tuple(out.shape)}")
    return out.shape


if __name__ == "__main__":
    main()
