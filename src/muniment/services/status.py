"""How the gateway is doing, for operators."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """One look. evidence: the directory that can be copied away; problems: what somebody should act on, in words;
    times are microseconds UTC; log_size, checkpoint_size: leaves."""

    version: str
    deployment: str
    instance: str
    evidence: str
    started_us: int
    rules_version: int
    rules_digest: str
    manifests: str  # the directory, empty where `apply` is used
    sessions: int
    log_size: int
    checkpoint_size: int
    problems: tuple[str, ...] = ()
