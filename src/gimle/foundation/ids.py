"""Identifiers: a prefix that says what the thing is, and a UUIDv7, so that ids sort by the time of their making."""

import os
import re
import time

_SHAPE = re.compile(r"^[a-z]+_[0-9a-f]{32}$")


def new(prefix: str) -> str:
    """A fresh id such as `doc_0192f0c1…` (RFC 9562, version 7: 48 bits of Unix milliseconds, 74 random bits)."""
    random = int.from_bytes(os.urandom(10))
    value = (time.time_ns() // 1_000_000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{prefix}_{value:032x}"


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the shape of an id of this kind; says nothing about whether the thing exists."""
    return text.startswith(prefix + "_") and _SHAPE.match(text) is not None
