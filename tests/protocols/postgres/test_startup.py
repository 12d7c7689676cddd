"""The startup message: every word is read as the server would, or refused; and what a target says of its names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.model.errors import ProtocolError
from muniment.protocols.postgres import catalogue, frames
from muniment.protocols.postgres.login import LoginRefused
from muniment.protocols.postgres.startup import codec_of, read_startup
from tests.protocols.postgres.test_login import Both
from tests.protocols.postgres.test_login import startup as message

words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=12)


def body(*pairs: tuple[str, str]) -> bytes:
    return b"".join(f"{name}\0{value}\0".encode() for name, value in pairs) + b"\0"


def refused(**said: str) -> str:
    """What the client is told; fails where it is not refused."""
    both = Both(message(**said))
    with pytest.raises(LoginRefused) as caught:
        both.run()
    return caught.value.message


@given(st.dictionaries(words.filter(lambda name: name != "options" and not name.startswith("_pq_.")), words))
def test_what_is_written_is_read_back(said: dict[str, str]) -> None:
    found = read_startup(frames.PROTOCOL_3, body(*said.items()))
    assert found.settings == {name: value for name, value in said.items() if name not in ("user", "database")}
    assert found.user == said.get("user", "")
    assert found.database == said.get("database", found.user)


@given(st.binary(max_size=60))
def test_garbage_is_read_or_is_a_protocol_error(said: bytes) -> None:
    try:
        read_startup(frames.PROTOCOL_3, said)
    except ProtocolError:
        return
    assert said.endswith(b"\0")


@pytest.mark.parametrize("said", [b"", b"user", b"user\0", b"user\0ada\0", b"user\0ada\0\0x", b"us\xffer\0a\0\0"])
def test_a_packet_that_does_not_end_where_it_should_is_a_protocol_error(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_startup(frames.PROTOCOL_3, said)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("-c search_path=a", {"search_path": "a"}),
        ("-csearch_path=a --geqo=off", {"search_path": "a", "geqo": "off"}),
        ("--work-mem=4MB", {"work_mem": "4MB"}),
        (r"-c search_path=a\ b -c geqo=a\\b", {"search_path": "a b", "geqo": "a\\b"}),
        (" \t -c  geqo=on\n", {"geqo": "on"}),
        ("-c geqo=a=b", {"geqo": "a=b"}),
        ("-c geqo", {"options geqo": ""}),
        ("-d 5", {"options -d": "", "options 5": ""}),
        ("geqo=on", {"options geqo=on": ""}),
        ("", {}),
    ],
)
def test_options_are_read_as_the_server_reads_them(options: str, settings: dict[str, str]) -> None:
    assert read_startup(frames.PROTOCOL_3, body(("options", options))).settings == settings


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"role": "admin"}, "'role'"),
        ({"session_authorization": "admin"}, "'session_authorization'"),
        ({"options": "-c role=admin"}, "'role'"),
        ({"options": "-c ROLE=admin"}, "'ROLE'"),
        ({"options": "--session-replication-role=replica"}, "'session_replication_role'"),
        ({"options": "-d 5"}, "'options -d'"),
        ({"replication": "true"}, "replication"),
        ({"replication": "database"}, "replication"),
        ({"client_encoding": "SJIS"}, "client_encoding"),
        ({"Client_Encoding": "big5"}, "client_encoding"),
        ({"options": "-c client_encoding=GBK"}, "client_encoding"),
        ({"standard_conforming_strings": "off"}, "standard_conforming_strings"),
        ({"options": r"-c standard_conforming_strings=o\ff"}, "standard_conforming_strings"),
        ({"STANDARD_CONFORMING_STRINGS": "0"}, "standard_conforming_strings"),
    ],
)
def test_settings_that_would_change_who_one_is_or_how_text_is_read_are_refused(said: dict[str, str], why: str) -> None:
    assert why in refused(user="report", **said)


def test_nobody_and_a_password_in_clear_are_refused() -> None:
    assert "no user name" in refused(database="billing")
    both = Both(message(user="report"), tls=False, plain_ok=False)
    with pytest.raises(LoginRefused, match="no password without TLS"):
        both.run()


@pytest.mark.parametrize("name", ["UTF8", "utf-8", "'UTF8'", "unicode", "auto", "SQL_ASCII", "LATIN1", "iso_8859-1"])
def test_encodings_in_which_a_byte_of_ascii_is_itself_are_read(name: str) -> None:
    codec = codec_of(name)
    assert codec and bytes(range(128)).decode(codec) == "".join(map(chr, range(128)))


@pytest.mark.parametrize("name", ["SJIS", "BIG5", "GBK", "GB18030", "UHC", "JOHAB", "UTF7", "EUC_JP", ""])
def test_encodings_in_which_a_quote_may_be_half_a_letter_are_refused(name: str) -> None:
    assert codec_of(name) == ""


def row(*texts: str) -> list[bytes | None]:
    return [text.encode() if text else None for text in (*texts, "", "", "", "", "")[:5]]


def test_a_catalogue_knows_columns_views_through_views_and_what_was_shipped() -> None:
    found = catalogue.read_catalog(
        [
            row("r", "10", "public", "customers", "r"),
            row("a", "10", "2", "card"),
            row("a", "10", "1", "id"),
            row("r", "20", "public", "inner", "v"),
            row("r", "30", "public", "outer", "v"),
            row("r", "40", "public", "child", "r"),
            row("d", "20", "10", "2"),
            row("d", "30", "20", "1"),
            row("d", "20", "30", "0"),  # a circle, as rules can make one
            row("i", "40", "10"),
            row("u", "public", "customers"),
            row("f", "lower", "pg_catalog", "true"),
            row("f", "lower", "public", "false"),
        ],
        "billing", 3, 7,
    )  # fmt: skip
    assert (found.database, found.version, found.loaded_at_us) == ("billing", 3, 7)
    assert found.by_oid[10].columns == ((1, "id"), (2, "card"))
    assert found.relations["public", "outer"].oid == 30
    assert found.depends[30] == {(20, 1), (10, 2), (30, 0)}
    assert found.inherits == {40: frozenset({10})}
    assert found.functions["lower"] == {"pg_catalog", "public"}
    assert found.shipped == {"pg_catalog.lower"}
    assert found.ruled == {"public.customers"}


def test_a_path_is_in_its_order_and_temporary_relations_are_apart() -> None:
    rows = [row("p", "public", "10"), row("t", "drafts"), row("p", "pg_catalog", "9")]
    assert catalogue.read_path(rows) == (("pg_catalog", "public"), frozenset({"drafts"}))
