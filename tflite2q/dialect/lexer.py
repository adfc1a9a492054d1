"""Tokens of the text form, each with the line and column where it starts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn

from tflite2q.errors import InvalidGraph

# A bare name holds no "//", so that a comment can follow it.
BARE_NAME = re.compile(r"(?:[A-Za-z0-9_.$-]|/(?!/))+")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|//[^\n]*)
      | (?P<value>%(?:"(?:[^"\\\n]|\\.)*"|(?:[A-Za-z0-9_.$-]|/(?!/))+))
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<number>-?(?:[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|inf\b|nan\b))
      | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<mark>->|[{}()\[\]<>=,:])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """`kind` is value, string, number, word, mark or end; `text` as written; `offset` into the whole text."""

    kind: str
    text: str
    offset: int

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= 40 else f"{self.text[:40]}..."
        return "the end of the text" if self.kind == "end" else f"'{shown}'"


class Cursor:
    """Reads a text token by token.  Raises InvalidGraph with line and column at what does not fit."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = self._scan(0)

    def _scan(self, offset: int) -> Token:
        while offset < len(self._text):
            match = _TOKEN.match(self._text, offset)
            if match is None:
                self.fail(Token("", "", offset), f"unexpected {self._text[offset]!r}")
            if match.lastgroup != "space":
                return Token(str(match.lastgroup), match.group(), offset)
            offset = match.end()
        return Token("end", "", len(self._text))

    @property
    def token(self) -> Token:
        """The token that comes next."""
        return self._next

    def fail(self, token: Token, why: str) -> NoReturn:
        line = self._text.count("\n", 0, token.offset) + 1
        column = token.offset - (self._text.rfind("\n", 0, token.offset) + 1) + 1
        raise InvalidGraph(f"line {line}, column {column}: {why}")

    def at(self, text: str) -> bool:
        """Whether the next token is the mark or word `text`."""
        return self._next.kind in ("mark", "word") and self._next.text == text

    def accept(self, text: str) -> bool:
        """Step over the mark or word `text` if it comes next."""
        if not self.at(text):
            return False
        self.step()
        return True

    def step(self) -> Token:
        token = self._next
        self._next = self._scan(token.offset + len(token.text))
        return token

    def expect(self, text: str) -> Token:
        if not self.at(text):
            self.fail(self._next, f"expected '{text}', found {self._next}")
        return self.step()

    def kind(self, kind: str, what: str) -> Token:
        """The next token, which must be of `kind`; `what` says in a message what was expected."""
        if self._next.kind != kind:
            self.fail(self._next, f"expected {what}, found {self._next}")
        return self.step()

    def string(self, what: str) -> str:
        token = self.kind("string", f"{what} in double quotes")
        return self._unquoted(token, token.text)

    def value_name(self) -> str:
        token = self.kind("value", "a value such as %x")
        quoted = token.text.startswith('%"')
        return self._unquoted(token, token.text[1:]) if quoted else token.text[1:]

    def _unquoted(self, token: Token, text: str) -> str:
        try:
            return str(json.loads(text))
        except ValueError:
            self.fail(token, f"{text} is not a string in JSON's notation")

    def integer(self, what: str) -> int:
        return self.whole(self.kind("number", what), what)

    def whole(self, token: Token, what: str) -> int:
        try:
            return int(token.text)
        except ValueError:
            self.fail(token, f"expected {what}, an integer, found {token}")


def quoted(text: str) -> str:
    """`text` in JSON's notation, ASCII only."""
    return json.dumps(text)


def value_name(name: str) -> str:
    """A value's name behind its percent sign, quoted where it would not be read back as it is."""
    return f"%{name}" if BARE_NAME.fullmatch(name) else f"%{quoted(name)}"


def word(text: str) -> str:
    """`text` as it is where it is a word, else quoted."""
    reserved = ("true", "false", "none", "inf", "nan", "bytes")
    return text if WORD.fullmatch(text) and text not in reserved else quoted(text)
