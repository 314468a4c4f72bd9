"""Exported folders on the Hugging Face hub: fetching them without anything that could run, and sending them there."""

from __future__ import annotations

import re
from pathlib import Path

from coprs_lightning.commands import CommandError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = ["*.yaml", "*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.md"]


def is_hub_id(text: str) -> bool:
    """Whether a text could be ``owner/name``."""
    return _HUB_ID.fullmatch(text) is not None and not text.endswith((".ckpt", ".pt", ".pth", ".safetensors"))


def fetch(hub_id: str) -> Path:
    """Download an exported folder, or find it where it was downloaded before.

    Only configuration, tokenizer and safetensors files are fetched: no pickles, no code.

    Raises:
        CommandError: where it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CommandError(
            f"there is no folder or file {hub_id}, and the Hugging Face hub gives no model of that name "
            f"({_first_line(error)}). Check the path, or the id, your connection and `hf auth login`."
        ) from error


def check_hub_id(hub_id: str) -> None:
    """Refuse what cannot be a repository's id, before any work is done.

    Raises:
        CommandError: telling the form.
    """
    if not is_hub_id(hub_id):
        raise CommandError(f"--push-to-hub {hub_id!r} is no id of a repository. Give it as owner/name.")


def check_login() -> None:
    """Refuse to push without a token, before any work is done.

    Raises:
        CommandError: telling how to log in.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise CommandError(
            "--push-to-hub: you are not logged in to the Hugging Face hub, so nothing could be sent. Run "
            "`hf auth login`, or set HF_TOKEN; or leave --push-to-hub out and upload the folder later."
        )


def push(folder: Path, hub_id: str) -> str:
    """Upload an exported folder to a private repository, made where it is missing.

    Returns:
        the address of the commit.

    Raises:
        CommandError: where the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(hub_id, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message="Export from coprs_lightning"))
    except (HfHubHTTPError, OSError) as error:
        raise CommandError(
            f"--push-to-hub {hub_id}: the hub did not take it ({_first_line(error)}). The folder {folder} is complete: "
            f"try again with `hf upload {hub_id} {folder}`."
        ) from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
