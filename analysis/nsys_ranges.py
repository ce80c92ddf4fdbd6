"""NVTX events of an nsys export: ranges with their labels, and the ranks that marks name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from paceline.analysis.capture import NO_TIME, PUSH_POP, START_END, Ranges
from paceline.analysis.nsys_keys import LOW_BITS, Keys
from paceline.analysis.tablesource import Column, iter_matching

_STYLES = {59: PUSH_POP, 70: PUSH_POP, 60: START_END, 71: START_END}
_MARK, _DOMAIN = 34, 75
_RANK = re.compile(r"\brank=(\d{1,6})\b")


def read(keys: Keys, strings: dict[int, str]) -> tuple[Ranges, list[tuple[str, str]], dict[int, int]]:
    """Return the ranges (unclosed ones end at NO_TIME), their labels, and process to rank as marks tell."""
    parts: list[Ranges] = []
    labels: dict[tuple[str, str], int] = {}
    ranks: dict[int, int] = {}
    wanted = {"start": "time", "end": "time", "eventType": "key", "globalTid": "key", "endGlobalTid": "key"}
    wanted |= {"text": "text", "textId": "int", "domainId": "key"}
    for table in iter_matching(keys.tables, "NVTX_EVENTS"):
        columns = keys.columns(table, wanted, ("start", "end", "eventType", "globalTid"))
        parts.append(_ranges(keys, columns, strings, labels, ranks))
    if not parts:
        parts = [_no_ranges()]
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in Ranges.__dataclass_fields__}
    return Ranges(**joined), list(labels), ranks


def _ranges(
    keys: Keys,
    columns: dict[str, Column],
    strings: dict[int, str],
    labels: dict[tuple[str, str], int],
    ranks: dict[int, int],
) -> Ranges:
    rows = len(columns["start"].values)
    none = Column(np.full(rows, -1, np.int32))
    thread = keys.threads(columns["globalTid"])
    end_thread = keys.threads(columns.get("endGlobalTid", none))
    kinds = columns["eventType"]
    text, text_id = columns.get("text", none), columns.get("textId", none).values
    domain = columns.get("domainId", Column(np.zeros(rows, np.int32), [0]))
    threads = list(keys.thread_of)

    def string(row: Any) -> str:
        code = text.values[row]
        return str(text.distinct[code]) if code >= 0 else strings.get(int(text_id[row]), "")

    def process(row: Any) -> int:
        return keys.process_of[threads[thread[row]] & ~LOW_BITS] if thread[row] >= 0 else -1

    of_kind = {int(kind): code for code, kind in enumerate(kinds.distinct)}
    domains: dict[tuple[int, int], str] = {}
    for row in np.flatnonzero(kinds.values == of_kind.get(_DOMAIN, -2)):
        domains[process(row), int(domain.distinct[domain.values[row]])] = string(row)
    for row in np.flatnonzero(kinds.values == of_kind.get(_MARK, -2)):
        if match := _RANK.search(string(row)):
            ranks.setdefault(process(row), int(match.group(1)))

    style_of = np.array([_STYLES.get(int(kind), -1) for kind in kinds.distinct] + [-1], np.int8)
    style = style_of[kinds.values]
    keep = style >= 0
    orphans = int(np.count_nonzero(keep & (thread < 0)))
    if orphans:
        keys.warnings.append(f"{orphans:,} NVTX ranges name no thread and are left out")
        keep &= thread >= 0
    if not keep.all():
        style, thread, end_thread, text_id = style[keep], thread[keep], end_thread[keep], text_id[keep]
    start, end = columns["start"].values, columns["end"].values
    start, end = (start, end.copy()) if keep.all() else (start[keep], end[keep])
    process_of_thread = np.array([keys.process_of[key & ~LOW_BITS] for key in threads] or [0], np.int32)
    label = _labels(
        process_of_thread[thread] if len(thread) else thread,
        Column(domain.values[keep], domain.distinct),
        Column(text.values[keep], text.distinct),
        text_id,
        domains,
        strings,
        labels,
    )
    unclosed = end == NO_TIME
    if unclosed.any():
        keys.warnings.append(f"{int(unclosed.sum()):,} ranges were never closed: they end with the capture")
    end_thread = np.where(end_thread < 0, thread, end_thread)
    return Ranges(start, end, thread, end_thread, label, style, unclosed)


def _labels(
    process: Any,
    domain: Column,
    text: Column,
    text_id: Any,
    domains: dict[tuple[int, int], str],
    strings: dict[int, str],
    labels: dict[tuple[str, str], int],
) -> Any:
    """Return for every range an index into ``labels`` (which grows): distinct (domain name, text)."""
    if not len(process):
        return np.empty(0, np.int32)
    # A text is either inline (code) or registered (identifier): one number line for both, one for all combinations.
    registered = int(text_id.max(initial=-1)) + 1
    words = np.where(text.values >= 0, text.values.astype(np.int64) + registered, text_id)
    width = registered + len(text.distinct) + 1
    num_domains = len(domain.distinct) + 1
    place = process.astype(np.int64) * num_domains + (domain.values + 1)
    combined = place * width + (words + 1)
    size = (int(place.max()) + 1) * width
    if size <= max(4 * len(combined), 1 << 24):
        used = np.zeros(size, bool)
        used[combined] = True
        distinct = np.flatnonzero(used)
        codes = np.empty(size, np.int32)
        codes[distinct] = np.arange(len(distinct))
        inverse = codes[combined]
    else:
        distinct, inverse = np.unique(combined, return_inverse=True)
    table = np.empty(len(distinct), np.int32)
    for index, value in enumerate(distinct.tolist()):
        where, word = divmod(value, width)
        owner, domain_code = divmod(where, num_domains)
        word -= 1
        name = str(text.distinct[word - registered]) if word >= registered else strings.get(word, "")
        number = int(domain.distinct[domain_code - 1]) if domain_code else 0
        label = (domains.get((owner, number), "" if number == 0 else f"domain {number}"), name)
        table[index] = labels.setdefault(label, len(labels))
    return table[inverse]


def _no_ranges() -> Ranges:
    time, small = np.empty(0, np.int64), np.empty(0, np.int32)
    return Ranges(time, time.copy(), small, small, small, small, np.empty(0, bool))
