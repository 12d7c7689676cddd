"""The tape tool against a real server, so that it still works when a tape has to be made again."""

from __future__ import annotations

from pathlib import Path

from tests.live.servers import Cluster
from tests.transcripts import scenarios
from tests.transcripts.tape import tape
from tests.transcripts.tapes import HERE, load


def test_taping_psql_again_gives_the_same_requests(debian: Cluster, tmp_path: Path) -> None:
    which = next(each for each in scenarios.SCENARIOS if each.name == "psql_errors")
    tape(which, debian, tmp_path)
    again, kept = (load(where / "psql_errors.json").said("c") for where in (tmp_path, HERE / "postgres"))
    assert again[again.index(b"SELEC 1") :] == kept[kept.index(b"SELEC 1") :]
