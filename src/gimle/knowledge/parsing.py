"""Which parser reads a file, and reading it where it can do no harm."""

import asyncio
from collections.abc import Mapping
from functools import cache
from typing import NoReturn

import msgspec

from gimle.foundation import logs, plugins, sandbox
from gimle.foundation.config import KnowledgeSettings
from gimle.foundation.errors import PermanentError, UnreadableDocument, UnsupportedDocument
from gimle.foundation.sandbox import Limits, Outcome
from gimle.knowledge.types import Parsed

PARSERS = "gimle.knowledge.parsers"

# A larger file is read in the sandbox whatever its format: memory and time grow with it.
_MOST_AT_HOME = 1 << 20

log = logs.get("knowledge.parsing")


@cache
def extensions() -> Mapping[str, str]:
    """What can be read: extension (without the dot) to media type."""
    return {
        extension: media_type
        for name in plugins.names(PARSERS)
        for media_type, endings in plugins.load(PARSERS, name).READS.items()
        for extension in endings
    }


async def parse(data: bytes, media_type: str, settings: KnowledgeSettings) -> Parsed:
    """The text of a file and its blocks.

    Raises `UnsupportedDocument` when no parser reads this media type, and `UnreadableDocument`, with a reason, when the
    file is broken, locked, without text, or needs more time or memory than a parser may use.
    """
    name = _parser(media_type)
    plugin = plugins.load(PARSERS, name)
    if plugin.ISOLATED or len(data) > _MOST_AT_HOME:
        parsed = await _isolated(name, data, media_type, settings)
    else:
        parsed = await asyncio.to_thread(plugin.parse, data, media_type)
    if not parsed.text.strip():
        raise UnreadableDocument(
            "The document holds no text.", hint="If it is a scan, run text recognition over it and upload the result."
        )
    return parsed


def isolated(data: bytes, parser: str, media_type: str) -> Parsed:
    """What the sandbox's child calls."""
    parsed: Parsed = plugins.load(PARSERS, parser).parse(data, media_type)
    return parsed


async def _isolated(parser: str, data: bytes, media_type: str, settings: KnowledgeSettings) -> Parsed:
    limits = Limits(seconds=settings.parse_seconds, memory_mb=settings.parse_memory_mb)
    arguments = {"parser": parser, "media_type": media_type}
    outcome = await sandbox.run(f"{__name__}:isolated", data, arguments, limits)
    if outcome.ending != "done":
        _refuse(outcome, settings)
    return msgspec.convert(outcome.value, Parsed)


def _refuse(outcome: Outcome, settings: KnowledgeSettings) -> NoReturn:
    """Turn a child's bad end into the reason that stands on the document."""
    if outcome.refusal is not None:
        kinds = {kind.code: kind for kind in (UnreadableDocument, UnsupportedDocument)}
        raise kinds.get(outcome.refusal.code, PermanentError)(outcome.refusal.message, hint=outcome.refusal.hint)
    log.warning("parser_ended", ending=outcome.ending, detail=outcome.detail)
    reasons = {
        "time": f"Reading the file took longer than {settings.parse_seconds} s; it was given up.",
        "memory": f"Reading the file needs more than {settings.parse_memory_mb} MB of memory; it was given up.",
        "output": "The file holds more text than can be taken in as one document.",
    }
    raise UnreadableDocument(
        reasons.get(outcome.ending, "The file breaks the parser; it is damaged or made to do harm."),
        hint="Split the document, or save it anew in the program that made it.",
    )


def _parser(media_type: str) -> str:
    for name in plugins.names(PARSERS):
        if media_type in plugins.load(PARSERS, name).READS:
            return name
    raise UnsupportedDocument(
        f"No parser reads {media_type}.", field="file", hint=f"Supported: {', '.join(sorted(extensions()))}."
    )
