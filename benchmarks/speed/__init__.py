"""Speed against PyG's SchNet, on the same weights and edges in the same run."""
