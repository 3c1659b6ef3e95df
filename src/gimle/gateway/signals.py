"""What an answer itself shows of its quality: refused, cut short, true to the schema that was asked for. Pure."""

from collections.abc import Callable, Sequence

import msgspec

from gimle.foundation.errors import GimleError
from gimle.gateway import schemas
from gimle.gateway.lanes import Call
from gimle.gateway.neutral import Added, Began, Choice, Delta, Finish, Finished, Refusal, Reply, Text
from gimle.gateway.streams import Events, data_of
from gimle.selection.quality import Signal

# Of an answer that streams, so many characters are kept for its schema.
_LONGEST = 1_000_000


def signal_of(calling: Call, reply: Reply) -> Signal | None:
    """What the first of the answers shows; None where it shows nothing."""
    choice = next(iter(reply.choices), None)
    if choice is None:
        return None
    if choice.finish in ("refusal", "filter") or any(isinstance(part, Refusal) for part in choice.parts):
        return "refused"
    if choice.finish == "length":
        # At the caller's own limit it is nobody's fault.
        return "truncated" if calling.prompt.max_tokens is None else None
    if calling.prompt.plain or choice.finish != "stop" or (form := calling.ask.format) is None:
        return None
    try:
        said = msgspec.json.decode(choice.text)
    except (msgspec.DecodeError, RecursionError):
        return "schema_invalid"
    return "schema_valid" if form.schema is None or schemas.fits(said, form.schema) else "schema_invalid"


class Ear:
    """Listens to a stream in the caller's dialect. `read` takes one event's data after the other; without `words` only
    what becomes of the answer is heard, not what it says.
    """

    def __init__(self, read: Callable[[bytes], Sequence[Delta]], *, words: bool = True) -> None:
        self._read = read
        self._words = words
        self._events = Events()
        self._texts: set[int] = set()
        self._said: list[str] = []
        self._length = 0
        self._refused = False
        self._finish: Finish | None = None
        self._deaf = False

    def note(self, piece: bytes) -> None:
        """A piece of the stream has passed."""
        if self._deaf:
            return
        try:
            for event in self._events.feed(piece):
                for delta in self._read(data) if (data := data_of(event)) else ():
                    self._hear(delta)
        except GimleError:
            # The caller has it as it came; that it can't be read here is no reason to stop it.
            self._deaf = True

    @property
    def reply(self) -> Reply | None:
        """What was heard, once it was heard to the end."""
        if self._deaf or self._finish is None or self._length > _LONGEST:
            return None
        text = Text(text="".join(self._said))
        parts = (text, Refusal(text="")) if self._refused else (text,)
        return Reply(id="", model="", choices=(Choice(parts=parts, finish=self._finish),))

    def _hear(self, delta: Delta) -> None:
        match delta:
            case Began(part=part, at=at, choice=0):
                self._refused = self._refused or isinstance(part, Refusal)
                if isinstance(part, Text) and self._words:
                    self._texts.add(at)
            case Added(text=text, at=at, choice=0) if at in self._texts:
                self._length += len(text)
                if self._length <= _LONGEST:
                    self._said.append(text)
            case Finished(finish=finish, choice=0):
                self._finish = finish
