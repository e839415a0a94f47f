"""The masks of LSTM, GRU and RNN: when they are drawn, what of, and what they act on."""

from __future__ import annotations

import copy

import pytest
import torch

import oracle
import recurrent
import strop
from recurrent import make
from strop.ops import dispatch
from strop.pattern import CASES

EVERYWHERE = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}
modes = pytest.mark.parametrize("mode", recurrent.MODES)


@pytest.mark.parametrize("name", CASES)
@modes
def test_training_draws_all_masks_before_the_sequence(mode, name):
    module = make(mode, 6, 8, 2, **EVERYWHERE, bidirectional=True, pattern=name)
    x = torch.randn(4, 3, 6)
    torch.manual_seed(8)
    masks = module.draw(4, 3)
    after = torch.get_rng_state()
    torch.manual_seed(8)
    y, _ = module(x)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(y, module(x, masks=masks)[0])
    assert not torch.equal(y, module(x)[0])


@modes
def test_evaluation_draws_nothing_but_uses_given_masks(mode):
    module = make(mode, 6, 8, 2, **EVERYWHERE).eval()
    x, state = torch.randn(4, 3, 6), torch.get_rng_state()
    plain, again = module(x)[0], module(x)[0]
    assert torch.equal(plain, again)
    assert torch.equal(torch.get_rng_state(), state)
    masks = module.draw(4, 3)
    dropped = module(x, masks=masks)[0]
    assert not torch.equal(dropped, plain)
    assert torch.equal(dropped, module.train()(x, masks=masks)[0])


def test_draw_gives_a_mask_for_each_place_that_drops():
    lstm = strop.LSTM(6, 8, 3, dropout=0.5, recurrent_dropout=0.25)
    masks = lstm.draw(4, 2)
    assert [mask is None for mask in masks.input] == [True, False, False]
    assert [mask.units for mask in masks.recurrent] == [8, 8, 8]
    assert masks.input[1].index.shape == (4, 4)
    assert masks.recurrent[0].index.shape == (4, 6)
    assert not torch.equal(masks.recurrent[0].index, masks.recurrent[1].index)
    generator = torch.Generator().manual_seed(3)
    state = torch.get_rng_state()
    first = lstm.draw(4, 2, generator=generator)
    second = lstm.draw(4, 2, generator=generator.manual_seed(3))
    assert torch.equal(first.input[2].dense(), second.input[2].dense())
    assert torch.equal(torch.get_rng_state(), state)
    wide = strop.LSTM(6, 8, input_dropout=0.5).draw(4, 2)
    assert wide.input[0].units == 6
    assert wide.recurrent == (None,)


@pytest.mark.parametrize("layout", ["batched", "unsorted"])
@modes
def test_masks_of_several_patterns_in_one_stack(backend, mode, layout):
    """Given masks may be of any kind in any place, or missing there."""
    drawn = [make(mode, 6, 8, 2, **EVERYWHERE, bidirectional=True, pattern=name).draw(5, 3) for name in CASES]
    inputs = (drawn[2].input[0], None, drawn[0].input[2], drawn[3].input[3])
    recurrents = (drawn[1].recurrent[0], drawn[2].recurrent[1], None, drawn[0].recurrent[3])
    masks, module = strop.Masks(inputs, recurrents), make(mode, 6, 8, 2, bidirectional=True)
    lengths = recurrent.lengths_of(layout, 5, 3)
    x, grads = torch.randn(5, 3, 6), recurrent.upstream(module, 5, 3)

    def by(of, *how):
        return lambda dtype: recurrent.results(
            copy.deepcopy(of).to(dtype), x.to(dtype), None, recurrent.cast(grads, dtype), *how, masks=masks
        )

    def on_the_reference(dtype):
        with dispatch.use("reference"):
            return by(module, layout, lengths)(dtype)

    actual = by(module, layout, lengths)(backend.dtype)
    oracle.check(backend, actual, by(recurrent.Oracle(module, lengths)), on_the_reference)


def test_both_directions_share_the_mask_of_their_input():
    masks = strop.LSTM(6, 8, 2, **EVERYWHERE, bidirectional=True, proj_size=3).draw(4, 2)
    assert [mask.units for mask in masks.input] == [6, 6, 6, 6]  # twice the features, twice 3 units
    assert masks.input[0] is masks.input[1]
    assert masks.input[2] is masks.input[3]
    assert masks.input[1] is not masks.input[2]
    assert [mask.units for mask in masks.recurrent] == [3] * 4
    assert len({id(mask) for mask in masks.recurrent}) == 4


@modes
def test_dropout_can_be_changed_after_construction(mode):
    module = make(mode, 6, 8, 2, dropout=0.5)
    module.dropout = 0.0
    module.recurrent_dropout = 0.75
    masks = module.draw(4, 2)
    assert masks.input == (None, None)
    assert masks.recurrent[0].index.shape == (4, 2)


def test_blocks_and_patterns():
    lstm = strop.LSTM(6, 8, 2, dropout=0.5, pattern="structured", block=4)
    assert lstm.draw(3, 2).input[1].index.tolist()[0] in ([0, 1, 2, 3], [4, 5, 6, 7])
    pattern = strop.Pattern(0.9, block=4, exact=False)
    drawn = strop.LSTM(6, 8, 2, dropout=0.5, pattern=pattern).draw(3, 2).input[1]
    assert drawn.count is not None
    assert drawn.scale == 2.0
    with pytest.raises(ValueError, match="block must be given in the pattern or beside its name, got 2"):
        strop.LSTM(6, 8, 2, dropout=0.5, pattern=pattern, block=2)


@modes
def test_the_returned_states_are_never_dropped(mode):
    """With recurrent dropout alone, the first step from zeros is the dense one."""
    module = make(mode, 6, 8, recurrent_dropout=0.9)
    x = torch.randn(1, 3, 6)
    y, last = module(x)
    y_dense, last_dense = module.eval()(x)
    torch.testing.assert_close((y, last), (y_dense, last_dense))
    assert torch.equal(y[-1], last[0][0] if mode == "LSTM" else last[0])


@modes
def test_h0_is_dropped_on_its_way_into_the_product(mode):
    module = make(mode, 2, 8, recurrent_dropout=0.5)
    h0 = torch.randn(1, 3, 8, requires_grad=True)
    masks = module.draw(1, 3)
    y, _ = module(torch.randn(1, 3, 2), (h0, torch.zeros(1, 3, 8)) if mode == "LSTM" else h0, masks=masks)
    (gradient,) = torch.autograd.grad(y.sum(), h0)
    dropped = masks.recurrent[0].dense()[0, 0] == 0
    if (
        mode == "GRU"
    ):  # the update gate mixes the whole h into the next: row by row, it alone passes gradients
        alone = torch.autograd.functional.jacobian(
            lambda h: module(torch.zeros(1, 3, 2), h, masks=masks)[0].sum((0, 1)), h0
        )
        off_diagonal = alone.sum((1, 2)) * (1 - torch.eye(8))
        assert (off_diagonal[:, dropped] == 0).all()
        assert (off_diagonal[:, ~dropped] != 0).any(0).all()
        assert (gradient != 0).all()
        return
    assert (gradient[..., dropped] == 0).all()
    assert (
        (gradient[..., ~dropped] != 0).any() if mode == "RNN_RELU" else (gradient[..., ~dropped] != 0).all()
    )
