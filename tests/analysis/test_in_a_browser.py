"""Pages opened in a headless Chromium that may not ask the net for anything.

Needs Playwright, and a Chromium: that of ``playwright install chromium``, one on the PATH, or the
one that the variable PYG_SCHNET_CHROMIUM names.
"""

import io
import json
import os
import shutil
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import yaml
from ase.build import molecule
from helpers import small_schnet

from pyg_schnet import save
from pyg_schnet.analysis.chemical_potential import PotentialMap, PotentialSurface
from pyg_schnet.analysis.embeddings import embedding_pca
from pyg_schnet.analysis.filters import filter_curves
from pyg_schnet.analysis.interactive import write_page, write_surface
from pyg_schnet.analysis.interactive_plots import embeddings_figure, filters_figure, plane_figure
from pyg_schnet.analysis.isosurface import Surface
from pyg_schnet.analysis.points import plane_grid
from pyg_schnet.analysis.run_report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
# WebGL without a graphics card; no sandbox, as in containers there is none.
FLAGS = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


class Seen:
    """An opened page: what it said, asked for and shows."""

    def __init__(self, browser, path, size=(900, 700)):
        self.errors, self.asked = [], []
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        # Answered by nothing, so that no test depends on the net.
        self.page.route("http*://**/*", lambda route: route.abort())
        self.page.on("console", lambda one: one.type == "error" and self.errors.append(one.text))
        self.page.on("pageerror", lambda one: self.errors.append(str(one)))
        self.page.on("request", lambda one: self.asked.append(one.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("load")

    @property
    def elsewhere(self):
        own = ("file:", "data:", "blob:")
        return [url for url in self.asked if not url.startswith(own)]

    def pixels(self, **place):
        """What is shown, (height, width, 3)."""
        from matplotlib.image import imread

        shot = self.page.screenshot(clip=place or None)
        return (255 * imread(io.BytesIO(shot), format="png")[..., :3]).round().astype(int)


@contextmanager
def quiet():
    """Playwright's event loop leaves sockets that Python warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def browser():
    named = os.environ.get("PYG_SCHNET_CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    with quiet(), playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=found, args=FLAGS)
        except playwright.Error as error:
            if named:
                raise
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, as training leaves it."""
    folder = tmp_path_factory.mktemp("run")
    log = folder / "log" / "from_step_00000000"
    log.mkdir(parents=True)
    (log / "metrics.csv").write_text("step,train_loss,val_mae\n5,0.3,0.2\n10,0.1,0.1\n")
    metrics = {"target": "U0", "unit": "kcal/mol", "shown_per_unit": 23.06, "extensive": True}
    metrics |= {"n_train": 40, "n_test": 50, "stopped": "max_steps", "test_mae": 0.5}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(yaml.safe_dump({"target": "U0", "lr": 0.001}))
    right = np.linspace(-10.0, -5.0, 50)
    noise = 0.02 * np.random.default_rng(0).standard_normal(50)
    known = {"rows": np.arange(50), "reference": right, "prediction": right + noise}
    np.savez(folder / "predictions.npz", dressed=right, **known)
    save(small_schnet().float(), folder / "best.safetensors", info={"elements": [1, 6, 8]})
    return folder


def test_what_is_wrong_with_a_page_is_seen(browser, tmp_path):
    """The tests below see errors and requests: here are some."""
    bad = '<!DOCTYPE html><script>no_such_function()</script><script src="http://a.invalid/b.js">'
    (tmp_path / "bad.html").write_text(f"{bad}</script>")
    seen = Seen(browser, tmp_path / "bad.html")
    assert any("no_such_function" in error for error in seen.errors)
    assert seen.elsewhere == ["http://a.invalid/b.js"]
    assert (seen.pixels() == 255).all()


def test_the_report_of_a_run_is_whole_without_the_net(browser, run, tmp_path):
    seen = Seen(browser, write_report(run, tmp_path / "report.html"))
    assert not seen.errors and not seen.elsewhere
    sizes = seen.page.evaluate(
        """[...document.images].map(
            one => [one.complete, one.naturalWidth, one.getBoundingClientRect().width])"""
    )
    assert len(sizes) >= 4 and all(done and own > 100 and shown > 100 for done, own, shown in sizes)
    width = "document.documentElement.scrollWidth <= window.innerWidth"
    assert seen.page.evaluate(width), "the page is wider than the window"
    heads = seen.page.eval_on_selector_all("h2", "all => all.map(one => one.textContent)")
    assert heads[0] == "Errors on structures never seen" and "How to cite" in heads


def test_a_surface_is_drawn_and_its_buttons_choose_the_probe(browser, tmp_path):
    pytest.importorskip("plotly")
    # A ball of the unit sphere's octants, refined once, with the height as potential.
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    heights = np.linspace(-1, 1, 20)
    ring = np.sqrt(1 - heights[:, None] ** 2)
    x, y = 2 * ring * np.cos(turns), 2 * ring * np.sin(turns)
    vertices = np.stack([x, y, np.broadcast_to(2 * heights[:, None], x.shape)], -1).reshape(-1, 3)
    k = np.arange(19 * 40)
    beside = k - k % 40 + (k + 1) % 40
    faces = np.concatenate(
        [np.stack([k, beside, k + 40], 1), np.stack([beside, beside + 40, k + 40], 1)]
    )
    ball = Surface(vertices, faces)
    both = [
        PotentialSurface(ball, sign * vertices[:, 2], z, 0.0, "eV") for sign, z in ((1, 1), (-1, 6))
    ]
    seen = Seen(browser, write_surface(both, molecule("H2O"), tmp_path / "a.html"))
    seen.page.wait_for_selector("canvas")

    def differences():
        """How much yellower, red and green less blue, the upper part of the ball is."""
        middle = seen.pixels(x=250, y=200, width=300, height=350)
        yellow = middle[..., 0] + middle[..., 1] - 2 * middle[..., 2]
        inside = middle.min(-1) < 240
        if inside.mean() < 0.5:  # hardly anything is drawn
            return 0.0
        above, below = slice(0, 120), slice(-120, None)
        return float(yellow[above][inside[above]].mean() - yellow[below][inside[below]].mean())

    def shows(wanted):
        """Whether it comes to that within half a minute."""
        for _ in range(60):
            if wanted(differences()):
                return True
            seen.page.wait_for_timeout(500)
        return False

    assert shows(lambda found: found > 50)
    assert not seen.errors and not seen.elsewhere
    title = "document.querySelector('.gtitle').textContent"
    assert seen.page.evaluate(title) == "probe H"
    boxes = seen.page.evaluate(
        """['.gtitle', '.updatemenu-container', '.infolayer .colorbar'].map(name => {
            const b = document.querySelector(name).getBoundingClientRect();
            return [b.left, b.top, b.right, b.bottom]; })"""
    )
    for one in range(3):
        for other in range(one):
            a, b = boxes[one], boxes[other]
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{a} lies over {b}"
    seen.page.locator(".updatemenu-button", has_text="probe C").click()
    assert shows(lambda found: found < -50)
    assert seen.page.evaluate(title) == "probe C"
    assert not seen.errors and not seen.elsewhere


@pytest.mark.parametrize("kind", ["plane", "embeddings", "filters"])
def test_other_pages_are_drawn_too(browser, kind, tmp_path):
    pytest.importorskip("plotly")
    model = small_schnet()
    if kind == "plane":
        values = np.linspace(-1.0, 1.0, 100).reshape(10, 10)
        grid = plane_grid([0.0, 0.0, 0.0], [0.0, 0.0, 1.0], 4.5, 0.5)
        figure = plane_figure([PotentialMap(grid, values, 6, 0.0, "eV")] * 2, molecule("H2O"))
    elif kind == "embeddings":
        figure = embeddings_figure(embedding_pca(model, range(1, 30), 3))
    else:
        figure = filters_figure(filter_curves(model))
    seen = Seen(browser, write_page(figure, tmp_path / "a.html"))
    seen.page.wait_for_selector(".gtitle")
    for _ in range(60):
        pixels = seen.pixels(x=150, y=150, width=500, height=400)
        if len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50:
            break
        seen.page.wait_for_timeout(500)
    else:
        pytest.fail("hardly anything is drawn")
    assert not seen.errors and not seen.elsewhere
