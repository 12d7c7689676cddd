"""`muniment.yaml`: defaults, and every mistake with its place and its mend."""

from __future__ import annotations

import pytest

from muniment.judge.settings import Settings, read_settings
from muniment.model.errors import ConfigError

LEAST = "deployment: gw.example.org\nstore: /var/lib/muniment\n"
WHOLE = """\
deployment: gw.example.org
store: /var/lib/muniment
manifests: /etc/muniment/manifests.d
listen: {postgres: ":6432", api: "unix:/run/muniment/api.sock", allowPlaintextLoopback: true}
tls: {cert: /etc/muniment/tls.pem, key: /etc/muniment/tls.key}
sessions: {drain: 5m, login: 20s}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_settings("muniment.yaml", text)
    return [f"{one.where}: {one.what} | {one.mend}" for one in caught.value.problems]


def test_two_lines_are_enough_and_nothing_is_open_to_the_network_then() -> None:
    made = read_settings("muniment.yaml", LEAST)
    assert made == Settings("gw.example.org", "/var/lib/muniment")
    assert (made.postgres_host, made.postgres_port, made.api, made.plain_on_loopback) == ("127.0.0.1", 5432, "", False)
    assert (made.manifests, made.tls_cert, made.tls_key, made.drain_s, made.login_s) == ("", "", "", 600, 10)


def test_every_field_is_read() -> None:
    assert read_settings("muniment.yaml", WHOLE) == Settings(
        "gw.example.org",
        "/var/lib/muniment",
        "/etc/muniment/manifests.d",
        "",
        6432,
        "unix:/run/muniment/api.sock",
        True,
        "/etc/muniment/tls.pem",
        "/etc/muniment/tls.key",
        300,
        20,
    )


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("0.0.0.0:1", "0.0.0.0", 1), ("[::1]:5432", "::1", 5432), (":5432", "", 5432), ("none", "127.0.0.1", -1)],
)
def test_the_shared_listener_is_host_and_port_or_none(text: str, host: str, port: int) -> None:
    made = read_settings("muniment.yaml", LEAST + f'listen: {{postgres: "{text}"}}\n')
    assert (made.postgres_host, made.postgres_port) == (host, port)


@pytest.mark.parametrize("text", ["unix:/run/x.sock", "127.0.0.1:9464", "[::1]:9464"])
def test_the_api_is_on_a_socket_or_on_loopback(text: str) -> None:
    assert read_settings("muniment.yaml", LEAST + f'listen: {{api: "{text}"}}\n').api == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "muniment.yaml:1: the file is empty"),
        ("# nothing\n", "muniment.yaml:1: "),
        ("store: /x\n", "muniment.yaml:1: `deployment` is missing | add `deployment: gw.example.org`"),
        ("deployment: gw\n", "muniment.yaml:1: `store` is missing"),
        (LEAST + "stroe: /x\n", "muniment.yaml:3: unknown field `stroe` | did you mean `store`?"),
        (LEAST + "store: /y\n", "muniment.yaml:3: `store` occurs twice"),
        (LEAST + "---\nkind: Grant\n", "muniment.yaml:4: a second document begins here"),
        (LEAST + "workers: 4\n", "muniment.yaml:3: `workers` is not in force in this release"),
        (LEAST + "listen:\n  ssh: ':2222'\n", "muniment.yaml:4: `ssh` is not in force"),
        (LEAST + "listen:\n  postgres: '5432'\n", "muniment.yaml:4: `postgres` is not an address"),
        (LEAST + "listen:\n  postgres: 'h:70000'\n", "muniment.yaml:4: `postgres` is not an address"),
        (LEAST + "listen:\n  postgres: 'unix:/x'\n", "muniment.yaml:4: `postgres` is not an address"),
        (LEAST + "listen:\n  postgres: '::1:5432'\n", "muniment.yaml:4: `postgres` is not an address"),
        (LEAST + "listen:\n  api: ':9464'\n", "muniment.yaml:4: `api` is plain HTTP, and this is not a loopback"),
        (LEAST + "listen:\n  api: '0.0.0.0:9464'\n", "muniment.yaml:4: `api` is plain HTTP"),
        (LEAST + "listen:\n  api: 'unix:'\n", "muniment.yaml:4: `api` is not the path of a socket"),
        (LEAST + f"listen:\n  api: 'unix:/{'x' * 120}'\n", "muniment.yaml:4: `api` is not the path of a socket"),
        (LEAST + "tls: {cert: /x}\n", "muniment.yaml:3: `key` is missing"),
        (LEAST + "sessions: {login: 1h}\n", "muniment.yaml:3: `login` is longer than two minutes"),
        (LEAST + "sessions: {drain: soon}\n", "muniment.yaml:3: `drain` is not a duration"),
        (LEAST.replace("gw.example.org", "https://gw"), "muniment.yaml:1: `deployment` is not a host name"),
        (LEAST.replace("gw.example.org", "GW"), "muniment.yaml:1: `deployment` is not a host name"),
        (LEAST.replace("/var/lib/muniment", "postgresql://h/d"), "muniment.yaml:2: a database server as the store"),
        ("deployment: [\n", "muniment.yaml:"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_mend(text: str, said: str) -> None:
    assert any(one.startswith(said) for one in problems(text)), problems(text)


def test_all_mistakes_come_at_once() -> None:
    assert len(problems("deployment: GW\nlisten: {postgres: x, api: y}\nsessions: {login: 1}\nwhat: 1\n")) == 3
    assert len(problems("deployment: GW\nstore: x://y\nlisten: {postgres: x, api: y}\n")) == 4
