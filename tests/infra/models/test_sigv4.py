"""Against the signatures in AWS's published suite of test vectors."""

from datetime import UTC, datetime

import pytest
from yarl import URL

from agentos.infra.models.sigv4 import Credentials, Scope, signed_headers

KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("method", "query", "headers", "body", "signature"),
    [
        ("GET", "", {}, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "", {}, b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "?Param2=value2&Param1=value1",
            {},
            b"",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "POST",
            "",
            FORM,
            b"Param1=value1",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ],
)
def test_the_signature_is_the_published_one(
    method: str, query: str, headers: dict[str, str], body: bytes, signature: str
) -> None:
    url = URL(f"https://example.amazonaws.com/{query}", encoded=True)
    scope = Scope("us-east-1", "service")
    signed = signed_headers(method, url, headers, body, scope=scope, credentials=KEYS, now=NOW)
    assert signed["Authorization"].endswith(f"Signature={signature}")
    assert signed["X-Amz-Date"] == "20150830T123600Z"


def test_a_session_token_is_signed_and_no_secret_shown() -> None:
    keys = Credentials("AKIDEXAMPLE", "hidden-secret", "hidden-token")
    url = URL("http://127.0.0.1:8080/model/a%3A0/converse", encoded=True)
    scope = Scope("eu-west-1", "bedrock")
    signed = signed_headers("POST", url, {}, b"{}", scope=scope, credentials=keys, now=NOW)
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token" in signed["Authorization"]
    assert signed["X-Amz-Security-Token"] == "hidden-token"
    assert "hidden" not in repr(keys) + signed["Authorization"]
