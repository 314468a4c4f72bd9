"""Unfamiliar facts stay unfamiliar: no written thought and no known fact holds them."""

from __future__ import annotations

from itertools import chain

import pytest
from transformers import AutoTokenizer

from coprs_lightning.policies.loading import SHIPPED
from datamodules.synthetic import words
from datamodules.synthetic.facts import (
    COLOUR_FACTS,
    FORM_FACTS,
    UNFAMILIAR_COLOUR_FACTS,
    UNFAMILIAR_FORM_FACTS,
    bare,
)
from datamodules.synthetic.words import ANY_FORM, COLOURS, FORMS, PLACES, SIZES

UNFAMILIAR = [*chain(*UNFAMILIAR_COLOUR_FACTS.values(), *UNFAMILIAR_FORM_FACTS.values())]
KNOWN = [*chain(*COLOUR_FACTS.values(), *FORM_FACTS.values())]


def test_every_colour_and_form_has_two_of_them() -> None:
    assert tuple(UNFAMILIAR_COLOUR_FACTS) == COLOURS
    assert tuple(UNFAMILIAR_FORM_FACTS) == FORMS
    tables = (UNFAMILIAR_COLOUR_FACTS, UNFAMILIAR_FORM_FACTS)
    assert {len(facts) for table in tables for facts in table.values()} == {2}
    assert len(set(UNFAMILIAR)) == len(UNFAMILIAR) == 26


@pytest.mark.parametrize("fact", UNFAMILIAR)
def test_no_known_fact_is_or_contains_one(fact: str) -> None:
    assert not [known for known in KNOWN if bare(fact) in known]


@pytest.mark.parametrize("fact", UNFAMILIAR)
def test_none_says_what_it_means(fact: str) -> None:
    assert not [word for word in (*COLOURS, *FORMS, ANY_FORM) if word in fact]
    assert not {*SIZES, *PLACES} & set(words(fact))


@pytest.mark.parametrize("fact", UNFAMILIAR)
def test_it_has_a_known_word_of_its_meaning_in_unknown_company(fact: str) -> None:
    unfamiliar = {**UNFAMILIAR_COLOUR_FACTS, **UNFAMILIAR_FORM_FACTS}
    known = {**COLOUR_FACTS, **FORM_FACTS}
    (meaning,) = (meaning for meaning, facts in unfamiliar.items() if fact in facts)
    filling = {"a", "an", "the", "of", "on"}
    taught = {word for text in known[meaning] for word in words(text)} - filling
    assert taught & set(words(fact))
    assert set(words(fact)) - taught - filling


def test_the_shipped_tokenizer_reads_them_and_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "small_qwen2_5_vl")
    for fact in UNFAMILIAR:
        text = f"Which shape looks like {fact}?"
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
