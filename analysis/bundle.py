"""The JavaScript that draws the charts: Vega, Vega-Lite and Vega-Embed as one text, to be inlined into a page."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

_NAME = "vega-{version}.js"


def javascript() -> str:
    """Return the bundle that vl-convert-python carries (about 0.9 MB), cached because making it takes seconds.

    The cache lies in ``$XDG_CACHE_HOME/paceline`` under the version of vl-convert; a folder that cannot be written only
    costs time.
    """
    cache = _cache_folder() / _NAME.format(version=_version())
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = cache.read_text(encoding="utf-8")
        if text:
            return text
    import vl_convert

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    # The bundle declares hundreds of top-level names: keep them out of the page. "</script" must not end the element.
    text = "(function () {\n" + bundle.replace("</script", r"<\/script").replace("<!--", r"<\!--") + "\n})();\n"
    with contextlib.suppress(OSError):
        _write(cache, text)
    return text


def _version() -> str:
    from importlib.metadata import version

    return version("vl-convert-python")


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "paceline"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)
