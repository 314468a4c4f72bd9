import pytest

from coprs_lightning.explain.words import parts_of, texts_of
from tests.parts import small_policy


@pytest.fixture(scope="module")
def policy():
    return small_policy()


@pytest.mark.parametrize(
    "text",
    [
        "<think> look for: red square, left. </think> <REF_POS>",
        "naïve 犬 and 🐕‍🦺 \n\n  indented<REF_POS><REF_POS>",
        "",
    ],
)
def test_pieces_join_to_the_text(policy, text):
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = texts_of(policy, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text == policy.tokenizer.decode(ids)


def test_characters_of_several_tokens_are_whole(policy):
    ids = policy.tokenizer("a 犬", add_special_tokens=False)["input_ids"]
    pieces = texts_of(policy, ids)
    assert len(ids) > 3
    assert pieces.count("") > 0
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_bytes_that_are_no_character_end_somewhere(policy):
    broken = policy.tokenizer("犬", add_special_tokens=False)["input_ids"][:1]
    assert len(texts_of(policy, broken * 20)) == 20


def test_parts_are_those_of_the_completion():
    texts = ["<think>", " red", " ", " car", ".", "</think>", " here", "<REF_POS>", "<|im_end|>"]
    thought = ["thought", "other", "thought", "thought"]
    assert parts_of(texts) == ["other", *thought, "other", "other", "concentration", "other"]
    assert parts_of(["red", "<REF_POS>"]) == ["other", "concentration"]
    assert parts_of(["</think>", "x", "<think>", "y"]) == ["other"] * 4


def test_tags_may_be_several_tokens():
    texts = ["<", "think", "> red", " dog </", "think", ">"]
    assert parts_of(texts)[3] == "thought"
    assert parts_of(texts)[:2] == ["other", "other"]
    assert parts_of(texts)[4:] == ["other", "other"]
