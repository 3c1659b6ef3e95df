"""OpenAI's responses, both directions. Pure: each module of this folder reads or writes one kind of thing."""

from msgspec.structs import replace

from gimle.gateway import openai_wire
from gimle.gateway.dialects.responses import callers, events, reading, replies, requests
from gimle.gateway.types import Chat

# What this format calls a neutral field, where it calls it otherwise.
_NAMES = {
    "turns": "input",
    "parts": "content",
    "choose": "tool_choice",
    "parallel_tools": "parallel_tool_calls",
    "max_tokens": "max_output_tokens",
    "format": "text.format",
    "verbosity": "text.verbosity",
    "logprobs": "include",
    "cache": "prompt_cache_breakpoint",
}

DIALECT = replace(
    openai_wire.DIALECT,
    chat=Chat(
        names=_NAMES,
        places=callers.places,
        inspect=callers.inspect,
        read_request=callers.read_request,
        write_reply=replies.write_reply,
        write_events=events.write_events,
        path=lambda model, stream: requests.PATH,
        patch=requests.patch,
        shorten=requests.shorten,
        write_request=requests.write_request,
        read_usage=replies.read_usage,
        watch=reading.watch,
        read_reply=replies.read_reply,
        read_events=reading.read_events,
    ),
)
