"""What the settings say of the collector, read strictly; and whether the extra is there."""

import importlib.util
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

PATH: Final = "/v1/traces"
NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.common")
EXTRA_STEP: Final = "pip install 'agentos[otel]', or leave AGENTOS_OTLP_ENDPOINT empty"
NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
TEXT: Final = re.compile(r"[\x20-\x7e]*")


class ExtraMissingError(Exception):
    """Traces are asked for, and what makes them is not installed."""


def require_extra() -> None:
    """Raise `ExtraMissingError` unless OpenTelemetry's SDK and its OTLP encoder are there."""
    for module in NEEDED:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ExtraMissingError(
                "AGENTOS_OTLP_ENDPOINT is set, but the extra `otel` is not installed "
                f"({module} is missing)"
            )


def traces_url(endpoint: str) -> str:
    """Return the URL that spans are sent to: the endpoint, with `/v1/traces` unless it has it.

    Raises `ValueError` that says what it must look like.
    """
    try:
        parts = urlsplit(endpoint)
        fits = parts.scheme in ("http", "https") and parts.hostname and not parts.fragment
        fits = fits and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("AGENTOS_OTLP_ENDPOINT must be a URL such as http://collector:4318")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith(PATH) else path + PATH).geturl()


def headers_of(text: str) -> Mapping[str, str]:
    """Return the headers in `name=value,name=value`; values may be percent-encoded.

    Raises `ValueError` that names no value.
    """
    found: dict[str, str] = {}
    for number, pair in enumerate(text.split(",") if text else (), 1):
        name, equals, value = (part.strip() for part in pair.partition("="))
        decoded = unquote(value)
        if not (equals and NAME.fullmatch(name) and TEXT.fullmatch(decoded)):
            raise ValueError(
                f"AGENTOS_OTLP_HEADERS: pair {number} is not name=value "
                "(a comma within a value is %2C)"
            )
        found[name] = decoded
    return found
