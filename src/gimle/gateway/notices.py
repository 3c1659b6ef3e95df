"""What a caller is told when another model answers than the one that was asked for: a code, and why in words. Pure."""

from typing import Final, Literal

import msgspec

from gimle.foundation.errors import GimleError, RateLimitedError
from gimle.selection.types import Model

Code = Literal["CloudLimitReached", "CloudProviderUnavailable", "CheaperModelUsed", "LocalLlmUsed", "NetworkLlmUsed"]

# Without umlauts: they stand in a header.
_WORDS: Final[dict[str, dict[Code, str]]] = {
    "en": {
        "CloudLimitReached": "{asked} is at a limit, so {served} on your own machines answers.",
        "CloudProviderUnavailable": "{asked} can't be reached, so {served} on your own machines answers.",
        "CheaperModelUsed": "Much of the budget is spent, so the cheaper {served} answers in place of {asked}.",
        "LocalLlmUsed": "{served} on your own machines answers in place of {asked}.",
        "NetworkLlmUsed": "{served} in the network answers in place of {asked}.",
    },
    "de": {
        "CloudLimitReached": "{asked} ist an einer Grenze, darum antwortet {served} auf eigenen Rechnern.",
        "CloudProviderUnavailable": "{asked} ist nicht erreichbar, darum antwortet {served} auf eigenen Rechnern.",
        "CheaperModelUsed": "Das Budget ist weitgehend verbraucht, darum antwortet {served} statt {asked}.",
        "LocalLlmUsed": "{served} auf eigenen Rechnern antwortet statt {asked}.",
        "NetworkLlmUsed": "{served} im Netz antwortet statt {asked}.",
    },
}


class Notice(msgspec.Struct, frozen=True):
    """Why `served` answers in the place of `asked`, both `provider/name`: a code, and a sentence for people."""

    code: Code
    message: str
    asked: str
    served: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def notice(
    asked: Model, served: Model, why: GimleError | None, language: str, *, cheaper: bool = False
) -> Notice | None:
    """What to tell, in German for `de` and else in English; None where the asked kind of model answers.

    `why` is what came of the last attempt before; `cheaper` says that a budget chose another model beforehand.
    """
    code = _code(asked, served, why, cheaper=cheaper)
    if code is None:
        return None
    words = _WORDS.get(language, _WORDS["en"])[code]
    return Notice(code, words.format(asked=asked.id, served=served.id), asked.id, served.id)


def _code(asked: Model, served: Model, why: GimleError | None, *, cheaper: bool) -> Code | None:
    if asked.local == served.local:
        return "CheaperModelUsed" if cheaper else None
    if asked.local:
        return "NetworkLlmUsed"
    if why is None:
        return "CheaperModelUsed" if cheaper else "LocalLlmUsed"
    return "CloudLimitReached" if isinstance(why, RateLimitedError) else "CloudProviderUnavailable"
