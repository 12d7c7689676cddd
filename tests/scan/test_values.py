"""What the detectors find, what they leave, and that the quick test never says no to what they would find."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scan.frames import row
from tests.scan.table import Maker, check_digit

CARD, SSN, EMAIL, SECRET, ALL = 1, 2, 4, 8, 15
COUNT = 2000


@pytest.mark.parametrize(("kind", "name"), [(CARD, "card"), (SSN, "ssn"), (EMAIL, "email"), (SECRET, "secret")])
def test_at_least_95_of_100_values_are_found_and_wholly_covered(scan: SimpleNamespace, kind: int, name: str) -> None:
    maker = Maker(20270101)
    found = 0
    missed = []
    for _ in range(COUNT):
        value = getattr(maker, name)()
        text = maker.around(value).encode()
        hits = scan.values.find(text, ALL)
        shown = bytearray(text)
        for start, end, _kind in hits:
            shown[start:end] = b"*" * (end - start)
        secret = value.replace(" = ", "=").split("=")[-1].encode()[-10:] if kind == SECRET else value.encode()
        if any(hit[2] == kind for hit in hits) and secret.strip(b'"}') not in bytes(shown):
            found += 1
        else:
            missed.append(text)
    assert found >= 0.98 * COUNT, missed[:10]


def test_at_most_1_of_100_decoys_is_flagged(scan: SimpleNamespace) -> None:
    maker = Maker(20270102)
    flagged = [
        decoy
        for decoy in (maker.around(maker.decoy()) for _ in range(5 * COUNT))
        if scan.values.find(decoy.encode(), ALL)
    ]
    assert len(flagged) <= 0.01 * 5 * COUNT, flagged[:20]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    name=st.sampled_from(["card", "ssn", "email", "secret", "decoy"]),
    before=st.binary(max_size=70),
    after=st.binary(max_size=70),
    others=st.lists(st.none() | st.binary(max_size=70), max_size=3),
)
def test_the_quick_test_misses_nothing_that_a_detector_finds(
    scan: SimpleNamespace, seed: int, name: str, before: bytes, after: bytes, others: list[bytes | None]
) -> None:
    value = before + getattr(Maker(seed), name)().encode() + after
    block = row(*others, value, *others)
    # Lengths of 48 to 57 and 65 to 90 read as digits and letters where they stand before a value
    for kind in (CARD, SSN, EMAIL, SECRET):
        if scan.values.find(value, kind):
            assert scan.quick.may_hit(block, kind)
            assert scan.quick.may_hit(block, ALL)
            if kind == CARD:
                assert scan.quick.card_by_byte(block)
                assert scan.quick.card_by_runs(block)
            if kind == SECRET:
                assert scan.tokens.seen(block)
                assert scan.quick.secret_by_byte(block)


@pytest.mark.parametrize("name", ["card", "ssn", "email", "secret"])
def test_the_length_byte_before_a_value_hides_nothing(scan: SimpleNamespace, name: str) -> None:
    maker = Maker(3)
    for length in range(20, 256):
        value = getattr(maker, name)().encode()
        value += b"\n" * (length - len(value))
        if scan.values.find(value, ALL):
            assert scan.quick.may_hit(row(value), ALL), value
    assert scan.values.find(b"4111111111111111", ALL)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789- .x", min_size=10, max_size=60))
def test_numbers_of_every_shape_pass_the_quick_test_if_found(scan: SimpleNamespace, text: str) -> None:
    value = text.encode()
    assert scan.quick.card_by_byte(row(value)) == scan.quick.card_by_runs(row(value))
    for kind in (CARD, SSN):
        if scan.values.find(value, kind):
            assert scan.quick.may_hit(row(b"1", value), kind)
            assert scan.quick.may_hit(row(value, None), ALL)
            assert (
                scan.quick.card_by_byte(row(value)) == scan.quick.card_by_runs(row(value)) == (kind == CARD)
                or kind == SSN
            )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([*'abkey=: "\\secrtoknpwd0123456789ABCxyz_-.@/', "password", "token=", "bearer", "AKIA", "eyJ"])
    ).map("".join)
)
def test_assignments_of_every_shape_pass_the_quick_test_if_found(scan: SimpleNamespace, text: str) -> None:
    value = text.encode()
    if scan.values.find(value, SECRET):
        assert scan.tokens.seen(row(b"a", value, b"b"))
        assert scan.quick.secret_by_byte(row(b"a", value, b"b"))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=120).map(str.encode))
def test_hits_are_in_order_apart_and_inside_the_value(scan: SimpleNamespace, value: bytes) -> None:
    last = 0
    for start, end, kind in scan.values.find(value, ALL):
        assert last <= start < end <= len(value)
        assert kind in (CARD, SSN, EMAIL, SECRET)
        last = end


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4111111111111111 5555555555554444", [b"4111111111111111", b"5555555555554444"]),  # two in one field
        ("4111 1111 1111 1111 5555 5555 5555 4444", [b"4111 1111 1111 1111", b"5555 5555 5555 4444"]),
        ("12 4111111111111111 99", [b"4111111111111111"]),
        ("4111 1111 1111 1111 123", [b"4111 1111 1111 1111"]),  # with its verification code
        ("411111-1111111111", [b"411111-1111111111"]),
        ("card4111111111111111x", [b"4111111111111111"]),
        ("a,4111111111111111,b", [b"4111111111111111"]),
        ("%B4111111111111111^ADA", [b"4111111111111111"]),
        ("4111111111111111.00", [b"4111111111111111"]),
        ("-4111111111111111", [b"4111111111111111"]),
        ("4111111111111112", []),  # the check digit is wrong
        ("4111  1111 1111 1111", []),  # two separators
        ("41111111111111111111", []),  # twenty digits
        ("1111111111111117", []),  # nobody issues these
        ("0.4111111111111111", []),
        (".4111111111111111", []),
        ("4111111111111111.25", []),
        ("+4111111111111111", []),
        ("ab4111111111111111cdef0123456789ab", []),  # in a hash
    ],
)
def test_cards_by_hand(scan: SimpleNamespace, text: str, expected: list[bytes]) -> None:
    value = text.encode()
    assert [value[start:end] for start, end, _ in scan.values.find(value, CARD)] == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("123-45-6789", True),
        ("ssn:123-45-6789.", True),
        ("899-99-9999", True),
        ("000-45-6789", False),
        ("666-45-6789", False),
        ("900-45-6789", False),
        ("123-00-6789", False),
        ("123-45-0000", False),
        ("1123-45-6789", False),
        ("123-45-67890", False),
        ("1-123-45-6789", False),
        ("123-45-6789-1", False),
        ("123456789", False),
    ],
)
def test_ssns_by_hand(scan: SimpleNamespace, text: str, found: bool) -> None:
    assert bool(scan.values.find(text.encode(), SSN)) is found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ada@example.org", b"ada@example.org"),
        ("Ada <ada@example.org>, late", b"ada@example.org"),
        ("write to ada@example.org.", b"ada@example.org"),
        ("mailto:ada.l+x@mail.example.co.uk?subject=", b"ada.l+x@mail.example.co.uk"),
        ("j\u00fcrgen@b\u00fccher.example", "j\u00fcrgen@b\u00fccher.example".encode()),
        ("j\xfcrgen@b\xfccher.example".encode("latin-1"), b"j\xfcrgen@b\xfccher.example"),
        ("root@localhost", b""),
        ("@ada", b""),
        ("a@b", b""),
        ("lodash@4.17.21", b""),
        ("git@github.com:acme/x.git", b""),
        ("icon@2x.png", b""),
        ("x" * 100 + "@example.org", b"x" * 64 + b"@example.org"),
    ],
)
def test_addresses_by_hand(scan: SimpleNamespace, text: str | bytes, expected: bytes) -> None:
    value = text if isinstance(text, bytes) else text.encode()
    assert b"".join(value[start:end] for start, end, _ in scan.values.find(value, EMAIL)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter2",  # too short to tell from a word
        "password=correcthorsebattery",
        "token_expires=2027-01-01T00:00:00Z",
        "token=/var/run/secrets/token1",
        "secret_url=https://example.org/a1b2c3d4",
        "the secret garden, 1911",
        "api_key=${API_KEY_2}",
        "sk-some-long-slug-without-digits",
        "-----BEGIN CERTIFICATE-----\nMIIB",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqh",
        "https://example.org/a/b?c=d",
        "password=************",
    ],
)
def test_what_only_sounds_secret_is_left(scan: SimpleNamespace, text: str) -> None:
    assert scan.values.find(text.encode(), SECRET) == []


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789", min_size=2, max_size=18))
def test_luhn_agrees_with_the_table_of_doubled_digits(scan: SimpleNamespace, body: str) -> None:
    right = check_digit(body)
    for last in "0123456789":
        assert scan.values.luhn((body + last).encode()) is (last == right)


@pytest.mark.parametrize(
    "text",
    [
        b"4" * 300_000,
        b"4 " * 150_000,
        b"a@" * 150_000,
        b"@" + b"a" * 300_000,
        b"@a." * 100_000,
        b"eyJ" * 100_000,
        b"eyJaaaaaaaa." * 25_000,
        b"password=" * 30_000,
        b"token" * 60_000,
        b"@" + b"://a:" * 60_000,
        b"-----BEGIN PRIVATE KEY-----" * 10_000,
        b"sk-" * 100_000,
        b"glpat-" * 50_000,
        b"123-45-" * 40_000,
        b"xoxb-" * 60_000,
        b"a=" + b"secret_" * 40_000,
        b"key" + b" " * 300_000 + b"=",
    ],
)
def test_hostile_text_costs_linear_time(scan: SimpleNamespace, text: bytes) -> None:
    def cost(data: bytes) -> float:
        start = time.process_time()
        scan.values.find(data, ALL)
        return time.process_time() - start

    half = min(cost(text[: len(text) // 2]) for _ in range(2))
    whole = min(cost(text) for _ in range(2))
    assert whole < 4 * half + 0.05
    assert whole < 2.0


@pytest.mark.parametrize(
    "name",
    [
        '"authorization_secret_value_9999"    :=    "bearer    ',
        "authorization-token-secret-value1\\\\\"'    =>    ",
        "encryption key_string_hash_2026] \t:\t ",
        "bearer    ",
    ],
)
def test_a_name_far_from_its_value_is_seen(scan: SimpleNamespace, name: str) -> None:
    value = f"{name}a1B2c3D4e5F6".encode()
    assert scan.values.find(value, SECRET)
    for block in (row(value), row(b"x" * 200, value), row(b" " * 200 + value)):
        assert scan.tokens.seen(block)
        assert scan.quick.secret_by_byte(block)
