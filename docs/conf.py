"""Settings of the documentation site, which ``make docs`` builds with Sphinx.

The pages are the Markdown files of this folder. Formulas become MathML when the site is built and
all else that a page needs lies beside it: nothing is asked of the net when it is read.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

project = "pyg_schnet"
author = "The pyg_schnet developers"
copyright = author
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None
pygments_style = "default"
myst_heading_anchors = 3
nitpicky = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "exclude-members": "propagate, edge_updater"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False


def setup(app: Any) -> None:
    """Tell Sphinx how formulas are written, pages filled in and names looked up."""
    import generated
    import mathml

    app.add_html_math_renderer(
        "mathml", inline_renderers=(mathml.inline, None), block_renderers=(mathml.block, None)
    )
    app.connect("source-read", generated.fill_in)
    # Before Napoleon, which has the usual priority.
    app.connect("autodoc-process-docstring", generated.clean_docstring, priority=400)
    app.connect("missing-reference", generated.find_name)
