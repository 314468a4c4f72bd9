"""Tokens with a meaning of their own: the concentration token, the end of a turn, placeholders of images."""

from __future__ import annotations

import json
import re
from typing import Any

import torch
from torch import Tensor, nn

from coprs_lightning.prompts import CONCENTRATION_TOKEN

_PLACEHOLDER = re.compile(r"<row_\d+_col_\d+>")
"""Tiles of Idefics3 and SmolVLM, which their processors name nowhere."""


def register_concentration_token(lm: Any, tokenizer: Any, *, trained: bool = False) -> int:
    """Put the concentration token into a tokenizer and see that the model has a row for it.

    A checkpoint that has the token keeps its id and row. A new one takes the first id after the vocabulary: padded
    embeddings (public models have more rows than tokens) have that row already, others grow up to it.

    Args:
        lm: transformers model.
        tokenizer: its tokenizer.
        trained: the weights have been trained, so a new token starts from the mean of the others' rows. Rows that no
            token has used hold what training left there, often nothing or a tiny number, and those that are added hold
            noise; by the mean the token is read as a word in general, and predicted without taking much from any other.
            Among random weights its row is one of them.

    Returns:
        the id that the tokenizer gives it.

    Raises:
        ValueError: when the only id to be had belongs to another token.
    """
    new = CONCENTRATION_TOKEN not in tokenizer.get_vocab()
    if new:
        _fill_hole(tokenizer)
    tokenizer.add_tokens([CONCENTRATION_TOKEN], special_tokens=True)
    token_id = int(tokenizer.convert_tokens_to_ids(CONCENTRATION_TOKEN))
    others = [token for token, i in tokenizer.get_vocab().items() if i == token_id and token != CONCENTRATION_TOKEN]
    if others:
        raise ValueError(
            f"the tokenizer gives {CONCENTRATION_TOKEN} the id {token_id}, which is {others[0]!r} already: both would "
            f"share a row. Add {CONCENTRATION_TOKEN} to the checkpoint's tokenizer.json with an id of its own."
        )
    embedding: nn.Embedding = lm.get_input_embeddings()
    if token_id >= embedding.num_embeddings:
        lm.resize_token_embeddings(token_id + 1, mean_resizing=False)
        new = True  # a tokenizer may have the token without a row of the model
    if new and trained:
        ids = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - {token_id}))
        for layer in (lm.get_input_embeddings(), lm.get_output_embeddings()):
            _set_to_mean(layer.weight, token_id, ids)
    return token_id


@torch.no_grad()
def _set_to_mean(rows: Tensor, row: int, others: Tensor) -> None:
    """Set a row to the mean of others, of which a few are in memory at a time; nothing where there are no values."""
    if rows.is_meta:
        return
    others = others[others < len(rows)]
    parts = [rows[part].sum(0, dtype=torch.float32) for part in others.split(8192)]
    rows[row] = (torch.stack(parts).sum(0) / len(others)).to(rows.dtype)


def _fill_hole(tokenizer: Any) -> None:
    """Give the concentration token a free id where the library would give it one that is taken.

    Ids of added tokens follow the *number* of tokens, so in a vocabulary with holes the next one can be in use.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    used = set(tokenizer.get_vocab().values())
    words = backend.get_vocab_size(with_added_tokens=False)
    added = max(tokenizer.added_tokens_decoder, default=-1)
    following = added + 1 if added >= words else words
    if following not in used:
        return
    described = json.loads(backend.to_str())
    vocabulary = described["model"].get("vocab")
    if isinstance(vocabulary, dict):
        # the other added tokens likewise: their ids would be counted anew
        vocabulary.update({token.content: i for i, token in tokenizer.added_tokens_decoder.items()})
        vocabulary[CONCENTRATION_TOKEN] = min(set(range(max(used) + 2)) - used)
        tokenizer._tokenizer = type(backend).from_str(json.dumps(described))


def turn_end(processor: Any) -> int:
    """Id that ends the assistant's turn, as the chat template writes it; the end of text where it writes none.

    Raises:
        ValueError: for a checkpoint without a chat template, or with one that leaves images out.
    """
    name = type(processor).__name__
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"the checkpoint's {name} has no chat template, so it is unknown how its model was asked. Take an "
            "instruction-tuned checkpoint, or put its chat_template.jinja into the folder."
        )
    answer = "ANSWER"
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "question"}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    text = str(processor.apply_chat_template(messages, tokenize=False))
    if processor.image_token not in text:
        raise ValueError(
            f"the chat template of the checkpoint's {name} leaves the image out: it writes {text!r}, without "
            f"{processor.image_token!r}. Replace chat_template.jinja by one for images."
        )
    rest = text.rpartition(answer)[2].lstrip()
    tokenizer = processor.tokenizer
    ends = [
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special and rest.startswith(token.content)
    ]
    return int(ends[0] if ends else tokenizer.eos_token_id)


def forbidden_ids(processor: Any, rows: int, image_id: int, allowed: set[int]) -> list[int]:
    """Ids that a completion may never hold: image and video placeholders, chat markers, rows without a token.

    Args:
        processor: of the model.
        rows: number of rows of the model's embedding.
        image_id: what stands for images in prompts.
        allowed: special tokens that it may hold.
    """
    tokenizer = processor.tokenizer
    unused = set(range(rows)) - set(tokenizer.get_vocab().values())
    special = set(tokenizer.convert_tokens_to_ids(special_tokens(processor)))
    return sorted((unused | special | {image_id}) - allowed)


def special_tokens(processor: Any) -> list[str]:
    """Tokens that nobody is to type: the tokenizer's special ones and :func:`placeholders`."""
    special = [token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special]
    return special + placeholders(processor)


def placeholders(processor: Any) -> list[str]:
    """Tokens that stand for images and videos or mark their parts, special in the tokenizer or not."""
    vocabulary = processor.tokenizer.get_vocab()
    named = {value for name, value in vars(processor).items() if name.endswith("_token") and isinstance(value, str)}
    ends = {processor.tokenizer.eos_token, getattr(processor, "end_of_utterance_token", None)}
    tiles = {token for token in vocabulary if _PLACEHOLDER.fullmatch(token)}
    return sorted((named & set(vocabulary) - ends) | tiles)
