"""Reading and writing the YAML files that people edit: study files and cluster profiles.

Scalars follow the YAML 1.2 core schema, as editors that use our JSON Schemas read them: ``no`` and ``12:00:00`` are
text, ``1e-3`` is a number, only ``true`` and ``false`` are truth values. What makes a file ambiguous or dangerous is
refused with its line: duplicate keys, tags (``!!python/object`` runs code in careless loaders), aliases (a few lines
can expand to gigabytes), deep nesting, files that are not UTF-8, empty or far too large.

All problems of a file are reported at once, one line each (`validate`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from paceline.bench.errors import PacelineError

MAX_BYTES = 256 * 1024
_MAX_DEPTH = 16

Path_ = tuple[str | int, ...]

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
    yaml_implicit_resolvers: dict[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, _pattern, _first in _CORE:
    _compiled = re.compile(f"(?:{_pattern})\\Z")
    _characters = [*_first, ""] if _tag.endswith(":null") else list(_first)
    _Loader.add_implicit_resolver(_tag, _compiled, _characters)
    # The dumper quotes text that either schema would read as something else: other YAML 1.1 tools read our files too.
    _Dumper.add_implicit_resolver(_tag, _compiled, _characters)
for _letter, _resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items():
    for _tag, _compiled in _resolvers:
        if not _tag.endswith(":merge"):
            _Dumper.add_implicit_resolver(_tag, _compiled, [_letter])


@dataclass(frozen=True)
class Document:
    """A parsed file: plain values, and where each key stands."""

    data: dict[str, Any]
    lines: dict[Path_, int]
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
        lines: dict[Path_, int] = {}
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
        raise error(f"{where}: expected keys and values (`key: value`), found {_describe(data)}")
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


def _construct(node: yaml.Node, path: Path_, lines: dict[Path_, int]) -> Any:
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


# ------------------------------------------------------------------------------------------------ models


class FileModel(BaseModel):
    """Base of everything that stands in a file: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


Model = TypeVar("Model", bound=BaseModel)


def _printable(text: str) -> str:
    if any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in text):
        raise ValueError("must not contain line breaks or control characters")
    return _encodable(text)


def _encodable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a null character")
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise ValueError("must not contain half of a surrogate pair") from problem
    return text


Line = Annotated[str, AfterValidator(_printable)]
"""Text of one line without control characters."""

Text = Annotated[str, AfterValidator(_encodable)]
"""Any text that a file and an environment variable can hold."""


def validate(
    model: type[Model],
    document: Document,
    error: type[PacelineError],
    origin: Callable[[Path_], str | None] = lambda path: None,
) -> Model:
    """Return the model that a document describes, or raise ``error`` with one line per problem.

    Args:
        model: The pydantic model.
        document: The parsed file.
        error: The PacelineError to raise.
        origin: Name of where a value came from if not from the file (``--set KEY``), else None.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as problems:
        raise error("\n".join(problem_lines(model, document, problems, origin))) from problems


def problem_lines(
    model: type[BaseModel],
    document: Document,
    problems: ValidationError,
    origin: Callable[[Path_], str | None] = lambda path: None,
) -> list[str]:
    """Return one readable line per problem: file and line, key, what is wrong and what is allowed."""
    found: dict[str, int] = {}
    for problem in problems.errors():
        path = tuple(problem["loc"])
        line = next((document.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in document.lines), 0)
        place = origin(path) or (f"{document.where}:{line}" if line else document.where)
        message = _message(model, path, problem)
        found.setdefault(f"{place}: {message}", line)
    return [text for text, _ in sorted(found.items(), key=lambda item: item[1])]


def nearest(word: str, words: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the valid word that is most like the given one, or an empty text."""
    lowered = {candidate.lower(): candidate for candidate in words}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[close[0]]!r}?" if close else ""


def _message(model: type[BaseModel], path: Path_, problem: Any) -> str:
    key = ".".join(str(part) for part in path)
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        keys = _keys(model, path[:-1])
        return f"unknown key {key!r}{nearest(str(path[-1]), keys)} (valid keys: {', '.join(keys)})"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        text = str(context["error"])
        return f"{key}: {text}" if key else text
    expected = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "string_type": "text",
        "list_type": "a list",
        "tuple_type": "a list",
        "dict_type": "keys and values",
        "model_type": "keys and values",
        "model_attributes_type": "keys and values",
    }.get(kind)
    if expected:
        hint = "; put it in quotes" if kind == "string_type" and isinstance(value, int | float) else ""
        hint = "; write it without quotes" if kind == "int_type" and _is_number(value) else hint
        return f"{key}: expected {expected}, found {_describe(value)}{hint}"
    if kind == "literal_error":
        return f"{key}: must be {context['expected']}, not {_describe(value)}{_nearest_literal(value, context)}"
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "less_than_equal": ("at most", "le"),
        "greater_than": ("above", "gt"),
    }
    if kind in bounds:
        word, name = bounds[kind]
        return f"{key}: must be {word} {context[name]}, not {_describe(value)}"
    return f"{key}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, found {_describe(value)}"


def _nearest_literal(value: Any, context: Mapping[str, Any]) -> str:
    return nearest(value, re.findall(r"'([^']*)'", str(context["expected"]))) if isinstance(value, str) else ""


def _keys(model: type[BaseModel], path: Path_) -> list[str]:
    """Return the keys that are valid at a path inside a model."""
    for part in path:
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == part), None)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model class in an annotation such as ``Runtime | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in getattr(annotation, "__args__", ()) if (m := _model_in(a)) is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]+", value) is not None


def _describe(value: Any) -> str:
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
