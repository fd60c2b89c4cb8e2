"""How the documentation is built: `make docs`. Warnings are errors."""

from __future__ import annotations

from neverstale import __all__ as public

project = "Neverstale"
author = "The Neverstale authors"
copyright = "The Neverstale authors"  # noqa: A001 - Sphinx' own name for it

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
#: Headings can be linked to from other pages: `page.md#a-heading`.
myst_heading_anchors = 3

html_theme = "furo"
html_title = "Neverstale"
# Nothing of another host, and no address of one.
html_copy_source = False
html_show_sphinx = False

# `name` in a docstring is code.
default_role = "code"

# Signatures stay as they are written; a docstring says the rest.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Attributes as a list in the class: those that are properties as well would be there twice.
napoleon_use_ivar = True

nitpicky = False
#: What `reference.md` has to name; a test compares.
documented = sorted(public)
