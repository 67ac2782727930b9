"""Reads of single aggregates: from any replica of an unreplicated stream, else its leader."""

from base64 import b64decode
from collections.abc import Sequence
from typing import Any, Final

import orjson

from agentos.domain.log import Recorded
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, Reply
from agentos.infra.jetstream.wire import decode, parse_headers

BATCH: Final = 1000
MULTI: Final = 1000


async def first_behind(
    connection: Connection, stream: str, subject: str, position: int
) -> tuple[int, str] | None:
    """Return position and message id of a subject's first message behind `position`.

    Asks the stream's leader. Raises as `api.call` does.
    """
    found = await from_leader(connection, stream, {"next_by_subj": subject, "seq": position + 1})
    if found is None:
        return None
    return int(found["seq"]), header_fields(found).get("Nats-Msg-Id", "")


async def from_leader(
    connection: Connection, stream: str, request: dict[str, Any]
) -> dict[str, Any] | None:
    """Return one stored message from the stream's leader, or `None`."""
    try:
        answer = await api.call(connection, f"STREAM.MSG.GET.{stream}", request)
    except api.ApiError as exc:
        if exc.code == api.NO_MESSAGE:
            return None
        raise
    message: dict[str, Any] = answer["message"]
    return message


def header_fields(stored: dict[str, Any]) -> dict[str, str]:
    """Return the headers of a message that the leader gave."""
    return parse_headers(b64decode(stored.get("hdrs", "")))


def stored_record(stored: dict[str, Any]) -> Recorded:
    """Return the commit in a message that the leader gave."""
    body = b64decode(stored.get("data", ""))
    return decode(stored["subject"], int(stored["seq"]), header_fields(stored), body)


def direct_record(reply: Reply) -> Recorded:
    """Return the commit in an answer of a direct get."""
    fields = parse_headers(reply.headers)
    return decode(fields["Nats-Subject"], int(fields["Nats-Sequence"]), fields, reply.data)


async def last_direct(connection: Connection, stream: str, subject: str) -> Recorded | None:
    """Return a subject's last commit by a direct get."""
    reply = await connection.ask(
        f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", timeout=api.API_TIMEOUT
    )
    return None if reply.status == b"404" else direct_record(_checked(reply))


async def last_from_leader(connection: Connection, stream: str, subject: str) -> Recorded | None:
    """Return a subject's last commit from the stream's leader."""
    stored = await from_leader(connection, stream, {"last_by_subj": subject})
    return None if stored is None else stored_record(stored)


async def last_multi(
    connection: Connection, stream: str, subjects: Sequence[str]
) -> list[Recorded]:
    """Return the last commits of up to `MULTI` subjects, as of one moment."""
    request: dict[str, Any] = {"multi_last": list(subjects)}
    records: list[Recorded] = []
    while True:
        page, end = await _page(connection, stream, request)
        records += page
        if not page or not int(end.get("Nats-Num-Pending", 0)):
            return records
        request |= {"seq": page[-1].position + 1, "up_to_seq": int(end["Nats-UpTo-Sequence"])}


async def read_direct(
    connection: Connection, stream: str, subject: str, after: int
) -> list[Recorded]:
    """Return a subject's commits behind `after`, page by page."""
    records: list[Recorded] = []
    while True:
        seq = (records[-1].position if records else after) + 1
        page, end = await _page(
            connection, stream, {"next_by_subj": subject, "seq": seq, "batch": BATCH}
        )
        records += page
        if not page or not int(end.get("Nats-Num-Pending", 0)):
            return records


async def read_from_leader(
    connection: Connection, stream: str, subject: str, after: int
) -> list[Recorded]:
    """Return a subject's commits behind `after` from the leader, one request each."""
    records: list[Recorded] = []
    position = after
    while stored := await from_leader(
        connection, stream, {"next_by_subj": subject, "seq": position + 1}
    ):
        records.append(stored_record(stored))
        position = records[-1].position
    return records


async def _page(
    connection: Connection, stream: str, request: dict[str, Any]
) -> tuple[list[Recorded], dict[str, str]]:
    replies = await connection.ask_many(
        f"$JS.API.DIRECT.GET.{stream}", orjson.dumps(request), timeout=api.TOTAL_TIMEOUT
    )
    end = replies.pop()
    if end.status not in (b"204", b"404"):
        _checked(end)
    return [direct_record(reply) for reply in replies], parse_headers(end.headers)


def _checked(reply: Reply) -> Reply:
    if reply.status:
        line = reply.headers[9:].partition(b"\r\n")[0].decode()
        raise api.ApiError({"description": f"direct get answered {line}"})
    return reply
