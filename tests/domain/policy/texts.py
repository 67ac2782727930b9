"""Texts made of what is looked for, of what looks like it, and of prose."""

from itertools import pairwise

from hypothesis import strategies as st

PIECES = [
    "john.doe@example.com",
    "mueller@mail.beispiel.de.",
    "a@b.co",
    "+49 30 1234567",
    "(030) 123 45 67",
    "202-555-0143",
    "00441632960961",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111 123",
    "5500000000000004",
    "DE89 3704 0044 0532 0130 00",
    "GB29NWBK60161331926819",
    "123-45-6789",
    "AB 12 34 56 C",
    "86095742719",
    "86 095 742 719",
    "255081416802538",
    "12345678Z",
    "RSSMRA85T10A562S",
    "44051401359",
    "811218-9876",
    "529.982.247-25",
    "2341 2341 2346",
    "046 454 286",
    "756.9217.0769.85",
    "192.168.0.1",
    "2001:db8::1",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrst0123456789abcdef",
    "sk-proj-abcdefghij1234567890",
    "xoxb-123456789012-abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdefghijk",
    "aos_01ARZ3NDEKTSV4RRFFQ69G5FAV_" + "x1" * 21 + "y",
    "password: hunter22x!",
    'API_KEY="abcdefgh1234"',
    "Authorization: Bearer abcdef0123456789abcdef01",
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAA=\n-----END PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nand then",
    "PRJ-12345",
    "confidential merger",
    "secret",
    "token",
    "BEGIN",
    "Hello",
    "the quick brown fox",
    "In 2024, 12 of 340 people",
    "10:30:45",
    "3.14159265358979",
    "2024-01-15",
    "sk-",
    "DE",
    "\n",
    ": ",
    " = ",
    "-----",
    "@",
    "+",
    "é😀",
]
GLUE = ["", " ", " ", ", ", ". ", "\n", "-", "/", '"', "(", ")", "_"]

texts = st.lists(
    st.tuples(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), st.sampled_from(GLUE)),
    max_size=12,
).map(lambda parts: "".join(piece + glue for piece, glue in parts))


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    """Return a text in pieces, cut anywhere."""
    text = draw(texts)
    places = draw(st.lists(st.integers(0, len(text)), max_size=30))
    if draw(st.booleans()):
        places = list(range(len(text)))
    cuts = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in pairwise(cuts)]
