"""The shipped small model: its tokenizer, its chat template, and that it can be built again."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoProcessor

from coprs_lightning.policies.build_small import MARKUP, SPECIAL, build, train_tokenizer
from coprs_lightning.policies.loading import SHIPPED

FOLDER = SHIPPED / "small_qwen2_5_vl"
WORDS = (SHIPPED / "words.txt").read_text(encoding="utf-8").split()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(FOLDER)


def test_building_again_gives_the_shipped_files(tmp_path: Path):
    build(tmp_path)
    shipped = sorted(path.name for path in FOLDER.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == shipped
    assert "tokenizer.json" in shipped
    assert (tmp_path / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
    assert (tmp_path / "chat_template.jinja").read_bytes() == (FOLDER / "chat_template.jinja").read_bytes()
    built, kept = (AutoConfig.from_pretrained(folder).to_dict() for folder in (tmp_path, FOLDER))
    for config in (built, kept):
        config.pop("_name_or_path")
        config.pop("transformers_version")
    assert built == kept


def test_every_word_is_one_token_after_a_space_or_not(processor):
    assert len(WORDS) > 100
    for word in WORDS:
        for text in (word, f" {word}"):
            # a hyphen belongs to no word
            pieces = 3 if "-" in word.strip("-") else 1
            assert len(processor.tokenizer(text)["input_ids"]) == pieces, text


def test_training_is_by_word_only():
    vocab, merges = train_tokenizer(["left", "leftmost"])
    assert {"left", "Ġleft", "leftmost", "Ġleftmost"} <= set(vocab)
    assert all(left + right in vocab for left, right in merges)
    assert len(vocab) == 256 + len(merges)


@pytest.mark.parametrize(
    "text", ["a zebra 🦓 crosses", "Größe: 12,5 cm\n\tend", "漢字 and ñ", "  two  spaces ", "<think>x</think>"]
)
def test_any_text_comes_back(processor, text):
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_markers_are_one_token_each_and_only_chat_markers_are_special(processor):
    tokenizer = processor.tokenizer
    for token in [*SPECIAL, *MARKUP]:
        assert tokenizer(token)["input_ids"] == [tokenizer.convert_tokens_to_ids(token)]
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    assert special == set(SPECIAL)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_configuration_fits_the_tokenizer(processor):
    config, tokenizer = AutoConfig.from_pretrained(FOLDER), processor.tokenizer
    text = config.get_text_config()
    assert text.vocab_size % 64 == 0
    assert text.vocab_size > len(tokenizer)  # room for the concentration token
    assert (text.eos_token_id, text.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>") == processor.image_token_id
    assert config.vision_start_token_id == tokenizer.convert_tokens_to_ids("<|vision_start|>")
    assert config.vision_config.patch_size == processor.image_processor.patch_size
    assert config.vision_config.spatial_merge_size == processor.image_processor.merge_size
    assert config.vision_config.out_hidden_size == text.hidden_size
    assert 2 * sum(text.rope_parameters["mrope_section"]) == text.hidden_size // text.num_attention_heads


@pytest.mark.parametrize("as_parts", [False, True])
def test_the_chat_template(processor, as_parts):
    def content(text: str) -> object:
        return [{"type": "text", "text": text}] if as_parts else text

    messages = [
        {"role": "system", "content": content("be kind")},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "line one\nline two "}]},
        {"role": "assistant", "content": content("<think> so </think>")},
    ]
    expected = (
        "<|im_start|>system\nbe kind<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>line one\nline two <|im_end|>\n"
        "<|im_start|>assistant\n<think> so </think><|im_end|>\n"
    )
    assert processor.apply_chat_template(messages, tokenize=False) == expected
    prompt = processor.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == expected.split("<think>")[0]
