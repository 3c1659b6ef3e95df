"""Where in a request the turns and parts of the neutral form stand, so that a message about them names the place."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gimle.gateway.types import ChatCall

_ANY = msgspec.json.Decoder()


def places(call: ChatCall) -> Mapping[str, str]:
    """The places of a checked request's parts, which stand in several fields of a message."""
    messages: list[dict[str, Any]] = _ANY.decode(call.body["messages"])
    return {
        f"turns[{at}].parts[{n}]": place
        for at, message in enumerate(messages)
        for n, place in enumerate(_parts(message, f"messages[{at}]"))
    }


def _parts(message: dict[str, Any], at: str) -> Iterator[str]:
    if message["role"] in ("tool", "function"):
        yield at
        return
    thoughts = message.get("reasoning_details") or ()
    yield from (f"{at}.reasoning_details[{n}]" for n in range(len(thoughts)))
    if message.get("reasoning_content") and not thoughts:
        yield f"{at}.reasoning_content"
    content = message.get("content") or ()
    if isinstance(content, str):
        yield f"{at}.content"
    else:
        yield from (f"{at}.content[{n}]" for n in range(len(content)))
    if message.get("refusal"):
        yield f"{at}.refusal"
    yield from (f"{at}.tool_calls[{n}]" for n in range(len(message.get("tool_calls") or ())))
    if message.get("function_call") is not None:
        yield f"{at}.function_call"
