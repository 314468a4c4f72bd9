"""Prompt templates and taking completions apart."""

from __future__ import annotations

import pytest

from coprs_lightning.prompts import (
    CONCENTRATION_TOKEN,
    PAPER_PROMPT,
    PromptTemplate,
    leave_out,
    parse_completion,
    several_prompt,
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


@pytest.mark.parametrize("completion", ["", "{thought}", "{thought} <REF_POS> <REF_POS>"])
def test_a_completion_with_another_number_of_tokens_is_refused(completion):
    with pytest.raises(ValueError, match=r"prompt\.completion must hold exactly one <REF_POS>"):
        PromptTemplate(completion=completion)


@pytest.mark.parametrize("completion", ["<think> </think> <REF_POS>", "<think> it is red </think> <REF_POS>"])
def test_a_completion_with_the_same_thought_every_time_is_refused(completion):
    with pytest.raises(ValueError, match=r"has think tags and no '\{thought\}' .*: every thought would be the same"):
        PromptTemplate(completion=completion)


def test_a_completion_without_a_thought_is_taught_without_one():
    assert PromptTemplate(completion="<REF_POS>").render_completion("it is red") == "<REF_POS>"


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


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_prompt_for_several_objects_asks_for_and_teaches_as_many_tokens(count):
    template = several_prompt(count)
    assert template == PromptTemplate(num_tokens=count)
    asked = template.render_user("the cats")
    assert asked.startswith("Please find 'the cats' in the image")
    assert asked.count(CONCENTRATION_TOKEN) == 2 * count
    assert f"exactly {count} reference position tokens" in asked
    assert "none" in asked
    taught = template.render_completion("there are <REF_POS> two")
    assert taught.endswith(CONCENTRATION_TOKEN * count)
    parsed = parse_completion(taught, count)
    assert parsed.well_formed
    assert (parsed.thought, parsed.answer) == ("there are two", f"Here are the {count} reference positions:")
    assert not parse_completion(taught, count - 1).well_formed
    assert not parse_completion(taught, count + 1).well_formed
    assert "{" not in asked + taught


def test_own_texts_are_kept_and_filled_in():
    template = PromptTemplate(user="{question}?", completion="<think> {thought} </think> {tokens}.", num_tokens=2)
    assert template.render_user("cats and {tokens}") == "cats and {tokens}?"
    assert template.render_completion("{num_tokens}") == "<think> {num_tokens} </think> <REF_POS><REF_POS>."
    spelled = PromptTemplate(completion="{thought} <REF_POS> and <REF_POS>", num_tokens=2)
    assert spelled.render_completion("a") == "a <REF_POS> and <REF_POS>"


def test_several_texts_for_one_token_are_fine():
    template = PromptTemplate(completion=several_prompt(3).completion)
    assert parse_completion(template.render_completion("a")).well_formed


def test_another_number_of_tokens_than_promised_is_refused():
    with pytest.raises(ValueError, match=r"'\{tokens\}' or exactly 3 <REF_POS> \(prompt\.num_tokens is 3\), got"):
        PromptTemplate(completion="<think> {thought} </think> <REF_POS>", num_tokens=3)
    with pytest.raises(ValueError, match=r"prompt\.num_tokens must be ≥ 1, got 0"):
        PromptTemplate(num_tokens=0)


@pytest.mark.parametrize(
    ("text", "count", "well_formed"),
    [
        ("<think>a</think> <REF_POS> <REF_POS>", 2, True),
        ("<think>a</think> one <REF_POS> two <REF_POS> end", 2, True),
        ("<think>a</think> <REF_POS>", 2, False),
        ("<think>a <REF_POS></think> <REF_POS>", 2, False),
        ("<REF_POS><think>a</think> <REF_POS>", 2, False),
        ("<think>a</think> <REF_POS><REF_POS><REF_POS>", 2, False),
        ("<think></think> <REF_POS><REF_POS>", 2, False),
    ],
)
def test_well_formed_for_several_tokens(text, count, well_formed):
    assert parse_completion(text, count).well_formed is well_formed
