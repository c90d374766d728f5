"""What pyg_schnet is measured by; installed as ``pyg_schnet.benchmarks``."""
