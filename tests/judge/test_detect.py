"""Classes of values in numbers, arrays and records."""

from __future__ import annotations

import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.judge import detect
from muniment.scan.values import ALL, CARD, SSN

GOOD = 4111111111111111


def numeric(value: Decimal) -> bytes:
    """A numeric as PostgreSQL sends it, built from its manual's description and not from our reader."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    text = ("".join(map(str, digits)) + "0" * max(0, exponent)).rjust(scale + 1, "0")
    whole, fraction = text[: len(text) - scale], text[len(text) - scale :]
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int((whole + fraction)[at : at + 4]) for at in range(0, len(whole + fraction), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    weight = weight if groups else 0
    return struct.pack(f">HhHH{len(groups)}H", len(groups), weight, 0x4000 if sign else 0, scale, *groups)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=3))
def test_a_binary_numeric_is_read_as_decimal_reads_it(value: Decimal) -> None:
    expected = int(value) if value == value.to_integral_value() else None
    assert detect.whole_number(numeric(value), detect.NUMERIC) == expected


@given(st.integers(-(10**40), 10**40))
def test_a_binary_numeric_without_fraction_is_its_integer(value: int) -> None:
    assert detect.whole_number(numeric(Decimal(value)), detect.NUMERIC) == value


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_binary_int8_is_its_integer(value: int) -> None:
    assert detect.whole_number(struct.pack(">q", value), detect.INT8) == value


@given(st.binary(max_size=40), st.sampled_from([detect.INT4, detect.INT8, detect.NUMERIC]))
def test_garbage_numbers_raise_nothing_but_value_error(value: bytes, type_id: int) -> None:
    try:
        number = detect.whole_number(value, type_id)
    except ValueError:
        return
    assert number is None or isinstance(number, int)


@given(st.binary(max_size=80))
def test_any_binary_value_has_a_class_or_none(value: bytes) -> None:
    assert detect.binary_class(value, ALL) in {"", *detect.CLASSES}


def test_numbers_that_are_cards_have_their_class() -> None:
    assert detect.number_class(GOOD, ALL, False) == "card_number"
    assert detect.number_class(-GOOD, ALL, False) == "card_number"
    assert detect.number_class(GOOD + 1, ALL, False) == ""
    assert detect.number_class(GOOD, SSN, False) == ""
    assert detect.number_class(123456789, ALL, False) == ""
    assert detect.number_class(123456789, ALL, True) == "us_ssn"
    assert detect.number_class(1010001, ALL, True) == "us_ssn"  # its leading zeros are lost in a number
    assert detect.number_class(912345678, ALL, True) == ""
    assert detect.number_class(None, ALL, True) == ""


def sized(value: bytes | None) -> bytes:
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


def test_cards_in_arrays_and_records_are_found() -> None:
    number = struct.pack(">q", GOOD)
    for element, item in ((20, number), (1700, numeric(Decimal(GOOD))), (25, str(GOOD).encode())):
        array = struct.pack(">iiIii", 1, 1, element, 3, 1) + sized(None) + sized(item) + sized(item)
        assert detect.binary_class(array, CARD) == "card_number"
        record = struct.pack(">iI", 2, 23) + sized(b"\0\0\0\1") + struct.pack(">I", element) + sized(item)
        assert detect.binary_class(record, CARD) == "card_number"
    plain = struct.pack(">iiIii", 1, 0, 20, 1, 1) + sized(struct.pack(">q", 17))
    assert detect.binary_class(plain, CARD) == ""


@pytest.mark.parametrize("name", ["ssn", "us_ssn", "SSN", "customer_ssn", "ssn_no", "social_security_number", "ssn2"])
def test_columns_called_so_hold_ssns(name: str) -> None:
    assert detect.names_ssn(name)


@pytest.mark.parametrize("name", ["session", "lessn", "assn_id", "messn", "name", "id", "social"])
def test_columns_called_otherwise_do_not(name: str) -> None:
    assert not detect.names_ssn(name)


def test_nine_digits_are_an_ssn_only_in_range() -> None:
    assert detect.bare_ssn(b"123456789")
    assert detect.bare_ssn(b" 123-45-6789 ")
    assert detect.bare_ssn(b"123 45 6789")
    assert not detect.bare_ssn(b"000456789")
    assert not detect.bare_ssn(b"1234567890")
    assert not detect.bare_ssn(b"x123456789")


def test_a_class_without_a_detector_is_refused() -> None:
    with pytest.raises(ValueError, match="iban"):
        detect.kinds(["card_number", "iban"])
