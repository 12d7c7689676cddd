"""Tokens of a certified OpenID provider (npm `oidc-provider`) open what the rules say.

The provider is other people's code end to end: its discovery document, its JWK Set and its JWT access tokens.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from muniment.services import keysets
from tests.conftest import missing
from tests.services.worlds import DEPLOYMENT, check, failed, world

VERSION = "9.13.3"
TOOLS = Path(__file__).parents[2] / ".tools" / "oidc-provider"
SCRIPT = Path(__file__).with_name("oidc_provider.mjs")


@pytest.fixture(scope="module")
def modules() -> Path:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no node and npm: the interoperability of tokens with a certified provider was not tested")
    package = TOOLS / "node_modules" / "oidc-provider" / "package.json"
    if not package.exists() or f'"version": "{VERSION}"' not in package.read_text():
        TOOLS.mkdir(parents=True, exist_ok=True)
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--prefix", str(TOOLS)]
        done = subprocess.run([npm, "install", *options, f"oidc-provider@{VERSION}"], capture_output=True, text=True)
        if done.returncode != 0:
            missing(f"oidc-provider could not be installed: {done.stderr[-500:]}")
    return TOOLS / "node_modules"


@dataclass
class Provider:
    process: subprocess.Popen[str]
    url: str

    def token(self, audience: str = DEPLOYMENT) -> str:
        answer = httpx.post(
            f"{self.url}/token",
            data={"grant_type": "client_credentials", "resource": f"urn:{audience}", "scope": "read"},
            auth=("nightly-report", "made-up-secret-of-a-test"),
            trust_env=False,
        )
        return str(answer.raise_for_status().json()["access_token"])

    def rotate(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("rotate\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "rotated"


@pytest.fixture(params=["RS256", "PS256", "ES256", "EdDSA"])
def provider(request: pytest.FixtureRequest, modules: Path) -> Iterator[Provider]:
    with subprocess.Popen(
        ["node", str(SCRIPT), str(modules), request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout and process.stdin
        url = process.stdout.readline().strip()
        if not url:
            missing("oidc-provider did not start: it needs a newer node")
        yield Provider(process, url)
        process.stdin.close()
        process.wait(10)


def test_its_access_tokens_open_a_session_and_rotation_is_followed(provider: Provider, tmp_path: Path) -> None:
    here = world(tmp_path, provider.url)
    try:
        outcome = asyncio.run(here.login(provider.token()))
        assert failed(outcome) == []
        assert check(outcome, "claim repository_id").got == "456789"  # a number in the token, a text in the rule
        assert check(outcome, "groups").got == '["finance"]'
        assert failed(asyncio.run(here.login(provider.token("elsewhere")))) == ["audience"]
        old = provider.token()
        provider.rotate()
        here.seconds += keysets.RENEW_S
        assert failed(asyncio.run(here.login(provider.token()))) == []
        assert failed(asyncio.run(here.login(old))) == ["key"]  # withdrawn with its set
    finally:
        here.database.close()
