"""The shared base of every swappable part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from coprs_lightning.spec import Recorded, build


class Component(Recorded, pl.LightningModule):
    """A part of the model that owns its learning rate, its freezing, its spec and its diagnostics.

    Args:
        lr_multiplier: the part's learning rate is the module's ``optimizer.learning_rate`` times this
            (the paper uses 1 for the policy, 25 for the heatmap head, 10 and 5 for the decoder).
        frozen: train nothing of this part and keep it in eval mode.
    """

    def __init__(self, *, lr_multiplier: float = 1.0, frozen: bool = False) -> None:
        super().__init__()
        if lr_multiplier < 0:
            raise ValueError(f"lr_multiplier must be ≥ 0, got {lr_multiplier}; use frozen: true to train nothing.")
        self.lr_multiplier = lr_multiplier
        self.frozen = frozen
        self._diagnostics: dict[str, Tensor] = {}

    def freeze_if_asked(self) -> None:
        """Switch gradients off where ``frozen`` says so; the model calls it once all weights are in place."""
        if self.frozen:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> Any:
        """Enter training mode; a frozen part stays in eval mode (batch statistics, dropout)."""
        return super().train(mode and not self.frozen)

    def parameter_groups(self, learning_rate: float, name: str) -> list[dict[str, Any]]:
        """Optimizer groups of this part's trainable parameters.

        Args:
            learning_rate: the module's base rate.
            name: slot name, kept in the group for logging.
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        if not parameters:
            return []
        return [{"params": parameters, "lr": learning_rate * self.lr_multiplier, "name": name}]

    def record(self, name: str, value: Tensor | float) -> None:
        """Leave a diagnostic for the module to log as ``train/<slot>/<name>``; no graph is kept."""
        self._diagnostics[name] = torch.as_tensor(value).detach()

    def pop_diagnostics(self) -> dict[str, Tensor]:
        """The diagnostics left since the last call."""
        diagnostics, self._diagnostics = self._diagnostics, {}
        return diagnostics

    def portable_spec(self, folder: Path | None = None) -> dict[str, Any]:
        """A spec that rebuilds this part as it is now without the source of its weights, and without loading any.

        Parts that read sizes from a source override it; what they need beside numbers they leave in :meth:`assets`.

        Args:
            folder: where the part's assets lie when the spec is built; ``None`` where that is not known yet.

        Returns:
            a spec, see :mod:`coprs_lightning.spec`; a path in it that begins with the slot's name means the assets.
        """
        return self.spec

    def assets(self) -> dict[str, str]:
        """Text files that :meth:`portable_spec` relies on, by name (tokenizer, configuration); most parts need none."""
        return {}

    def save_assets(self, folder: Path) -> None:
        """Write :meth:`assets` into a folder."""
        for name, text in self.assets().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def save(self, path: str | Path) -> None:
        """Write spec and weights of this part alone; :meth:`load` rebuilds it without a config."""
        torch.save({"spec": self.spec, "state_dict": self.state_dict()}, path)

    @staticmethod
    def load(path: str | Path) -> Any:
        """Rebuild a part that :meth:`save` wrote, strictly and without pickle."""
        content = torch.load(path, map_location="cpu", weights_only=True)
        component = build(content["spec"])
        component.load_state_dict(content["state_dict"])
        component.freeze_if_asked()
        return component


class CompilableComponent(Component):
    """A part whose forward pass torch can compile.

    Args:
        compile: compile the forward pass with ``torch.compile``. The first passes, and those with new sizes, take tens
            of seconds; the others need less time and memory. Weights keep their names, so that checkpoints with and
            without it are the same. Needs a C++ compiler on a CPU, and Triton on a GPU.
        kwargs: see :class:`Component`.
    """

    def __init__(self, *, compile: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.compiled = compile
        if compile:
            self.compile()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the part.

        Raises:
            RuntimeError: where compiling was asked for and this machine cannot.
        """
        if not self.compiled:
            return super().__call__(*args, **kwargs)
        from torch._dynamo.exc import BackendCompilerFailed  # 1.4 s to import: only where it is used

        try:
            return super().__call__(*args, **kwargs)
        except BackendCompilerFailed as error:
            raise RuntimeError(
                f"{type(self).__name__}.compile: torch.compile failed on this machine "
                f"({str(error).strip().splitlines()[0]}). It needs a C++ compiler such as g++ on a CPU, and Triton on "
                "a GPU: install that, or set compile: false."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_compiled_call_impl", None)  # it runs the weights of this object, not those of a copy
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.compiled:
            self.compile()


def check_positive(owner: nn.Module, **sizes: int) -> None:
    """Refuse sizes that are not positive integers, naming the option.

    Raises:
        ValueError: with the class and the option's name.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or size <= 0:
            raise ValueError(f"{type(owner).__name__}.{name} must be a positive integer, got {size!r}.")
