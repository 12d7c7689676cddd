"""A table of values that must be found and of decoys that must not, the same in every run.

Card numbers are made from the networks' published ranges and the check digit of ISO/IEC 7812-1, computed here on its
own; every token is random letters behind its vendor's published prefix. None belongs to anybody.
"""

from __future__ import annotations

import base64
import hashlib
import random
import string
import uuid
from datetime import UTC, datetime, timedelta

ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
WORDS = ("invoice", "order", "paid", "north", "river", "stone", "late", "early", "customer", "refund", "again")


# (first digits, length, how people group it)
NETWORKS = [
    ("4", 16, (4, 4, 4, 4)),
    ("4", 13, (4, 3, 3, 3)),
    ("4", 19, (4, 4, 4, 4, 3)),
    ("51", 16, (4, 4, 4, 4)),
    ("55", 16, (4, 4, 4, 4)),
    ("2221", 16, (4, 4, 4, 4)),
    ("2720", 16, (4, 4, 4, 4)),
    ("34", 15, (4, 6, 5)),
    ("37", 15, (4, 6, 5)),
    ("6011", 16, (4, 4, 4, 4)),
    ("65", 16, (4, 4, 4, 4)),
    ("36", 14, (4, 6, 4)),
    ("3530", 16, (4, 4, 4, 4)),
    ("62", 16, (4, 4, 4, 4)),
    ("62", 19, (4, 4, 4, 4, 3)),
]


def check_digit(digits: str) -> str:
    """The last digit that makes a number pass, by the table of doubled digits."""
    doubled = "0246813579"
    total = sum(int(doubled[int(d)]) if i % 2 == 0 else int(d) for i, d in enumerate(reversed(digits)))
    return str(-total % 10)


class Maker:
    """Makes values from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def letters(self, alphabet: str, count: int) -> str:
        return "".join(self.random.choices(alphabet, k=count))

    def digits(self, count: int) -> str:
        return self.letters(string.digits, count)

    def words(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randrange(1, 6)))

    def card(self) -> str:
        first, size, groups = self.random.choice(NETWORKS)
        body = first + self.digits(size - len(first) - 1)
        number = body + check_digit(body)
        separator = self.random.choice(["", "", " ", "-"])
        parts, pos = [], 0
        for count in groups:
            parts.append(number[pos : pos + count])
            pos += count
        return separator.join(parts)

    def ssn(self) -> str:
        area = self.random.choice([n for n in range(1, 900) if n != 666])
        return f"{area:03}-{self.random.randrange(1, 100):02}-{self.random.randrange(1, 10000):04}"

    def email(self) -> str:
        name = self.random.choice(["ada", "grace.h", "o'neil", "x_1", "a+tag", "first.last", "j\u00fcrgen", "n-n"])
        host = self.random.choice(
            ["example.org", "mail.example.com", "b\u00fccher.example", "a-b.example.co.uk", "163.com"]
        )
        return f"{name}@{host}"

    def secret(self) -> str:
        make = self.random.choice(
            [
                lambda: self.random.choice(["AKIA", "ASIA"]) + self.letters(string.ascii_uppercase + "234567", 16),
                lambda: "aws_secret_access_key = " + self.letters(ALNUM + "+/", 40),
                lambda: self.random.choice(["ghp_", "gho_", "ghs_"]) + self.letters(ALNUM, 36),
                lambda: "github_pat_" + self.letters(ALNUM, 22) + "_" + self.letters(ALNUM, 59),
                lambda: "glpat-" + self.letters(ALNUM + "_-", 20),
                lambda: f"xoxb-{self.digits(12)}-{self.digits(12)}-{self.letters(ALNUM, 24)}",
                lambda: self.random.choice(["sk_live_", "sk_test_", "rk_live_"]) + self.letters(ALNUM, 24),
                lambda: "AIza" + self.letters(ALNUM + "_-", 35),
                lambda: "npm_" + self.letters(ALNUM, 36),
                lambda: "pypi-AgEIcHlwaS5vcmc" + self.letters(ALNUM + "_-", 60),
                lambda: "sk-" + self.letters(ALNUM, 48),
                lambda: "sk-proj-" + self.letters(ALNUM + "_-", 60),
                self.jwt,
                lambda: f"-----BEGIN PRIVATE KEY-----\n{self.letters(ALNUM + '+/', 64)}\n-----END PRIVATE KEY-----",
                lambda: f"password={self.letters(ALNUM + '!#%', 20)}",
                lambda: f'{{"api_key": "{self.letters(ALNUM, 32)}"}}',
                lambda: f"client_secret: {uuid.UUID(int=self.random.getrandbits(128))}",
                lambda: f"Authorization: Bearer {self.letters(ALNUM, 32)}",
                lambda: f"postgres://app:{self.letters(ALNUM, 12)}@db.example.org/billing",
            ]
        )
        return make()

    def jwt(self) -> str:
        part = base64.urlsafe_b64encode
        head = part(b'{"alg":"RS256","typ":"JWT"}').decode().rstrip("=")
        body = part(b'{"sub":"' + self.letters(ALNUM, 12).encode() + b'"}').decode().rstrip("=")
        return f"{head}.{body}.{self.letters(ALNUM + '_-', 86)}"

    def around(self, value: str) -> str:
        """The value alone or in the middle of a text."""
        if self.random.random() < 0.5:
            return value
        return f"{self.words()} {value}{self.random.choice(['', '.', ',', ' ' + self.words(), ')'])}"

    def decoy(self) -> str:
        """Something long that means no harm, of one of the kinds that are often taken for it."""
        return self.random.choice(self.decoys())()

    def decoys(self) -> list:  # type: ignore[type-arg]
        r = self.random
        when = datetime(2015, 1, 1, tzinfo=UTC) + timedelta(microseconds=r.randrange(10**15))
        uid = uuid.UUID(int=r.getrandbits(128), version=4)
        return [
            lambda: str(uid),
            lambda: uid.hex,
            lambda: hashlib.md5(uid.bytes).hexdigest(),
            lambda: hashlib.sha1(uid.bytes).hexdigest(),
            lambda: hashlib.sha256(uid.bytes).hexdigest(),
            lambda: uid.hex[:12],
            lambda: when.isoformat(),
            lambda: when.strftime("%Y-%m-%d %H:%M:%S.%f+00"),
            lambda: when.strftime("%Y%m%d%H%M%S"),
            lambda: when.strftime("%Y%m%d-%H%M%S"),
            lambda: f"{when:%Y-%m-%d} {when + timedelta(days=1):%Y-%m-%d}",
            lambda: str(int(when.timestamp() * 1000)),
            lambda: str(int(when.timestamp() * 10**6)),
            lambda: f"{r.random():.18f}",
            lambda: f"{r.random() * 10**6:.16f}",
            lambda: f"-{r.randrange(10**5)}.{self.digits(16)}",
            lambda: f"ORD-{self.digits(10)}",
            lambda: f"{r.randrange(1, 10)}{self.digits(11)}",
            lambda: f"INV-{when:%Y}-{self.digits(6)}",
            lambda: f"PO {self.digits(4)}-{self.digits(6)}",
            lambda: f"{r.randrange(100, 1000)}-{self.digits(7)}-{self.digits(7)}",
            lambda: ":".join(f"{r.randrange(256):02x}" for _ in range(6)),
            lambda: "-".join(f"{r.randrange(256):02X}" for _ in range(6)),
            lambda: "-".join(f"{r.randrange(100):02}" for _ in range(8)),
            lambda: f"{r.randrange(30)}.{r.randrange(30)}.{r.randrange(900)}-rc{r.randrange(9)}+build.{self.digits(8)}",
            lambda: f"lodash@{r.randrange(9)}.{r.randrange(30)}.{r.randrange(30)}",
            lambda: f"/var/lib/app/{when:%Y/%m/%d}/{uid}/part-{self.digits(5)}.parquet",
            lambda: f"C:\\Users\\build\\{uid.hex}\\icon@2x.png",
            lambda: f"git@git.example.org:team/repo-{self.digits(4)}.git",
            lambda: f"+{r.choice(['1', '44', '49'])} {self.digits(3)} {self.digits(7)}",
            lambda: f"{r.randrange(200, 999)}-{r.randrange(200, 999)}-{self.digits(4)}",
            lambda: f"10.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(256)}:{r.randrange(1024, 60000)}",
            lambda: f"token bucket of {r.randrange(100)}, key {self.digits(4)}",
            lambda: f"primary_key={uid.hex[:10]} cache-control: max-age={self.digits(8)}",
            lambda: self.words(),
            lambda: str(r.randrange(10**18, 18 * 10**17)),
        ]
