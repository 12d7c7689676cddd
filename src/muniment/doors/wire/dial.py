"""Connections to targets: for sessions, for their cancel requests, and for the catalogue."""

from __future__ import annotations

import asyncio
import struct

from muniment.doors.wire.pipe import Gone, Pipe
from muniment.doors.wire.tls import target_context
from muniment.model.errors import Unavailable
from muniment.model.rules import Target
from muniment.protocols.postgres import frames

CONNECT_S = 5.0
CANCEL_S = 10.0


async def dial(target: Target) -> Pipe:
    """Connect to a target. Unavailable when it cannot be reached in time; where that is stands in the mend, which is
    for operators: clients are told the name alone."""
    loop = asyncio.get_running_loop()
    name, where = f"target {target.name}", f"{target.host}:{target.port}"
    try:
        async with asyncio.timeout(CONNECT_S):
            _, pipe = await loop.create_connection(Pipe, target.host, target.port)
    except TimeoutError:
        raise Unavailable(
            f"{name} did not answer within {CONNECT_S:.0f} s", f"see that {where} runs and is reached"
        ) from None
    except OSError as error:
        why = error.strerror or error
        raise Unavailable(f"{name} cannot be reached", f"see that {where} runs and is reached ({why})") from error
    return pipe


async def secure(pipe: Pipe, target: Target) -> str:
    """Begin TLS with a target, as its manifest says. Unavailable when its certificate is not the wanted one."""
    if pipe.waiting_bytes:
        raise Unavailable(f"target {target.name} sent bytes before TLS began", "see who answers at its address")
    context, name = target_context(target)
    try:
        return await pipe.secure(context, server=False, name=name)
    except (OSError, Gone) as error:
        mend = f"see tls.mode and tls.ca of the Target, and the certificate that it shows ({error})"
        raise Unavailable(f"TLS with target {target.name} failed", mend) from error


async def cancel(target: Target, pid: int, key: bytes) -> bool:
    """Send a cancel request to a target, and return when it has closed the connection: then it was carried out.

    False: it did not within `CANCEL_S`, so the request may still be carried out at any time later. Unavailable, or True
    without effect: it was not sent.
    """
    pipe = await dial(target)
    sent = False
    try:
        async with asyncio.timeout(CANCEL_S):
            if target.tls != "disable":
                pipe.write(frames.SSL_REQUEST_PACKET)
                if await pipe.read(1) != b"S":
                    return True
                await secure(pipe, target)
            sent = True
            pipe.write(struct.pack("!iiI", 12 + len(key), frames.CANCEL_REQUEST, pid) + key)
            await pipe.until_lost()
    except TimeoutError:
        return not sent
    except Gone:
        pass
    finally:
        pipe.abort()
    return True
