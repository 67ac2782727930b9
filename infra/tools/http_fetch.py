"""`tool.http.fetch`: reads one page from a server on the allowlist."""

import base64
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import aiohttp
from pydantic import Field
from pydantic_core import to_json
from yarl import URL

from agentos.domain.auth import AuthContext
from agentos.domain.errors import ForbiddenError, InvalidRequestError, ToolFailedError
from agentos.domain.ports import ToolCall
from agentos.infra.tools.allowlist import Allowlist
from agentos.infra.tools.guarded_http import GuardedHttp
from agentos.infra.tools.tool import Arguments, Tool, make_tool

MAX_REDIRECTS: Final = 5
MAX_BODY_BYTES: Final = 256 * 1024
MAX_BODY_JSON_BYTES: Final = 240 * 1024
TIMEOUT_MS: Final = 20_000

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS_SHOWN: Final = (
    "content-type content-length content-encoding content-language last-modified etag date "
    "cache-control location retry-after"
).split()
_HEADERS_REFUSED: Final = re.compile(
    r"host|connection|keep-alive|te|trailer|upgrade|expect|cookie|via|forwarded|"
    r"(content|transfer|proxy|sec|x-forwarded)-.*|accept-encoding",
    re.IGNORECASE,
)
_SECRETS: Final = re.compile(r"authorization|.*(api-?key|token|secret).*", re.IGNORECASE)
_TEXTUAL: Final = re.compile(r"text/.*|.*[/+](json|xml|javascript|yaml)|.*/x-www-form-urlencoded")
_CHARSETS: Final = re.compile(
    r"utf-?(8|16|16le|16be)|us-ascii|ascii|latin-?1|iso-8859-\d{1,2}|windows-125\d|"
    r"shift_jis|euc-jp|euc-kr|gb2312|gbk|gb18030|big5|koi8-r",
    re.IGNORECASE,
)

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
HeaderValue = Annotated[str, Field(pattern=r"^[\x20-\x7e]{0,4096}$")]


class FetchArguments(Arguments):
    """What to read."""

    url: str = Field(min_length=1, max_length=2048, description="http:// or https://")
    method: Literal["GET", "HEAD"] = "GET"
    headers: dict[HeaderName, HeaderValue] = Field(default={}, max_length=20)


def http_fetch_tool(allowlist: Allowlist, http: GuardedHttp) -> Tool[FetchArguments]:
    """Return `tool.http.fetch`.

    Its output is `{status, url, headers, truncated}` and `body` (text) or `body_base64`, of
    at most 256 KiB as read and 240 KiB as JSON; more is cut off and `truncated` says so. `url`
    is the last one after at most five redirects, each checked like the first. Any status is an
    output. Raises `InvalidRequestError` for a URL that is not http(s) or holds a password,
    `ForbiddenError` for a host or address that is not allowed, `ToolFailedError` when the
    server fails.
    """

    async def fetch(auth: AuthContext, call: ToolCall, arguments: FetchArguments) -> Any:
        url, headers = _parse_url(arguments.url), _checked_headers(arguments.headers)
        for _ in range(MAX_REDIRECTS + 1):
            if not allowlist.allows(url):
                raise ForbiddenError("the host is not on the allowlist", reason="allowlist")
            async with http.request(arguments.method, url, headers) as response:
                target = response.headers.get("Location")
                if response.status not in _REDIRECTS or not target:
                    return await _to_output(response, url)
            following = _parse_url(target, url)
            if following.origin() != url.origin():
                headers = {k: v for k, v in headers.items() if not _SECRETS.fullmatch(k)}
            url = following
        raise ToolFailedError("too many redirects", reason="redirects", limit=MAX_REDIRECTS)

    return make_tool(
        "tool.http.fetch",
        "Reads a web page or API by GET or HEAD.",
        FetchArguments,
        fetch,
        timeout_ms=TIMEOUT_MS,
    )


def _parse_url(text: str, base: URL | None = None) -> URL:
    try:
        url = URL(text) if base is None else base.join(URL(text))
        is_http = url.scheme in ("http", "https") and bool(url.host) and url.port != 0
    except ValueError as exc:
        raise InvalidRequestError("not a URL") from exc
    if not is_http or not text.isprintable() or " " in text or "\\" in text:
        raise InvalidRequestError("not an http or https URL")
    if url.user is not None or url.password is not None or "@" in urlsplit(text).netloc:
        raise InvalidRequestError("a URL must not hold credentials")
    return url.with_fragment(None)


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name in headers:
        if _HEADERS_REFUSED.fullmatch(name):
            raise InvalidRequestError("this header may not be set", name=name)
    return {"User-Agent": "AgentOS", **headers, "Accept-Encoding": "identity"}


async def _to_output(response: aiohttp.ClientResponse, url: URL) -> dict[str, Any]:
    raw, truncated = await _read(response)
    headers = {k: response.headers[k][:1024] for k in _HEADERS_SHOWN if k in response.headers}
    output: dict[str, Any] = {"status": response.status, "url": str(url), "headers": headers}
    text = _decoded(response, raw)
    if text is None:
        room = MAX_BODY_JSON_BYTES // 4 * 3
        output["body_base64"] = base64.b64encode(raw[:room]).decode()
        truncated = truncated or len(raw) > room
    else:
        output["body"] = _cut_to_json(text)
        truncated = truncated or len(output["body"]) < len(text)
    return output | {"truncated": truncated}


async def _read(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return bytes(body[:MAX_BODY_BYTES]), True
    return bytes(body), False


def _decoded(response: aiohttp.ClientResponse, raw: bytes) -> str | None:
    """Return the body as text, `None` where it is something else."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return None
    kind = response.headers.get("Content-Type", "text/plain").partition(";")[0].strip().lower()
    if not _TEXTUAL.fullmatch(kind) or (kind == "text/plain" and b"\0" in raw):
        return None
    charset = response.charset or "utf-8"
    if not _CHARSETS.fullmatch(charset):
        charset = "utf-8"
    try:
        return raw.decode(charset, errors="replace")
    except LookupError:
        return raw.decode(errors="replace")


def _cut_to_json(text: str) -> str:
    """Return as much of the text's beginning as fits into the output once it is escaped."""
    while (size := len(to_json(text))) > MAX_BODY_JSON_BYTES:
        text = text[: len(text) * MAX_BODY_JSON_BYTES // size - 1]
    return text
