"""Server: hands pages of the explorer to whoever connects, on this machine alone."""

from __future__ import annotations

import asyncio
import threading
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gendiff.extra import extra
from gendiff_cli.explorer.explorer import SIDES, Explorer
from gendiff_cli.explorer.page import TITLE, Page
from gendiff_cli.explorer.reverse import Reverse
from gendiff_cli.explorer.threads import Threads


def serve(explorer: Explorer, reverse: Reverse | None, listener: Any) -> None:
    """Serve pages to whoever connects to a listening socket, until this thread is asked to stop."""
    nicegui = extra("nicegui", TITLE, name="explore")
    fastapi, uvicorn = extra("fastapi", TITLE, name="explore"), extra("uvicorn", TITLE, name="explore")
    trusted = extra("starlette.middleware.trustedhost", TITLE, name="explore").TrustedHostMiddleware
    with TemporaryDirectory(prefix="gendiff-explore-") as folder, warnings.catch_warnings():
        # When it starts the library asks all objects that there are for their class, and one of torch warns whoever asks it.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.reduce_op` is deprecated", FutureWarning)
        app, following, threads = fastapi.FastAPI(), set[asyncio.Task[None]](), Threads()
        app.add_middleware(trusted, allowed_hosts=["127.0.0.1", "localhost"])  # no name of somebody else leads here

        @nicegui.ui.page("/", title=TITLE)  # type: ignore[untyped-decorator]  # of a library without types here
        async def page() -> None:
            one = Page(explorer.again(), reverse, Path(folder), threads)
            one.build()
            tasks = [
                nicegui.background_tasks.create(one.follow()),
                nicegui.background_tasks.create(one.follow_slowly()),
            ]
            following.update(tasks)
            for task in tasks:
                task.add_done_callback(following.discard)
            nicegui.ui.context.client.on_delete(lambda: [task.cancel() for task in tasks])
            one._changed(*SIDES)

        nicegui.ui.run_with(
            app,
            title=TITLE,
            dark=None,
            tailwind=False,
            show_welcome_message=False,
            gzip_middleware_factory=None,
            message_history_length=0,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, ws_per_message_deflate=False
            )
        )
        # In a thread of its own: this one hears who asks to stop.
        thread = threading.Thread(target=partial(server.run, sockets=[listener]), daemon=True)
        thread.start()
        try:
            thread.join()
        finally:
            server.should_exit = True
            for task in [*following]:
                with suppress(RuntimeError):  # the server has ended already
                    task.get_loop().call_soon_threadsafe(task.cancel)
            thread.join(timeout=5)
            threads.end()
