"""Payment cards and accounts, by their check digits."""

import re
from collections.abc import Iterator
from typing import Final

from agentos.domain.policy.checksums import IBAN_LENGTHS, luhn, mod_97
from agentos.domain.policy.recogniser import ALONE, END, Recogniser, Span

NETWORKS: Final = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    r"|3[47][0-9]{13}"
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11,16}"
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
    r"|6[0-9]{11,18}"
    r"|5[0678][0-9]{10,17}"
)


def _ends(text: str) -> Iterator[int]:
    """Return where a number in groups may end: behind each group, the longest first."""
    yield len(text)
    for at in range(len(text) - 1, 0, -1):
        if text[at] in " -":
            yield at


def _card(found: re.Match[str]) -> Span | None:
    text = found[0]
    for end in _ends(text):
        digits = text[:end].replace(" ", "").replace("-", "")
        if len(digits) < 12:
            return None
        if NETWORKS.fullmatch(digits) and luhn(digits) and len(set(digits)) > 1:
            return found.start(), found.start() + end
    return None


def _iban(found: re.Match[str]) -> Span | None:
    text = found[0]
    length = IBAN_LENGTHS.get(text[:2])
    if length is None:
        return None
    for end in range(len(text), length - 1, -1):
        if end < len(text) and text[end] != " ":
            continue
        number = text[:end].replace(" ", "")
        if len(number) == length and mod_97(number):
            return found.start(), found.start() + end
    return None


CREDIT_CARD: Final = Recogniser(
    "credit_card",
    re.compile(r"[2-6]" + ALONE + r"(?:[ -]?[0-9]){11,18}" + END),
    _card,
    is_number=True,
)
IBAN: Final = Recogniser(
    "iban",
    re.compile(
        r"[A-Z](?<![^\W_].)[A-Z][0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![^\W_])"
    ),
    _iban,
    digits=2,
    capitals=2,
)
