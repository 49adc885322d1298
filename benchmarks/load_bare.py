"""What aiohttp alone can do: `python -m benchmarks.load_bare FILE` serves on any free port.

A handler with the coordinator's own server settings, that reads the bodies of uploads and drops
them, and answers as the coordinator does. Its address goes to FILE once it is up. SIGTERM ends it.
"""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
from aiohttp import web

from wire.files import write_durably
from wire.messages import Acknowledgement, UploadState

KEEPALIVE_SECONDS = 75.0


async def drop(request: web.Request) -> web.StreamResponse:
    """Read a body to its end, keep nothing."""
    length = 0
    while chunk := await request.content.readany():
        length += len(chunk)
    done = Acknowledgement(state=UploadState.ACCEPTED, offset=length)
    return web.Response(body=msgspec.json.encode(done), content_type="application/json")


async def serve(file: Path) -> None:
    """Serve until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    app = web.Application()
    app.router.add_post("/v1/assignments/{assignment}/update", drop)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=KEEPALIVE_SECONDS
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        await asyncio.to_thread(write_durably, file, url.encode())
        await stopping.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
