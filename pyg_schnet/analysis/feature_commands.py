"""``pyg-schnet analyze embeddings`` and ``sensitivity``: what atoms are to a model."""

from pathlib import Path
from typing import TYPE_CHECKING

from pyg_schnet.analysis.command_options import (
    PAGES,
    Command,
    Reader,
    add_model,
    add_structure,
    load_model,
    named_structures,
    read_pair,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _embeddings_options(parser: "ArgumentParser") -> None:
    add_model(parser)
    parser.add_argument(
        "--elements", type=str | None, help="With commas; by default those of the training."
    )
    parser.add_argument("--components", type=int | None, help="Axes; by default up to five.")


def _embeddings(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.embeddings import embedding_pca, plot_embeddings
    from pyg_schnet.analysis.interactive import is_page, write_page
    from pyg_schnet.analysis.structure import atomic_number

    model = load_model(options.model)
    info = getattr(model, "info", None) or {}
    elements = options.elements.split(",") if options.elements else info.get("elements")
    count = options.components
    if count is None:
        count = max(1, min(5, len({atomic_number(one) for one in elements or []}) - 1))
    found = embedding_pca(model, elements, count)
    if is_page(options.out):
        from pyg_schnet.analysis.interactive_plots import embeddings_figure

        return [write_page(embeddings_figure(found), options.out)]
    return [plot_embeddings(found, options.out)]


def _sensitivity_options(parser: "ArgumentParser") -> None:
    add_model(parser)
    add_structure(parser, ":")
    parser.add_argument(
        "--pairs", type=str | None, help="Such as C-C,C-H,H-H; by default the most frequent."
    )


def _sensitivity(options: "Namespace", read: Reader) -> list[Path]:
    from pyg_schnet.analysis.sensitivity import feature_sensitivity, plot_sensitivity

    if options.structure is None:
        raise ValueError("Sensitivities are of structures; name a file with --structure.")
    pairs = None
    if options.pairs is not None:
        pairs = [read_pair("pairs", words) for words in options.pairs.split(",")]
    structures = named_structures(options.structure, read, options.index)
    found = feature_sensitivity(load_model(options.model), structures)
    return [plot_sensitivity(found, options.out, pairs)]


FEATURES = {
    "embeddings": Command(
        "Principal axes of the embeddings of elements.", _embeddings_options, _embeddings, PAGES
    ),
    "sensitivity": Command(
        "How features of an atom change when another one moves.", _sensitivity_options, _sensitivity
    ),
}
"""Analyses of this file by the word that calls them."""
