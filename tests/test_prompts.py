"""Prompt templates and taking completions apart."""

from __future__ import annotations

import pytest

from coprs_lightning.prompts import (
    CONCENTRATION_TOKEN,
    PAPER_PROMPT,
    PromptTemplate,
    leave_out,
    parse_completion,
    spell_out,
)

TOKENS = ["<|im_end|>", "<|image_pad|>", "<REF_POS>", "</s>", "[PAD]"]
NASTY = [
    "<|im_end|>",
    "<<REF_POS>>",
    "<REF_<REF_POS>POS>",
    "<|<|image_pad|>|>",
    "<|im_<|image_pad|>end|>",
    "[[PAD]PAD]",
    "<|image_pad|><|image_pad|>",
    "<</s>/s>",
]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("clean", [spell_out, leave_out])
def test_no_token_is_left_however_it_is_nested(clean, text):
    cleaned = clean(f"the {text} cat", TOKENS)
    assert not any(token in cleaned for token in TOKENS)
    assert cleaned.startswith("the ")
    assert cleaned.endswith(" cat")


def test_tokens_are_spelled_as_words_or_left_out():
    assert spell_out("a <|im_end|> b", TOKENS) == "a im_end b"
    assert leave_out("a <|im_end|> b", TOKENS) == "a  b"
    assert spell_out("a < b > c | d", TOKENS) == "a < b > c | d"


def test_the_papers_prompt():
    assert PromptTemplate() == PAPER_PROMPT
    assert PAPER_PROMPT.system == "You are a helpful assistant."
    text = PAPER_PROMPT.render_user("the left cat")
    assert text.startswith("Please find 'the left cat' in the image.\n")
    assert text.endswith("Here is the reference position: <REF_POS>")
    assert text.count(CONCENTRATION_TOKEN) == 2


def test_a_question_cannot_add_a_concentration_token():
    plain = PAPER_PROMPT.render_user("cat")
    for question in ["<REF_POS>", "<<REF_POS>>", "<REF_<REF_POS>POS>"]:
        assert PAPER_PROMPT.render_user(question).count(CONCENTRATION_TOKEN) == plain.count(CONCENTRATION_TOKEN)


def test_placeholders_in_a_question_or_thought_are_text():
    template = PromptTemplate(user="{question}!")
    assert template.render_user("{question}{thought}") == "{question}{thought}!"
    assert "{question}{thought}" in template.render_completion("{question}{thought}")


@pytest.mark.parametrize(
    "thought",
    ["it is red", "two\nlines\n\n here", "<REF_POS> early", "<think>tagged already</think>", "<think>", "a </think> b",
     "<thi<think>nk> x", "<REF_<REF_POS>POS> y", "<<think>think> z"],
)  # fmt: skip
def test_every_thought_gives_a_well_formed_completion(thought):
    completion = PAPER_PROMPT.render_completion(thought + " end")
    parsed = parse_completion(completion)
    assert parsed.well_formed
    assert parsed.thought.endswith("end")
    assert parsed.answer == "Here is the reference position:"
    assert "\n" not in parsed.thought


def test_a_thought_comes_back():
    assert parse_completion(PAPER_PROMPT.render_completion("  it is\tred ")).thought == "it is red"


def test_a_prompt_without_a_question_is_refused():
    with pytest.raises(ValueError, match=r"prompt\.user has no '\{question\}' \('find it'\)"):
        PromptTemplate(user="find it")


@pytest.mark.parametrize("completion", ["<REF_POS>", "{thought}", "{thought} <REF_POS> <REF_POS>"])
def test_a_completion_without_thought_or_with_another_number_of_tokens_is_refused(completion):
    with pytest.raises(ValueError, match=r"prompt\.completion must hold '\{thought\}' and exactly one <REF_POS>"):
        PromptTemplate(completion=completion)


@pytest.mark.parametrize(
    ("text", "thought", "answer", "count", "well_formed"),
    [
        ("<think> red </think>\nHere: <REF_POS>", "red", "Here:", 1, True),
        ("<think>a\nb</think><REF_POS> more", "a\nb", "", 1, True),
        ("said before <think>a</think><REF_POS>", "a", "", 1, True),
        ("<think> </think> <REF_POS>", "", "", 1, False),
        ("<think>a</think> here", "a", "here", 0, False),
        ("<think>a</think> <REF_POS><REF_POS>", "a", "", 2, False),
        ("<think>a <REF_POS></think> b", "a <REF_POS>", "b", 1, False),
        ("<REF_POS> <think>a</think> b", "a", "b", 1, False),
        ("<think>a</think><think>b</think><REF_POS>", "b", "", 1, False),
        ("<think>a<think>b</think><REF_POS>", "a<think>b", "", 1, False),
        ("</think><think><REF_POS>", "", "</think><think>", 1, False),
        ("a red cat <REF_POS>", "", "a red cat", 1, False),
        ("", "", "", 0, False),
    ],
)
def test_completions_are_taken_apart(text, thought, answer, count, well_formed):
    parsed = parse_completion(text)
    assert (parsed.thought, parsed.answer, parsed.num_tokens, parsed.well_formed) == (
        thought,
        answer,
        count,
        well_formed,
    )
