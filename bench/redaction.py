"""Keeps credentials out of what Paceline writes: which variables hold some, and how they leave texts and files.

A leaf module: standard library only. Known values come from the environment, unknown ones are found by their form.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

MASK = "[redacted]"
_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASS|PASSPHRASE|CREDENTIALS?|API_?KEY|ACCESS_?KEY(?:_ID)?|PRIVATE_?KEY"
    r"|SECRET_?KEY|AUTH_?KEY|COOKIE|JWT|PAT)(?:$|_)",
    re.IGNORECASE,
)
TOKEN_FORMS = (
    r"gh[pousr]_[A-Za-z0-9]{16,}",
    r"github_pat_\w{16,}",
    r"glpat-[\w-]{16,}",
    r"hf_[A-Za-z0-9]{16,}",
    r"nvapi-[\w-]{16,}",
    r"(?<![A-Za-z0-9])sk-[\w-]{16,}",
    r"xox[abprs]-[\w-]{10,}",
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",
    r"AIza[\w-]{30,}",
    r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",
    r"\w+://[^\s/@:]+:[^\s/@]+@\S*",
)
"""Regular expressions of what credentials look like: GitHub, GitLab, Hugging Face, NVIDIA, OpenAI, Slack, AWS, Google,
JSON web tokens, a password in a URL. Captures of profilers are scrubbed by these and more (analysis/redact.py)."""
_FORMS = re.compile("|".join(TOKEN_FORMS))
_MIN_LENGTH = 8
_TEXT_SUFFIXES = {".log", ".jsonl", ".json", ".txt", ".yaml", ".yml", ".sh", ".md", ".csv", ".html", ".out", ".err", ""}


def is_secret_name(name: str) -> bool:
    """Return whether a variable of this name holds a credential, going by its name: HF_TOKEN, WANDB_API_KEY ..."""
    return not name.startswith("PACELINE_") and _NAME.search(name) is not None


def looks_secret(text: str) -> bool:
    """Return whether a text holds what has the form of a credential."""
    return _FORMS.search(text) is not None


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the credentials in an environment, longest first; short values are no credentials."""
    found = {value for name, value in environment.items() if is_secret_name(name) and len(value) >= _MIN_LENGTH}
    return tuple(sorted(found, key=len, reverse=True))


def redact(text: str, values: Iterable[str] = ()) -> str:
    """Return a text without the given values and without whatever has the form of a credential."""
    for value in values:
        text = text.replace(value, MASK)
    return _FORMS.sub(MASK, text)


def mask_files(folder: Path, values: Iterable[str]) -> int:
    """Overwrite values in all text files below a folder by asterisks, in place; return how many were overwritten.

    A file keeps its length, so that a log may be written to at the same time. Files that cannot be opened are left.
    """
    needles = [value.encode() for value in values]
    if not needles:
        return 0
    count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.suffix in _TEXT_SUFFIXES and not path.is_symlink():
                with suppress(OSError, ValueError):
                    count += _mask(path, needles)
    return count


def _mask(path: Path, needles: list[bytes]) -> int:
    with path.open("r+b") as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            return 0
        count = 0
        with mmap.mmap(stream.fileno(), 0) as content:
            for needle in needles:
                at = content.find(needle)
                while at >= 0:
                    content[at : at + len(needle)] = b"*" * len(needle)
                    count += 1
                    at = content.find(needle, at + len(needle))
        return count
