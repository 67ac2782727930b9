"""Secrets and API keys: by the forms that their issuers give them, and by what they are called."""

import re
from typing import Final

from agentos.domain.policy.recogniser import Recogniser, Span, whole

BASE64_RUN: Final = re.compile(r"[A-Za-z0-9+/=]{16,}")
ALONE: Final = r"(?<![A-Za-z0-9])"
END: Final = r"(?![A-Za-z0-9])"
# Any case, but for the first letter: the search is quick where it knows what to look for.
CALLED: Final = (
    r"[PpSsTtCcAaEe](?<![A-Za-z0-9].)(?i:(?<=p)ass(?:word|wd|phrase)|(?<=p)wd|(?<=s)ecret|"
    r"(?<=t)oken|(?<=c)redential|(?:(?<=a)pi|(?<=a)ccess|(?<=s)ecret|(?<=p)rivate|(?<=a)ccount|"
    r"(?<=c)lient|(?<=s)igning|(?<=e)ncryption)[_ -]?(?:key|secret|token))"
)
CALLED_SHORT: Final = ("pass", "pwd", "secret", "token", "credential", "key")


def _is_mixed(text: str) -> bool:
    return any(letter.isdigit() for letter in text) and any(letter.isalpha() for letter in text)


def _named_value(found: re.Match[str]) -> Span | None:
    """Accept the value: in quotes as it is, else what no plain word would be."""
    value = found["value"]
    if len(set(value)) < 4:
        return None  # stars and the like: it is redacted already
    is_quoted = found["quote"] != ""
    is_odd = _is_mixed(value) or any(letter in "!#%^&+=|~" for letter in value[:-1])
    return found.span("value") if is_quoted or is_odd else None


def _bearer(found: re.Match[str]) -> Span | None:
    return found.span("value") if _is_mixed(found["value"]) else None


def _openai(found: re.Match[str]) -> Span | None:
    return None if found[0].startswith("sk-ant-") or not _is_mixed(found[0]) else found.span()


def _private_key(found: re.Match[str]) -> Span | None:
    """Accept a block with its end, or what there is of one: a key that broke off is one too."""
    if found["end"] is not None:
        return found.span()
    runs = list(BASE64_RUN.finditer(found[0], found.end("head") - found.start()))
    return (found.start(), found.start() + runs[-1].end()) if runs else None


def _token(kind: str, shape: str, *needs: str, capitals: int = 0) -> Recogniser:
    pattern = re.compile(ALONE + shape + END)
    return Recogniser(kind, pattern, whole, needs, marks=_mark(needs), capitals=capitals)


def _mark(needs: tuple[str, ...]) -> str:
    """Return a character that texts seldom have and all of these do."""
    return next((mark for mark in "_-Jx" if all(mark in need for need in needs)), "")


# In a block, fewer than five dashes in a row: so its end is where five are.
PEM_NAME: Final = r"(?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
PEM: Final = (
    rf"(?P<head>-----BEGIN {PEM_NAME})(?:[A-Za-z0-9+/=\s\\:,.]|-{{1,4}}[A-Za-z0-9+/=\s\\:,.])"
    rf"{{0,16384}}(?P<end>-----END {PEM_NAME})?"
)
NAMED_VALUE: Final = (
    rf"{CALLED}[sS]?[\"'`]?[ \t]{{0,3}}(?:[:=]|=>|:=)[ \t]{{0,3}}"
    r"(?P<quote>[\"'`]?)(?P<value>[^\s\"'`,;<>{}()\[\]\\]{8,256})"
)

API_KEYS: Final = (
    _token("aws_access_key", r"(?:AKIA|ASIA)[A-Z0-9]{16}", "AKIA", "ASIA", capitals=4),
    _token(
        "github_token", r"gh[oprsu]_[A-Za-z0-9]{20,255}", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"
    ),
    _token("github_token", r"github_pat_\w{22,255}", "github_pat_"),
    _token("gitlab_token", r"glpat-[\w-]{20,64}", "glpat-"),
    Recogniser(
        "openai_key", re.compile(ALONE + r"sk-[\w-]{20,256}" + END), _openai, ("sk-",), marks="-"
    ),
    _token("anthropic_key", r"sk-ant-[\w-]{20,256}", "sk-ant-"),
    _token("google_api_key", r"AIza[\w-]{35}", "AIza", capitals=2),
    _token("slack_token", r"xox[abeprs]-[A-Za-z0-9-]{10,256}", "xox"),
    _token("slack_token", r"xapp-[A-Za-z0-9-]{10,256}", "xapp-"),
    _token(
        "stripe_key",
        r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,256}",
        *("sk_live_", "sk_test_", "rk_live_", "rk_test_"),
    ),
    _token("huggingface_token", r"hf_[A-Za-z0-9]{30,64}", "hf_"),
    _token("npm_token", r"npm_[A-Za-z0-9]{36}", "npm_"),
    _token("aos_key", r"aos_[0-9A-HJKMNP-TV-Z]{26}_[\w-]{43}", "aos_"),
)
OTHER_SECRETS: Final = (
    _token("jwt", r"eyJ[\w-]{8,2048}\.eyJ[\w-]{8,8192}\.[\w-]{8,2048}", "eyJ"),
    Recogniser("private_key", re.compile(PEM), _private_key, ("-----BEGIN ",), marks="-"),
    Recogniser(
        "bearer_token",
        re.compile(rf"(?i){ALONE}bearer {{1,2}}(?P<value>[\w.~+/-]{{20,4096}})={{0,2}}"),
        _bearer,
        ("bearer ",),
        any_case=True,
    ),
    Recogniser(
        "generic_secret",
        re.compile(NAMED_VALUE),
        _named_value,
        CALLED_SHORT,
        any_case=True,
        marks=":=",
    ),
)
