import pytest
import torch

from coprs_lightning.explain import Case, View
from coprs_lightning.structures import NO_PRIOR_LOGIT
from tests.explain.build import QUESTION, THOUGHT, photo, speaking_model
from tests.parts import FRAME


@pytest.fixture(scope="module")
def model():
    return speaking_model()


def test_a_run_is_the_model_s_own_pass(model):
    case = Case(model, photo(), QUESTION)
    completions = case.written()
    _, output = model.generate_and_segment([case.batch.images[0]], [QUESTION], max_new_tokens=9)
    with torch.no_grad():
        ours = case.run(completions)
    assert torch.equal(ours.mask_logits, output.mask_logits)
    assert torch.equal(ours.heatmap_logits, output.heatmap_logits)
    assert torch.equal(case.decode(ours.heatmap_logits[0])[0], output.mask_logits[0, 0])
    assert case.grid == tuple(ours.heatmap_logits.shape[-2:])


def test_thinking_what_it_wrote_changes_nothing(model):
    case = Case(model, photo(), QUESTION)
    assert case.thinking(THOUGHT).texts == case.written().texts
    assert "<think>  </think>" in case.thinking("").texts[0]


def test_several_completions_of_one_image(model):
    case = Case(model, photo(), QUESTION)
    both = case.model.policy.encode_completions(["a", THOUGHT])
    with torch.no_grad():
        alone = case.run(case.thinking("a"))
        together = case.run(both)
    torch.testing.assert_close(together.heatmap_logits[:1], alone.heatmap_logits, atol=1e-4, rtol=1e-4)


def test_gradients_follow_the_caller_and_the_mode_is_left_as_it_was(model):
    case = Case(model, photo(), QUESTION)
    heatmap = torch.zeros(1, *case.grid, requires_grad=True)
    model.train()
    try:
        assert case.decode(heatmap).requires_grad
        assert case.run(case.written()).mask_logits.requires_grad
        with torch.no_grad():
            assert not case.decode(heatmap).requires_grad
        assert model.training
    finally:
        model.eval()
    assert not case.features.requires_grad


def test_a_map_of_the_image_keeps_its_places(model):
    view = View(model, photo(40, 60))
    logits = torch.zeros(1, 40, 60)
    logits[0, 20:, 30:] = 8.0
    placed = view.to_grid(logits)
    assert placed.shape == (1, *view.grid)
    rows = -(-view.valid[0] * view.grid[0] // FRAME)
    assert (placed[0, rows:] == NO_PRIOR_LOGIT).all()
    assert (placed[0, :rows] > NO_PRIOR_LOGIT).all()
    back = view.to_image(placed.masked_fill(placed == NO_PRIOR_LOGIT, 0.0))
    assert back.shape == (1, 40, 60)
    assert back[0, :15, :25].abs().max() < 0.1
    assert back[0, 26:34, 36:].min() > 7.0


def test_an_even_map_stays_even_at_the_border_of_the_image(model):
    placed = View(model, photo(17, 90)).to_grid(torch.full((2, 17, 90), 3.0))
    inside = placed[placed > NO_PRIOR_LOGIT]
    torch.testing.assert_close(inside, torch.full_like(inside, 3.0))


def test_an_empty_question_is_refused(model):
    with pytest.raises(ValueError, match="there is nothing to look for"):
        Case(model, photo(), " ")
