from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.bench import yamlfile
from paceline.bench.errors import PacelineError, StudyError


def parse(text: str) -> Any:
    return yamlfile.parse(text, "x.yaml", StudyError).data


def error_of(text: str) -> str:
    with pytest.raises(StudyError) as caught:
        yamlfile.parse(text, "x.yaml", StudyError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", 10),  # YAML 1.1 would read an octal 8
        ("1e-3", 0.001),  # YAML 1.1 would read text
        ("1.5", 1.5),
        (".inf", math.inf),
        ("true", True),
        ("no", "no"),  # YAML 1.1 would read False
        ("on", "on"),
        ("12:00:00", "12:00:00"),  # YAML 1.1 would read 43200
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("1_000", "1_000"),
        ("null", None),
        ("", None),
        ('"12"', "12"),
        ("[1, two, 3.0]", [1, "two", 3.0]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = parse(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text_whatever_they_look_like() -> None:
    assert parse("4090: 1\ntrue: 2\nnull: 3") == {"4090": 1, "true": 2, "null": 3}


def test_lines_of_keys_and_items() -> None:
    document = yamlfile.parse("a: 1\nb:\n  - x\n  - c: 2\n", "x.yaml", StudyError)
    assert document.lines == {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: key 'a' is stated twice (first in line 1)"),
        ("a:\n  b: 1\n  b: 2\n", "x.yaml:3: key 'b' is stated twice (first in line 2)"),
        ("", "x.yaml: is empty; expected keys and values"),
        ("# only a comment\n", "x.yaml: is empty; expected keys and values"),
        ("- 1\n- 2\n", "x.yaml: expected keys and values (`key: value`), found a list"),
        ("just words\n", "x.yaml: expected keys and values (`key: value`), found 'just words'"),
        ("a: [1, 2\nb: 3\n", "x.yaml:2: is not valid YAML: expected ',' or ']', but got ':'"),
        ("a: 1\n\tb: 2\n", "x.yaml:2: is not valid YAML: found character '\\t' that cannot start any token"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: holds more than one YAML document (---)"),
        ("a: &x 1\nb: *x\n", "x.yaml:2: YAML aliases (*x) are not supported; write the value out"),
        ("a: !!str 1\n", "x.yaml:1: YAML tags (tag:yaml.org,2002:str) are not supported; write a plain value"),
        ("? [1, 2]\n: 3\n", "x.yaml:1: a key must be a word, not a list or a mapping"),
        ("a: \x07\n", "x.yaml: is not valid YAML"),
        ("a: " + "9" * 5000, "x.yaml:1: is too large a number"),
        ("a: " + "[" * 17 + "]" * 17, "x.yaml:1: is nested more than 16 levels deep"),
        ("{" * 100_000, "x.yaml:1: is nested more than 16 levels deep"),
    ],
)
def test_one_clear_line_for_a_broken_file(text: str, message: str) -> None:
    found = error_of(text)
    assert found.startswith(message)
    assert "\n" not in found


def test_tags_run_no_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for tag in ("python/object/apply:os.system", "python/object/new:os.system"):
        message = error_of(f"name: !!{tag} ['touch {canary}']\n")
        assert "YAML tags" in message
        assert message.startswith("x.yaml:1:")
    assert not canary.exists()


def test_billion_laughs_is_refused_at_once() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{n}: &{n} [{', '.join(['*' + p] * 9)}]" for p, n in zip("abcdefgh", "bcdefghi", strict=True)]
    assert "YAML aliases (*a) are not supported" in error_of("\n".join(lines))


def test_file_of_10_mb(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("name: x\n" + "# padding\n" * 1_000_000)
    with pytest.raises(StudyError, match=r"big\.yaml: is 10\.0 MB; such a file is a few kB, 256 kB at most"):
        yamlfile.read(path, StudyError)


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: x\n# für\n".encode("latin-1"))
    with pytest.raises(StudyError, match=r"latin\.yaml:2: is not UTF-8 text \(byte 0xfc\)"):
        yamlfile.read(path, StudyError)


def test_utf8_with_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes("\ufeffname: für\n".encode())
    assert yamlfile.read(path, StudyError).data == {"name": "für"}


def test_folder_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be read: Is a directory"):
        yamlfile.read(tmp_path, StudyError)
    with pytest.raises(StudyError, match="cannot be read: No such file or directory"):
        yamlfile.read(tmp_path / "none.yaml", StudyError)


def test_setting_values() -> None:
    assert yamlfile.parse_value("[1, 2]") == [1, 2]
    assert yamlfile.parse_value("1e3") == 1000.0
    for text in ("[1, 2", "!!python/name:os.system", "*x"):
        with pytest.raises(ValueError):
            yamlfile.parse_value(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, min_size=1, max_size=5))
def test_what_is_written_reads_back_the_same(data: dict[str, Any]) -> None:
    try:
        text = yamlfile.dump(data)
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: no file can hold it
        return
    assert parse(text) == data


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        yamlfile.parse(text, "x.yaml", StudyError)
    except PacelineError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("x.yaml:")
