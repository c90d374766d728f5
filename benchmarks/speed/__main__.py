"""``python -m pyg_schnet.benchmarks.speed``: as ``pyg-schnet benchmark speed``."""

import sys

from pyg_schnet.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", "speed", *sys.argv[1:]]))
