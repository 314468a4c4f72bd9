import re

from coprs_lightning.explain.explanation import OTHER_THOUGHT
from coprs_lightning.explain.page import page
from coprs_lightning.explain.words import Word
from tests.explain.build import explanation, reading, square


def test_it_needs_nothing_beside_itself():
    text = page(explanation(), [("checkpoint", "run/last.ckpt")])
    assert not re.search(r"https?:|//|<script|<link|@import", re.sub(r"base64,[^\"]*", "", text))
    assert set(re.findall(r'src="([^,]*),', text)) == {"data:image/jpeg;base64"}
    assert text.count("<img") == 4
    assert "checkpoint: run/last.ckpt" in text


def test_whatever_was_written_is_text():
    evil = "<script>alert(1)</script>\"'&"
    found = page(
        explanation(
            question=evil,
            words=[Word(evil, 1, "thought", 0.5, 1.0, 0.1, 0.2)],
            prompt=[Word(evil, 1, "prompt", gradient=0.1)],
            counterfactuals=[reading(OTHER_THOUGHT, completion=evil, iou=0.5)],
        ),
        [("image", evil)],
    )
    assert "<script" not in found
    assert found.count("&lt;script&gt;") >= 6


def test_words_have_shade_bars_and_numbers():
    words = [Word(" red", 1, "thought", 0.25, 1.5, -0.5, 0.2), Word("\n", 2, "thought", 1.0, 0.0, 0.25, 0.0)]
    text = page(explanation(words=words))
    assert "background:rgba(230,120,0,0.56)" in text
    assert 'title="probability 0.250, entropy 1.50, gradient -0.5, left out +0.200"' in text
    assert "height:8.0px;background:rgb(213,94,0)" in text  # against, the strongest
    assert "height:4.0px;background:rgb(0,114,178)" in text
    assert "into the mask" in text


def test_the_table_has_the_target_s_columns_only_with_one():
    other = reading(OTHER_THOUGHT, iou=0.123, iou_target=0.456, before_iou_target=0.3, inside_target=0.789)
    without = page(explanation(counterfactuals=[other]))
    assert "0.123" in without
    assert "0.456" not in without.partition("In numbers")[2]
    text = page(explanation(counterfactuals=[other], target=square(8, 0, 2))).partition("In numbers")[2]
    assert "0.456" in text
    assert "78.9" in text
