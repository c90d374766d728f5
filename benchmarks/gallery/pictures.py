"""Pictures small enough for a repository: fewer pixels and 256 colours."""

import importlib
import os
import shutil
from pathlib import Path

WIDEST = 1000
_FLAGS = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def shrink(source: Path, target: Path, widest: int = WIDEST) -> Path:
    """Write a picture with at most so many pixels in a row, in a palette of its own.

    Args:
        source: A bitmap.
        target: The .png to write, whole or not at all.
        widest: Pixels.

    Returns:
        The file written.
    """
    from PIL import Image

    with Image.open(source) as opened:
        image = opened.convert("RGB")
    if image.width > widest:
        height = round(image.height * widest / image.width)
        image = image.resize((widest, height), Image.Resampling.LANCZOS)
    few = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.stem}.part.png")
    few.save(aside, optimize=True)
    os.replace(aside, target)
    return target


def photograph(page: Path, target: Path, height: int = 800) -> Path | None:
    """A picture of a page as a headless Chromium shows it; None where there is none.

    Args:
        page: The .html.
        target: The .png to write.
        height: Pixels of the window, 1000 wide.
    """
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError:
        return None
    named = os.environ.get("PYG_SCHNET_CHROMIUM") or shutil.which("chromium")
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=named, args=_FLAGS)
        except playwright.Error:
            return None
        window = browser.new_page(viewport={"width": 1000, "height": height})
        window.goto(page.resolve().as_uri())
        window.wait_for_timeout(5000)  # WebGL without a graphics card takes its time
        window.screenshot(path=target)
        browser.close()
    return target
