"""Every vendor whose wire format a backend speaks."""

from tests.infra.models.openai_server import OPENAI

VENDORS = [OPENAI]
