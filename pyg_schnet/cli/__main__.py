"""``python -m pyg_schnet.cli`` is ``pyg-schnet``."""

from pyg_schnet.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
