"""Whether the gateways say that they are ready, asked over HTTP."""

import asyncio
import contextlib
import json
import ssl
from urllib.parse import urlsplit


async def readiness(endpoint: str, timeout: float = 2.0, tls: ssl.SSLContext | None = None) -> str:
    """Return `""` when `/readyz` answers 200, else why not; `tls` is for an https endpoint."""
    try:
        async with asyncio.timeout(timeout):
            status, body = await _get(endpoint, "/readyz", tls)
    except (OSError, ValueError, TimeoutError) as exc:
        return f"no answer from {endpoint}: {exc or 'timeout'}"
    return "" if status == 200 else f"{endpoint}/readyz answers {status}{_failing(body)}"


async def _get(endpoint: str, path: str, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
    place = urlsplit(endpoint)
    used = tls if place.scheme == "https" else None
    reader, writer = await asyncio.open_connection(place.hostname, place.port, ssl=used)
    try:
        head = f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.read(65536)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head_part, _, body = answer.partition(b"\r\n\r\n")
    return int(head_part.split(b" ", 2)[1]) if head_part else 0, body


def _failing(body: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f": {json.loads(body)['error']['details']['checks']}"
    return ""
