"""What each kind finds, and what only looks like it."""

import pytest

from agentos.domain.policy.compiled import compile_policy
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.facts import Facts
from agentos.domain.policy.kinds import GROUPS, KINDS, expand

FOUND = {
    "email": ["john.doe@example.com", "a+b@x.co.uk", "jürgen@müller.de", "x_y%z@sub.example.org"],
    "phone": [
        "+49 30 1234567",
        "+1 (202) 555-0143",
        "0049 30 1234567",
        "030 12345678",
        "(030) 123 45 67",
        "01 23 45 67 89",
        "01.23.45.67.89",
        "020 7946 0958",
        "202-555-0143",
        "(202) 555-0143",
        "1-202-555-0143",
    ],
    "credit_card": [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111111111111111",
        "378282246310005",
        "3782 822463 10005",
        "5555555555554444",
        "2223003122003222",
        "6011111111111117",
        "3530111333300000",
    ],
    "iban": [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB29 NWBK 6016 1331 9268 19",
        "FR14 2004 1010 0505 0001 3M02 606",
        "NO93 8601 1117 947",
        "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
    ],
    "us_ssn": ["123-45-6789", "123 45 6789"],
    "uk_nino": ["AB123456C", "AB 12 34 56 C"],
    "de_steuer_id": ["86095742719", "86 095 742 719"],
    "fr_nir": ["255081416802538", "2 55 08 14 168 025 38"],
    "es_dni": ["12345678Z", "12345678-Z", "X1234567L"],
    "it_codice_fiscale": ["RSSMRA85T10A562S"],
    "pl_pesel": ["44051401359"],
    "se_personnummer": ["811218-9876", "19811218-9876"],
    "br_cpf": ["529.982.247-25", "52998224725"],
    "in_aadhaar": ["2341 2341 2346"],
    "ca_sin": ["046 454 286".replace("046", "146").replace("286", "285"), "130-692-544"],
    "ch_ahv": ["756.9217.0769.85", "7569217076985"],
    "nl_bsn": ["1112.22.333"],
    "ip_address": ["192.168.0.1", "2001:db8::1", "fe80::1ff:fe23:4567:890a", "::ffff:1.2.3.4"],
    "aws_access_key": ["AKIAIOSFODNN7EXAMPLE"],
    "github_token": ["ghp_" + "a1" * 18, "github_pat_" + "a1" * 20],
    "gitlab_token": ["glpat-abcdefghij0123456789"],
    "openai_key": ["sk-proj-abcdefghij1234567890", "sk-" + "a1" * 24],
    "anthropic_key": ["sk-ant-api03-" + "a1" * 20],
    "google_api_key": ["AIza" + "a1" * 17 + "b"],
    "slack_token": ["xoxb-123456789012-abcdef", "xapp-1-A012-345-abcdef"],
    "stripe_key": ["sk_live_" + "a1" * 12],
    "huggingface_token": ["hf_" + "aB" * 17],
    "npm_token": ["npm_" + "a1" * 18],
    "aos_key": ["aos_01ARZ3NDEKTSV4RRFFQ69G5FAV_" + "x1" * 21 + "y"],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdefghijk"],
    "private_key": [
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIE\n"
        "-----END RSA PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU",
    ],
}
VALUES = {
    "bearer_token": [("Authorization: Bearer abcdef0123456789abcd", "abcdef0123456789abcd")],
    "generic_secret": [
        ("password: hunter22x!", "hunter22x!"),
        ('"api_key": "correcthorse"', "correcthorse"),
        ("DB_PASSWORD=p4ssw0rdX", "p4ssw0rdX"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI/K7MDENG"),
        ("client-secret => 'abcdefgh'", "abcdefgh"),
    ],
}
NOT = {
    "email": ["john@localhost", "@example.com", "a@b", "user at example.com"],
    "phone": [
        "2024-01-15",
        "10:30:45",
        "1234567",
        "01.02.2024 10",
        "3.14159265358",
        "192.168.100.200",
        "order 99123456789",
    ],
    "credit_card": ["4111 1111 1111 1112", "1234567890123456", "0000000000000000", "41111111"],
    "iban": ["DE89370400440532013001", "DE8937040044053201300", "XX89370400440532013000"],
    "us_ssn": ["000-12-3456", "666-12-3456", "123-00-4567", "123-45-0000", "123-45 6789"],
    "uk_nino": ["GB123456A", "AB123456E", "DA123456A"],
    "de_steuer_id": ["86095742718", "11111111111", "06095742719"],
    "fr_nir": ["255081416802539"],
    "es_dni": ["12345678A", "X1234567A"],
    "it_codice_fiscale": ["RSSMRA85T10A562T"],
    "pl_pesel": ["44051401358", "44991401359"],
    "se_personnummer": ["811218-9875", "819918-9876"],
    "br_cpf": ["529.982.247-26", "11111111111"],
    "in_aadhaar": ["2341 2341 2347"],
    "ca_sin": ["046 454 287", "130692544"],
    "ch_ahv": ["756.9217.0769.86"],
    "nl_bsn": ["1112.22.334", "111222333"],
    "ip_address": ["256.1.1.1", "1.2.3", "1.2.3.4.5", "10:30:45", "::", "std::string"],
    "aws_access_key": ["AKIAIOSFODNN7EXAMPL", "XAKIAIOSFODNN7EXAMPLE"],
    "openai_key": ["sk-short", "task-abcdefghij1234567890", "sk-this-is-only-some-words-here"],
    "jwt": ["eyJhbGciOi.eyJzdWI"],
    "private_key": [
        "look for -----BEGIN PRIVATE KEY----- in it.",
        "-----BEGIN PUBLIC KEY-----\nMIIEvQIBADANBgMIIEvQIBADANBg\n-----END PUBLIC KEY-----",
    ],
    "bearer_token": ["the bearer of extraordinarilylongwords"],
    "generic_secret": [
        "password: required",
        "the token is long",
        "password: ********",
        "secret = short",
        "tokens: 1234",
        "key: value12345",
    ],
}


def found(kind: str, text: str) -> list[str]:
    rule = {"name": "r", "effect": "redact", "when": {"pii_types": [kind]}}
    document = PolicyDocument.model_validate({"name": "T", "rules": [rule]})
    policy = compile_policy("pol_t", "1", document)
    redactions = policy.check([("t", text)], Facts()).redactions
    assert all(redaction.type == kind for redaction in redactions)
    return [text[redaction.start : redaction.end] for redaction in redactions]


CASES = [(kind, text, text) for kind, texts in FOUND.items() for text in texts]
CASES += [(kind, text, value) for kind, pairs in VALUES.items() for text, value in pairs]


@pytest.mark.parametrize(("kind", "text", "value"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_it_is_found_wherever_it_stands(kind: str, text: str, value: str) -> None:
    assert found(kind, text) == [value]
    assert found(kind, f"It is: {text}, or so.") == [value]
    assert found(kind, f"({text})\n") == [value]


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, texts in NOT.items() for t in texts])
def test_what_only_looks_like_it(kind: str, text: str) -> None:
    assert found(kind, text) == []
    assert found(kind, f"see {text} there") == []


def test_a_card_between_other_numbers_is_found() -> None:
    text = "order 5 4111 1111 1111 1111 123 12/26"
    assert found("credit_card", text) == ["4111 1111 1111 1111"]


def test_a_key_that_broke_off_ends_where_its_last_line_does() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF"
    assert found("private_key", f"{key}\nand then some words") == [key]


def test_every_kind_has_an_example() -> None:
    assert set(FOUND) | set(VALUES) == set(KINDS)


def test_groups_stand_for_their_kinds() -> None:
    assert expand(["national_id", "email"]) == (*GROUPS["national_id"], "email")
    assert set(GROUPS["api_key"]) < set(GROUPS["secret"])


@pytest.mark.parametrize("name", ["person", "location"])
def test_what_has_no_form_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(PolicyProblemError, match="content_patterns"):
        expand([name])
