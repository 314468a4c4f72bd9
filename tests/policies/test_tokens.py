"""The concentration token gets a row of its own in any vocabulary; ends of turns come from chat templates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from coprs_lightning.policies import HFPolicy
from coprs_lightning.policies.tokens import placeholders, register_concentration_token, turn_end
from tests.parts import SIZES, photos, small_policy
from tests.policies.families import save_family
from tests.policies.passes import save_checkpoint


def with_tokenizer(folder: Path, change: object) -> Path:
    """A checkpoint whose ``tokenizer.json`` is changed by a function of its content."""
    policy = small_policy()
    tokenizer = AutoTokenizer.from_pretrained(policy.tokenizer.name_or_path)  # without the concentration token
    policy.processor.tokenizer = tokenizer
    save_checkpoint(folder, policy.lm, policy.processor)
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text())
    change(described)  # type: ignore[operator]
    file.write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize("holes", [1, 3])
def test_a_vocabulary_with_holes_gives_the_token_a_row_of_its_own(tmp_path: Path, holes: int) -> None:
    """The library numbers added tokens by the count of tokens, which is an id in use where ids have holes."""

    def change(described: dict) -> None:
        words, last = described["model"]["vocab"], max(described["model"]["vocab"].values())
        for number in range(holes):  # words move to where the next added tokens would come
            word = next(word for word, i in words.items() if i == last - 5 - number)
            words[word] = last + len(described["added_tokens"]) + 1 + number

    folder = with_tokenizer(tmp_path, change)
    before = AutoTokenizer.from_pretrained(folder).get_vocab()
    policy = HFPolicy(model=str(folder)).eval()
    token_id = policy.concentration_id
    assert token_id not in before.values()
    assert token_id < policy.lm.get_input_embeddings().num_embeddings
    assert {token: i for token, i in policy.tokenizer.get_vocab().items() if token != "<REF_POS>"} == before
    assert policy.tokenizer("a <REF_POS> b")["input_ids"].count(token_id) == 1
    assert policy.tokenizer.decode([token_id]) == "<REF_POS>"
    saved = tmp_path / "saved"
    save_checkpoint(saved, policy.lm, policy.processor)
    assert HFPolicy(model=str(saved)).concentration_id == token_id


def test_a_hole_is_filled_where_the_next_id_is_taken() -> None:
    """Words alone, as in a tokenizer without special tokens: the count of words is the id of one of them."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {chr(97 + i): i for i in range(10) if i != 3}  # 9 words, ids up to 9
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=words, merges=[])))
    policy = small_policy()
    assert register_concentration_token(policy.lm, tokenizer) == 3
    assert tokenizer("j")["input_ids"] == [9]
    assert tokenizer("<REF_POS>j")["input_ids"] == [3, 9]
    assert tokenizer.convert_ids_to_tokens([3, 9]) == ["<REF_POS>", "j"]
    assert register_concentration_token(policy.lm, tokenizer) == 3


def test_an_id_that_belongs_to_another_token_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = [("<unk>", 0.0), ("a", -1.0), ("b", -1.0)]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(words, unk_id=0)))
    broken = type("Broken", (PreTrainedTokenizerFast,), {"get_vocab": lambda self: {**words_of(self), "shadow": 3}})
    tokenizer.__class__ = broken
    with pytest.raises(ValueError, match=r"gives <REF_POS> the id 3, which is 'shadow' already.*tokenizer\.json"):
        register_concentration_token(small_policy().lm, tokenizer)


def words_of(tokenizer: object) -> dict[str, int]:
    return dict(tokenizer.backend_tokenizer.get_vocab())  # type: ignore[attr-defined]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [True, False])
def test_input_and_output_rows_are_those_of_the_id_and_come_back(tmp_path: Path, tied: bool, spare: bool) -> None:
    rows = {"vocab_size": 1408 if spare else 1374}
    sizes = {**SIZES, "text_config": {**SIZES["text_config"], **rows}, "tie_word_embeddings": tied}
    first = small_policy(config_overrides=sizes)
    images, words = photos((40, 60)), ["the red one"]
    with torch.no_grad():
        first.lm.get_input_embeddings().weight[first.concentration_id] = 0.25
        first.lm.get_output_embeddings().weight[first.concentration_id] = 0.5
    again = HFPolicy(model=str(save_checkpoint(tmp_path, first.lm, first.processor))).eval()
    assert again.concentration_id == first.concentration_id
    assert (again.lm.lm_head.weight is again.lm.get_input_embeddings().weight) == tied
    read, predicted = (again.lm.get_input_embeddings().weight, again.lm.get_output_embeddings().weight)
    assert read[again.concentration_id].unique().tolist() == [0.5 if tied else 0.25]
    assert predicted[again.concentration_id].unique().tolist() == [0.5]
    prompts, written = again.encode_prompts(images, words), again.encode_completions(words)
    with torch.no_grad():
        output = again(prompts, written)
        row = again.completion_logits(output)[..., again.concentration_id]
    expected = output.hidden[:, output.prompt_length - 1 : -1].sum(-1) / 2
    torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm"])  # tied, untied, without spare rows
def test_a_token_that_is_new_to_trained_weights_starts_from_the_mean_of_the_others(family: str, tmp_path: Path) -> None:
    folder = save_family(family, tmp_path)
    before = AutoModelForImageTextToText.from_pretrained(folder)
    policy = HFPolicy(model=str(folder))
    ids = sorted(set(policy.tokenizer.get_vocab().values()) - {policy.concentration_id})
    layers = [(model.get_input_embeddings(), model.get_output_embeddings()) for model in (before, policy.lm)]
    for old, new in zip(*layers, strict=True):
        torch.testing.assert_close(new.weight[policy.concentration_id], old.weight[ids].mean(0), atol=1e-6, rtol=1e-5)
        others = torch.arange(len(old.weight)) != policy.concentration_id
        assert torch.equal(new.weight[: len(old.weight)][others], old.weight[others])


def test_a_token_without_a_row_starts_from_the_mean_too(tmp_path: Path) -> None:
    folder = save_family("smolvlm", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<REF_POS>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    policy = HFPolicy(model=str(folder))
    rows = policy.lm.get_input_embeddings().weight
    assert policy.concentration_id == len(rows) - 1
    torch.testing.assert_close(rows[-1], rows[:-1].mean(0), atol=1e-6, rtol=1e-5)


def test_among_random_weights_its_row_is_one_of_them() -> None:
    policy = small_policy()
    rows = policy.lm.get_input_embeddings().weight
    assert rows[policy.concentration_id].norm() > 0.5 * rows.norm(dim=1).mean() > 5 * rows.mean(0).norm()


def test_a_checkpoint_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    save_family("llava", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"LlavaProcessor has no chat template.*instruction-tuned.*\.jinja"):
        HFPolicy(model=str(tmp_path))


def test_a_template_without_the_image_is_refused(tmp_path: Path) -> None:
    save_family("llava", tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['role'] }}")
    with pytest.raises(ValueError, match=r"leaves the image out: it writes 'user', without '<image>'"):
        HFPolicy(model=str(tmp_path))


def test_the_template_decides_the_end_of_a_turn() -> None:
    """SmolVLM's vocabulary has Qwen's end of turn too, but its turns end otherwise."""
    processor = small_policy().processor
    assert turn_end(processor) == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    processor.chat_template = processor.chat_template.replace("<|im_end|>", "<|endoftext|>")
    assert turn_end(processor) == processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    processor.chat_template = processor.chat_template.replace("<|endoftext|>", " over ")
    assert turn_end(processor) == processor.tokenizer.eos_token_id


def test_tiles_are_placeholders_and_ends_of_turns_are_not(tmp_path: Path) -> None:
    names = placeholders(HFPolicy(model=str(save_family("smolvlm", tmp_path))).processor)
    assert {"<image>", "<fake_token_around_image>", "<global-img>", "<row_3_col_2>"} <= set(names)
    assert "<end_of_utterance>" not in names
