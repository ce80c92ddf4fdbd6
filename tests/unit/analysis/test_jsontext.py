"""Values of JSON text: the quick reader and the standard library's agree."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.analysis import jsontext

LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(st.characters(codec="utf-8"))
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
)


def test_orjson_is_there() -> None:
    assert jsontext._fast is not None


@given(VALUES, st.booleans())
def test_it_reads_what_the_standard_library_writes(value: object, plain: bool) -> None:
    text = json.dumps(value, ensure_ascii=plain).encode()
    assert repr(jsontext.loads(bytearray(text))) == repr(json.loads(text))  # NaN is not equal to itself


@pytest.mark.parametrize("text", [b'{"a": NaN}', b"[Infinity, -Infinity]", b"1e400", b'"\\ud800"', b'\xef\xbb\xbf"a"'])
def test_what_orjson_refuses_is_read_all_the_same(text: bytes) -> None:
    assert repr(jsontext.loads(text)) == repr(json.loads(text))


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("text", [b"", b"{", b"[1,]", b"nan", b'"\xff"', b"[1] 2", b"[" * 100_000, b"01"])
def test_what_is_no_json_is_a_value_error(text: bytes, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not installed:
        monkeypatch.setattr(jsontext, "_fast", None)
    with pytest.raises(ValueError):
        jsontext.loads(text)


def test_without_orjson_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'{"t_s": 1.25, "gpus": [{"uuid": "GPU-0", "throttle": null}], "end": false, "count": 9007199254740993}'
    quick = jsontext.loads(text)
    monkeypatch.setattr(jsontext, "_fast", None)
    assert jsontext.loads(text) == quick == json.loads(text)


def test_whole_numbers_beyond_64_bits_stay_numbers() -> None:
    assert math.isclose(jsontext.loads(b"123456789012345678901234567890"), 1.2345678901234568e29)
