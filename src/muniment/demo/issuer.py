"""DEMO ONLY. A made-up token issuer on this machine: discovery, JWK Set, and a mint that gives anybody any token.

It exists so that the first walk needs no account anywhere. It proves nothing about who asks, binds loopback only,
and is never started by `serve`. Its tokens are signed here with `cryptography`, not with the library that the gateway
verifies with: two programs must agree on RFC 7515, not one with itself.

    python -m muniment.demo.issuer --port 8800        then POST /token {"sub": "...", "aud": "..."}
"""

from __future__ import annotations

import argparse
import json
import secrets
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from types import TracebackType

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

MAX_BODY_BYTES = 16 << 10
KEPT_KEYS = 2  # generations of keys in the set after a rotation: tokens of the last one stay good


@dataclass(frozen=True, slots=True)
class _Pair:
    """One generation of keys."""

    kid: str
    rs256: rsa.RSAPrivateKey
    es256: ec.EllipticCurvePrivateKey


class DemoIssuer:
    """A demo issuer in a thread of its own. Use as a context manager, or `start` and `close`.

    host: a loopback address; anything else is refused with ValueError. port: 0 for any free one.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        if not ip_address(host).is_loopback:
            raise ValueError(f"the demo issuer gives anybody any token: it binds loopback only, not {host}")
        self._pairs = [_new_pair()]
        self._server = _Server((host, port), _Answer)
        self._server.issuer = self
        self.port = int(self._server.server_address[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="demo issuer", daemon=True
        )

    def start(self) -> DemoIssuer:
        """Begin to answer."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> DemoIssuer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def mint(self, claims: Mapping[str, object], *, alg: str = "RS256", lifetime_s: int = 300) -> str:
        """A signed token. iss, iat, nbf, exp and jti are filled in where `claims` has none. alg: RS256 or ES256."""
        now = int(time.time())
        filled: dict[str, object] = {
            "iss": self.url,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_s,
            "jti": secrets.token_hex(8),
            **claims,
        }
        pair = self._pairs[-1]
        header = {"alg": alg, "kid": f"{pair.kid}-{alg.lower()}", "typ": "JWT"}
        signing = f"{_part(header)}.{_part(filled)}"
        if alg == "RS256":
            signature = pair.rs256.sign(signing.encode(), padding.PKCS1v15(), hashes.SHA256())
        elif alg == "ES256":
            r, s = decode_dss_signature(pair.es256.sign(signing.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        else:
            raise ValueError(f"the demo issuer signs RS256 and ES256, not {alg}")
        return f"{signing}.{_text(signature)}"

    def rotate(self) -> None:
        """Sign with new keys from here on; the last ones stay in the set for a generation."""
        self._pairs = [*self._pairs, _new_pair()][-KEPT_KEYS:]

    def forget(self) -> None:
        """Take all but the newest keys out of the set, as after a leak."""
        self._pairs = self._pairs[-1:]

    def discovery(self) -> dict[str, object]:
        """What stands under /.well-known/openid-configuration."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/jwks",
            "token_endpoint": f"{self.url}/token",
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "muniment_demo": "made-up issuer: it gives anybody any token",
        }

    def jwks(self) -> dict[str, object]:
        """The public keys."""
        return {"keys": [key for pair in self._pairs for key in _public(pair)]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    issuer: DemoIssuer


class _Answer(BaseHTTPRequestHandler):
    timeout = 5.0
    server: _Server

    def do_GET(self) -> None:
        issuer = self.server.issuer
        pages = {"/.well-known/openid-configuration": issuer.discovery, "/jwks": issuer.jwks}
        page = pages.get(self.path)
        if page is None:
            self._say(HTTPStatus.NOT_FOUND, {"error": "not here"})
        else:
            self._say(HTTPStatus.OK, page())

    def do_POST(self) -> None:
        issuer = self.server.issuer
        # a web page that a browser on this machine shows could point its own name here: only our address is answered
        if self.headers.get("host") != issuer.url.removeprefix("http://"):
            self._say(HTTPStatus.FORBIDDEN, {"error": "ask the demo issuer by its address"})
            return
        length = self.headers.get("content-length", "")
        if self.path != "/token" or not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self._say(HTTPStatus.BAD_REQUEST, {"error": f"POST /token with at most {MAX_BODY_BYTES} bytes of claims"})
            return
        try:
            claims = json.loads(self.rfile.read(int(length)))
            if not isinstance(claims, dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError):
            self._say(HTTPStatus.BAD_REQUEST, {"error": "the body must be a JSON object of claims"})
            return
        self._say(
            HTTPStatus.OK, {"id_token": issuer.mint(claims), "token_type": "urn:ietf:params:oauth:token-type:jwt"}
        )

    def _say(self, status: HTTPStatus, document: Mapping[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tokens and claims have no place in a log."""


def _new_pair() -> _Pair:
    return _Pair(
        secrets.token_hex(4),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP256R1()),
    )


def _public(pair: _Pair) -> list[dict[str, str]]:
    n = pair.rs256.public_key().public_numbers()
    point = pair.es256.public_key().public_numbers()
    return [
        {
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": f"{pair.kid}-rs256",
            "n": _text(n.n.to_bytes((n.n.bit_length() + 7) // 8, "big")),
            "e": _text(n.e.to_bytes((n.e.bit_length() + 7) // 8, "big")),
        },
        {
            "kty": "EC",
            "use": "sig",
            "alg": "ES256",
            "crv": "P-256",
            "kid": f"{pair.kid}-es256",
            "x": _text(point.x.to_bytes(32, "big")),
            "y": _text(point.y.to_bytes(32, "big")),
        },
    ]


def _part(document: Mapping[str, object]) -> str:
    return _text(json.dumps(document, separators=(",", ":")).encode())


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def main() -> None:
    """Run it by itself until interrupted."""
    parser = argparse.ArgumentParser(description="DEMO ONLY: a token issuer that gives anybody any token")
    parser.add_argument("--port", type=int, default=8800)
    issuer = DemoIssuer(port=parser.parse_args().port)
    print(f"DEMO issuer at {issuer.url}: never trust it outside this demo", flush=True)
    with issuer:
        threading.Event().wait()


if __name__ == "__main__":
    main()
