"""Every vendor whose wire format a backend speaks."""

from tests.infra.models.anthropic_server import ANTHROPIC
from tests.infra.models.bedrock_server import BEDROCK
from tests.infra.models.google_server import GOOGLE
from tests.infra.models.openai_server import OPENAI

VENDORS = [OPENAI, ANTHROPIC, GOOGLE, BEDROCK]
