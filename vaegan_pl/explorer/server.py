"""Serves the page, by default to this machine only, without loading anything from other servers."""

import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from vaegan_pl.errors import UserError
from vaegan_pl.explorer.page import CSS, MOST_BYTES, MOST_VISITORS

POLICY = b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; frame-ancestors 'self'"
"""Content security policy: the browser may only load what this server sends."""

OWN_NAMES = ("127.0.0.1", "localhost")
"""Names of this machine. Requests for any other name are rejected, which prevents DNS rebinding."""

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class OwnContentOnly:
    """Middleware that forbids browsers to load anything from elsewhere, even if a model card asks for it."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        """Add the policy to the headers of a response."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, with_policy)


def serve(blocks: gr.Blocks, host: str, port: int | None, browser: bool) -> str:
    """Start the server; `blocks.close()` stops it.

    Args:
        blocks: the page.
        host: the address to listen on.
        port: the port; None takes the first free one from 7860 on.
        browser: whether to open the page in the user's browser.

    Returns:
        The address of the page.

    Raises:
        UserError: if the port is in use, or the address does not belong to this machine.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own address whether it is there
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), *OWN_NAMES, host)))
    middleware = [Middleware(OwnContentOnly)]
    if host in OWN_NAMES:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(OWN_NAMES)))
    blocks.queue(default_concurrency_limit=2)
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MOST_BYTES,
            state_session_capacity=MOST_VISITORS,
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            app_kwargs={"middleware": middleware, "docs_url": None, "redoc_url": None},
            css=CSS,
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )
    except OSError as error:
        raise UserError(
            f"host={host} port={port}: cannot listen there; use another port, or port=null for the first free one"
        ) from error
    return str(url)
