"""Bodies for model servers."""

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic_core import to_json

from agentos.domain.errors import InvalidRequestError


def encode(body: Mapping[str, Any]) -> bytes:
    """Return `body` as JSON; `InvalidRequestError` for what no JSON can hold."""
    try:
        return orjson.dumps(body)
    except TypeError:
        raise InvalidRequestError("the request cannot be written as JSON") from None


def json_object(value: Mapping[str, Any]) -> orjson.Fragment:
    """Return an object to be put into a body as it stands; whole numbers may be of any size."""
    return orjson.Fragment(to_json(dict(value)))
