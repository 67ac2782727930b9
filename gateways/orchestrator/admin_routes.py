"""The routes of tenants and keys on one page."""

from typing import Final

from agentos.gateways.http.routing import Described, Endpoint
from agentos.gateways.orchestrator import admin, catalog
from agentos.gateways.orchestrator import admin_schemas as s
from agentos.gateways.orchestrator import catalog_schemas as c
from agentos.gateways.orchestrator import queries as q

TENANTS: Final = "/v1/admin/tenants"
ONE: Final = f"{TENANTS}/{{tenant_id}}"
KEYS: Final = f"{ONE}/keys"
KEY: Final = f"{KEYS}/{{key_id}}"
READ: Final = (400, 401, 403, 404, 503)
WRITE: Final = (400, 401, 403, 404, 409, 413, 500, 503, 504)
TENANT: Final = {200: s.TenantAnswer}
KNOWN: Final = (admin.TENANT_ID, q.IDEMPOTENCY_KEY)
KNOWN_KEY: Final = (admin.TENANT_ID, admin.KEY_ID, q.IDEMPOTENCY_KEY)
MODELS: Final = "/v1/admin/models"
CATALOG: Final = {200: c.CatalogAnswer}
PAGED: Final = (q.LIMIT, q.CURSOR)
Table = tuple[tuple[str, str, Endpoint, Described], ...]

ADMIN: Final[Table] = (
    (
        "GET",
        TENANTS,
        admin.list_tenants,
        Described("List tenants", {200: s.TenantsAnswer}, PAGED, errors=READ),
    ),
    (
        "POST",
        TENANTS,
        admin.create_tenant,
        Described(
            "Create a tenant",
            {201: s.TenantAnswer},
            (q.IDEMPOTENCY_KEY,),
            s.TenantCreateBody,
            errors=WRITE,
        ),
    ),
    (
        "GET",
        ONE,
        admin.get_tenant,
        Described("Get a tenant", TENANT, (admin.TENANT_ID,), errors=READ),
    ),
    (
        "PUT",
        ONE,
        admin.replace_tenant,
        Described("Replace a tenant's profile", TENANT, KNOWN, s.TenantReplace, errors=WRITE),
    ),
    (
        "PATCH",
        ONE,
        admin.update_tenant,
        Described("Change a tenant", TENANT, KNOWN, s.TenantPatch, errors=WRITE),
    ),
    (
        "DELETE",
        ONE,
        admin.delete_tenant,
        Described("Delete a tenant", TENANT, (*KNOWN, admin.CONFIRM), errors=WRITE),
    ),
    (
        "POST",
        f"{ONE}:enable",
        admin.enable_tenant,
        Described("Enable a tenant", TENANT, KNOWN, s.TenantAct, body_required=False, errors=WRITE),
    ),
    (
        "POST",
        f"{ONE}:disable",
        admin.disable_tenant,
        Described(
            "Disable a tenant", TENANT, KNOWN, s.TenantDisable, body_required=False, errors=WRITE
        ),
    ),
    (
        "POST",
        f"{ONE}/subjects:erase",
        admin.erase_subject,
        Described(
            "Erase a data subject", {200: s.ErasureAnswer}, KNOWN, s.SubjectErase, errors=WRITE
        ),
    ),
    (
        "GET",
        f"{ONE}/usage",
        admin.get_tenant_usage,
        Described("Get a tenant's usage", {200: s.UsageAnswer}, (admin.TENANT_ID,), errors=READ),
    ),
    (
        "GET",
        KEYS,
        admin.list_keys,
        Described("List keys", {200: s.KeysAnswer}, (admin.TENANT_ID, *PAGED), errors=READ),
    ),
    (
        "POST",
        KEYS,
        admin.issue_key,
        Described(
            "Issue a key",
            {201: s.KeySecretAnswer},
            KNOWN,
            s.KeyIssue,
            body_required=False,
            errors=WRITE,
        ),
    ),
    (
        "POST",
        f"{KEY}:rotate",
        admin.rotate_key,
        Described(
            "Rotate a key",
            {200: s.KeySecretAnswer},
            KNOWN_KEY,
            s.KeyRotate,
            body_required=False,
            errors=WRITE,
        ),
    ),
    (
        "DELETE",
        KEY,
        admin.revoke_key,
        Described("Revoke a key", {200: s.KeyAnswer}, KNOWN_KEY, errors=WRITE),
    ),
    (
        "GET",
        MODELS,
        catalog.get_catalog,
        Described("Get the catalog of models", CATALOG, (catalog.VERSION,), errors=READ),
    ),
    (
        "PUT",
        MODELS,
        catalog.put_catalog,
        Described(
            "Publish a catalog of models",
            CATALOG,
            (q.IDEMPOTENCY_KEY,),
            c.CatalogPut,
            errors=WRITE,
        ),
    ),
    (
        "GET",
        f"{MODELS}/versions",
        catalog.list_catalog_versions,
        Described(
            "List the catalog's versions", {200: c.CatalogVersionsAnswer}, errors=(401, 403, 503)
        ),
    ),
)
