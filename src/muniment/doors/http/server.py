"""Where the API listens, who may call it, how large a call may be, and what a caller is told when something is wrong.

A Unix socket of mode 0600 needs no token: who can open it is the gateway's own user. TCP needs the bearer token of
DATA/api.token, and is loopback only: the token would travel in clear.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

import muniment
from muniment.doors.http.plain import BadRequest, Body, Query
from muniment.doors.http.routes import ROUTES, Archive, Call, Lines, NotFound, Route, Services
from muniment.model.errors import ConfigError, Problem, Unavailable
from muniment.services.decisions import NotAccepted

MAX_BODY_BYTES = 8 << 20  # an apply of 4 MiB of text, escaped
BODY_S = 30.0  # how long a body may take to arrive
MAX_WHO = 200  # characters of the asserted name
log = logging.getLogger("muniment.http")


def api(services: Services, token: str = "") -> FastAPI:
    """The application. token: what a caller must present, empty where the socket's mode is the guard."""
    app = FastAPI(title="Muniment", version=muniment.__version__, docs_url=None, redoc_url=None)
    for route in ROUTES:
        app.add_api_route(
            route.path,
            _endpoint(services, route, token),
            methods=[route.method],
            summary=route.summary,
            response_model=None,
            name=route.handler.__name__.strip("_"),
        )
    app.add_exception_handler(HTTPException, _no_route)
    return app


def _endpoint(services: Services, route: Route, token: str):  # type: ignore[no-untyped-def]
    async def endpoint(request: Request) -> Response:
        if token and not _presents(request, token):
            return _error(401, "the API's token is missing or wrong", "send `Authorization: Bearer` and DATA/api.token")
        try:
            body = Body(await _body(request)) if route.method == "POST" else Body({})
            who = request.headers.get("x-muniment-who", "")[:MAX_WHO]
            call = Call(dict(request.path_params), Query(request.query_params), body, who)
            return _answer(await route.handler(services, call))
        except BadRequest as error:
            return _error(400, error.what, error.mend)
        except ConfigError as error:
            problems = [{"where": one.where, "what": one.what, "mend": one.mend} for one in error.problems]
            return JSONResponse({"error": str(error), "mend": "see each problem", "problems": problems}, 422)
        except Unavailable as error:
            return _error(503, error.what, error.mend)
        except Exception:  # our bug: the caller learns that much, the log learns what
            log.exception("the API failed", extra={"route": route.path})
            return _error(500, "the gateway made a mistake", "see its log; report it")

    return endpoint


def _answer(answer: object) -> Response:
    if isinstance(answer, NotFound):
        return _error(404, answer.what, answer.mend)
    if isinstance(answer, NotAccepted):
        return _error(409, answer.what, answer.mend)
    if isinstance(answer, Lines):
        return StreamingResponse(_lines(answer), media_type="application/x-ndjson")
    if isinstance(answer, Archive):
        headers = {"content-disposition": f'attachment; filename="{answer.name}"'}
        return StreamingResponse(answer.parts, media_type="application/x-tar", headers=headers)
    return JSONResponse(answer)


def _lines(answer: Lines) -> Iterator[bytes]:
    try:
        for item in answer.items:
            yield json.dumps(item, ensure_ascii=False).encode() + b"\n"
    except Unavailable as error:  # the status is out already: the last line says it
        yield json.dumps({"error": error.what, "mend": error.mend}).encode() + b"\n"


def _error(status: int, what: str, mend: str) -> Response:
    return JSONResponse({"error": what, "mend": mend}, status)


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error(status, f"{request.method} {request.url.path} is not an address of this API", "see /openapi.json")


def _presents(request: Request, token: str) -> bool:
    kind, _, presented = request.headers.get("authorization", "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(presented.encode(), token.encode())


async def _body(request: Request) -> object:
    """The JSON of a request, bounded in size and time."""
    mend = f"send JSON of at most {MAX_BODY_BYTES >> 20} MiB"
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise BadRequest("the body is too large", mend)
                parts.append(part)
    except TimeoutError:
        raise BadRequest("the body did not arrive in time", mend) from None
    try:
        return json.loads(b"".join(parts)) if size else {}
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON", mend) from None


class Server(uvicorn.Server):
    """uvicorn inside our own program: signals are the program's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


async def serve(app: FastAPI, listener: socket.socket, *, ready: asyncio.Event | None = None) -> None:
    """Answer on this listener until cancelled."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_keep_alive=30,
        limit_concurrency=200, h11_max_incomplete_event_size=64 << 10,
    )  # fmt: skip
    server = Server(config)
    if ready is not None:
        ready.set()  # the socket listens already: what arrives now is answered in a moment
    try:
        await server.serve(sockets=[listener])
    finally:
        listener.close()


def listen(where: str, data: Path) -> tuple[socket.socket, str]:
    """Open the API's listener. where: "unix:PATH", "HOST:PORT", or empty for DATA/api.sock. Returns it and the token
    that callers must present, empty for a Unix socket.

    Raises ConfigError when the address is not one that can be guarded, Unavailable when it cannot be had.
    """
    if where.startswith("unix:") or not where:
        return _listen_unix(Path(where.removeprefix("unix:")) if where else data / "api.sock"), ""
    host, _, port = where.rpartition(":")
    try:
        loopback = ipaddress.ip_address(host.strip("[]") or "127.0.0.1").is_loopback
    except ValueError:
        loopback = False
    if not loopback or not port.isdigit() or int(port) > 65535:
        mend = "write unix:PATH, or 127.0.0.1:PORT and a TLS proxy or an SSH tunnel before it"
        raise ConfigError(Problem("listen.api", f"{where!r} is not a loopback address with a port", mend))
    token = _token(data / "api.token")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host.strip("[]") or "127.0.0.1", int(port)), family=family)
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {where} ({error.strerror})", "free the port or change listen.api"
        ) from error
    return listener, token


def _listen_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not _answers(path):
            path.unlink()  # left behind by a gateway that was killed
        before = os.umask(0o177)  # there is no moment at which others could open it
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(128)
    except OSError as error:
        listener.close()
        what = error.strerror or str(error)
        mend = "stop the other gateway, or choose a path that is short and in a folder of the gateway's user"
        raise Unavailable(f"cannot listen on {path} ({what})", mend) from error
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _token(path: Path) -> str:
    """The API's token, made once."""
    try:
        with contextlib.suppress(FileExistsError):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, secrets.token_urlsafe(32).encode() + b"\n")
            finally:
                os.close(file)
        if path.stat().st_mode & 0o077:
            raise ConfigError(Problem(str(path), "others can read it", f"chmod 600 {path}"))
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise Unavailable(f"cannot keep the API's token in {path} ({error.strerror})", "mend the folder") from error
    if len(token) < 32:
        raise ConfigError(Problem(str(path), "it holds no token", "remove it: a new one is made at the next start"))
    return token
