"""Takes secrets and personal traces out of text: what the environment of a run held, and what looks like a credential.

Known values come from the capture itself (its environment variables and command line); unknown ones are found by their
form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from paceline.bench.redaction import TOKEN_FORMS

MASK = "[scrubbed]"
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS|CRED|AUTH|COOKIE|SESSION|SIGNATURE", re.IGNORECASE)
_PERSON_NAME = re.compile(r"^(USER|LOGNAME|USERNAME|SUDO_USER|HOSTNAME|HOST|.*_USER)$", re.IGNORECASE)
_MIN_VALUE = 8
_FORMS = (
    *TOKEN_FORMS,
    r"-----BEGIN [A-Z ]+-----",
    r"\b[0-9a-f]{40}\b",
    r"(?i:token|secret|passw(?:or)?d|api_?key|authorization)\s*[=:]\s*\S+",
    r"[\w.+-]+@[\w-]+\.[\w.-]+",
    r"(?<![\w:.<>)])~?/(?:[\w.+@-]+/)+[\w.+@-]*",
    r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    r"\bGPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
)
_LOOKS_SECRET = re.compile("|".join(f"(?:{form})" for form in _FORMS))


class Redactor:
    """Replaces secrets in text by MASK and counts how often."""

    def __init__(self, environment: Iterable[tuple[str, str]] = (), arguments: Iterable[str] = ()) -> None:
        """Take the environment (name, value) and the command line of what was profiled."""
        anywhere: set[str] = set()
        words: set[str] = set()
        for name, value in environment:
            if _SECRET_NAME.search(name) and len(value) >= 4:
                anywhere.add(value)
            elif _PERSON_NAME.match(name) and len(value) >= 2:
                words.add(value)
            elif len(value) >= _MIN_VALUE:
                anywhere.add(value)
        anywhere |= {value for value in arguments if len(value) >= _MIN_VALUE and not value.startswith("-")}
        self.secrets = frozenset(anywhere)
        longest_first = sorted(anywhere, key=len, reverse=True)
        forms = [re.escape(value) for value in longest_first] + [rf"\b{re.escape(value)}\b" for value in sorted(words)]
        self._known = re.compile("|".join(forms)) if forms else None
        self._seen: dict[str, str] = {}
        self.count = 0

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        found = self._seen.get(text)
        if found is None:
            found = self._known.sub(MASK, text) if self._known else text
            found = _LOOKS_SECRET.sub(MASK, found)
            self._seen[text] = found
            self.count += found != text
        return found
