"""The engine that is always there: answers drawn from given text, and vectors, with no key, no network and no LLM.

As a plain chat model it says what it is, and answers from the text in the conversation when there is any: what the
system and the user wrote are its passages, the last question is the question. It never invents a word.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Sequence

from gimle.foundation.config import Settings
from gimle.foundation.errors import Unavailable
from gimle.gateway import extract, minilm, weights
from gimle.gateway.language import detect
from gimle.gateway.types import Message, Vectors
from gimle.selection.types import Model

EXTRACT = "extract"
MINILM = "minilm"
MODELS = (
    Model(provider="builtin", name=EXTRACT, kind="chat", context_window=32_768, max_output=1024, local=True),
    Model(
        provider="builtin",
        name=MINILM,
        kind="embedding",
        context_window=minilm.WINDOW,
        local=True,
        dimensions=minilm.DIMENSIONS,
        languages=tuple(sorted(minilm.LANGUAGES)),
        version=minilm.VERSION,
    ),
    # The same vectors, compared: so that a ranking needs no key. A reranker proper reads query and document together.
    Model(
        provider="builtin",
        name=MINILM,
        kind="rerank",
        context_window=minilm.WINDOW,
        local=True,
        languages=tuple(sorted(minilm.LANGUAGES)),
        version=minilm.VERSION,
    ),
)

LABEL = re.compile(r"^(?:question|frage|q|context|kontext|text|document|dokument)\s*:\s*", re.IGNORECASE)
# Orders to the model are no source to answer from.
INSTRUCTION = re.compile(
    r"(?:you (?:are|must|should|will|can)|answer|always|never|use only|please|du (?:bist|sollst)|antworte|bitte)\b",
    re.I,
)
INTRODUCTION = {
    "en": "I am Gimle's built-in answerer. There is no language model behind me: I pick the sentences that answer a "
    "question out of documents or text that I am given, word for word, or say that they do not answer it. Name a "
    "collection, or put the text before the question; for free conversation, configure a provider.",
    "de": "Ich bin Gimles eingebaute Antwort. Hinter mir steht kein Sprachmodell: Ich suche aus Dokumenten oder aus "
    "gegebenem Text wörtlich die Sätze heraus, die eine Frage beantworten, oder sage, dass sie es nicht tun. Nennen "
    "Sie eine Sammlung oder stellen Sie den Text vor die Frage; für ein freies Gespräch braucht es einen Anbieter.",
}


class Builtin:
    """The open engine. The weights are loaded by the first call that needs them, even if they came after the start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._encoder: minilm.Encoder | None = None
        self._loading = threading.Lock()

    @property
    def available(self) -> frozenset[str]:
        """The models that can serve now; vectors only where `gimle setup` has run."""
        ready = self._encoder is not None or weights.locate(self._settings) is not None
        return frozenset((EXTRACT, MINILM)) if ready else frozenset((EXTRACT,))

    async def chat(self, messages: Sequence[Message]) -> str:
        """Answer the last question from the text of the conversation."""
        return await asyncio.to_thread(self._reply, messages)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (n, 384). Raises `Unavailable` where the weights are missing or broken."""
        return await asyncio.to_thread(self._vectors, texts)

    async def close(self) -> None:
        """Let go of the loaded model."""
        self._encoder = None

    def _reply(self, messages: Sequence[Message]) -> str:
        question, passages = conversation(messages)
        language = detect(question)
        if not passages:
            return INTRODUCTION["de" if language == "de" else "en"]
        embed = self._vectors if MINILM in self.available else None
        found = extract.answer(question, passages, embed)
        if not found.answered:
            return extract.refusal(language)
        return " ".join(passages[pick.passage].text[pick.start : pick.end] for pick in found.picks)

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        with self._loading:
            if self._encoder is None:
                self._encoder = self._load()
            encoder = self._encoder
        return encoder.encode(texts)

    def _load(self) -> minilm.Encoder:
        folder = weights.locate(self._settings)
        if folder is None:
            raise Unavailable("The weights of builtin/minilm are not installed.", hint="Run `gimle setup`.")
        return minilm.Encoder.load(folder, self._settings.engines.threads)


async def open(settings: Settings) -> Builtin:
    """The engine; nothing is loaded yet."""
    return Builtin(settings)


def conversation(messages: Sequence[Message]) -> tuple[str, list[extract.Passage]]:
    """The question, and the text that may answer it.

    The question is the last one the user put; what stands beside it, and what system and user said before, is source.
    The assistant's own words and orders to it are not.
    """
    last = next((at for at in reversed(range(len(messages))) if messages[at]["role"] == "user"), None)
    if last is None:
        return "", []
    question, rest = split(_text(messages[last]))
    sources = [_text(message) for message in messages[:last] if message["role"] in ("system", "developer", "user")]
    passages = [
        extract.Passage(id=str(number), text=text) for number, text in enumerate(map(_facts, [*sources, rest])) if text
    ]
    return question, passages


def split(text: str) -> tuple[str, str]:
    """A user's message as question and the rest: the last sentence with a question mark, else the last one."""
    spans = extract.sentences(text)
    if not spans:
        return text, ""
    asked = [span for span in spans if text[span.start : span.end].rstrip("\"')”“»").endswith("?")]
    chosen = (asked or spans)[-1]
    question = LABEL.sub("", text[chosen.start : chosen.end])
    return question, text[: chosen.start] + text[chosen.end :]


def _facts(text: str) -> str:
    """A source without its orders, questions and bare labels ("Context:"), which answer nothing."""
    spans = [LABEL.sub("", text[span.start : span.end]) for span in extract.sentences(text)]
    kept = [part for part in spans if not (INSTRUCTION.match(part) or part.endswith(("?", ":")) or not part)]
    return "\n\n".join(kept)


def _text(message: Message) -> str:
    return str(message.get("content") or "")
