"""muniment evidence: verified, exported, and the key to verify it with."""

from __future__ import annotations

import importlib.util
import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from muniment.doors.cli.client import Failure
from muniment.doors.cli.output import Json, client, errors, print_json, say, speaks
from muniment.services import evidence as service

app = typer.Typer(no_args_is_help=True, help="The evidence: verified offline, exported, and its key.")


@app.command()
@speaks
def verify(
    directory: Annotated[
        Path | None, typer.Argument(help="A copied evidence directory; else the running gateway's.")
    ] = None,
    key: Annotated[str, typer.Option(help="The log's public key, or a file that holds it.")] = "",
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint that you kept: nothing before it may be gone.")
    ] = None,
    until: Annotated[str, typer.Option(help="The evidence must reach this time (ISO 8601).")] = "",
    as_json: Json = False,
) -> None:
    """Check evidence with the stand-alone verifier, verify.py, and nothing else."""
    if directory is None:
        running = client().get("evidence", "key")
        directory, key = Path(running["directory"]), key or running["vkey"]
        if not directory.is_dir():
            raise Failure(f"{directory} is not on this machine", "export it first: muniment evidence export -o DIR")
        if not as_json:
            errors.print(f"Checking {directory} with the key that the gateway itself names.", style="dim", markup=False)
    elif not key:
        raise Failure(
            "with a copied directory the key must be given",
            "name the key you were given at installation with --key, not one from the copy itself",
        )
    elif not directory.is_dir():
        raise Failure(f"{directory} is not a directory", "name a copied evidence directory")
    arguments = [str(directory), "--key", key]
    arguments += ["--checkpoint", str(checkpoint)] if checkpoint else []
    arguments += ["--until", until] if until else []
    arguments += ["--json"] if as_json else []
    raise typer.Exit(_run_verifier(arguments))


def _run_verifier(arguments: list[str]) -> int:
    """The main of that very file."""
    path = service.verifier()
    spec = importlib.util.spec_from_file_location("muniment_verify", path)
    if spec is None or spec.loader is None:
        raise Failure(f"cannot load {path}", "reinstall muniment")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return int(module.main(arguments))


class _Stream(io.RawIOBase):
    """A response's parts as a file; tells how far it is."""

    def __init__(self, parts: Iterator[bytes], progress: Progress) -> None:
        self._parts = parts
        self._rest = b""
        self._progress = progress
        self._task = progress.add_task("copying", total=None)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._rest:
            self._rest = next(self._parts, b"")
            self._progress.advance(self._task, len(self._rest))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, out: Path) -> None:
    """Write one new regular file below `out`; anything else is no evidence. (`filter=` is missing before 3.11.4.)"""
    inside = PurePosixPath(member.name)
    source = archive.extractfile(member) if member.isreg() else None
    if source is None or inside.is_absolute() or ".." in inside.parts:
        raise Failure(f"the export holds {member.name!r}, which no evidence has", "is --api really the gateway's?")
    path = out.joinpath(*inside.parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


@app.command()
@speaks
def export(
    out: Annotated[Path, typer.Option("-o", "--out", help="A new or empty folder.")], as_json: Json = False
) -> None:
    """Copy the whole evidence directory, with verify.py in it. It holds no key that opens or signs anything."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Failure(f"{out} is not empty", "name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    count = 0
    with (
        client().stream("evidence", "export") as response,
        Progress(*columns, console=errors, transient=True) as progress,
    ):
        stream = io.BufferedReader(_Stream(response.iter_bytes(), progress), 1 << 20)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    _unpack(archive, member, out)
                    count += 1
        except (tarfile.TarError, OSError) as error:
            raise Failure(f"the export broke off ({error})", "take it again into a new folder") from error
    command = f"python {out / 'verify.py'} {out} --key KEYFILE"
    if as_json:
        print_json({"directory": str(out), "files": count, "verify": command})
    else:
        say(f"{count} files in {out}; check them anywhere with:\n  {command}")


@app.command()
@speaks
def key(as_json: Json = False) -> None:
    """Print the log's public key, to be kept where the gateway's operators cannot change it."""
    found = client().get("evidence", "key")
    if as_json:
        print_json(found)
    else:
        say(found["vkey"])
