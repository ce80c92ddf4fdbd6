"""Reading and writing the YAML files that people edit: study files and cluster profiles.

Scalars follow the YAML 1.2 core schema, as editors that use our JSON Schemas read them: ``no`` and ``12:00:00`` are
text, ``1e-3`` is a number, only ``true`` and ``false`` are truth values. What makes a file ambiguous or dangerous is
refused with its line: duplicate keys, tags (``!!python/object`` runs code in careless loaders), aliases (a few lines
can expand to gigabytes), deep nesting, files that are not UTF-8, empty or far too large.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from paceline.bench.errors import PacelineError

MAX_BYTES = 256 * 1024
_MAX_DEPTH = 16

KeyPath = tuple[str | int, ...]

# YAML 1.2 core schema, section 10.3.2. PyYAML's own patterns are those of YAML 1.1 (base 60, yes/no, dates).
_CORE: tuple[tuple[str, str, str], ...] = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    """Resolves scalars by the patterns above only."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that a YAML 1.1 or a YAML 1.2 reader would take for something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # PyYAML writes these as they are in single quotes, where reading folds them into a blank.
    style = '"' if any(character in text for character in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)

_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _CORE:
    _compiled = re.compile(f"(?:{_pattern})\\Z")
    _characters = [*_first, ""] if _tag.endswith(":null") else list(_first)
    _Loader.add_implicit_resolver(_tag, _compiled, _characters)
    _Dumper.add_implicit_resolver(_tag, _compiled, _characters)
for _letter, _resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items():
    for _tag, _compiled in _resolvers:
        if not _tag.endswith(":merge"):
            _Dumper.add_implicit_resolver(_tag, _compiled, [_letter])


@dataclass(frozen=True)
class Document:
    """A parsed file: plain values, and where each key stands."""

    data: dict[str, Any]
    lines: dict[KeyPath, int]
    """Line (from 1) of every key and list item, by its path such as ``("runtime", "binds", 0)``."""
    where: str
    """Name of the file for messages."""


class _Problem(Exception):
    """What is wrong with a document, and at which line."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


def read(path: Path, error: type[PacelineError]) -> Document:
    """Return the mapping in a YAML file; ``error`` with one line per problem if it is not one."""
    where = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as problem:
        raise error(f"{where}: cannot be read: {problem.strerror}") from problem
    if len(raw) > MAX_BYTES:
        size = path.stat().st_size / 1e6
        raise error(f"{where}: is {size:.1f} MB; such a file is a few kB, {MAX_BYTES // 1024} kB at most")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise error(f"{where}:{line}: is not UTF-8 text (byte 0x{raw[problem.start]:02x})") from problem
    return parse(text, where, error)


def parse(text: str, where: str, error: type[PacelineError]) -> Document:
    """Return the mapping in YAML text; ``error`` if it is not one."""
    try:
        _refuse_dangerous(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        data = _construct(node, (), lines) if node is not None else None
    except _Problem as problem:
        raise error(f"{where}:{problem.line}: {problem.text}") from problem
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise error(f"{where}{line}: is not valid YAML: {problem.problem or problem.context}") from problem
    except yaml.YAMLError as problem:
        raise error(f"{where}: is not valid YAML: {' '.join(str(problem).split())}") from problem
    if data is None:
        raise error(f"{where}: is empty; expected keys and values")
    if not isinstance(data, dict):
        raise error(f"{where}: expected keys and values (`key: value`), found {describe(data)}")
    return Document(data, lines, where)


def require_schema(document: Document, schema: str, error: type[PacelineError]) -> None:
    """Raise ``error`` if a file says that it is of another format or version; a file may leave it out."""
    found = document.data.get("schema", schema)
    if found != schema:
        line = document.lines.get(("schema",), 1)
        raise error(f"{document.where}:{line}: schema is {found!r}, this version of Paceline reads {schema!r}")


def parse_value(text: str) -> Any:
    """Return the value of a ``KEY=VALUE`` setting: a scalar or a flow list as in a file; ValueError if malformed."""
    try:
        _refuse_dangerous(text)
        node = _Loader(text).get_single_node()
        return None if node is None else _construct(node, (), {})
    except _Problem as problem:
        raise ValueError(problem.text) from problem
    except yaml.YAMLError as problem:
        raise ValueError("is not a valid value") from problem


def dump(data: Mapping[str, Any]) -> str:
    """Return YAML text that `parse` reads back to equal values, keys in their order."""
    text: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def _refuse_dangerous(text: str) -> None:
    """Raise _Problem for tags, aliases, several documents and deep nesting, before anything is built."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise _Problem(line, f"YAML aliases (*{event.anchor}) are not supported; write the value out")
        tag = getattr(event, "tag", None)
        if isinstance(event, yaml.NodeEvent) and tag is not None:
            raise _Problem(line, f"YAML tags ({tag}) are not supported; write a plain value")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise _Problem(line, f"is nested more than {_MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _Problem(line, "holds more than one YAML document (---)")


def _construct(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
    """Return the plain value of a node and note the lines of what is in it."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Problem(key_line, "a key must be a word, not a list or a mapping")
            key = key_node.value
            if key in mapping:
                raise _Problem(key_line, f"key {key!r} is stated twice (first in line {lines[(*path, key)]})")
            lines[(*path, key)] = key_line
            mapping[key] = _construct(value_node, (*path, key), lines)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            items.append(_construct(item, (*path, index), lines))
        return items
    kind, text = node.tag.rpartition(":")[2], node.value
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError as problem:  # a number of more than 4300 digits
        raise _Problem(line, "is too large a number") from problem
    return text


def describe(value: Any) -> str:
    """Return a value as a message shows it: short, on one line, with its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "keys and values"
    return str(value)[:60]
