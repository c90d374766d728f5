import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import small_schnet
from small_qm9 import write_small_qm9

from pyg_schnet import Ensemble, save
from pyg_schnet.analysis import run_report
from pyg_schnet.analysis.run_report import CITATION, environment, paper_errors, write_report
from pyg_schnet.datasets import QM9
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.config import TrainingConfig
from pyg_schnet.training.run import Property, train
from pyg_schnet.training.splits import random_split

VOID = {"meta", "img", "br", "hr", "link", "input"}
ROOT = Path(__file__).resolve().parents[2]


class Page(HTMLParser):
    """Reads a page and insists that each tag is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.cells = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)

    def after(self, head, place=1):
        return self.cells[self.cells.index(head) + place]

    @property
    def text(self):
        return "".join(self.words)

    @property
    def figures(self):
        found = [attrs for tag, attrs in self.tags if tag == "img"]
        assert all(one["alt"] for one in found)
        return [one["src"] for one in found]


def read_page(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and text.endswith("</html>\n")
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    for once in ("html", "head", "title", "body", "h1", "style"):
        assert names.count(once) == 1
    assert not {"script", "link", "iframe", "object"}.intersection(names)
    for tag, attrs in page.tags:
        assert attrs.get("src", "data:").startswith("data:image/png;base64,") or "src" not in attrs
        assert tag == "a" or "href" not in attrs
        assert not any(name.startswith("on") for name in attrs)
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert links == {where for _, where in CITATION}
    # Nothing but citations names a place in the net, not even the style.
    rest = text
    for link in links:
        rest = rest.replace(link, "")
    assert not re.search(r"https?:|url\(|@import", rest)
    for source in page.figures:
        image = base64.b64decode(source.split(",", 1)[1], validate=True)
        assert image[:4] == b"\x89PNG"
    return page


def write_run(folder, config, metrics, log=None, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "predictions.npz", **arrays)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if log is not None:
        part = folder / "log" / "from_step_00000000"
        part.mkdir(parents=True)
        (part / "metrics.csv").write_text(log)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    raw = write_small_qm9(folder / "xyz")
    with pytest.warns(UserWarning, match="holds 59 of the 130831"):
        dataset = QM9(str(folder), target="U0", raw=str(raw))
    table = MoleculeTable.from_dataset(dataset)
    config = TrainingConfig(
        hidden_channels=8,
        num_filters=8,
        num_interactions=2,
        num_gaussians=10,
        batch_size=8,
        max_steps=10,
        val_every=5,
        log_every=5,
        tensorboard=False,
        accelerator="cpu",
        raw=str(raw),
    )
    wanted = Property("U0", "eV", "kcal/mol", 23.06)
    train(config, wanted, table, random_split(len(table), 40, 8), folder / "run")
    return folder / "run"


def test_a_page_of_a_run_tells_what_was_done_and_how_well(trained):
    before = set(trained.rglob("*"))
    path = write_report(trained)
    assert path == trained / "report.html" and set(trained.rglob("*")) - before == {path}
    page = read_page(path)
    metrics = json.loads((trained / "metrics.json").read_text())
    at = page.cells.index("U0")
    assert page.cells[at + 1] == "kcal/mol"
    assert float(page.cells[at + 2]) == pytest.approx(metrics["test_mae"], rel=1e-3)
    assert float(page.cells[at + 3]) == pytest.approx(metrics["test_rmse"], rel=1e-3)
    assert page.cells[at + 5] == "–"  # 40 molecules are none of the paper's experiments
    assert page.after("hidden_channels") == "8" and page.after("n_train") == "40"
    assert page.after("baseline_dressed_atom_mae_kcal_mol").startswith(
        f"{metrics['baseline_dressed_atom_mae_kcal_mol']:.4g}"[:4]
    )
    assert len(page.figures) == 5  # curve, histogram, scatter, filters, embeddings
    assert "How to cite" in page.text and page.after("pyg_schnet") == environment()["pyg_schnet"]
    rows = np.load(trained / "predictions.npz")["rows"]
    assert page.cells[page.cells.index("row") + 2] in {str(row) for row in rows}
    # Other people have other folders.
    assert page.after("raw") == "xyz" and str(trained.parent) not in page.text


def test_errors_stand_beside_those_of_the_paper(tmp_path):
    metrics = {
        "target": "ethanol",
        "unit": "kcal/mol",
        "forces_unit": "kcal/mol/Å",
        "shown_per_unit": 20.0,
        "extensive": True,
        "n_train": 1000,
        "n_test": 2,
        "stopped": "max_steps",
    }
    log = "step,val_energy_mae,val_forces_mae\n5,0.1,0.2\n10,0.05,0.1\n15,,\n"
    zero = np.zeros((5, 3))
    run = write_run(
        tmp_path / "run",
        {"molecule": "ethanol", "revised": False, "level": None, "forces": True},
        metrics,
        log,
        rows=np.arange(2),
        reference=np.array([1.0, 2.0]),
        prediction=np.array([1.01, 2.0]),
        dressed=np.array([1.0, 1.0]),
        forces_reference=zero,
        forces_prediction=zero + 0.02,
        num_atoms=np.array([2, 3]),
    )
    output = write_report(run, tmp_path / "pages" / "<one>.html")
    page = read_page(output)
    assert [path.name for path in output.parent.iterdir()] == ["<one>.html"]
    at = page.cells.index("energy")
    assert page.cells[at : at + 6] == ["energy", "kcal/mol", "0.1", "0.1414", "0.1", "0.08"]
    at = page.cells.index("forces")
    assert page.cells[at : at + 6] == ["forces", "kcal/mol/Å", "0.4", "0.4", "0.4", "0.39"]
    assert len(page.figures) == 3  # there is no model to look into
    told = read_page(write_report(run, published={"energy": (2.0, "meV")}))
    energy = told.cells.index("energy")
    assert float(told.cells[energy + 5]) == pytest.approx(2.0 / 43.3641, rel=1e-3)
    assert told.cells[told.cells.index("forces") + 5] == "–"


def test_names_are_text_and_never_tags(tmp_path):
    metrics = {"target": "<b>&x", "unit": "<u>", "shown_per_unit": 1.0, "extensive": False}
    values = {"rows": np.arange(3), "reference": np.arange(3.0), "prediction": np.ones(3)}
    config = {"paths": ["/home/me/a.xyz", "b.xyz"], "note": "</table><script>"}
    run = write_run(tmp_path, config, metrics | {"n_train": 5, "n_test": 3}, **values)
    page = read_page(write_report(run))
    assert "<b>&x" in page.cells and page.after("paths") == "a.xyz, b.xyz"
    assert page.after("note") == "</table><script>"


def test_an_ensemble_has_a_page_too(tmp_path):
    values = np.array([1.0, 2.0])
    arrays = {"energy_reference": values, "energy_mean": values + 0.5, "energy_std": values}
    forces = {f"forces_{name}": np.arange(9.0) for name in ("reference", "mean", "std")}
    metrics = {"target": "ethanol", "unit": "eV", "shown_per_unit": 1.0, "n_train": 7, "n_test": 2}
    run = write_run(tmp_path, {"molecule": "x"}, metrics, rows=np.arange(2), **arrays, **forces)
    members = [small_schnet(seed=k) for k in (1, 2)]
    save(Ensemble(members), run / "best.safetensors", {"elements": ["H", "C", "O"]})
    page = read_page(write_report(run))
    assert len(page.figures) == 4 and page.after("energy") == "eV"


def test_the_paper_is_named_only_where_a_run_repeats_it():
    size = {"n_train": 110_000}
    known = paper_errors({"target": "homo,mu,A"}, size)
    assert known == {"homo": (41.0, "meV"), "mu": (0.033, "D")}
    assert paper_errors({"target": "U0"}, {"n_train": 10_000}) == {}
    crystals = {"target": "formation_energy_per_atom", "isolated": "drop", "raw": None}
    assert paper_errors(crystals, {"n_train": 3000}) == {
        "formation_energy_per_atom": (0.127, "eV/atom")
    }
    assert paper_errors(crystals | {"raw": "mine.csv"}, {"n_train": 3000}) == {}
    ethanol = {"molecule": "ethanol", "forces": True}
    assert paper_errors(ethanol, {"n_train": 1000})["forces"] == (0.39, "kcal/mol/Å")
    for other in ({"revised": True}, {"level": "ccsd(t)"}, {"forces": False}):
        assert paper_errors(ethanol | other, {"n_train": 1000}) == {}


def test_citations_and_constants_are_those_known_elsewhere():
    from pyg_schnet.cli.tasks import PAPER_MAE_KCAL_MOL
    from pyg_schnet.training.crystal_tasks import PAPER_MP
    from pyg_schnet.training.force_tasks import PAPER_MD17

    cff = yaml.safe_load(io.StringIO((ROOT / "CITATION.cff").read_text(encoding="utf-8")))
    for paper, (text, where) in zip(cff["references"], CITATION, strict=True):
        assert paper["title"] in text and str(paper["year"]) in text
        assert all(author["family-names"] in text for author in paper["authors"])
        assert paper.get("doi", "") in where
    assert run_report.PAPER_MD17 == PAPER_MD17 and run_report.PAPER_MP == PAPER_MP
    assert set(PAPER_MAE_KCAL_MOL) <= set(run_report.PAPER_QM9)


def test_without_a_finished_run_nothing_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.json is missing"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
