"""Issuers for tests: a web site that can misbehave in every way, and a forge that signs anything with anything."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    return text(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Forge:
    """Private keys of every type, their public JWKs, and compact JWS of any header and any payload bytes."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.p256 = ec.generate_private_key(ec.SECP256R1())
        self.p384 = ec.generate_private_key(ec.SECP384R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()

    def jwk(self, alg: str, kid: str | None = "k", /, **more: Any) -> dict[str, Any]:
        key: dict[str, Any]
        if alg[:2] in ("RS", "PS"):
            public = self.rsa.public_key().public_numbers()
            key = {"kty": "RSA", "n": number(public.n), "e": number(public.e)}
        elif alg == "EdDSA":
            raw = self.ed.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            key = {"kty": "OKP", "crv": "Ed25519", "x": text(raw)}
        else:
            private, crv, size = (self.p256, "P-256", 32) if alg == "ES256" else (self.p384, "P-384", 48)
            point = private.public_key().public_numbers()
            key = {"kty": "EC", "crv": crv, "x": number(point.x, size), "y": number(point.y, size)}
        return {**key, **({"kid": kid} if kid is not None else {}), **more}

    def pem(self) -> bytes:
        return self.rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def signature(self, alg: str, signing: bytes, secret: bytes = b"") -> bytes:
        digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}.get(alg[2:], hashes.SHA256())
        if alg.startswith("RS"):
            return self.rsa.sign(signing, padding.PKCS1v15(), digest)
        if alg.startswith("PS"):
            return self.rsa.sign(signing, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        if alg.startswith("ES"):
            private, size = (self.p256, 32) if alg == "ES256" else (self.p384, 48)
            r, s = decode_dss_signature(private.sign(signing, ec.ECDSA(digest)))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        if alg == "EdDSA":
            return self.ed.sign(signing)
        if alg.startswith("HS"):
            return hmac.digest(secret, signing, hashlib.sha256)
        return b""

    def token(
        self,
        claims: dict[str, Any] | bytes,
        *,
        alg: str = "RS256",
        signed_as: str = "",
        secret: bytes = b"",
        header: dict[str, Any] | bytes | None = None,
    ) -> str:
        """header: replaces {"alg": alg, "kid": "k", "typ": "JWT"}; signed_as: the algorithm that really signs."""
        heading = {"alg": alg, "kid": "k", "typ": "JWT"} if header is None else header
        parts = [
            text(part if isinstance(part, bytes) else json.dumps(part, ensure_ascii=False).encode())
            for part in (heading, claims)
        ]
        signing = ".".join(parts)
        return f"{signing}.{text(self.signature(signed_as or alg, signing.encode(), secret))}"


Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A web site on loopback. pages: path -> a document, or a function that answers by itself. hits: paths asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.pages: dict[str, Any] = {}
        self.hits: list[str] = []

    def serves(self, *keys: dict[str, Any]) -> None:
        """Be an honest issuer with these keys."""
        self.pages["/.well-known/openid-configuration"] = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        self.pages["/jwks"] = {"keys": list(keys)}

    def fetches(self) -> int:
        return self.hits.count("/.well-known/openid-configuration")


def answers(status: int = 200, body: bytes = b"", delay_s: float = 0.0, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        time.sleep(delay_s)
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


@contextmanager
def site(tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A site that runs inside the block, on https where `tls` is given."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0

        def do_GET(self) -> None:
            found.hits.append(self.path)
            page = found.pages.get(self.path)
            if callable(page):
                page(self)
            elif page is None:
                answers(404)(self)
            else:
                answers(body=json.dumps(page).encode())(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that hang up early are what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    found = Site(server.server_address[1])
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        found.url = found.url.replace("http:", "https:")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
