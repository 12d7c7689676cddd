"""Read a secret where a manifest says it is, at the moment it is needed. It is never kept."""

from __future__ import annotations

import os
import stat

from muniment.model.errors import Unavailable
from muniment.model.rules import SecretRef

MAX_BYTES = 64 << 10  # a secret is a line; a bigger file is the wrong file


def resolve(secret: SecretRef) -> str:
    """The secret's text, one trailing line end taken off. Reads the disk: call it in a thread.

    Raises Unavailable that says what to mend and never a word of the content.
    """
    where = f"secret {{{secret.kind}: {secret.where}}}"
    if secret.kind == "env":
        text = os.environ.get(secret.where, "")
        mend = f"set the environment variable {secret.where} for the gateway's process"
    elif secret.kind == "file":
        text = _read(secret.where, where)
        mend = f"write the secret into {secret.where}"
    else:
        raise Unavailable(f"{where} is of no known kind", "write {env: NAME} or {file: /path}")
    text = text.removesuffix("\r\n" if text.endswith("\r\n") else "\n")
    if not text:
        raise Unavailable(f"{where} is empty or not there", mend)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unavailable(f"{where} is not UTF-8", "write it as text") from None
    if "\0" in text:
        raise Unavailable(f"{where} holds a NUL", mend)
    return text


def _read(path: str, where: str) -> str:
    try:
        # O_NONBLOCK: a FIFO in its place must not hang the login; the size is bounded by what is read, not by stat
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Unavailable(f"{where} is not a regular file", f"put the secret itself into {path}")
            data = os.read(handle, MAX_BYTES + 1)
        finally:
            os.close(handle)
        if len(data) > MAX_BYTES:
            raise Unavailable(f"{where} is over {MAX_BYTES} bytes", f"put the secret alone into {path}")
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Unavailable(f"{where} is not UTF-8", f"put the secret alone into {path}") from None
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else "not a path"
        raise Unavailable(f"{where} cannot be read ({reason})", f"let the gateway's user read {path}") from None
