"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) for a transformers policy, by peft.

The weights of the model stay as they were loaded, so switching the adapters off gives the initial policy without a
second copy. The concentration token is new to the model: its embedding row is trained beside the adapters, outside the
embedding matrix, and put in its place by hooks. (peft can train single rows too, but copies the whole matrix in every
forward pass, so in every step of sampling, and computes a gradient of the matrix' size.)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coprs_lightning.policies.quantized import plain_state, plain_weight
from coprs_lightning.sharding.gather import full

ADAPTERS = "adapters"
"""Attribute of the policy that holds :class:`LoraAdapters`, hence the prefix of its keys in checkpoints."""


@dataclass(frozen=True)
class LoraOptions:
    """What is adapted, and how strongly.

    Attributes:
        rank: r of the update B·A of a weight matrix.
        alpha: the update is scaled by alpha / rank.
        dropout: share of a layer's inputs that its adapter does not see in training.
        target_modules: linear layers of the language model to adapt, by the ends of their names (``q_proj``,
            ``layers.0.self_attn.q_proj``); ``null`` adapts all of them.
        vision_target_modules: linear layers outside the language model (vision tower, projector), likewise;
            ``null`` adapts none.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] | None = None
    vision_target_modules: list[str] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank must be ≥ 1, got {self.rank}: there would be nothing to train.")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha must be > 0, got {self.alpha}: the adapters would change nothing.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be in [0, 1), got {self.dropout}.")
        if self.target_modules == [] and not self.vision_target_modules:
            raise ValueError("lora.target_modules is empty: nothing would be adapted; null adapts all layers.")


class LoraAdapters(nn.Module):
    """Adapters inside a transformers model, and the concentration token's own embedding row.

    Everything else of the model is frozen. Adapters are float32 whatever the type of the model: steps as small as those
    of reinforcement would be rounded away in bfloat16.

    Args:
        lm: transformers model with a language modelling head; changed in place.
        options: what is adapted.
        token_id: row of the embedding that is trained.

    Raises:
        ValueError: when a name in the options matches no layer.
        ImportError: without peft.
    """

    def __init__(self, lm: Any, options: LoraOptions, token_id: int) -> None:
        super().__init__()
        targets = find_targets(lm, options)
        lm.requires_grad_(False)
        inject(lm, options, targets)
        self._lm = (lm,)  # in a tuple, so that its weights are not registered here again
        self.token_id = token_id
        self.disabled = False
        embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
        matrices = [embedding.weight] if head.weight is embedding.weight else [embedding.weight, head.weight]
        # first the row that is read, last the one that is predicted: the same where the matrices are tied
        self.rows = nn.Parameter(torch.stack([m.detach()[token_id] for m in matrices]).float())
        self._matrices = [name for m in matrices for name, p in lm.named_parameters() if p is m]
        embedding.register_forward_hook(self._embed)
        head.register_forward_hook(self._project)

    def _embed(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.disabled:
            return output
        return torch.where((args[0] == self.token_id)[..., None], self.rows[0].to(output.dtype), output)

    def _project(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.disabled:
            return output
        bias: Tensor | None = getattr(module, "bias", None)
        bias = None if bias is None else bias[self.token_id, None]
        own = nn.functional.linear(args[0], self.rows[-1:].to(args[0].dtype), bias)
        output[..., self.token_id] = own[..., 0].to(output.dtype)  # fresh from the projection: nobody else holds it
        return output

    def layers(self) -> dict[str, Any]:
        """Peft's layers by their names in the model."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        return {name: layer for name, layer in self._lm[0].named_modules() if isinstance(layer, BaseTunerLayer)}

    def trained(self) -> list[nn.Parameter]:
        """All parameters that are not the model's own."""
        return [p for layer in self.layers().values() for _, p in _own_parameters(layer)] + [self.rows]

    def neutral(self) -> bool:
        """Whether the policy computes as it would without adapters, as it does before any training."""
        updates = [p for layer in self.layers().values() for name, p in _own_parameters(layer) if "lora_B" in name]
        rows = torch.stack([full(self._lm[0].get_parameter(name))[self.token_id] for name in self._matrices])
        return torch.equal(self.rows, rows.to(self.rows)) and not any(bool(full(p).any()) for p in updates)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Compute with the weights of the model alone, its own row of the concentration token included."""
        if self.disabled:
            yield
            return
        layers = self.layers().values()
        flags = [(p, p.requires_grad) for p in self.trained()]
        self.disabled = True
        try:
            for layer in layers:
                layer.enable_adapters(False)
            yield
        finally:
            self.disabled = False
            for layer in layers:
                layer.enable_adapters(True)
            for parameter, flag in flags:  # peft changes them along with the adapters
                parameter.requires_grad_(flag)

    @torch.no_grad()
    def merged_state_dict(self) -> dict[str, Tensor]:
        """Weights of the model with the adapters' updates and the token's own row in them, by their plain names.

        Loaded into the same model without adapters, they compute what the adapted one computes (in eval mode). Tensors
        are new where the adapters change them; quantised weights come out in the type of the others.
        """
        lm = self._lm[0]
        layers = self.layers()
        inside = tuple(f"{name}." for name in layers)
        state = {name: value for name, value in plain_state(lm, lm.dtype).items() if not name.startswith(inside)}
        for name, layer in layers.items():
            for own, parameter in layer.base_layer.named_parameters():
                state[f"{name}.{own}"] = _merged_weight(layer, lm.dtype) if own == "weight" else parameter.detach()
        rows = {name: self.rows[i] for i, name in enumerate(self._matrices)}
        for name, row in rows.items():
            changed = state[name].clone()
            changed[self.token_id] = row.to(changed.dtype)
            shared = [key for key, value in state.items() if value.data_ptr() == state[name].data_ptr()]
            state.update(dict.fromkeys(shared, changed))  # tied matrices stay one
        return state

    def accept_plain(self, policy: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Let a checkpoint of the same policy without adapters be loaded, as the model that is adapted from now on.

        To be registered on the policy by ``register_load_state_dict_pre_hook``.
        """
        if any(key.startswith(f"{prefix}{ADAPTERS}.") for key in state):
            return
        inside = f"{prefix}lm."
        for layer_name, layer in self.layers().items():
            for name, _parameter in layer.base_layer.named_parameters():
                plain = f"{inside}{layer_name}.{name}"
                if plain in state:
                    state[f"{inside}{layer_name}.base_layer.{name}"] = state.pop(plain)
            for name, parameter in _own_parameters(layer):
                value = parameter.detach()
                state[f"{inside}{layer_name}.{name}"] = torch.zeros_like(value) if "lora_B" in name else value.clone()
        matrices = [f"{inside}{name}" for name in self._matrices]
        if all(name in state for name in matrices):
            state[f"{prefix}{ADAPTERS}.rows"] = torch.stack([state[name][self.token_id] for name in matrices])


def _own_parameters(layer: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in layer.named_parameters() if not name.startswith("base_layer.")]


def _merged_weight(layer: Any, dtype: torch.dtype) -> Tensor:
    """The weight of a layer with its update, dequantised where it was quantised."""
    plain = plain_weight(layer.base_layer, dtype)
    update = sum(layer.get_delta_weight(name) for name in layer.active_adapters)
    exact = torch.promote_types(plain.dtype, torch.float32)
    return (plain.to(exact) + update.to(exact)).to(plain.dtype)


def find_targets(lm: Any, options: LoraOptions) -> list[str]:
    """Full names of the linear layers to adapt.

    Raises:
        ValueError: when a name in the options matches no layer.
    """
    decoder, head = lm.get_decoder(), lm.get_output_embeddings()
    language = {id(module) for module in decoder.modules()}
    linear = [(name, id(module)) for name, module in lm.named_modules() if isinstance(module, nn.Linear)]
    inside = [name for name, key in linear if key in language and key != id(head)]
    outside = [name for name, key in linear if key not in language and key != id(head)]
    chosen = inside if options.target_modules is None else _matching(options.target_modules, inside, "target_modules")
    return chosen + _matching(options.vision_target_modules or [], outside, "vision_target_modules")


def _matching(wanted: list[str], layers: list[str], option: str) -> list[str]:
    found: set[str] = set()
    for end in wanted:
        matches = {name for name in layers if name == end or name.endswith(f".{end}")}
        if not matches:
            ends = sorted({name.rpartition(".")[2] for name in layers})
            near = difflib.get_close_matches(end, [*ends, *layers]) or ends
            part = "the language model" if option == "target_modules" else "what is outside the language model"
            raise ValueError(
                f"model.policy.init_args.lora.{option}: {end!r} matches no linear layer of {part}, so nothing would be "
                f"adapted there. Did you mean {', '.join(near)}?"
            )
        found |= matches
    return [name for name in layers if name in found]


def inject(lm: Any, options: LoraOptions, targets: list[str]) -> None:
    """Put float32 adapters into the named layers, in place.

    Raises:
        ImportError: without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            "model.policy.init_args.lora needs the package peft, which is not installed. Install it with "
            "pip install 'coprs_lightning[lora]', or leave lora out to train all weights."
        ) from error
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # peft only divides it
        lora_dropout=options.dropout,
        target_modules=targets,
    )
    inject_adapter_in_model(config, lm)
    for parameter in lm.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
