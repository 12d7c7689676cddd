"""Signing a decision with the person's own SSH key, by the person's own ssh-keygen: we never touch a private key."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muniment.doors.cli.client import Failure
from muniment.doors.cli.output import errors
from muniment.proof import sshsig
from muniment.services.decisions import NAMESPACE

DEFAULTS = ("id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa")


@dataclass(frozen=True, slots=True)
class Key:
    """A key that can sign. path: what ssh-keygen is given, a private key or the public half of one in the agent."""

    path: Path
    line: str


def find_key(chosen: Path | None, persons: list[dict[str, Any]]) -> tuple[Key, str]:
    """The key to sign with, and the name of the Person that it belongs to.

    chosen: --key; else the first key of ~/.ssh, then of the agent, that is a registered Person's.
    """
    known = {blob: person["name"] for person in persons for blob in _blobs(person)}
    if chosen is not None:
        key = _key_of(chosen)
        if (name := known.get(sshsig.key_blob(key.line))) is None:
            raise Failure(
                f"{chosen} ({sshsig.fingerprint(key.line)}) is no registered Person's key",
                "add its public key to the Person's manifest, or choose another with --key",
            )
        return key, name
    home = Path("~").expanduser() / ".ssh"
    for candidate in (home / name for name in DEFAULTS):
        if candidate.with_name(candidate.name + ".pub").exists() and candidate.exists():
            key = _key_of(candidate)
            if (name := known.get(sshsig.key_blob(key.line))) is not None:
                return key, name
    for line in _agent():
        if (name := known.get(sshsig.key_blob(line))) is not None:
            return Key(Path(), line), name
    raise Failure(
        "no key of yours belongs to a registered Person",
        "name one with --key, or have your public key added to your Person's manifest",
    )


def sign(key: Key, document: str, scratch: Path) -> str:
    """The armoured signature of ssh-keygen over the document. scratch: a folder for the public half of an agent's
    key. ssh-keygen asks for a passphrase or a touch itself."""
    path = key.path
    if path == Path():
        path = scratch / "agent.pub"
        path.write_text(key.line + "\n", encoding="utf-8")
    if key.line.startswith("sk-"):
        errors.print("touch your security key when it asks", style="dim")
    command = ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", str(path)]
    try:
        done = subprocess.run(command, input=document.encode(), capture_output=True, check=False)
    except FileNotFoundError:
        raise Failure("ssh-keygen is not here", "install OpenSSH's client (8.1 or newer)") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Failure(f"ssh-keygen did not sign ({said[-1] if said else 'no reason given'})", f"check the key {path}")
    return done.stdout.decode("ascii", "replace")


def _key_of(path: Path) -> Key:
    """A key by the name of its private or public half."""
    public = path if path.suffix == ".pub" else path.with_name(path.name + ".pub")
    private = path.with_suffix("") if path.suffix == ".pub" else path
    try:
        line = public.read_text(encoding="utf-8").strip()
        sshsig.key_blob(line)
    except (OSError, UnicodeDecodeError) as error:
        mend = f"make it with `ssh-keygen -y -f {private} > {public}`"
        raise Failure(f"cannot read the public key {public}", mend) from error
    except sshsig.SignatureError as error:
        raise Failure(f"{public}: {error}", "name the key whose .pub is in OpenSSH's one-line form") from error
    return Key(private if private.exists() else public, line)


def _agent() -> list[str]:
    """Public keys in the person's SSH agent; none where there is no agent."""
    if "SSH_AUTH_SOCK" not in os.environ:
        return []
    try:
        done = subprocess.run(["ssh-add", "-L"], capture_output=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return [line for line in done.stdout.decode("utf-8", "replace").splitlines() if _readable(line)]


def _blobs(person: dict[str, Any]) -> list[bytes]:
    lines = person["document"].get("spec", {}).get("keys", [])
    return [sshsig.key_blob(line) for line in lines if _readable(str(line))]


def _readable(line: str) -> bool:
    try:
        sshsig.key_blob(line)
    except sshsig.SignatureError:
        return False
    return True
