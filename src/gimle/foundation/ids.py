"""Identifiers: a prefix that says what the thing is, and a UUIDv7, so that ids sort by the time of their making."""

import os
import re
import time

_SHAPE = re.compile(r"^[a-z]+_[0-9a-f]{32}$")


def new(prefix: str) -> str:
    """A fresh id such as `doc_0192f0c1…` (RFC 9562, version 7: 48 bits of Unix milliseconds, 72 random bits)."""
    random = os.urandom(9).hex()
    # The 7 is the version, the 8 the variant.
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}7{random[:3]}8{random[3:]}"


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the shape of an id of this kind; says nothing about whether the thing exists."""
    return text.startswith(prefix + "_") and _SHAPE.match(text) is not None
