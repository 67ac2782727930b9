"""Keys of `replay run --step`: from a terminal one by one, or from a pipe."""

import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

KEYS: Final[dict[str, str]] = {
    "n": "next",
    " ": "next",
    "\r": "next",
    "p": "back",
    "G": "last",
    "q": "quit",
    "\x03": "quit",
    "\x04": "quit",
    "\x1b[C": "next",
    "\x1b[B": "next",
    "\x1b[D": "back",
    "\x1b[A": "back",
    "\x1b[F": "last",
}
HOME: Final = "\x1b[H"


def keys_of(stream: TextIO) -> Iterator[str | int]:
    """Yield the keys in a stream of text; `g12` (then anything) goes to event 12."""
    if stream.isatty():
        return
    yield from _keys(lambda: stream.read(1))


@contextmanager
def raw_keys() -> Iterator[Iterator[str | int]]:
    """Yield the keys as they are pressed; the terminal is put back at the end."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield _keys(lambda: os.read(fd, 1).decode(errors="replace"))
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _keys(read: Callable[[], str]) -> Iterator[str | int]:
    character = read()
    while character:
        if character == "g":
            number, character = _number(read)
            yield number
            continue
        if character == "\x1b":
            character += read() + read()
        if character == HOME:
            yield 1
        elif (key := KEYS.get(character)) is not None:
            yield key
        character = read()


def _number(read: Callable[[], str]) -> tuple[int, str]:
    """Return the number that follows `g` (1 for none), and the character behind it."""
    digits, character = "", read()
    while character.isdecimal() and len(digits) < 9:
        digits += character
        character = read()
    if character in "\r\n\x7f":
        character = read() if character == "\n" else "x"
    return int(digits or 1), character
