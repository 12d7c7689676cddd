"""The command line's way to the API: a Unix socket, or TCP with a token. Every failure says what to do."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

DEFAULT = "/var/lib/muniment/api.sock"
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class Failure(Exception):
    """A command that cannot be done. problems: more lines, for an apply."""

    def __init__(self, what: str, mend: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API is. token_file: for TCP."""

    where: str
    token_file: Path | None = None


def address(api: str | None, token_file: Path | None) -> Address:
    """From --api, else MUNIMENT_API, else the socket of a muniment.yaml here, else the default place."""
    where = api or os.environ.get("MUNIMENT_API", "")
    if not where:
        local = _configured(Path("muniment.yaml"))
        where = local or DEFAULT
    named = token_file or (Path(os.environ["MUNIMENT_TOKEN_FILE"]) if "MUNIMENT_TOKEN_FILE" in os.environ else None)
    return Address(where, named)


def _configured(path: Path) -> str:
    """The socket that a configuration in this folder names; empty where there is none or it cannot be read."""
    from muniment.judge import settings
    from muniment.model.errors import ConfigError

    try:
        found = settings.read_settings(path.name, path.read_text(encoding="utf-8"))
    except (OSError, ConfigError, UnicodeDecodeError):
        return ""
    return found.api or f"unix:{Path(found.store) / 'api.sock'}"


class Client:
    """Calls the API. Raises Failure with what the gateway said, or how to reach it."""

    def __init__(self, at: Address) -> None:
        self.at = at
        headers = {"x-muniment-who": _who()}
        if at.where.startswith(("http://", "https://")) or _is_tcp(at.where):
            base = at.where if "://" in at.where else f"http://{at.where}"
            if at.token_file is None:
                raise Failure(f"{at.where} needs the API's token", "give it with --token-file DATA/api.token")
            headers["authorization"] = f"Bearer {_read_token(at.token_file)}"
            self._http = httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT, trust_env=False)
        else:
            path = at.where.removeprefix("unix:")
            transport = httpx.HTTPTransport(uds=path)
            self._http = httpx.Client(
                base_url="http://gateway", headers=headers, timeout=TIMEOUT, transport=transport, trust_env=False
            )

    def get(self, *parts: str, **query: str | int) -> Any:
        """GET an address made of these parts; empty parameters are left out."""
        return self._json(self._send("GET", parts, query=query))

    def post(self, *parts: str, body: dict[str, Any] | None = None) -> Any:
        """POST JSON."""
        return self._json(self._send("POST", parts, body=body or {}))

    @contextmanager
    def stream(self, *parts: str) -> Iterator[httpx.Response]:
        """GET a stream."""
        try:
            with self._http.stream("GET", _path(parts)) as response:
                if response.status_code >= 400:
                    response.read()
                    raise self._failure(response)
                yield response
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def lines(self, *parts: str) -> Iterator[dict[str, Any]]:
        """GET a stream of JSON objects. A last line with "error" is a failure that came too late for a status."""
        with self.stream(*parts) as response:
            for line in response.iter_lines():
                item = json.loads(line)
                if "error" in item:
                    raise Failure(str(item["error"]), str(item.get("mend", "")))
                yield item

    def _send(
        self, method: str, parts: tuple[str, ...], *, query: dict[str, str | int] | None = None,
        body: dict[str, Any] | None = None,
    ) -> httpx.Response:  # fmt: skip
        given = {name: value for name, value in (query or {}).items() if value not in ("", None)}
        try:
            response = self._http.request(method, _path(parts), params=given, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 400:
            raise self._failure(response)
        return response

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise Failure(f"{self.at.where} does not speak the gateway's API", "check --api") from None

    def _failure(self, response: httpx.Response) -> Failure:
        try:
            said = response.json()
            problems = tuple(
                f"{one['where']}: {one['what']}\n    mend: {one['mend']}" for one in said.get("problems", ())
            )
            return Failure(str(said["error"]), str(said.get("mend", "")), problems)
        except (ValueError, KeyError, TypeError, AttributeError):
            return Failure(f"{self.at.where} answered {response.status_code}", "check that --api is the gateway's")

    def _unreachable(self, error: httpx.HTTPError) -> Failure:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return Failure(
                f"no gateway answers at {self.at.where} ({error})",
                "start it with `muniment serve -c muniment.yaml`, or name it with --api or MUNIMENT_API",
            )
        return Failure(f"the connection to {self.at.where} broke ({error.__class__.__name__})", "see the gateway's log")


def _path(parts: tuple[str, ...]) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _is_tcp(where: str) -> bool:
    host, _, port = where.rpartition(":")
    return port.isdigit() and "/" not in where and bool(host)


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read the token file {path}", "it is DATA/api.token of the gateway") from error


def _who() -> str:
    """The name that the record keeps as asserted."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}".encode("ascii", "replace").decode()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"
