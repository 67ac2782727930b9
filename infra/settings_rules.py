"""What settings must not be together, and what `prod` refuses."""

import os
import re

from agentos.infra.otlp_settings import headers_of, traces_url
from agentos.infra.settings import PREFIX, Settings, mask, variables

HOST_PORT = re.compile(r"^[^\s:]+:[0-9]{1,5}$")


def clashes(settings: Settings) -> list[str]:
    """Return what cannot work together in any mode, a sentence each."""
    names: dict[int, str] = {}
    problems = []
    for name, port in settings.ports.items():
        variable = f"{PREFIX}{name.upper()}_PORT"
        if port in names:
            problems.append(f"{variable} and {names[port]} are both {port}; each needs its own")
        names[port] = variable
    if settings.fed_leaf_listen and not HOST_PORT.match(settings.fed_leaf_listen):
        problems.append(f"{PREFIX}FED_LEAF_LISTEN must be host:port")
    problems += _issuer_problems(settings) + _retention_problems(settings)
    return problems + _trace_problems(settings)


def _retention_problems(settings: Settings) -> list[str]:
    from agentos.infra.retention import retention_rules  # noqa: PLC0415 - heavy, and needs us

    try:
        retention_rules(settings)
    except ValueError as exc:
        return [f"AGENTOS_RETENTION_…: {exc}"]
    return []


def _issuer_problems(settings: Settings) -> list[str]:
    """Return what is missing of an issuer; without a URL of its keys, it is asked for one."""
    audience, url = settings.oidc_audience, settings.oidc_jwks_url
    if audience if settings.oidc_issuer else not (audience or url):
        return []
    return ["AGENTOS_OIDC_ISSUER and AGENTOS_OIDC_AUDIENCE must be set together"]


def _trace_problems(settings: Settings) -> list[str]:
    """Return what is wrong with where traces go; what a header holds is not in it."""
    try:
        headers_of(settings.otlp_headers)
        if settings.otlp_endpoint:
            traces_url(settings.otlp_endpoint)
    except ValueError as exc:
        return [str(exc)]
    return []


def unsafe_in_prod(settings: Settings) -> list[str]:
    """Return what `prod` refuses, a sentence each."""
    problems = [
        f"{name} must be set in prod"
        for name in ("AGENTOS_DATA_DIR", "AGENTOS_NATS_URL", "AGENTOS_POSTGRES_DSN")
        if settings.origins[name] == "default"
    ]
    problems += [
        f"{name} must be empty in prod"
        for name in ("AGENTOS_ALLOW_DEV_HEADERS", "AGENTOS_DEFAULT_TENANT", "AGENTOS_CRASH_POINT")
        if settings.texts[name]
    ]
    problems += [
        f"{name} is a secret: prod reads it from the file that {name}_FILE names"
        for name, spec in variables().items()
        if _is_plain_secret(settings, name, spec.metadata["hide"])
    ]
    if not settings.metrics_require_auth:
        problems.append("AGENTOS_METRICS_REQUIRE_AUTH must be 1 in prod")
    if settings.durability != "power":
        problems.append("AGENTOS_DURABILITY=process is refused in prod; use power")
    return problems + _identity_problems(settings) + _federation_problems(settings)


def _is_plain_secret(settings: Settings, name: str, hide: str) -> bool:
    text = settings.texts[name]
    return f"{name}_FILE" not in settings.texts and bool(text) and mask(text, hide) != text


def _identity_problems(settings: Settings) -> list[str]:
    if settings.oidc_issuer and not settings.oidc_issuer.startswith("https://"):
        return ["AGENTOS_OIDC_ISSUER must be an https URL in prod"]
    if settings.jwt_secret and len(settings.jwt_secret.encode()) < 32:
        return ["AGENTOS_JWT_SECRET must have at least 32 bytes in prod"]
    if not settings.oidc_issuer and not settings.jwt_secret:
        return ["prod needs AGENTOS_OIDC_ISSUER (with its audience) or AGENTOS_JWT_SECRET_FILE"]
    return []


def _federation_problems(settings: Settings) -> list[str]:
    if settings.peers_file is None:
        return []
    problems = []
    if not os.access(settings.peers_file, os.R_OK):
        problems.append(f"AGENTOS_PEERS_FILE: {settings.peers_file} cannot be read")
    if not settings.fed_require_mtls:
        problems.append("AGENTOS_FED_REQUIRE_MTLS must be 1 in prod when there are peers")
    problems += [
        f"{PREFIX}{name.upper()} must name a readable file in prod when there are peers"
        for name in ("fed_ca_cert", "fed_cert", "fed_key")
        if not (path := getattr(settings, name)) or not os.access(path, os.R_OK)
    ]
    return problems
