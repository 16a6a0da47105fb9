"""Markdown to HTML for the site: scrollable tables, headings with anchors, highlighted code."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from markupsafe import Markup

from common.view.site.code import highlighted

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

__all__ = ["inline", "plain", "render"]


def _fence(code: str, language: str, framework: str) -> str:
    lines = highlighted(code.rstrip("\n")) if language == "python" else html.escape(code.rstrip("\n")).split("\n")
    label = f'<p class="fence">{html.escape(framework)}</p>' if framework else ""
    name = f"{framework or language or 'text'} code"
    body = "\n".join(lines)
    # tabindex makes the block focusable, so that it can be scrolled with the keyboard.
    return f'{label}<pre class="block" tabindex="0" role="group" aria-label="{name}"><code>{body}</code></pre>'


def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"highlight": None}).enable("table")
    parser.add_render_rule(
        "fence",
        lambda _, tokens, i, *__: _fence(tokens[i].content, *tokens[i].info.partition(" ")[::2]),
    )
    return parser


def render(text: str) -> Markup:
    """Convert a Markdown document to HTML."""
    body = _parser().render(re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL))
    body = re.sub(r'<p><a id="([\w-]+)"></a></p>\s*<h(\d)>', r'<h\2 id="\1">', body)
    body = re.sub(r"<h2>(.*?)</h2>", lambda found: f'<h2 id="{_anchor(found[1])}">{found[1]}</h2>', body)
    # An empty header cell is not a header: accessibility checkers reject it.
    body = re.sub(r"<th[^>]*></th>", "<td></td>", body)
    body = body.replace("<table>", '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>')
    body = body.replace("</table>", "</table></div>").replace('href="initializers.md"', 'href="initializers.html"')
    return Markup(body)  # noqa: S704 (the text is the project's own)


def inline(text: str) -> Markup:
    """Convert a line of Markdown to HTML."""
    return Markup(_parser().renderInline(text))  # noqa: S704 (as above)


def plain(text: str) -> str:
    """Return a line of Markdown as plain text."""
    return text.replace("`", "")


def _anchor(heading: str) -> str:
    return re.sub(r"\W+", "-", re.sub(r"<.*?>", "", heading).lower()).strip("-")
