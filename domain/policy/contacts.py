"""E-mail addresses, phone numbers, addresses of machines."""

import re
from ipaddress import ip_address
from typing import Final

from agentos.domain.policy.recogniser import END, Recogniser, Span, whole

DATE: Final = re.compile(r"[0-9]{1,2}([./-])[0-9]{1,2}\1(?:(?:19|20)[0-9]{2}|[0-9]{2} )")
PHONE_ALONE: Final = r"(?<![\w.,+-].)"
DIGITS: Final = re.compile(r"[0-9]")


def _count(text: str) -> int:
    return len(DIGITS.findall(text))


def _international(found: re.Match[str]) -> Span | None:
    digits = _count(found[0]) - (2 if found[0].startswith("00") else 0)
    return found.span() if 7 <= digits <= 15 else None


def _national(found: re.Match[str]) -> Span | None:
    text = found[0]
    digits = _count(text)
    if not 9 <= digits <= 12 or DATE.match(text) or text.count("(") != text.count(")"):
        return None
    groups = re.split(r"[ ./()-]+", text.strip("()"))
    if len(groups) == 1:
        return found.span() if digits in (10, 11) else None
    if "." in text and len(groups) < 4:
        return None  # a decimal fraction
    return found.span()


def _american(found: re.Match[str]) -> Span:
    start = found.start() + (found[0].startswith("(") and ")" not in found[0])
    return start, found.end()


def _ip(found: re.Match[str]) -> Span | None:
    text = found[0]
    if len(text) < 4:
        return None
    try:
        ip_address(text)
    except ValueError:
        return None
    return found.span()


EMAIL: Final = Recogniser(
    "email",
    re.compile(
        r"[\w%+](?<![\w.%+-].)[\w.%+-]{0,63}@"
        r"(?:[^\W_](?:[^\W_]|-){0,62}\.){1,8}[^\W\d_]{2,24}(?![^\W_])"
    ),
    whole,
    ("@",),
    reach=64,
    marks="@",
)
PHONES: Final = (
    Recogniser(
        "phone",
        re.compile(
            r"(?:\+|00)(?<![\w+]\+)(?<!\w00)(?<![.,]00)[1-9](?:[ .()/-]{0,2}[0-9]){6,14}" + END
        ),
        _international,
        is_number=True,
    ),
    Recogniser(
        "phone",
        re.compile(
            rf"(?:0{PHONE_ALONE}|\({PHONE_ALONE}0)[0-9]{{1,5}}"
            r"(?:[ ./()-]{0,2}[0-9]){4,11}(?![\w-])"
        ),
        _national,
        is_number=True,
    ),
    Recogniser(
        "phone",
        re.compile(
            rf"(?:1{PHONE_ALONE}[ .-]\(?[2-9]|\({PHONE_ALONE}[2-9]|[2-9]{PHONE_ALONE})"
            r"[0-9]{2}\)?[ .-]?[2-9][0-9]{2}[ .-][0-9]{4}(?![\w-])"
        ),
        _american,
        is_number=True,
    ),
)
IP_ADDRESSES: Final = (
    Recogniser(
        "ip_address",
        # A fifth number is taken along, so that a version of five parts is none.
        re.compile(r"[0-9](?<![\w.].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?:\.[0-9])?" + END),
        _ip,
        (".",),
        reach=3,
        digits=4,
    ),
    Recogniser(
        "ip_address",
        re.compile(r"[0-9A-Fa-f:](?<![\w:.].)[0-9A-Fa-f]{0,3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"),
        _ip,
        (":",),
        reach=4,
        marks=":",
    ),
)
