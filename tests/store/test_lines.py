from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.model import entries
from muniment.model.entries import Entry, Request, Response, header, secrets
from muniment.proof import canonical, commitment
from muniment.proof.canonical import CanonicalError
from muniment.store import lines
from muniment.store.lines import Encoder
from muniment.store.payloads import _records

INSTANCE = "i-00000001"
KINDS = [kind for kind in vars(entries).values() if isinstance(kind, type) and issubclass(kind, Entry) and kind.kind]

# Texts that a format string, JSON or a hole of ours could stumble over, and anything else.
words = st.one_of(
    st.sampled_from(["", "%s", "%", "%%d", '"', "\\", "\0", '"n":"\\u0000"', "\u2028", "a\nb", "é", "\U0001f511"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
counts = st.integers(0, canonical.MAX_INTEGER)


def of_type(field: dataclasses.Field[object]) -> st.SearchStrategy[object]:
    sample = field.default
    if isinstance(sample, bool):
        return st.booleans()
    if isinstance(sample, int):
        return counts
    if isinstance(sample, tuple):
        return st.lists(words, max_size=3).map(tuple)
    return st.binary(max_size=40) if isinstance(sample, bytes) else words


anything = st.sampled_from(KINDS).flatmap(
    lambda kind: st.builds(kind, **{field.name: of_type(field) for field in dataclasses.fields(kind)})
)
requests = st.builds(Request, **{field.name: of_type(field) for field in dataclasses.fields(Request)})


def plainly(entry: Entry, secret: bytes, iseq: int, iprev: str, t_us: int) -> bytes:
    """The line, written with the plain and slow parts."""
    line = header(entry) | {"v": 1, "inst": INSTANCE, "iseq": iseq, "t": t_us}
    if iprev:
        line["iprev"] = iprev
    if hidden := secrets(entry):
        line["sd"] = {
            name: commitment.commit(commitment.salt(secret, name), commitment.LABEL, name, value)
            for name, value in hidden.items()
        }
    return canonical.encode(line)


@given(st.lists(st.one_of(requests, anything), min_size=1, max_size=6), counts, counts)
def test_the_fast_encoder_gives_the_bytes_of_the_plain_one(batch: list[Entry], iseq: int, t_us: int) -> None:
    encoder = Encoder(INSTANCE)
    for entry in [*batch, *batch]:  # twice: the second time from the kept shape
        for iprev in ("", "ab" * 32):
            line, record = encoder.encode(entry, iseq, iprev, t_us)
            found = list(_records(record))
            secret = found[0].secret if found else b""
            assert line == plainly(entry, secret, iseq, iprev, t_us)
            assert (found[0].fields if found else {}) == secrets(entry)


@given(requests, st.data())
def test_requests_that_differ_in_one_field_never_share_a_line(entry: Request, data: st.DataObject) -> None:
    encoder = Encoder(INSTANCE)
    for field in dataclasses.fields(Request):
        other = dataclasses.replace(entry, **{field.name: data.draw(of_type(field))})
        for each in (entry, other):
            line, record = encoder.encode(each, 7, "ab" * 32, 9)
            found = list(_records(record))
            assert line == plainly(each, found[0].secret if found else b"", 7, "ab" * 32, 9)


@given(requests, counts, counts, counts, st.binary(min_size=1, max_size=40), st.binary(max_size=40))
def test_a_request_that_comes_again_gives_the_same_bytes(
    entry: Request, n: int, iseq: int, t_us: int, statement: bytes, parameters: bytes
) -> None:
    encoder = Encoder(INSTANCE)
    again = encoder.again(entry)
    assert (again is None) == bool(entry.why or not entry.ses)
    if again is not None:
        line, record = encoder.encode_again(again, n, statement, parameters, iseq, "ab" * 32, t_us)
        text = statement.decode("utf-8", "surrogateescape")
        whole = dataclasses.replace(entry, n=n, statement=text, parameters=parameters)
        (found,) = _records(record)
        assert line == plainly(whole, found.secret, iseq, "ab" * 32, t_us)
        assert found.fields == secrets(whole)


def test_every_record_has_its_own_secret() -> None:
    encoder = Encoder(INSTANCE)
    records = [encoder.encode(Request(ses="s", statement="x"), 1, "ab" * 32, 0)[1] for _ in range(1000)]
    again = encoder.again(Request(ses="s", statement="x"))
    assert again is not None
    records += [encoder.encode_again(again, 1, b"x", b"", 1, "ab" * 32, 0)[1] for _ in range(1000)]
    assert len({next(_records(record)).secret for record in records}) == 2000


def test_the_shapes_that_a_client_can_make_are_bounded() -> None:
    encoder = Encoder(INSTANCE)
    for number in range(lines._MAX_TEMPLATES + 10):
        encoder.encode(Request(ses="s", statement="x", touches=(f"select relation t{number}",)), 1, "ab" * 32, 0)
        assert len(encoder._templates) <= lines._MAX_TEMPLATES
    encoder.encode(Request(ses="s", statement="x", touches=("x" * 20_000,)), 1, "ab" * 32, 0)
    assert max(map(len, encoder._templates.values())) < 2 * lines._MAX_TEMPLATE


@pytest.mark.parametrize(
    "entry",
    [
        Request(ses="\udc80", statement="x"),
        Request(ses="s", statement="x", touches=("\udc80",)),
        Request(ses="s", statement="x", n=1 << 53),
        Request(ses="s", statement="x", rules=1 << 53),
        Request(ses="s", statement="x", touches=("x" * 33_000,)),
        Request(ses="s" * 33_000, statement="x"),
        Response(results=("x" * 33_000,)),
    ],
)
def test_what_does_not_fit_in_a_canonical_line_is_refused(entry: Entry) -> None:
    encoder = Encoder(INSTANCE)
    for _ in range(2):
        with pytest.raises(CanonicalError):
            encoder.encode(entry, 1, "ab" * 32, 0)


def test_a_statement_that_is_not_utf_8_is_kept_byte_for_byte() -> None:
    raw = b"select '\xff\xfe'"
    _, record = Encoder(INSTANCE).encode(
        Request(ses="s", statement=raw.decode("utf-8", "surrogateescape")), 1, "ab" * 32, 0
    )
    assert next(_records(record)).fields["statement"] == raw
