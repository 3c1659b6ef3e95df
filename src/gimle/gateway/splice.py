"""Where a continued text is put together: what the next model says once more is left out. Pure."""

from os.path import commonprefix

# So many characters said twice are a repetition; and so many, when it is all of the text that is given back.
_REPEATED = 20
_GIVEN_BACK = 8


class Splice:
    """Takes the pieces of a continuation, and gives what is new in them.

    Some providers give back the whole beginning that they were given, and models now and then repeat their last words.
    As long as a piece could be either, it is held back. Blanks at the end of the text were not shown to the model, so
    that it says them again.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._shown = text.rstrip()
        self._blank = text[len(self._shown) :]
        self._held = ""
        self._begun = False

    def feed(self, piece: str) -> str:
        """What is new as far as it is known."""
        if self._begun:
            return piece
        self._held += piece
        return "" if self._held in self._text else self.rest()

    def rest(self) -> str:
        """What is new in all that was held back."""
        self._begun = True
        held, self._held = self._held, ""
        new = held[self._repeated(held) :]
        return new[len(commonprefix((new, self._blank))) :]

    def _repeated(self, held: str) -> int:
        """How many characters at the beginning were said already."""
        if len(self._shown) >= _GIVEN_BACK and held.startswith(self._shown):
            return len(self._shown)
        longest = min(len(held), len(self._shown))
        return next((size for size in range(longest, _REPEATED - 1, -1) if self._shown.endswith(held[:size])), 0)
