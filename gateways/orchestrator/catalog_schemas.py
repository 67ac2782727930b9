"""The shapes of the catalog's answers and body."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.models.catalog import Catalog
from agentos.domain.models.published import Source
from agentos.gateways.http.bodies import BodyAuth
from agentos.gateways.http.schemas import Shape


class CatalogPut(BaseModel):
    """A whole document. An unknown field in it is an error: it would be a limit not kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    auth: BodyAuth | None = None
    document: dict[str, Any]
    expected_version: int | None = Field(default=None, ge=0)


class CatalogView(Shape):
    """The catalog in one version; 0 is what is out of the box, before any was published."""

    version: int
    source: Source
    published_at: str | None = None
    document: Catalog


class CatalogAnswer(Shape):
    """One catalog."""

    catalog: CatalogView
    correlation_id: str


class CatalogVersion(Shape):
    """One version that was published."""

    version: int
    source: Source
    published_at: str
    principal_id: str | None


class CatalogVersionsAnswer(Shape):
    """All versions, the newest first."""

    versions: list[CatalogVersion]
    correlation_id: str
