"""TensorBoard event files, read without TensorFlow: records, and the few protocol-buffer fields that hold scalars.

A file is a sequence of records (the TFRecord format):

    uint64 length | uint32 masked crc32c of length | data | uint32 masked crc32c of data        little-endian

Each record is an ``Event``; the fields read here, by number (event.proto, summary.proto and tensor.proto of
TensorFlow):

    Event      1 double wall_time   2 int64 step   5 Summary
    Summary    1 repeated Value
    Value      1 string tag   2 float simple_value   8 TensorProto tensor
    Tensor     1 dtype (1 float32, 2 float64)   4 bytes tensor_content   5 packed float   6 packed double
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from paceline.bench.errors import RecordError

MAX_BYTES = 2**30


@dataclass(slots=True)
class Scalars:
    """One tag: its values by step, in the order they were written."""

    steps: list[int] = field(default_factory=list)
    wall_times_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def read_scalars(path: Path) -> dict[str, Scalars]:
    """Return the scalars of one event file by tag.

    A last record that was cut short (the run was killed) is left out; RecordError for any other damage.
    """
    out: dict[str, Scalars] = {}
    for record in _records(path):
        wall_time_s, step, summary = 0.0, 0, b""
        try:
            for number, value in _fields(record):
                if number == 1 and isinstance(value, bytes):
                    wall_time_s = struct.unpack("<d", value)[0]
                elif number == 2 and isinstance(value, int):
                    step = value - 2**64 if value >= 2**63 else value
                elif number == 5 and isinstance(value, bytes):
                    summary = value
            for number, value in _fields(summary):
                if number != 1 or not isinstance(value, bytes):
                    continue
                tag, scalar = _value(value)
                if scalar is not None:
                    found = out.setdefault(tag, Scalars())
                    found.steps.append(step)
                    found.wall_times_s.append(wall_time_s)
                    found.values.append(scalar)
        except (ValueError, struct.error, IndexError) as error:
            raise RecordError(f"{path}: not a TensorBoard event file (a record cannot be read: {error})") from error
    return out


def _records(path: Path) -> Iterator[bytes]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecordError(f"{path}: {path.stat().st_size / 2**20:,.0f} MiB is too large (limit 1024 MiB)")
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise RecordError(f"{path}: the file is empty")
    position = 0
    while position < len(data):
        head = data[position : position + 12]
        if len(head) < 12:
            return
        length, check = struct.unpack("<QI", head)
        if _masked_crc(head[:8]) != check:
            raise RecordError(f"{path}: not a TensorBoard event file, or damaged at byte {position}")
        body = data[position + 12 : position + 12 + length]
        tail = data[position + 12 + length : position + 16 + length]
        if len(body) < length or len(tail) < 4:
            return
        if _masked_crc(body) != struct.unpack("<I", tail)[0]:
            raise RecordError(f"{path}: damaged at byte {position}: the checksum of a record does not fit")
        yield body
        position += 16 + length


def _table() -> tuple[int, ...]:
    out = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli, reflected
        out.append(crc)
    return tuple(out)


_CRC32C = _table()


def _masked_crc(data: bytes) -> int:
    """Return the crc32c of some bytes, rotated and offset as TFRecord stores it."""
    crc, table = 0xFFFFFFFF, _CRC32C
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number longer than 64 bits")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value): int for varints, bytes for the rest."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + length > len(data):
            raise ValueError("a field longer than its record")
        yield key >> 3, data[position : position + length]
        position += length


def _value(data: bytes) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            tag = value.decode("utf-8", "replace")
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            scalar = float(struct.unpack("<f", value)[0])
        elif number == 8 and isinstance(value, bytes):
            scalar = _tensor(value)
    return tag, scalar


def _tensor(data: bytes) -> float | None:
    """Return the single number in a tensor, None if it holds something else."""
    dtype, content = 0, b""
    packed: float | None = None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            dtype = value
        elif number == 4 and isinstance(value, bytes):
            content = value
        elif number == 5 and isinstance(value, bytes) and len(value) == 4:
            packed = float(struct.unpack("<f", value)[0])
        elif number == 6 and isinstance(value, bytes) and len(value) == 8:
            packed = float(struct.unpack("<d", value)[0])
    if dtype == 1 and len(content) == 4:
        return float(struct.unpack("<f", content)[0])
    if dtype == 2 and len(content) == 8:
        return float(struct.unpack("<d", content)[0])
    return packed if dtype in (1, 2) else None
