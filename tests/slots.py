"""Testers that every variant of a slot passes: a variant's test class says how to build it, and inherits the checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coprs_lightning.component import Component
from coprs_lightning.structures import PolicyOutput

Inputs = tuple[Any, ...]


def select(inputs: Inputs, order: list[int]) -> Inputs:
    """The samples ``order`` of every batched input."""

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[order]
        if isinstance(value, PolicyOutput):
            return replace(value, **{f.name: pick(getattr(value, f.name)) for f in fields(value)})
        return value

    return tuple(pick(value) for value in inputs)


class SlotTester(ABC):
    """Checks for any component."""

    @abstractmethod
    def build(self, **options: Any) -> Component:
        """The variant at a small size, ``options`` on top."""

    @abstractmethod
    def inputs(self) -> Inputs:
        """Arguments of ``forward`` for three samples."""

    @abstractmethod
    def differentiable(self, inputs: Inputs) -> list[Tensor]:
        """Tensors among the inputs that gradients must reach."""

    def run(self, component: Component, inputs: Inputs) -> Tensor:
        """The main output."""
        output = component(*inputs)
        assert isinstance(output, Tensor)
        return output

    def test_gradients_reach_inputs_and_every_trainable_parameter(self):
        component = self.build()
        inputs = self.inputs()
        leaves = self.differentiable(inputs)
        for leaf in leaves:
            leaf.requires_grad_(True)
        output = self.run(component, inputs)
        if output.requires_grad:
            (output.float() * torch.randn(output.shape)).sum().backward()
        named = {**{f"input {i}": leaf for i, leaf in enumerate(leaves)}}
        named.update({name: p for name, p in component.named_parameters() if p.requires_grad})
        without = [name for name, tensor in named.items() if tensor.grad is None or not tensor.grad.abs().sum() > 0]
        assert without == []

    def test_bf16_autocast_is_finite_and_close(self):
        component = self.build().eval()
        inputs = self.inputs()
        with torch.no_grad():
            exact = self.run(component, inputs)
            with torch.autocast("cpu", torch.bfloat16):
                output = self.run(component, inputs)
        assert output.isfinite().all()
        assert (output.float() - exact).abs().mean() <= 0.1 * exact.abs().mean()

    def test_state_dict_gives_the_identical_output(self):
        first = self.build().eval()
        torch.manual_seed(1)
        second = self.build().eval()
        second.load_state_dict(first.state_dict())
        inputs = self.inputs()
        with torch.no_grad():
            assert torch.equal(self.run(first, inputs), self.run(second, inputs))

    def test_save_and_load_give_the_identical_output(self, tmp_path: Path):
        component = self.build(lr_multiplier=3.0).eval()
        component.save(tmp_path / "part.pt")
        loaded = Component.load(tmp_path / "part.pt").eval()
        assert loaded.spec == component.spec
        assert loaded.lr_multiplier == 3.0
        inputs = self.inputs()
        with torch.no_grad():
            assert torch.equal(self.run(component, inputs), self.run(loaded, inputs))

    def test_frozen_stays_frozen_when_the_parent_trains(self):
        component = self.build(frozen=True)
        component.freeze_if_asked()
        parent = nn.Sequential(component)
        parent.train()
        assert parent.training
        assert not any(module.training for module in component.modules())
        assert not any(p.requires_grad for p in component.parameters())
        assert component.parameter_groups(1.0, "slot") == []

    def test_parameter_groups_hold_every_trainable_parameter_once(self):
        component = self.build(lr_multiplier=5.0)
        groups = component.parameter_groups(0.1, "slot")
        grouped = [id(p) for group in groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in component.parameters() if p.requires_grad)
        assert all(group["lr"] == pytest.approx(0.5) for group in groups)

    def test_samples_do_not_depend_on_each_other(self):
        component = self.build().eval()
        inputs = self.inputs()
        with torch.no_grad():
            together = self.run(component, inputs)
            torch.testing.assert_close(self.run(component, select(inputs, [2, 0, 1])), together[[2, 0, 1]])
            for i in range(3):
                torch.testing.assert_close(self.run(component, select(inputs, [i])), together[[i]])


class BackboneTester(SlotTester):
    """Checks for image backbones; ``build`` must leave ``image_size`` to the options."""

    image_size = 64

    def inputs(self) -> Inputs:
        """Random frames, two of them with padding."""
        size = self.image_size
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=generator)
        return frames, torch.tensor([[size, size], [size, size // 2], [size // 3, size]])

    def differentiable(self, inputs: Inputs) -> list[Tensor]:
        """Frames are integers."""
        return []

    def test_features_have_the_declared_size(self):
        backbone = self.build()
        cells = self.image_size // backbone.stride
        assert self.run(backbone, self.inputs()).shape == (3, backbone.out_channels, cells, cells)

    def test_pixels_in_the_padding_do_not_matter(self):
        backbone = self.build().eval()
        frames, valid_sizes = self.inputs()
        empty = frames.clone()
        for frame, (height, width) in zip(empty, valid_sizes.tolist(), strict=True):
            frame[:, height:] = 0
            frame[:, :, width:] = 0
        assert not torch.equal(frames, empty)
        with torch.no_grad():
            assert torch.equal(backbone(frames, valid_sizes), backbone(empty, valid_sizes))

    def test_refuses_frames_of_another_size(self):
        frames, valid_sizes = self.inputs()
        with pytest.raises(ValueError, match=r"model\.backbone\.init_args\.image_size"):
            self.build()(frames[..., :-1], valid_sizes)

    def test_refuses_frames_that_are_not_uint8(self):
        frames, valid_sizes = self.inputs()
        with pytest.raises(TypeError, match=r"takes uint8 frames, got torch\.float32"):
            self.build()(frames.float(), valid_sizes)


def policy_output(hidden_size: int) -> PolicyOutput:
    """Three samples of 5 prompt and 6 completion tokens: two concentration tokens, none, and one.

    The second sample has the token in its prompt only; the first is padded on the left, the third on the right.
    """
    attention = torch.ones(3, 11, dtype=torch.bool)
    attention[0, :2] = False
    attention[2, 9:] = False
    image = torch.zeros_like(attention)
    image[:, 2:4] = True
    image[0, 1] = True  # padding, whatever the policy says about it
    completion = torch.zeros_like(attention)
    completion[:, 5:] = True
    completion &= attention
    token = torch.zeros_like(attention)
    token[0, 7] = token[0, 9] = token[1, 4] = token[2, 6] = True
    hidden = torch.randn(3, 11, hidden_size, generator=torch.Generator().manual_seed(0))
    return PolicyOutput(hidden, attention, image, completion, token, prompt_length=5)


class AggregatorTester(SlotTester):
    """Checks for aggregators; ``build`` must use hidden size 16."""

    hidden_size = 16

    def inputs(self) -> Inputs:
        """See :func:`policy_output`."""
        return (policy_output(self.hidden_size),)

    def differentiable(self, inputs: Inputs) -> list[Tensor]:
        """The hidden states."""
        return [inputs[0].hidden]

    def run(self, component: Component, inputs: Inputs) -> Tensor:
        """The queries."""
        query: Tensor = component(*inputs).query
        return query

    def test_query_has_the_declared_size(self):
        aggregator = self.build()
        result = aggregator(*self.inputs())
        assert result.query.shape == (3, aggregator.num_tokens, aggregator.query_dim)
        assert result.present.shape == (3, aggregator.num_tokens)

    def test_a_token_of_the_prompt_is_not_present(self):
        output = policy_output(self.hidden_size)
        assert output.token_mask[1].any()
        result = self.build()(output)
        assert result.present.tolist() == [[True], [False], [True]]
        assert (result.query[1] == 0).all()
        assert (result.query[[0, 2]] != 0).any(-1).all()

    def test_no_token_at_all_is_finite_with_finite_gradients(self):
        aggregator = self.build()
        output = policy_output(self.hidden_size)
        output.token_mask[:] = False
        output.hidden.requires_grad_(True)
        result = aggregator(output)
        assert not result.present.any()
        assert (result.query == 0).all()
        if result.query.requires_grad:
            result.query.sum().backward()
            gradients = [p.grad for p in (output.hidden, *aggregator.parameters()) if p.grad is not None]
            assert all(gradient.isfinite().all() for gradient in gradients)

    def test_padding_does_not_matter(self):
        aggregator = self.build().eval()
        output = policy_output(self.hidden_size)
        spoiled = replace(output, hidden=output.hidden.masked_fill(~output.attention_mask[..., None], float("nan")))
        with torch.no_grad():
            assert torch.equal(aggregator(output).query, aggregator(spoiled).query)

    def test_tokens_after_the_last_concentration_token_do_not_matter(self):
        aggregator = self.build().eval()
        output = policy_output(self.hidden_size)
        later = output.hidden.clone()
        later[0, 10:] += 1
        later[2, 7:] += 1
        with torch.no_grad():
            assert torch.equal(aggregator(output).query, aggregator(replace(output, hidden=later)).query)

    def test_refuses_hidden_states_of_another_size(self):
        with pytest.raises(ValueError, match=r"model\.aggregator\.init_args\.hidden_size"):
            self.build()(policy_output(self.hidden_size + 1))


class HeadTester(SlotTester):
    """Checks for heatmap heads; ``build`` must use query_dim 12 and in_channels 8."""

    query_dim = 12
    in_channels = 8

    def inputs(self) -> Inputs:
        """Two queries a sample, on a grid that is not square."""
        generator = torch.Generator().manual_seed(0)
        query = torch.randn(3, 2, self.query_dim, generator=generator)
        return query, torch.randn(3, self.in_channels, 6, 5, generator=generator)

    def differentiable(self, inputs: Inputs) -> list[Tensor]:
        """Query and features."""
        return list(inputs)

    @pytest.mark.parametrize("upscale", [1, 4])
    def test_heatmap_is_the_grid_times_upscale(self, upscale):
        assert self.run(self.build(upscale=upscale), self.inputs()).shape == (3, 2, 6 * upscale, 5 * upscale)

    def test_queries_do_not_depend_on_each_other(self):
        head = self.build().eval()
        query, features = self.inputs()
        with torch.no_grad():
            together = head(query, features)
            torch.testing.assert_close(head(query[:, [1, 0]], features), together[:, [1, 0]])
            torch.testing.assert_close(head(query[:, :1], features), together[:, :1])
        assert not torch.allclose(together[:, 0], together[:, 1])

    def test_maps_are_on_the_features_grid(self):
        with torch.no_grad():
            maps = self.build().eval().maps(*self.inputs())
        assert all(one.shape == (3, 2, 6, 5) and one.isfinite().all() for one in maps.values())

    def test_an_absent_query_gives_finite_gradients(self):
        head = self.build()
        query, features = self.inputs()
        query[1] = 0
        query.requires_grad_(True)
        output = head(query, features)
        assert output.isfinite().all()
        output.sum().backward()
        assert all(p.grad.isfinite().all() for p in head.parameters())

    def test_starts_slightly_empty(self):
        with torch.no_grad():
            output = self.run(self.build(), (torch.zeros(3, 2, self.query_dim), self.inputs()[1]))
        assert output.mean().item() == pytest.approx(-1.8, abs=0.7)

    def test_refuses_other_sizes(self):
        head = self.build()
        query, features = self.inputs()
        with pytest.raises(ValueError, match=r"model\.heatmap_head\.init_args"):
            head(query[..., :-1], features)
        with pytest.raises(ValueError, match="features of 7"):
            head(query, features[:, :-1])


class DecoderTester(SlotTester):
    """Checks for decoders; ``build`` must use in_channels 8."""

    in_channels = 8
    frame = 32
    uses_features = True

    def inputs(self) -> Inputs:
        """Two heatmaps a sample at 16 × 16 over 4 × 4 features, two samples with padding."""
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(3, self.in_channels, 4, 4, generator=generator)
        heatmap = 3 * torch.randn(3, 2, 16, 16, generator=generator)
        return features, heatmap, torch.tensor([[32, 32], [32, 13], [20, 32]]), self.frame

    def differentiable(self, inputs: Inputs) -> list[Tensor]:
        """Features and heatmap."""
        return list(inputs[:2]) if self.uses_features else [inputs[1]]

    @pytest.mark.parametrize("heatmap_size", [(4, 4), (16, 16), (20, 20)])
    def test_mask_is_four_times_the_grid_whatever_the_heatmap(self, heatmap_size):
        features, _, valid_sizes, frame = self.inputs()
        heatmap = torch.randn(3, 2, *heatmap_size)
        assert self.build()(features, heatmap, valid_sizes, frame).shape == (3, 2, 16, 16)

    def test_any_grid(self):
        features = torch.randn(1, self.in_channels, 3, 5)
        assert self.build()(features, torch.randn(1, 1, 12, 20), torch.tensor([[20, 32]]), 32).shape == (1, 1, 12, 20)

    def test_heatmaps_do_not_depend_on_each_other(self):
        decoder = self.build().eval()
        features, heatmap, *rest = self.inputs()
        with torch.no_grad():
            together = decoder(features, heatmap, *rest)
            torch.testing.assert_close(decoder(features, heatmap[:, [1, 0]], *rest), together[:, [1, 0]])
            torch.testing.assert_close(decoder(features, heatmap[:, :1], *rest), together[:, :1])

    def test_refuses_other_sizes(self):
        decoder = self.build()
        features, heatmap, *rest = self.inputs()
        with pytest.raises(ValueError, match=r"model\.decoder\.init_args\.in_channels"):
            decoder(features[:, :-1], heatmap, *rest)
        with pytest.raises(ValueError, match=r"with heatmap logits \(2, "):
            decoder(features, heatmap[:2], *rest)


class PaddingBlindDecoderTester(DecoderTester):
    """Checks for decoders that hide the padding of the frame from themselves."""

    def test_the_prior_on_the_padding_does_not_matter(self):
        decoder = self.build().eval()
        features, heatmap, valid_sizes, frame = self.inputs()
        other = heatmap.clone()
        other[1, :, :, 7:] += 5  # 13 of 32 pixels are image: cells 0 to 6 of 16
        other[2, :, 10:] += 5
        with torch.no_grad():
            expected = decoder(features, heatmap, valid_sizes, frame)
            assert torch.equal(decoder(features, other, valid_sizes, frame), expected)
            other[1, :, :, 6] += 5
            assert not torch.equal(decoder(features, other, valid_sizes, frame)[1], expected[1])
