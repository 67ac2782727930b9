"""Fields that the OpenAI-compatible bodies have in common, and how a misfit in one is located."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field
from pydantic_core import PydanticCustomError, from_json

from agentos.domain.errors import InvalidRequestError
from agentos.gateways.http.bodies import BodyAuth, parse_body

M = TypeVar("M", bound="OpenAIBody")
MAX_OUTPUT_TOKENS: Final = 1_000_000
MAX_TOOLS: Final = 128
MAX_SEED: Final = 2**63 - 1
NEUTRAL: Final[tuple[Any, ...]] = (None, False, 0, "", [], {})
"""What a field that we do not have may be sent as: it then asks for nothing."""
FORMS: Final[Mapping[type[Any], str]] = {str: "text", list: "list", dict: "object"}


class Part(BaseModel):
    """A part of a body; what is not known in it is passed over."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


def _neutral(value: Any) -> Any:
    if value not in NEUTRAL:
        raise PydanticCustomError("unsupported", "is not supported here")
    return None


Unsupported = Annotated[
    Any, AfterValidator(_neutral), Field(default=None, description="not supported: leave it out")
]
ModelRef = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="a concrete id, `backend/model`, or `tier:fast|balanced|premium`",
    ),
]
OutputTokens = Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]


class OpenAIBody(Part):
    """What every body has: the model, and AgentOS's own `auth`, which narrows."""

    model: ModelRef
    auth: BodyAuth | None = None


def _form(value: Any) -> str | None:
    return FORMS.get(type(value))


def by_form(expected: str) -> Discriminator:
    """Return how a union tagged `text`, `list` or `object` is told apart: by the JSON's form."""
    return Discriminator(_form, custom_error_type="form", custom_error_message=expected)


def parse_openai(raw: bytes, model: type[M]) -> M:
    """Return a body; as `parse_body`, with each misfit located as the client sees its body."""
    try:
        return parse_body(raw, model)
    except InvalidRequestError as error:
        sent = from_json(raw)
        for one in error.details["errors"]:
            one["loc"] = as_sent(one["loc"], sent)
        raise


def as_sent(loc: Sequence[str | int], sent: Any) -> list[str | int]:
    """Return a location without the names of the alternatives that were tried on the way."""
    found: list[str | int] = [loc[0]]
    for at, step in enumerate(loc[1:], 2):
        is_key = isinstance(sent, dict) and step in sent
        if is_key or (isinstance(sent, list) and isinstance(step, int) and step < len(sent)):
            sent = sent[step]
            found.append(step)
        elif at == len(loc) and isinstance(sent, dict):
            found.append(step)
    return found
