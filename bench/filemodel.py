"""What study files and cluster profiles have in common as pydantic models, and how their mistakes are told.

All problems of a file are reported at once, one line each: file and line, key, what is wrong and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from paceline.bench.errors import PacelineError
from paceline.bench.yamlfile import Document, KeyPath, describe
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError


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
    origin: Callable[[KeyPath], str | None] = lambda path: None,
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
    origin: Callable[[KeyPath], str | None] = lambda path: None,
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


def _message(model: type[BaseModel], path: KeyPath, problem: Any) -> str:
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
        return f"{key}: expected {expected}, found {describe(value)}{hint}"
    if kind == "literal_error":
        return f"{key}: must be {context['expected']}, not {describe(value)}{_nearest_literal(value, context)}"
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "less_than_equal": ("at most", "le"),
        "greater_than": ("above", "gt"),
    }
    if kind in bounds:
        word, name = bounds[kind]
        return f"{key}: must be {word} {context[name]}, not {describe(value)}"
    return f"{key}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, found {describe(value)}"


def _nearest_literal(value: Any, context: Mapping[str, Any]) -> str:
    return nearest(value, re.findall(r"'([^']*)'", str(context["expected"]))) if isinstance(value, str) else ""


def _keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that are valid at a path inside a model."""
    keyed = False  # the part is a key of a mapping whose values are models
    for part in path:
        if keyed:
            keyed = False
            continue
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == part), None)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model, keyed = inner, field is not None and _is_mapping(field.annotation)
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model class in an annotation such as ``Runtime | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in getattr(annotation, "__args__", ()) if (m := _model_in(a)) is not None), None)


def _is_mapping(annotation: Any) -> bool:
    """Return whether an annotation such as ``dict[str, Runtime] | None`` allows a mapping."""
    return get_origin(annotation) is dict or any(map(_is_mapping, get_args(annotation)))


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]+", value) is not None
