"""Serving the page: on this machine only unless asked otherwise, telling nobody, keeping nothing."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coprs_lightning.commands import CommandError

if TYPE_CHECKING:
    from coprs_lightning.model import CoprsModel

_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONOSPACE = ["ui-monospace", "Consolas", "monospace"]


@dataclass(frozen=True)
class DemoOptions:
    """How the page is served.

    Attributes:
        host: address to listen on; 127.0.0.1 is this machine alone.
        port: 0 takes a free one.
        max_upload: largest image file in bytes.
        max_pixels: largest image in pixels.
        max_new_tokens: longest completion; ``None`` takes the model's.
        share: open a public tunnel of Gradio's to the page.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    max_upload: int = 10 * 2**20
    max_pixels: int = 25_000_000
    max_new_tokens: int | None = None
    share: bool = False


@dataclass(frozen=True)
class Running:
    """A page that is being served.

    Attributes:
        url: where.
        public_url: the tunnel's, ``None`` without one.
        folder: where uploads are; gone afterwards.
    """

    url: str
    public_url: str | None
    folder: Path


@contextmanager
def serving(
    model: CoprsModel, options: DemoOptions, *, name: str, examples: Sequence[tuple[Path, str]] = ()
) -> Iterator[Running]:
    """Serve the page until the context ends.

    Args:
        model: a trained model.
        options: how.
        name: what the page calls the model.
        examples: images and questions to choose from.

    Raises:
        CommandError: where Gradio is missing, or the port cannot be had.
    """
    check_installed()
    port = _free_port(options.host, options.port)
    with tempfile.TemporaryDirectory(prefix="coprs-demo-") as temporary, _environment(temporary):
        from starlette.middleware import Middleware

        from coprs_lightning.demo.guard import Guard
        from coprs_lightning.demo.page import CSS, build

        copies = [
            (_copy(file, Path(temporary) / "examples", number), text) for number, (file, text) in enumerate(examples)
        ]
        page = build(
            model,
            name=name,
            examples=copies,
            uploads=Path(temporary),
            max_pixels=options.max_pixels,
            max_new_tokens=options.max_new_tokens,
        )
        try:
            _, url, public_url = page.launch(
                server_name=options.host,
                server_port=port,
                share=options.share,
                max_file_size=options.max_upload,
                app_kwargs={"middleware": [Middleware(Guard, max_upload=options.max_upload)], "openapi_url": None},
                theme=_theme(),
                css=CSS,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                quiet=True,
                inbrowser=False,
                prevent_thread_lock=True,
                show_error=False,
            )
            yield Running(url, public_url, Path(temporary))
        finally:
            page.close(verbose=False)


def check_installed() -> None:
    """Refuse to go on without Gradio.

    Raises:
        CommandError: telling how to install it.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise CommandError(
            f"`coprs demo` needs Gradio, which is not installed ({error}). Run: pip install 'coprs_lightning[demo]'"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Gradio's settings that only the environment has: no telemetry, and uploads in a folder of our own."""
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_DISABLE_TELEMETRY": "1"}
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _theme() -> Any:
    """Gradio's plain theme with the fonts that a machine has: its own would come from Google."""
    import gradio as gr

    return gr.themes.Default(font=_FONTS, font_mono=_MONOSPACE)


def _free_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0.

    Raises:
        CommandError: where it cannot be listened on.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise CommandError(
            f"cannot listen on {host}:{port} ({error.strerror}). Name another --port (0 takes a free one) or --host."
        ) from error


def _copy(file: Path, folder: Path, number: int) -> Path:
    """The pixels of an example, without what else is in its file, where Gradio may read."""
    from PIL import Image

    from coprs_lightning.images import read_image

    folder.mkdir(exist_ok=True)
    target = folder / f"{number}-{file.stem}.png"
    Image.fromarray(read_image(file)).save(target)
    return target
