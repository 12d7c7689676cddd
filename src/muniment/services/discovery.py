"""Fetch an issuer's key set: OpenID Connect Discovery 1.0, section 4, then the JWK Set that it names.

Home of httpx. The issuer is trusted with keys, not with our time or memory: TLS is verified, answers are bounded in
size and time, and nothing leads to another host behind our back.
"""

from __future__ import annotations

import asyncio
import ssl
from ipaddress import ip_address

import httpx

from muniment.model.errors import Unavailable
from muniment.services.jose import shown, strict_json

MAX_BYTES = 1 << 20  # of one document
MAX_REDIRECTS = 2  # and only within one origin
WELL_KNOWN = "/.well-known/openid-configuration"


async def fetch_key_set(issuer: str, ca_file: str, timeout_s: float) -> str:
    """The text of the issuer's JWK Set. Raises Unavailable with what was wrong and the mend.

    issuer: its exact `iss`; ca_file: PEM of the roots to trust, empty for the system's; timeout_s: for all of it.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _fetch(issuer, ca_file, timeout_s)
    except TimeoutError:
        raise Unavailable(
            f"{issuer} did not answer within {timeout_s:g} s", "check the way from the gateway to it"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError) as why:
        raise Unavailable(
            f"{issuer} cannot be reached ({type(why).__name__}: {shown(str(why))})",
            "check its URL, its certificate and the Issuer's `ca`",
        ) from why


async def _fetch(issuer: str, ca_file: str, timeout_s: float) -> str:
    if "?" in issuer or "#" in issuer:
        raise Unavailable(f"{shown(issuer)} is not an https URL of a plain form", "an issuer has no query")
    plain = issuer.startswith("http:")
    local = _may_be_asked(issuer, plain=plain)
    # loading the system's roots takes 40 ms: not on the event loop, and not where no TLS is spoken
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not plain:
        trust = await asyncio.to_thread(ssl.create_default_context, cafile=ca_file or None)
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "muniment"}
    # a proxy of the environment is for the world outside, never for this machine
    async with httpx.AsyncClient(verify=trust, trust_env=not local, headers=headers, timeout=timeout_s) as client:
        where = issuer.rstrip("/") + WELL_KNOWN
        found = _object(await _get(client, where), where)
        if found.get("issuer") != issuer:
            raise Unavailable(
                f"{where} speaks for {shown(found.get('issuer', 'nobody'))}, not for {issuer}",
                "write the issuer's URL in the Issuer exactly as the issuer does, with or without its last slash",
            )
        keys = found.get("jwks_uri")
        if not isinstance(keys, str):
            raise Unavailable(f"{where} names no jwks_uri", "ask who runs the issuer")
        _may_be_asked(keys, plain=plain)
        return await _get(client, keys)


def _may_be_asked(url: str, *, plain: bool) -> bool:
    """Whether the URL is on this machine; raises Unavailable for one that must not be fetched.

    plain: for an issuer on http, which is and leads to http on loopback only; else https leads to https only.
    """
    parts = httpx.URL(url)  # the same reading as the one that will be fetched
    local = is_loopback(parts.host)
    good = (parts.scheme == "http" and local) if plain else parts.scheme == "https"
    if not parts.host or parts.userinfo or parts.fragment or not good:
        shape = shown(url.rpartition("@")[2])  # what is before an @ may be a password
        raise Unavailable(
            f"{shape} is not an https URL of a plain form", "an issuer speaks https (http: loopback only)"
        )
    return local


def is_loopback(host: str) -> bool:
    """Whether a host, name or address, is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


async def _get(client: httpx.AsyncClient, url: str) -> str:
    at = httpx.URL(url)
    for _ in range(MAX_REDIRECTS + 1):
        async with client.stream("GET", at, follow_redirects=False) as response:
            if response.has_redirect_location:
                to = at.join(response.headers["location"])
                if (to.scheme, to.host, to.port) != (at.scheme, at.host, at.port) or to.userinfo:
                    raise Unavailable(f"{at} leads to {shown(str(to))}", "only the issuer's own host may answer for it")
                at = to
                continue
            if response.status_code != 200:
                raise Unavailable(f"{at} answered {response.status_code}", "ask who runs the issuer")
            if response.headers.get("content-encoding", "identity") != "identity":
                # 1 KB of gzip can be 1 MB: what we bound must be what we read
                raise Unavailable(f"{at} answered compressed, which was not asked for", "ask who runs the issuer")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise Unavailable(f"{at} answered more than {MAX_BYTES} bytes", "ask who runs the issuer")
            try:
                return body.decode("utf-8")
            except UnicodeDecodeError:
                raise Unavailable(f"{at} did not answer in UTF-8", "ask who runs the issuer") from None
    raise Unavailable(f"{url} leads on and on", "ask who runs the issuer")


def _object(text: str, where: str) -> dict[str, object]:
    try:
        value = strict_json(text)
    except ValueError as why:
        raise Unavailable(f"{where} is not JSON ({shown(str(why))})", "ask who runs the issuer") from None
    if not isinstance(value, dict):
        raise Unavailable(f"{where} is not a JSON object", "ask who runs the issuer")
    return value
