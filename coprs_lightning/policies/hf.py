"""Policy over any transformers image-text-to-text model (paper section 3: Qwen2.5-VL 3B / 7B).

The concentration token is registered on loading: added to the tokenizer as a special token, with an embedding row of
its own (the row that the tokenizer's id addresses – padded vocabularies have it already).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from coprs_lightning.component import check_positive
from coprs_lightning.policies.assets import policy_assets
from coprs_lightning.policies.base import Policy
from coprs_lightning.policies.hidden import packed_hidden, separate_hidden
from coprs_lightning.policies.loading import (
    freeze_parts,
    load_model,
    load_processor,
    neutral_generation,
    resolve_model,
    save_activation_memory,
)
from coprs_lightning.policies.log_probs import token_log_probs
from coprs_lightning.policies.lora import LoraAdapters, LoraOptions
from coprs_lightning.policies.packing import repeat_prompts, takes_packed
from coprs_lightning.policies.quantized import check_quantization, keep_out_of_states, plain_state
from coprs_lightning.policies.sampling import check_sampling, decoding, sample_group, sampled_steps
from coprs_lightning.policies.tokens import forbidden_ids, register_concentration_token, special_tokens, turn_end
from coprs_lightning.prompts import PAPER_PROMPT, PromptTemplate, leave_out, spell_out
from coprs_lightning.structures import Completions, PolicyOutput, Prompts, TokenLogProbs


class HFPolicy(Policy):
    """A transformers image-text-to-text model as the policy.

    Args:
        model: hub id or folder of a transformers checkpoint (configuration, weights, processor); or
            ``small_qwen2_5_vl``, a shipped configuration and processor without weights.
        random_weights: build the architecture from its configuration alone, with random weights.
        config_overrides: values set in the model's configuration before it is built, nested as in its ``config.json``.
        prompt: texts around question and thought.
        dtype: parameter type; ``auto`` takes the checkpoint's.
        attn_implementation: attention kernel of transformers (``sdpa``, ``eager``, ``flash_attention_2`` …).
            ``flex_attention`` is for the language model's passes over whole sequences (on a GPU: it skips what the mask
            of packed completions hides); the vision tower and decoding use ``sdpa`` then.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        train_vision: train the policy's own vision tower too (the paper does).
        train_projector: train what turns the tower's features into tokens (Qwen's merger, LLaVA's projector, SmolVLM's
            connector); ``null`` as ``train_vision`` says where it is inside the tower (Qwen), else yes.
        train_language: train the language model; without it the concentration token's row stays as it is too: the
            mean of all words' where the checkpoint has none. ``lora`` trains that row on its own.
        min_pixels: least pixels an image is resized to for the policy; ``null`` keeps the processor's.
        max_pixels: most pixels (the paper: 705 600); ``null`` keeps the processor's.
        max_prompt_tokens: longest prompt accepted, image tokens included (the paper: 1 300).
        shared_prefix: compute a prompt once for all its completions (see :mod:`coprs_lightning.policies.packing`);
            ``false`` repeats it for each: the same result, slower.
        log_prob_chunk: completion tokens whose logits are in memory at a time.
        lora: train low-rank adapters and the concentration token's row alone, whatever ``train_…`` say;
            ``null`` trains all weights.
        quantization: read the weights of linear layers, but the projection to words, as numbers of 4 or 8 bits; for
            ``frozen`` policies and ``lora``. Needs the extra ``quantization``.
        kwargs: see :class:`~coprs_lightning.component.Component`.
    """

    def __init__(
        self,
        *,
        model: str,
        random_weights: bool = False,
        config_overrides: dict[str, Any] | None = None,
        prompt: PromptTemplate = PAPER_PROMPT,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
        train_vision: bool = True,
        train_projector: bool | None = None,
        train_language: bool = True,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_prompt_tokens: int = 1300,
        shared_prefix: bool = True,
        log_prob_chunk: int = 2048,
        lora: LoraOptions | None = None,
        quantization: Literal["4bit", "8bit"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.num_tokens = prompt.num_tokens
        check_positive(self, max_prompt_tokens=max_prompt_tokens, log_prob_chunk=log_prob_chunk)
        self.max_prompt_tokens = max_prompt_tokens
        self.log_prob_chunk = log_prob_chunk
        check_quantization(quantization, random_weights=random_weights, fixed=self.frozen or lora is not None)
        source = resolve_model(model, random_weights)
        self.processor = load_processor(source, min_pixels, max_pixels)
        self.tokenizer = self.processor.tokenizer
        self._end_id = turn_end(self.processor)
        flex = attn_implementation == "flex_attention"
        kernel = "sdpa" if flex else attn_implementation  # vision towers refuse flex attention
        self.lm = load_model(source, random_weights, config_overrides or {}, dtype, kernel, quantization)
        self._packs = takes_packed(self.lm)
        self.shared_prefix = shared_prefix and self._packs
        if flex:
            self.lm.get_decoder().config._attn_implementation = attn_implementation
        self.concentration_id = register_concentration_token(self.lm, self.tokenizer, trained=not random_weights)
        self.lm.generation_config = neutral_generation(self._eos_ids, self._pad_id)
        self.hidden_size = int(self.lm.config.get_text_config().hidden_size)
        self._suppressed_mask: Tensor | None = None  # no buffer: it follows from the tokenizer
        if gradient_checkpointing and not self.frozen:
            save_activation_memory(self.lm)
        freeze_parts(self.lm, vision=train_vision, projector_trained=train_projector, language=train_language)
        if lora is not None:
            self.adapters = LoraAdapters(self.lm, lora, self.concentration_id)
            self.register_load_state_dict_pre_hook(self.adapters.accept_plain)
        if quantization is not None:
            self.quantized = True
            keep_out_of_states(self)

    @property
    def device(self) -> torch.device:
        """Where the weights are, also after a plain ``nn.Module`` around the policy was moved."""
        return torch.device(self.lm.device)

    @property
    def _eos_ids(self) -> list[int]:
        """Ids that end a completion: the chat turn's end and the text's end."""
        return sorted({self._end_id, int(self.tokenizer.eos_token_id)})

    @property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self._end_id)

    @property
    def _image_id(self) -> int:
        return int(getattr(self.processor, "image_token_id", None) or self.lm.config.image_token_id)

    @cached_property
    def _forbidden_ids(self) -> list[int]:
        rows = self.lm.get_input_embeddings().num_embeddings
        return forbidden_ids(self.processor, rows, self._image_id, {*self._eos_ids, self.concentration_id})

    @property
    def _suppressed(self) -> Tensor:
        """(V,) bool on the policy's device: :attr:`_forbidden_ids` as a mask over the logits."""
        if self._suppressed_mask is None or self._suppressed_mask.device != self.device:
            mask = torch.zeros(self.lm.get_input_embeddings().num_embeddings, dtype=torch.bool)
            mask[self._forbidden_ids] = True
            self._suppressed_mask = mask.to(self.device)
        return self._suppressed_mask

    def encode_prompts(self, images: list[Tensor], questions: list[str]) -> Prompts:
        """See :meth:`Policy.encode_prompts`."""
        for question in questions:
            if not question.strip():
                raise ValueError("the question is empty: there is nothing to look for. Ask for something.")
        texts = [self._chat(question) for question in questions]
        start = self.tokenizer.bos_token
        try:
            encoded = self.processor(
                text=texts,
                images=[[image] for image in images],
                add_special_tokens=not (start and texts[0].startswith(start)),  # the template may write it itself
                padding=True,
                padding_side="left",
                return_tensors="pt",
                do_rescale=True,
                input_data_format="channels_first",  # an image 3 pixels wide looks ambiguous
            )
        except ValueError as error:
            sizes = ", ".join("×".join(str(side) for side in image.shape[-2:]) for image in images)
            raise ValueError(
                f"the processor of {type(self.lm).__name__} cannot encode these images and questions: {error}. "
                f"The images have {sizes} pixels (height × width); crop or leave out what it refuses."
            ) from error
        lengths = encoded["attention_mask"].sum(1)
        longest = int(lengths.argmax())
        if int(lengths[longest]) > self.max_prompt_tokens:
            raise ValueError(
                f"a prompt has {int(lengths[longest])} tokens, more than max_prompt_tokens {self.max_prompt_tokens} "
                f"(question of {len(questions[longest])} characters: {questions[longest][:60]!r} …). Shorten the "
                "question, lower max_pixels (if it has such), or raise model.policy.init_args.max_prompt_tokens."
            )
        device = self.device
        vision = {
            key: value.to(device)
            for key, value in encoded.items()
            if key not in ("input_ids", "attention_mask") and isinstance(value, Tensor)
        }
        return Prompts(encoded["input_ids"].to(device), encoded["attention_mask"].bool().to(device), vision)

    def _chat(self, question: str) -> str:
        # typed special tokens would forge images and chat turns
        text = self.prompt.render_user(spell_out(question, special_tokens(self.processor)))
        # lists of parts throughout: some templates leave out content that is a plain string
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        if self.prompt.system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.prompt.system}]})
        return str(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def encode_completions(self, thoughts: list[str]) -> Completions:
        """See :meth:`Policy.encode_completions`."""
        tokens = special_tokens(self.processor)
        texts = [self.prompt.render_completion(leave_out(thought, tokens)) for thought in thoughts]
        rows = [[*self.tokenizer(text, add_special_tokens=False)["input_ids"], self._end_id] for text in texts]
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        truncated = torch.zeros(len(rows), dtype=torch.bool)
        return Completions(ids, mask, texts, truncated).to(self.device)  # type: ignore[no-any-return]

    @torch.no_grad()
    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        num_generations: int = 1,
    ) -> Completions:
        """See :meth:`Policy.generate`; by the ``generate`` of transformers, which repeats the prompt for each.

        Raises:
            ValueError: for options out of range.
        """
        check_sampling(max_new_tokens, temperature, top_p)
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
            sampling["num_return_sequences"] = num_generations
        elif num_generations > 1:  # transformers has no greedy decoding of several
            prompts = repeat_prompts(prompts, num_generations)
        with decoding(self.lm):
            sequences = self.lm.generate(
                input_ids=prompts.input_ids,
                attention_mask=prompts.attention_mask.long(),
                **prompts.vision,
                max_new_tokens=max_new_tokens,
                suppress_tokens=self._forbidden_ids,
                eos_token_id=self._eos_ids,
                pad_token_id=self._pad_id,
                use_cache=True,
                synced_gpus=False,  # no pass waits for other processes: sharded weights are gathered before
                **sampling,
            )
        return self._completions(sequences[:, prompts.input_ids.shape[1] :])

    @torch.no_grad()
    def sample(
        self,
        prompts: Prompts,
        *,
        num_generations: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Completions:
        """See :meth:`Policy.sample`.

        Raises:
            ValueError: for options out of range, or an attention kernel that takes no mask.
        """
        check_sampling(max_new_tokens, temperature, top_p)
        if not self._packs:
            options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
            return self.generate(prompts, num_generations=num_generations, **options)  # type: ignore[arg-type]
        options = self._sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        with decoding(self.lm):
            ids = sample_group(self.lm, prompts, num_generations, **options)
        return self._completions(ids)

    def stream(self, prompts: Prompts, *, max_new_tokens: int, temperature: float = 0.0) -> Iterator[Completions]:
        """See :meth:`Policy.stream`.

        Raises:
            ValueError: for options out of range, or an attention kernel that takes no mask.
        """
        check_sampling(max_new_tokens, temperature, 1.0)
        if not self._packs:
            yield self.generate(prompts, max_new_tokens=max_new_tokens, temperature=temperature)
            return
        options = self._sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=1.0)
        steps = sampled_steps(self.lm, prompts, 1, **options)
        while True:
            with decoding(self.lm):  # not around the yield: the caller may use the model meanwhile
                ids = next(steps, None)
            if ids is None:
                return
            yield self._completions(ids)

    def _sampling(self, **options: Any) -> dict[str, Any]:
        ends = torch.tensor(self._eos_ids, device=self.device)
        return {**options, "suppressed": self._suppressed, "end_ids": ends, "pad_id": self._pad_id}

    @cached_property
    def _assets(self) -> dict[str, str]:
        return policy_assets(self.processor, self.lm)

    def assets(self) -> dict[str, str]:
        """Processor, tokenizer and configuration in transformers' own format, as they are now."""
        return dict(self._assets)

    def portable_spec(self, folder: Path | None = None) -> dict[str, Any]:
        """See :meth:`Component.portable_spec`; quantised weights are no part of a state, but read from their source."""
        return self.spec if self.quantized else self._portable()

    def merged_spec(self) -> dict[str, Any]:
        """Of the policy that :meth:`merged_state_dict` fits: portable, without adapters and quantisation."""
        return self._portable(lora=None, quantization=None)

    def _portable(self, **other: Any) -> dict[str, Any]:
        """Overrides and pixel limits are in the assets."""
        now = {
            "model": "policy",
            "random_weights": True,
            "config_overrides": None,
            "min_pixels": None,
            "max_pixels": None,
            "dtype": str(self.lm.dtype).removeprefix("torch."),
        }
        return {**self.spec, "init_args": {**self.spec["init_args"], **now, **other}}

    def merged_state_dict(self) -> dict[str, Tensor]:
        """The state of the same policy without adapters and quantisation, what they have learnt in its weights."""
        adapters = self.adapters
        state = plain_state(self.lm, self.lm.dtype) if adapters is None else adapters.merged_state_dict()
        return {f"lm.{name}": value for name, value in state.items()}

    def _completions(self, ids: Tensor) -> Completions:
        """Mask everything after the first end-of-sequence token and decode."""
        ends = torch.isin(ids, torch.tensor(self._eos_ids, device=ids.device))
        mask = (ends.cumsum(1) - ends.long()) == 0  # up to and including the first end
        ids = ids.masked_fill(~mask, self._pad_id)
        texts = [
            self.tokenizer.decode([t for t in row[keep].tolist() if t not in self._eos_ids], skip_special_tokens=False)
            for row, keep in zip(ids, mask, strict=True)
        ]
        return Completions(ids, mask, texts, truncated=~ends.any(1))

    def forward(self, prompts: Prompts, completions: Completions) -> PolicyOutput:
        """See :meth:`Policy.forward`."""
        group, rest = divmod(len(completions.ids), len(prompts.input_ids))
        if rest or not group:
            raise ValueError(
                f"{len(completions.ids)} completions for {len(prompts.input_ids)} prompts: every prompt needs the same "
                "number, beside each other."
            )
        if group > 1 and self.shared_prefix:
            hidden = packed_hidden(self.lm, prompts, completions, self._pad_id)
            prompts = repeat_prompts(Prompts(prompts.input_ids, prompts.attention_mask), group)
        else:
            prompts = repeat_prompts(prompts, group) if group > 1 else prompts
            hidden = separate_hidden(self.lm, prompts, completions)
        ids = torch.cat([prompts.input_ids, completions.ids], 1)  # (B·G, P + R)
        attention = torch.cat([prompts.attention_mask, completions.mask], 1)
        in_completion = torch.cat([torch.zeros_like(prompts.attention_mask), completions.mask], 1)
        return PolicyOutput(
            hidden=hidden,
            attention_mask=attention,
            image_mask=(ids == self._image_id) & ~in_completion & attention,
            completion_mask=in_completion,
            token_mask=(ids == self.concentration_id) & in_completion,
            prompt_length=prompts.input_ids.shape[1],
        )

    def completion_logits(self, output: PolicyOutput) -> Tensor:
        """See :meth:`Policy.completion_logits`: position t predicts token t + 1, so the slice starts at P - 1."""
        return self.lm.lm_head(output.hidden[:, output.prompt_length - 1 : -1])  # type: ignore[no-any-return]

    def log_probs(
        self,
        output: PolicyOutput,
        completions: Completions,
        *,
        temperature: float = 1.0,
        entropy_gradient: bool = False,
    ) -> TokenLogProbs:
        """See :meth:`Policy.log_probs`; only real tokens are projected."""
        mask = completions.mask
        values = token_log_probs(
            output.hidden[:, output.prompt_length - 1 : -1][mask],
            completions.ids[mask],
            self.lm.lm_head,
            suppressed=self._suppressed,
            temperature=temperature,
            chunk=self.log_prob_chunk,
            entropy_gradient=entropy_gradient,
        )
        empty = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
        return TokenLogProbs(*(empty.masked_scatter(mask, value) for value in values))
