"""What MkDocs calls while it builds the site.

The pages in docs/ are plain Markdown that can be read on a code host as well. What only the site has is put in by
`staging`, into a copy of the folder; diagrams become part of their page here, so that they follow its colours.
"""

import re
from pathlib import Path
from typing import Final

import staging
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils.templates import TemplateContext

_DIAGRAM: Final = re.compile(r'<img alt="(?P<alt>[^"]*)" src="[^"]*?images/diagrams/(?P<name>[\w-]+)\.svg"[^>]*>')
_STYLE: Final = re.compile(r"<style>.*?</style>", re.DOTALL)
_RAISES: Final = re.compile(r"<p>Raises: ")


# Before all plugins, which look into the folder of the pages. The plugin for languages builds the site once more for each
# of them, with the same configuration, and its files must be on the disk.
@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    root = Path(config.config_file_path).parent
    config.docs_dir = str(root / "build" / "pages")
    staging.stage(root, Path(config.docs_dir))
    return config


# After the plugin for languages, whose links to the front pages would hold at the root of a host only.
@event_priority(-200)
def on_page_context(context: TemplateContext, *, page: Page, config: MkDocsConfig, nav: Navigation) -> TemplateContext:
    del page, nav
    # An attribute that the plugin sets, which the theme finds before the entry of the same name.
    for language in getattr(config.extra, "alternate", []):
        if str(language["link"]).startswith("/"):
            language["link"] = str(language["link"]).lstrip("/") or "."
    return context


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    del files
    if page.file.src_uri == "python.md":
        html = _RAISES.sub('<p class="raises"><b>Raises:</b> ', html)
    folder = Path(config.docs_dir) / "images" / "diagrams"
    return _DIAGRAM.sub(lambda found: _inlined(folder / f"{found['name']}.svg", found["alt"]), html)


def _inlined(file: Path, alt: str) -> str:
    """A diagram as a part of the page. Its own colours follow the system's; the page's follow the reader's choice."""
    drawing = _STYLE.sub("", file.read_text(encoding="utf-8"))
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)
