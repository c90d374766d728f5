"""``pyg-schnet benchmark speed``, ``accuracy``, ``c20`` and ``gallery``."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def benchmark_parser() -> "ArgumentParser":
    """Options of the verb itself: none."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(description="Measure.")


def add_measures(benchmark: "ArgumentParser") -> None:
    """Add a subcommand for each benchmark."""
    from pyg_schnet.benchmarks.accuracy import command as accuracy
    from pyg_schnet.benchmarks.c20 import command as c20
    from pyg_schnet.benchmarks.gallery import command as gallery

    measures = benchmark.add_subcommands(dest="what")
    measures.add_subcommand("speed", speed_parser())
    measures.add_subcommand("accuracy", accuracy.parser())
    measures.add_subcommand("c20", c20.parser())
    measures.add_subcommand("gallery", gallery.parser())


def speed_parser() -> "ArgumentParser":
    """Options of ``benchmark speed``."""
    from jsonargparse import ArgumentParser

    speed = ArgumentParser(description="Speed against PyG's SchNet, same weights and edges.")
    speed.add_argument(
        "--groups",
        type=list[str] | None,
        help="Of inference, training, kernels, loading, neighbors, dynamics and scaling; by "
        "default all.",
    )
    speed.add_argument("--output", type=str | None, help="Folder for JSON, table and figure.")
    speed.add_argument("--seconds", type=float, default=4.0, help="For each row.")
    speed.add_argument("--device", default="cpu", help="cpu or cuda.")
    speed.add_argument(
        "--schnetpack_python",
        type=str | None,
        help="Python of an environment with SchNetPack 2, to compare with it too.",
    )
    return speed


def benchmark(options: "Namespace") -> None:
    """Run a benchmark."""
    from pyg_schnet.benchmarks.accuracy import command as accuracy
    from pyg_schnet.benchmarks.c20 import command as c20
    from pyg_schnet.benchmarks.gallery import command as gallery
    from pyg_schnet.benchmarks.speed import suite

    chosen = options[options.what]
    if options.what == "accuracy":
        accuracy.main(chosen)
        return
    if options.what == "gallery":
        gallery.main(chosen)
        return
    if options.what == "c20":
        try:
            c20.main(chosen)
        except RuntimeError as error:  # such as a reference calculation that failed
            raise ValueError(str(error)) from error
        return
    suite.run(
        chosen.groups or suite.GROUPS,
        Path(chosen.output) if chosen.output else None,
        chosen.seconds,
        chosen.device,
        chosen.schnetpack_python,
    )
