"""The API: who may call it, what it refuses, and that it never decides by itself."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.doors.http.plain import BadRequest, Body, Query
from muniment.doors.http.routes import ROUTES
from muniment.doors.http.server import MAX_BODY_BYTES, listen
from muniment.model.entries import RulesApply
from muniment.model.errors import ConfigError, Unavailable
from tests.services.house import MANIFESTS, Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.close()


def client(served: Served) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(served.house.data / "api.sock"))
    return httpx.Client(transport=transport, base_url="http://gateway", headers={"x-muniment-who": "ada@desk"})


def apply(served: Served) -> None:
    body = {"files": [{"name": "a.yaml", "text": MANIFESTS}]}
    assert client(served).post("/v1/rules/apply", json=body).json()["version"] == 1


def test_the_socket_is_for_the_gateways_own_user_only(served: Served) -> None:
    assert stat.S_IMODE((served.house.data / "api.sock").stat().st_mode) == 0o600
    assert client(served).get("/v1/status").json()["deployment"] == "gw.example.org"


def test_an_apply_goes_into_force_and_keeps_who_asked(served: Served) -> None:
    apply(served)
    with client(served) as http:
        (identity,) = http.get("/v1/documents/identities").json()
        assert identity["document"]["spec"]["owner"] == "ada@example.org"
        assert identity["leaf"] == served.house.registry.current.refs["Identity/nightly-report"]
        assert http.get("/v1/documents/identities/nightly-report").json() == identity
        (version,) = http.get("/v1/rules/versions").json()
        assert (version["version"], version["by"]) == (1, "ada@desk")
    assert len(served.house.written(RulesApply)) == 1


def test_a_broken_apply_says_every_problem_with_its_mend(served: Served) -> None:
    text = MANIFESTS.replace("group: reporting", "group: nobody").replace("issuer: ci,", "issuer: other,")
    answer = client(served).post("/v1/rules/apply", json={"files": [{"name": "a.yaml", "text": text}]})
    assert answer.status_code == 422
    assert len(answer.json()["problems"]) >= 2 and all(one["mend"] for one in answer.json()["problems"])


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404), ("DELETE", "/v1/status", None, 405), ("GET", "/v1/sessions/s-9", None, 404),
        ("GET", "/v1/sessions/s-9/replay", None, 404), ("GET", "/v1/approvals/A-2222-2222", None, 404),
        ("GET", "/v1/logins/7K2M-4QXD", None, 404), ("GET", "/v1/documents/wishes", None, 404),
        ("GET", "/v1/documents/identities/x", None, 404), ("POST", "/v1/sessions/s-9/cut", {"reason": "x"}, 404),
        ("POST", "/v1/keys/nokey/revoke", {}, 404), ("GET", "/v1/sessions?colour=red", None, 400),
        ("GET", "/v1/sessions?limit=-1", None, 400), ("GET", "/v1/sessions?limit=10001", None, 400),
        ("POST", "/v1/rules/apply", {"files": "a"}, 400),
        ("POST", "/v1/rules/apply", {"files": [], "force": True}, 400),
        ("POST", "/v1/rules/apply", [1], 400), ("POST", "/v1/approvals/decide", {"document": 1}, 400),
        ("POST", "/v1/approvals/decide", {"document": "x", "signature": "y", "reason": "z"}, 409),
        ("POST", "/v1/identities/nobody/keys", {}, 422),
    ],
)  # fmt: skip
def test_every_refusal_says_what_and_the_mend(
    served: Served, method: str, path: str, body: object, status: int
) -> None:
    answer = client(served).request(method, path, json=body)
    assert answer.status_code == status
    assert answer.json()["error"] and answer.json()["mend"]


def test_a_body_that_is_too_large_or_no_json_is_refused(served: Served) -> None:
    with client(served) as http:
        assert http.post("/v1/rules/apply", content=b"[" * 200_000).status_code == 400
        assert http.post("/v1/rules/apply", content=b"\xff").status_code == 400
        too_large = http.post("/v1/rules/apply", content=(b" " * 65536 for _ in range(MAX_BODY_BYTES // 65536 + 2)))
        assert too_large.status_code == 400 and "too large" in too_large.json()["error"]


def test_tcp_needs_the_token_on_every_address(tmp_path: Path) -> None:
    served = Served(tmp_path, "127.0.0.1:0")
    try:
        assert stat.S_IMODE((tmp_path / "api.token").stat().st_mode) == 0o600
        with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", trust_env=False) as http:
            for route in ROUTES:
                path = route.path.replace("{plural}", "identities").replace("{", "").replace("}", "")
                for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {served.token}"}):
                    answer = http.request(route.method, path, headers=header)
                    assert answer.status_code == 401 and served.token not in answer.text, path
            good = http.get("/v1/status", headers={"authorization": f"Bearer {served.token}"})
            assert good.status_code == 200
    finally:
        served.close()


def test_an_issued_key_is_shown_once_and_listed_without_itself(served: Served) -> None:
    apply(served)
    with client(served) as http:
        made = http.post("/v1/identities/nightly-report/keys", json={}).json()
        assert made["key"].startswith("mk_")
        listed = http.get("/v1/identities/nightly-report/keys")
        assert made["id"] in listed.text and made["key"] not in listed.text and "hash" not in listed.text
        assert http.post(f"/v1/keys/{made['id']}/revoke", json={}).json()["revoked"] is True
        assert http.post(f"/v1/keys/{made['id']}/revoke", json={}).status_code == 404


def test_a_journal_that_is_down_is_unavailable_with_the_mend(served: Served) -> None:
    apply(served)
    served.house.journal.close()
    with client(served) as http:
        answer = http.post("/v1/rules/apply", json={"files": [{"name": "a", "text": MANIFESTS.replace("30m", "9m")}]})
        assert answer.status_code == 503 and answer.json()["mend"]
        assert served.house.registry.current.version == 1


@pytest.mark.parametrize(
    "where", ["0.0.0.0:0", "192.0.2.1:8000", "localhost", "example.org:80", "127.0.0.1:99999", "::"]
)
def test_only_an_address_that_can_be_guarded_is_listened_on(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigError, match=r"listen\.api"):
        listen(where, tmp_path)


def test_a_socket_left_by_a_killed_gateway_is_taken_over_and_a_living_one_is_not(tmp_path: Path) -> None:
    left, _ = listen("", tmp_path)
    left.close()  # the file stays, nobody answers
    living, _ = listen("", tmp_path)
    with pytest.raises(Unavailable, match="cannot listen"):
        listen("", tmp_path)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(tmp_path / "api.sock"))
    living.close()


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    listen("127.0.0.1:0", tmp_path)[0].close()
    (tmp_path / "api.token").chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        listen("127.0.0.1:0", tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "text", "files", "x"]), inner),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_a_checked_body_or_a_bad_request(value: object) -> None:
    for read in (
        lambda body: body.text("text"), lambda body: body.flag("x"), lambda body: body.number("x", 1),
        lambda body: body.files("files"),
    ):  # fmt: skip
        try:
            body = Body(json.loads(json.dumps(value)))
            read(body)
            body.end()
        except BadRequest as refused:
            assert refused.what and refused.mend


@given(st.text(max_size=20))
def test_a_number_in_an_address_is_one_or_a_bad_request(text: str) -> None:
    try:
        assert 0 <= Query({"limit": text}).number("limit", 5, 100) <= 100
    except BadRequest as refused:
        assert refused.mend


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rules/apply", '{"files": [{"name": "\\ud800", "text": "a"}]}'),
        ("/v1/rules/apply", '{"files": [{"name": "a.yaml", "text": "\\udfff"}]}'),
        ("/v1/sessions/s-1/cut", '{"reason": "\\ud800"}'),
        ("/v1/approvals/decide", '{"document": "{}", "signature": "x", "reason": "\\ud800"}'),
    ],
)
def test_half_a_character_is_refused_and_never_a_fault(served: Served, path: str, body: str) -> None:
    assert client(served).post(path, content=body).status_code == 400


def test_brackets_without_end_are_a_problem_of_the_document(served: Served) -> None:
    for text in ("[" * 300_000, "{a: " * 100_000, "- " * 300_000, "? " * 200_000, "&a [" * 1000 + "*a" + "]" * 1000):
        answer = client(served).post("/v1/rules/apply", json={"files": [{"name": "a.yaml", "text": text}]})
        assert answer.status_code == 422, text[:10]
