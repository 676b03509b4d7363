"""Mathematics as MathML, which browsers show without a script or a network."""

import html

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write mathematics within a line."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write mathematics on lines of its own; it scrolls where it is wider than the page."""
    latex = node.astext()
    label = html.escape(latex, quote=True)
    translator.body.append(
        f'<div class="math" style="overflow-x: auto" aria-label="{label}">'
        f"{convert(latex, display='block')}</div>"
    )
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Name the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
