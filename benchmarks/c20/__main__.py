"""``python -m pyg_schnet.benchmarks.c20``: as ``pyg-schnet benchmark c20``."""

import sys

from pyg_schnet.benchmarks.c20 import command

if __name__ == "__main__":
    try:
        command.main(command.parser().parse_args())
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, ImportError, OSError, ArithmeticError, RuntimeError) as error:
        print(f"c20: {error}", file=sys.stderr)
        sys.exit(2)
