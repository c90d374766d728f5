"""One HTML page of a finished run, whole in itself: no other file and no net is needed."""

import base64
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure
from pyg_schnet.analysis.error_figures import plot_errors
from pyg_schnet.analysis.error_statistics import worst
from pyg_schnet.analysis.errors import PropertyErrors, read_errors, read_metrics
from pyg_schnet.analysis.figures import read_log
from pyg_schnet.units import KCAL_PER_MOL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyg_schnet.models.networks import Network

PAPER_QM9 = {
    "mu": (0.033, "D"),
    "homo": (41.0, "meV"),
    "U0": (14.0, "meV"),
    "Cv": (0.033, "cal/(mol K)"),
}
"""Mean absolute errors of SchNet after 110,000 molecules: J. Chem. Phys. 148, 241722 (2018), where
a source of the number was found; see the rows of the accuracy benchmark."""

PAPER_MD17 = {
    "ethanol": (0.08, 0.39),
    "malonaldehyde": (0.13, 0.66),
    "uracil": (0.14, 0.56),
    "benzene": (0.08, 0.31),
    "toluene": (0.12, 0.57),
    "naphthalene": (0.16, 0.58),
    "salicylic": (0.20, 0.85),
    "aspirin": (0.37, 1.35),
}
"""kcal/mol and kcal/mol/Å after 1,000 structures with forces; the same paper."""

PAPER_MP = {3_000: 0.127, 60_000: 0.035}
"""eV/atom by training structures, formation energies; the same paper, table II."""

CITATION = (
    (
        "Schütt, Kindermans, Sauceda, Chmiela, Tkatchenko, Müller: SchNet: A continuous-filter "
        "convolutional neural network for modeling quantum interactions. Advances in Neural "
        "Information Processing Systems 30 (2017).",
        "https://arxiv.org/abs/1706.08566",
    ),
    (
        "Schütt, Sauceda, Kindermans, Tkatchenko, Müller: SchNet – A deep learning architecture "
        "for molecules and materials. The Journal of Chemical Physics 148, 241722 (2018).",
        "https://doi.org/10.1063/1.5019779",
    ),
)
"""What to cite beside this package, and where it is found."""

_EV = {"kcal/mol": KCAL_PER_MOL, "meV": 1e-3, "eV": 1.0}
_LOCAL = ("root", "raw", "output", "split_file")
_MOST_DOTS = 30_000
_STYLE = """
body { font-family: system-ui, sans-serif; line-height: 1.5; color: #222; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.2rem 1.2rem 0.2rem 0; border-bottom: 1px solid #ddd;
         vertical-align: top; }
td.number { text-align: right; }
img { max-width: 100%; height: auto; }
figure { margin: 1rem 0; } figcaption { color: #555; }
"""


def write_report(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    published: Mapping[str, tuple[float, str]] | None = None,
) -> Path:
    """Write one page of a finished run: what was done, how well it went, how to cite.

    It holds the errors beside those of the paper, learning curve, histograms of errors,
    predictions against references, the worst structures, the filters and embeddings of the model
    where its file is there, all options, and the versions of the programs that wrote the page.
    Figures are within the page; nothing is loaded from anywhere.

    Args:
        run: Folder of the run, or of an ensemble.
        output: The page; None writes ``report.html`` into the folder.
        published: Errors to tell beside ours by name of the property, with their unit; None takes
            those of the paper on SchNet of 2018, where the run is one of its experiments.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
        ImportError: If PyYAML or matplotlib is missing.
    """
    run = Path(run)
    output = run / "report.html" if output is None else Path(output)
    metrics, errors = read_metrics(run), read_errors(run)
    config = _config(run)
    known = paper_errors(config, metrics) if published is None else dict(published)
    title = f"{metrics['target']}: {metrics['n_train']:,} training structures"
    sections = [
        ("Errors on structures never seen", _table_of_errors(errors, metrics, known)),
        ("Figures", "".join(_figures(run, metrics, errors))),
        ("Largest errors", "".join(_table_of_worst(one) for one in errors)),
        ("Training", _rows(_told(metrics))),
        ("Options", _rows(config.items()) if config else "<p>config.yaml is missing.</p>"),
        ("How to cite", _citation()),
        ("This page was written with", _rows(environment().items())),
    ]
    body = "".join(
        f"<section>\n<h2>{escape(head)}</h2>\n{content}\n</section>\n"
        for head, content in sections
        if content
    )
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}</body>\n</html>\n"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(output.name + ".part")
    aside.write_text(page, encoding="utf-8")
    os.replace(aside, output)
    return output


def paper_errors(
    config: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, tuple[float, str]]:
    """Errors of the paper on SchNet of 2018, where a run is of the same data and size.

    Args:
        config: Options of the run.
        metrics: Its metrics.json.

    Returns:
        Mean absolute error and its unit, by the property's name; empty where the paper has none.

    Example:
        >>> paper_errors({"target": "U0", "loss": "mse"}, {"n_train": 110_000})
        {'U0': (14.0, 'meV')}
        >>> paper_errors({"molecule": "ethanol"}, {"n_train": 50_000})
        {}
    """
    size = metrics["n_train"]
    if "molecule" in config:
        revised = config.get("revised") or config.get("level") not in (None, "dft")
        known = PAPER_MD17.get(str(config["molecule"]))
        if known is None or revised or size != 1_000 or not config.get("forces", True):
            return {}
        return {"energy": (known[0], "kcal/mol"), "forces": (known[1], "kcal/mol/Å")}
    target = str(config.get("target", ""))
    if "isolated" in config:  # crystals
        fits = target == "formation_energy_per_atom" and config.get("raw") is None
        return {target: (PAPER_MP[size], "eV/atom")} if fits and size in PAPER_MP else {}
    # Runs of other sizes are no repetition of the paper's.
    names = target.split(",") if 100_000 <= size <= 118_000 else []
    return {name: PAPER_QM9[name] for name in names if name in PAPER_QM9}


def environment() -> dict[str, str]:
    """Versions of the programs here, and the kind of machine.

    Example:
        >>> list(environment())[:3]
        ['Python', 'system', 'machine']
    """
    found = {"Python": platform.python_version(), "system": platform.system()}
    found["machine"] = platform.machine()
    for name in ("pyg_schnet", "torch", "torch_geometric", "numpy", "lightning", "matplotlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _config(run: Path) -> dict[str, Any]:
    """Options of the run; of paths only the last part, as others have other folders."""
    import yaml

    path = run / "config.yaml"
    known = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found: dict[str, Any] = {}
    for name, value in (known or {}).items():
        if name in _LOCAL and value is not None:
            value = Path(str(value)).name
        elif name == "paths" and value:
            value = [Path(str(one)).name for one in value]
        found[str(name)] = value
    return found


def _told(metrics: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What metrics say but for errors, which have a table."""
    errors = ("test_", "baseline_", "shown_per_unit", "extensive")
    return [(name, value) for name, value in metrics.items() if not name.startswith(errors)]


def _rows(items: Iterable[tuple[str, Any]]) -> str:
    lines = []
    for name, value in items:
        if isinstance(value, float):
            value = f"{value:.6g}"
        elif isinstance(value, list):
            value = ", ".join(str(one) for one in value)
        shown = "–" if value is None else escape(str(value))
        lines.append(f'<tr><th scope="row">{escape(str(name))}</th><td>{shown}</td></tr>')
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _table_of_errors(
    errors: Iterable[PropertyErrors],
    metrics: Mapping[str, Any],
    known: Mapping[str, tuple[float, str]],
) -> str:
    lines = []
    for one in errors:
        mae, rmse = float(one.absolute.mean()), float(np.sqrt(np.square(one.signed).mean()))
        values = [f"{mae:.4g}", f"{rmse:.4g}", f"{float(np.median(one.absolute)):.4g}"]
        values.append(_in_unit(known.get(one.name), one.unit))
        cells = "".join(f'<td class="number">{escape(value)}</td>' for value in values)
        name, unit = escape(one.name), escape(one.unit)
        lines.append(f'<tr><th scope="row">{name}</th><td>{unit}</td>{cells}</tr>')
    heads = ("", "unit", "MAE", "RMSE", "median", "MAE of the paper")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f"<table>\n<tr>{head}</tr>\n" + "\n".join(lines) + "\n</table>"
    guesses = [(k, v) for k, v in metrics.items() if k.startswith("baseline_")]
    if guesses:
        table += "\n<p>Without a network:</p>\n" + _rows(guesses)
    return table


def _in_unit(known: tuple[float, str] | None, unit: str) -> str:
    """A published error in the unit of the run, where one leads to the other."""
    if known is None:
        return "–"
    value, theirs = known
    if theirs == unit:
        return f"{value:.4g}"
    if theirs in _EV and unit in _EV:
        return f"{value * _EV[theirs] / _EV[unit]:.4g}"
    return f"{value:.4g} {theirs}"


def _table_of_worst(found: PropertyErrors, count: int = 10) -> str:
    if found.owner is None:
        return ""
    known = worst(found, count)
    lines = [
        f'<tr><td class="number">{row}</td><td class="number">{error:.4g}</td></tr>'
        for row, error in zip(known.rows, known.error, strict=True)
    ]
    head = f'<tr><th scope="col">row</th><th scope="col">error ({escape(found.unit)})</th></tr>'
    title = f"<h3>{escape(found.name)}</h3>"
    return f"{title}\n<table>\n{head}\n" + "\n".join(lines) + "\n</table>\n"


def _figures(run: Path, metrics: Mapping[str, Any], errors: list[PropertyErrors]) -> Iterable[str]:
    """The figures as HTML, one after the other; those that do not apply are left out."""
    yield _embedded(
        lambda path: _plot_curve(run, metrics, path), "Learning curve: errors on validation"
    )
    yield _embedded(lambda path: plot_errors(errors, path), "Absolute errors on the test set")
    yield _embedded(
        lambda path: save_figure(_scatter(errors), path), "Predictions against references"
    )
    model = run / "best.safetensors"
    if model.is_file():
        yield _embedded(lambda path: _plot_filters(model, path), "Filters by distance")
        yield _embedded(
            lambda path: _plot_embeddings(model, path), "Principal axes of the embeddings"
        )


def _embedded(draw: Callable[[Path], Path | None], caption: str) -> str:
    """A figure within the page; nothing where it is not drawn."""
    with tempfile.TemporaryDirectory() as folder:
        path = draw(Path(folder) / "figure.png")
        if path is None:
            return ""
        text = base64.b64encode(path.read_bytes()).decode("ascii")
    words = escape(caption)
    return (
        f'<figure>\n<img alt="{words}" src="data:image/png;base64,{text}">\n'
        f"<figcaption>{words}</figcaption>\n</figure>\n"
    )


def _plot_curve(run: Path, metrics: Mapping[str, Any], path: Path) -> Path | None:
    try:
        log = read_log(run)
    except FileNotFoundError:  # an ensemble has the logs of its members alone
        return None
    factor = float(metrics["shown_per_unit"])
    curves = {"val_mae": ("validation", metrics["unit"], 1.0)}
    if "val_forces_mae" in log:
        curves = {
            "val_energy_mae": ("energy", metrics["unit"], factor),
            "val_forces_mae": ("forces", metrics.get("forces_unit", ""), factor),
        }
    figure = new_figure(6.2, 3.6)
    ax = figure.subplots()
    for number, (name, (label, unit, scale)) in enumerate(curves.items()):
        if name not in log:
            continue
        valid = np.isfinite(log[name])
        color = OKABE_ITO[number]
        x, y = log["step"][valid], scale * log[name][valid]
        ax.plot(x, y, "o-", ms=3, color=color, label=f"{label} ({unit})")
    if not ax.lines:
        return None
    ax.set(xlabel="step", ylabel="MAE", yscale="log")
    ax.legend(frameon=False)
    return save_figure(figure, path)


def _scatter(errors: list[PropertyErrors]) -> "Figure":
    columns = min(4, len(errors))
    rows = -(-len(errors) // columns)
    figure = new_figure(0.6 + 3.3 * columns, 0.4 + 3.0 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(errors) :]:
        ax.set_axis_off()
    for ax, one in zip(axes, errors, strict=False):
        some = np.linspace(0, len(one.reference) - 1, min(len(one.reference), _MOST_DOTS))
        place = some.astype(int)
        # Composition alone explains all but a thousandth of a total energy: what is left is shown.
        x, y = ((v - one.base)[place] for v in (one.reference, one.prediction))
        ax.plot(x, y, ".", ms=2, alpha=0.4, color=OKABE_ITO[0], rasterized=True)
        ends = [float(x.min()), float(x.max())]
        ax.plot(ends, ends, color="0.4", lw=0.8)
        less = " less dressed atoms" if one.base.any() else ""
        ax.set(xlabel=f"reference{less} ({one.unit})", title=one.name)
        ax.set_ylabel(f"predicted{less} ({one.unit})")
        ax.locator_params(nbins=5)
    return figure


def _plot_filters(model: Path, path: Path) -> Path | None:
    from pyg_schnet.analysis.filters import filter_curves, plot_filter_curves

    network, _ = _network(model)
    return plot_filter_curves(filter_curves(network), path) if len(network.interactions) else None


def _plot_embeddings(model: Path, path: Path) -> Path | None:
    from pyg_schnet.analysis.embeddings import embedding_pca, plot_embeddings

    network, elements = _network(model)
    if len(elements) < 3:  # two points have one axis
        return None
    return plot_embeddings(embedding_pca(network, elements, min(5, len(elements) - 1)), path)


def _network(model: Path) -> tuple["Network", list[str]]:
    """The model, or the first member of an ensemble, and the elements it was trained on."""
    from pyg_schnet.analysis.structure import network_of
    from pyg_schnet.models import load
    from pyg_schnet.models.ensemble import Ensemble

    found = load(model)
    elements = (getattr(found, "info", None) or {}).get("elements") or []
    return network_of(found.members[0] if isinstance(found, Ensemble) else found), elements


def _citation() -> str:
    lines = [
        f'<li>{escape(text)} <a href="{escape(where)}">{escape(where)}</a></li>'
        for text, where in CITATION
    ]
    return (
        "<p>Please cite pyg_schnet: SchNet for PyTorch Geometric, by the pyg_schnet developers, "
        "together with the papers of SchNet:</p>\n<ul>\n" + "\n".join(lines) + "\n</ul>"
    )
