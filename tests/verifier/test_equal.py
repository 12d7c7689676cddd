"""The verifier's own code gives what the proof room gives: it imports nothing of ours, so this holds them equal."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muniment.judge import basics, globs, policy
from muniment.model.exchange import Action, Touch
from muniment.model.rules import AllowRule, Grant, IdentityRule, Rules, Selector, Target
from muniment.model.verdict import Allow
from muniment.proof import note, sshsig, tree
from tests.verifier.scene import GRACE

SPACE = "muniment-approval@v1"
SECRET = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
PUBLIC = SECRET.public_key().public_bytes_raw()
L = 2**252 + 27742317777372353535851937790883648493
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(leaves=st.lists(st.binary(max_size=8), max_size=70))
def test_trees_are_equal(verify: ModuleType, leaves: list[bytes]) -> None:
    theirs = verify.Tree()
    for leaf in leaves:
        assert verify.leaf_hash(leaf) == tree.leaf_hash(leaf)
        theirs.append(verify.leaf_hash(leaf))
    assert theirs.root() == tree.root(map(tree.leaf_hash, leaves))


def accepted(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@few
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=60), flip=st.integers(0, 511))
def test_ed25519_takes_what_openssl_takes(verify: ModuleType, seed: bytes, message: bytes, flip: int) -> None:
    secret = Ed25519PrivateKey.from_private_bytes(seed)
    key, signature = secret.public_key().public_bytes_raw(), secret.sign(message)
    assert verify.ed25519(key, message, signature)
    assert not verify.ed25519(key, message + b"x", signature)
    wrong = bytearray(signature)
    wrong[flip // 8] ^= 1 << flip % 8
    assert not verify.ed25519(key, message, bytes(wrong))


def test_the_first_vectors_of_rfc_8032_hold(verify: ModuleType) -> None:
    for key, message, signature in (
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ):  # fmt: skip
        assert verify.ed25519(bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature))


def test_a_signature_has_one_form_only(verify: ModuleType) -> None:
    signature = SECRET.sign(b"x")
    second = int.from_bytes(signature[32:], "little") + L
    malleable = signature[:32] + second.to_bytes(32, "little")
    assert not verify.ed25519(PUBLIC, b"x", malleable)
    assert not accepted(PUBLIC, b"x", malleable)


@few
@given(key=st.binary(max_size=33), signature=st.binary(max_size=65))
def test_ed25519_refuses_garbage(verify: ModuleType, key: bytes, signature: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert not verify.ed25519(key, b"x", signature)


@few
@given(size=st.integers(0, 2**40), root=st.binary(min_size=32, max_size=32), data=st.data())
def test_checkpoints_are_taken_and_refused_alike(
    verify: ModuleType, size: int, root: bytes, data: st.DataObject
) -> None:
    vkey = note.VerifierKey("gw.example.org/evidence/2026", PUBLIC)
    signed = note.sign(note.Checkpoint(vkey.name, size, root).text, vkey.name, PUBLIC, SECRET.sign)
    assert verify.opened(signed, str(vkey)) == (size, root)
    at = data.draw(st.integers(0, len(signed) - 1))
    other = data.draw(st.characters(exclude_categories=["Cs"]).filter(lambda one: one != signed[at]))
    with contextlib.suppress(ValueError):
        verify.opened(signed[:at] + other + signed[at + 1 :], str(vkey))
        pytest.fail("a changed checkpoint was taken")


def test_notes_that_others_signed_are_taken(verify: ModuleType) -> None:
    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "notes.json").read_text())
    vector = vectors["signed"][1]
    with pytest.raises(ValueError, match="another log's"):  # signed all right, but its origin is not the key's name
        verify.opened(vector["text"] + "\n" + vector["signatures"][0] + "\n", vector["vkey"])


@few
@given(glob=st.text(st.sampled_from("ab.*?\n_"), max_size=8), name=st.text(st.sampled_from("ab.?\n_"), max_size=8))
def test_globs_fit_alike(verify: ModuleType, glob: str, name: str) -> None:
    if name.startswith(globs.UNRESOLVED):
        assert verify.fits(glob, name) == (glob == "*")
    else:
        assert verify.fits(glob, name) == globs.matches(glob, name)


LISTS: dict[str, Any] = basics.published()["postgres/client"]
NAMES = [
    *LISTS["functions"],
    *LISTS["relations"],
    *LISTS["except"],
    *LISTS["settings"]["show"],
    *["default_text_search_config", "default_x.y", "public.invoices", "pg_catalog.pg_stat_activity", "all"],
    *["myext.secret", "enable_seqscan", "pg_read_file", ""],
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["function", "relation", "setting", "transaction", "table", "file"]),
    verb=st.sampled_from(["call", "select", "set", "show", "reset", "begin", "prepare", "update", "drop"]),
    name=st.sampled_from(NAMES),
)
def test_basics_are_read_alike(verify: ModuleType, kind: str, verb: str, name: str) -> None:
    published = json.loads(json.dumps(LISTS))
    assert verify.permitted(published, verb, kind, name) == basics.permitted(
        "postgres", "client", Touch(kind, name, verb)
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_policy_lets_in_is_inside_and_what_it_does_not_is_outside(verify: ModuleType, data: st.DataObject) -> None:
    grants = {}
    for at in range(data.draw(st.integers(0, 3))):
        who = data.draw(st.sampled_from([("job", ""), ("other", ""), ("", "reporting"), ("", "admins")]))
        rules_ = tuple(
            AllowRule(
                frozenset(data.draw(st.sets(st.sampled_from(["select", "call", "drop"]), min_size=1))),
                tuple(data.draw(st.lists(st.sampled_from(["*", "public.*", "public.a", "p?blic.b"]), min_size=1))),
                frozenset(data.draw(st.sets(st.sampled_from(["table", "function", "database"])))),
            )
            for _ in range(data.draw(st.integers(0, 2)))
        )
        target = data.draw(st.sampled_from([Selector("billing"), Selector("payroll"), Selector()]))
        kept = data.draw(st.sampled_from(["client", "none"]))
        grants[f"g{at}"] = Grant(f"g{at}", *who, target, "r", ("*",), rules_, basics=kept)
    targets = {name: Target(name, "postgres", "h", 1, "disable", ()) for name in ("billing", "payroll")}
    job = IdentityRule("job", "service", "", "", (), groups=frozenset({"reporting"}))
    rules = Rules(grants=grants, targets=targets, identities={"job": job})
    touch = Touch(
        data.draw(st.sampled_from(["relation", "table", "function", "database"])),
        data.draw(st.sampled_from(["public.a", "public.b", "other.c", "?.a", "pg_catalog.pg_class", "pg_catalog.abs"])),
        data.draw(st.sampled_from(["select", "call", "drop"])),
    )
    context = policy.context(rules, "job", ("reporting",), targets["billing"], "db", 1)
    allowed = isinstance(policy.judge(context, Action((touch,))), Allow)
    declared = SimpleNamespace(
        lines=[line.split("|") for line in policy.declared(rules)], published=json.loads(json.dumps(basics.published()))
    )
    ses = SimpleNamespace(identity="job", groups=["reporting"], target="billing", protocol="postgres")
    assert verify.inside(declared, ses, f"{touch.verb} {touch.kind} {touch.name}") == allowed


# ---- SSH signatures


def both(verify: ModuleType, line: str, message: bytes, armour: str, space: str = SPACE) -> bool:
    """What the two say, which must be the same."""
    try:
        theirs = bool(verify.ssh_signed(line, message, armour, space))
    except ValueError:
        theirs = False
    try:
        sshsig.verify(armour, message, space, [line])
        ours = True
    except sshsig.SignatureError:
        ours = False
    assert theirs == ours
    return ours


def test_an_approval_is_taken_by_both(verify: ModuleType) -> None:
    armour = GRACE.sign(b"document")
    assert both(verify, GRACE.line, b"document", armour)
    assert not both(verify, GRACE.line, b"another", armour)
    assert not both(verify, GRACE.line, b"document", armour, "git")
    assert not both(verify, GRACE.line, b"document", GRACE.sign(b"document", b"file"))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_a_signature_is_taken(verify: ModuleType, data: st.DataObject) -> None:
    armour = GRACE.sign(b"document")
    at = data.draw(st.integers(0, len(armour) - 1))
    other = data.draw(st.sampled_from("AB+/=\n x-"))
    changed = armour[:at] + other + armour[at + 1 :]
    if "".join(changed.split()) != "".join(armour.split()):
        assert not both(verify, GRACE.line, b"document", changed)


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH's ssh-keygen")
@pytest.mark.parametrize("kind", [["ed25519"], ["ecdsa", "-b", "256"], ["ecdsa", "-b", "384"], ["rsa", "-b", "2048"]])
def test_what_openssh_signs_is_taken_by_both(verify: ModuleType, tmp_path: Path, kind: list[str]) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", *kind, "-N", "", "-C", "", "-f", key], check=True)
    line = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    signed = subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", SPACE, "-f", key], input=b"document", capture_output=True, check=True
    ).stdout.decode()
    assert both(verify, line, b"document", signed)
    assert not both(verify, line, b"another", signed)
    assert not both(verify, line, b"document", signed, "git")
    assert not both(verify, GRACE.line, b"document", signed)


def test_without_ssh_keygen_other_keys_are_said_to_need_it(verify: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="needs ssh-keygen"):
        verify.ssh_signed("ssh-rsa AAAA", b"x", "-", SPACE)


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 AAAA\nx AAAA", "a b c"])
def test_a_line_that_is_not_a_key_is_refused(verify: ModuleType, line: str) -> None:
    assert not both(verify, line, b"document", GRACE.sign(b"document"))
