"""Base class of the policies: the multimodal LLM that writes the chain of thought."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from coprs_lightning.component import Component
from coprs_lightning.structures import Completions, PolicyOutput, Prompts, TokenLogProbs

if TYPE_CHECKING:
    from coprs_lightning.policies.lora import LoraAdapters


class Policy(Component, ABC):
    """Encodes prompts, samples completions and gives hidden states and logits.

    Attributes:
        hidden_size: D of the hidden states; the aggregator reads it.
        concentration_id: token id of the concentration token.
        num_tokens: K, concentration tokens that a completion is asked to have; the aggregator reads it.
        quantized: the policy's own weights are numbers of 4 or 8 bits, which its state leaves out.
        adapters: what is trained in place of the policy's own weights; ``None`` where those are trained themselves.
    """

    hidden_size: int
    concentration_id: int
    num_tokens: int = 1
    quantized: bool = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.adapters: LoraAdapters | None = None

    def adapters_off(self) -> AbstractContextManager[None]:
        """A context in which the policy computes with the weights that its adapters leave as they were.

        Raises:
            ValueError: when it has no adapters.
        """
        if self.adapters is None:
            raise ValueError(
                "the policy has no adapters, so its weights as they were before training are not kept. Set "
                "model.policy.init_args.lora, or use FrozenCopyReference for the reference policy."
            )
        return self.adapters.off()

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Parameters that :meth:`adapters_off` leaves out."""
        return [] if self.adapters is None else self.adapters.trained()

    @abstractmethod
    def encode_prompts(self, images: list[Tensor], questions: list[str]) -> Prompts:
        """Tokenise B images (3, H, W) uint8 and B questions, padded on the left, on the policy's device.

        Raises:
            ValueError: for an empty question, or one longer than the prompt limit.
        """

    @abstractmethod
    def encode_completions(self, thoughts: list[str]) -> Completions:
        """Tokenise written thoughts in the completion format, end of sequence included."""

    @abstractmethod
    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        num_generations: int = 1,
    ) -> Completions:
        """Sample ``num_generations`` completions a prompt, beside each other; ``temperature`` 0 is greedy.

        Never samples image placeholders and other tokens that no completion may hold.
        """

    @abstractmethod
    def sample(
        self,
        prompts: Prompts,
        *,
        num_generations: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Completions:
        """As :meth:`generate`, with each prompt encoded once for all its completions."""

    @abstractmethod
    def stream(self, prompts: Prompts, *, max_new_tokens: int, temperature: float = 0.0) -> Iterator[Completions]:
        """Complete one prompt, telling the completion while it is written; the same tokens as :meth:`generate`.

        Yields:
            the completion so far after every token (``truncated`` as long as it has not ended); at last the whole.
        """

    @abstractmethod
    def forward(self, prompts: Prompts, completions: Completions) -> PolicyOutput:
        """Hidden states of prompt + completion, with gradients in training.

        Args:
            prompts: B prompts.
            completions: B·G completions, the G of a prompt beside each other.

        Returns:
            B·G rows.
        """

    @abstractmethod
    def completion_logits(self, output: PolicyOutput) -> Tensor:
        """(B, R, V) logits that predict the completion's tokens; prompt positions are never projected."""

    @abstractmethod
    def log_probs(
        self,
        output: PolicyOutput,
        completions: Completions,
        *,
        temperature: float = 1.0,
        entropy_gradient: bool = False,
    ) -> TokenLogProbs:
        """Log-probabilities of the completions under the distribution that :meth:`sample` draws from.

        Args:
            output: what :meth:`forward` gave for them.
            completions: N completions.
            temperature: with which they were sampled.
            entropy_gradient: let gradients flow through the entropy too.
        """
