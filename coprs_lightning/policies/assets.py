"""What rebuilds a policy without its source: configuration, tokenizer and processor as text files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any


def policy_assets(processor: Any, lm: Any) -> dict[str, str]:
    """The files of a public checkpoint but its weights, by name.

    Args:
        processor: with the tokenizer as it is now, the concentration token in it.
        lm: a transformers model; its configuration tells the vocabulary and the overrides that it was built with.
    """
    with tempfile.TemporaryDirectory(prefix="coprs-policy-") as name:
        folder = Path(name)
        processor.save_pretrained(folder)
        lm.config.architectures = [type(lm).__name__]  # a model that was built from a configuration alone has none
        lm.config.save_pretrained(folder)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files}
