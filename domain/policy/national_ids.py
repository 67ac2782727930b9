"""National ids. Those that have a check digit are checked; the others have a strict shape."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Final

from agentos.domain.policy.checksums import is_date, luhn, mod_11_10, verhoeff, weighted
from agentos.domain.policy.recogniser import ALONE, END, Accept, Recogniser, Span

NOT_PLAIN: Final = re.compile(r"[^0-9A-Z]")
DNI_LETTERS: Final = "TRWAGMYFPDXBNJZSQVHLCKE"
NINO_NEVER: Final = frozenset({"BG", "GB", "NK", "KN", "TN", "NT", "ZZ"})
CF_ODD_DIGITS: Final = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
CF_ODD_LETTERS: Final = (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
CF_ODD: Final = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (*CF_ODD_DIGITS, *CF_ODD_DIGITS, *CF_ODD_LETTERS),
        strict=True,
    )
)


def _when(check: Callable[[str], bool]) -> Accept:
    """Accept a match whose letters and digits pass the check."""

    def accept(found: re.Match[str]) -> Span | None:
        return found.span() if check(NOT_PLAIN.sub("", found[0])) else None

    return accept


def _us_ssn(plain: str) -> bool:
    return plain[:3] not in ("000", "666") and plain[3:5] != "00" and plain[5:] != "0000"


def _uk_nino(plain: str) -> bool:
    return plain[:2] not in NINO_NEVER


def _de_steuer_id(plain: str) -> bool:
    counts = Counter(plain[:10]).values()
    return max(counts) in (2, 3) and sum(count > 1 for count in counts) == 1 and mod_11_10(plain)


def _fr_nir(plain: str) -> bool:
    body = plain[:13].replace("2A", "19").replace("2B", "18")
    return body.isdigit() and 97 - int(body) % 97 == int(plain[13:])


def _es_dni(plain: str) -> bool:
    number = plain[:-1].translate(str.maketrans("XYZ", "012"))
    return DNI_LETTERS[int(number) % 23] == plain[-1]


def _it_codice_fiscale(plain: str) -> bool:
    total = sum(
        CF_ODD[letter] if at % 2 == 0 else int(letter, 36) - (10 if letter.isalpha() else 0)
        for at, letter in enumerate(plain[:15])
    )
    return chr(ord("A") + total % 26) == plain[15]


def _pl_pesel(plain: str) -> bool:
    check = (10 - weighted(plain[:10], (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10) % 10
    return check == int(plain[10]) and is_date(int(plain[2:4]) % 20, int(plain[4:6]))


def _se_personnummer(plain: str) -> bool:
    short = plain[-10:]
    return luhn(short) and is_date(int(short[2:4]), int(short[4:6]) % 60)


def _br_cpf(plain: str) -> bool:
    if len(set(plain)) == 1:
        return False
    first = weighted(plain[:9], range(10, 1, -1)) * 10 % 11 % 10
    second = weighted(plain[:10], range(11, 1, -1)) * 10 % 11 % 10
    return plain[9:] == f"{first}{second}"


def _ch_ahv(plain: str) -> bool:
    return weighted(plain, (1, 3) * 6 + (1,)) % 10 == 0


def _nl_bsn(plain: str) -> bool:
    return weighted(plain, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


SHAPES: Final = (
    ("us_ssn", rf"[0-8]{ALONE}[0-9]{{2}}(?:-[0-9]{{2}}-| [0-9]{{2}} )[0-9]{{4}}(?![\w-])", _us_ssn),
    (
        "uk_nino",
        r"[A-CEGHJ-PR-TW-Z](?<!\w.)[A-CEGHJ-NPR-TW-Z](?: ?[0-9]{2}){3} ?[A-D]" + END,
        _uk_nino,
    ),
    (
        "de_steuer_id",
        rf"[1-9]{ALONE}(?:[0-9]{{10}}|[0-9](?: [0-9]{{3}}){{3}}){END}",
        _de_steuer_id,
    ),
    (
        "fr_nir",
        rf"[12378]{ALONE}(?: ?[0-9]{{2}}){{2}} ?(?:[0-9]{{2}}|2[AB])(?: ?[0-9]{{3}}){{2}}"
        rf" ?[0-9]{{2}}{END}",
        _fr_nir,
    ),
    ("es_dni", rf"[0-9XYZ]{ALONE}-?[0-9]{{7}}-?[A-HJ-NP-TV-Z]{END}", _es_dni),
    (
        "it_codice_fiscale",
        r"[A-Z](?<!\w.)[A-Z]{5}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]"
        + END,
        _it_codice_fiscale,
    ),
    ("pl_pesel", rf"[0-9]{ALONE}[0-9]{{10}}{END}", _pl_pesel),
    (
        "se_personnummer",
        rf"[0-9]{ALONE}(?:[0-9]{{2}})?[0-9]{{5}}[-+][0-9]{{4}}(?![\w-])",
        _se_personnummer,
    ),
    (
        "br_cpf",
        rf"[0-9]{ALONE}[0-9]{{2}}(?:\.[0-9]{{3}}\.[0-9]{{3}}-|[0-9]{{6}})[0-9]{{2}}{END}",
        _br_cpf,
    ),
    (
        "in_aadhaar",
        rf"[2-9]{ALONE}[0-9]{{3}}(?:[0-9]{{8}}|(?:[ -][0-9]{{4}}){{2}})(?![\w-])",
        verhoeff,
    ),
    ("ca_sin", rf"[1-79]{ALONE}[0-9]{{2}}(?:[ -][0-9]{{3}}){{2}}(?![\w-])", luhn),
    ("ch_ahv", rf"7{ALONE}56\.?[0-9]{{4}}\.?[0-9]{{4}}\.?[0-9]{{2}}{END}", _ch_ahv),
    ("nl_bsn", rf"[0-9]{ALONE}[0-9]{{3}}\.[0-9]{{2}}\.[0-9]{{3}}{END}", _nl_bsn),
)
# A codice fiscale may be written with letters for all of its digits; the others have six.
LETTERS: Final = "it_codice_fiscale"
NATIONAL_IDS: Final = tuple(
    Recogniser(
        kind,
        re.compile(shape),
        _when(check),
        is_number=kind != LETTERS,
        capitals=6 if kind == LETTERS else 0,
    )
    for kind, shape, check in SHAPES
)
