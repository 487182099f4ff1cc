"""Sphinx: the pages of this folder, the API of every public name, and the examples, executed."""

import inspect

import sk_bnreg
from sk_bnreg import borrowed

project, author = "sk_bnreg", "the sk_bnreg developers"
release = version = sk_bnreg.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "digits", "examples", "static", "templates"]
templates_path = ["templates"]
default_role = "literal"
suppress_warnings = ["config.cache"]  # the functions in this file are no part of what it caches

myst_heading_anchors = 3
autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # numpydoc has them
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = "sk_bnreg"
html_show_sourcelink = False
# pages that have none below them need no navigation beside them
html_sidebars = {
    page: [] for page in ("index", "results", "theory", "accuracy", "benchmarks", "contributing", "changelog")
}
html_static_path, html_css_files = ["static"], ["site.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 8,
    "navbar_persistent": ["search-button"],
}

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/(plot|with)_",
    "within_subsection_order": "ExampleTitleSortKey",
    "backreferences_dir": "gallery/of",
    "doc_module": ("sk_bnreg",),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": float("inf"),
}

# an estimator that an example shows links its parameters to its page here
borrowed.DOCUMENTATION = ".."


def only_ours(app, what, name, obj, skip, options):
    """Leave out what classes inherit from other packages: it is described there."""
    inner = getattr(obj, "fget", None) or inspect.unwrap(obj) if callable(obj) or isinstance(obj, property) else obj
    module = getattr(inner, "__module__", None)
    return skip or (module is not None and not module.startswith("sk_bnreg"))


def setup(app):
    app.connect("autodoc-skip-member", only_ours)
