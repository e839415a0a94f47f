"""What strop.LSTM refuses, and in whose words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import strop

EVERYWHERE = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}
STATE = torch.zeros(1, 2, 5)
TORCHS_ERRORS = {
    "4-D": (torch.zeros(1, 1, 1, 4), None),
    "1-D": (torch.zeros(4), None),
    "width": (torch.zeros(3, 2, 5), None),
    "dtype": (torch.zeros(3, 2, 4).double(), None),
    "no steps": (torch.zeros(0, 2, 4), None),
    "h0 rank": (torch.zeros(3, 2, 4), (torch.zeros(2, 5), STATE)),
    "h0 batch": (torch.zeros(3, 2, 4), (torch.zeros(1, 3, 5), STATE)),
    "c0 width": (torch.zeros(3, 2, 4), (STATE, torch.zeros(1, 2, 4))),
    "h0 layers": (torch.zeros(3, 2, 4), (torch.zeros(2, 2, 5), STATE)),
    "device": (torch.zeros(3, 2, 4, device="meta"), None),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TORCHS_ERRORS)
def test_mistakes_that_torch_knows_are_torchs_errors(name, training):
    x, hx = TORCHS_ERRORS[name]
    with pytest.raises((ValueError, RuntimeError)) as theirs:
        nn.LSTM(4, 5).train(training)(x, hx)
    with pytest.raises(theirs.type) as ours:
        strop.LSTM(4, 5, input_dropout=0.5).train(training)(x, hx)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    "arguments", [(0, 5), (4, 0), (4, 5, 0), (4.0, 5), (4, 5, 1, 2), (4, 5, 1, True, 3)], ids=str
)
def test_constructor_mistakes_that_torch_knows_are_torchs_errors(arguments):
    with pytest.raises((ValueError, TypeError)) as theirs:
        nn.LSTM(*arguments)
    with pytest.raises(theirs.type) as ours:
        strop.LSTM(*arguments)
    assert str(ours.value) == str(theirs.value)


def test_dropout_in_one_layer_warns_as_torch_does():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last recurrent layer"):
        strop.LSTM(4, 5, dropout=0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": float("nan")}, ValueError, r"dropout must be in \[0, 1\), got nan"),
        ({"input_dropout": -0.5}, ValueError, r"input_dropout must be in \[0, 1\), got -0.5"),
        ({"recurrent_dropout": 2}, ValueError, r"recurrent_dropout must be in \[0, 1\), got 2"),
        ({"recurrent_dropout": "0.5"}, TypeError, "recurrent_dropout must be a number"),
        ({"pattern": "blocks"}, ValueError, "pattern must be one of random, variational, structured, fixed"),
        ({"pattern": 3}, TypeError, r"pattern must be a name or a strop\.Pattern, got 3"),
        ({"block": 0}, ValueError, "block must be at least 1, got 0"),
        ({"bidirectional": True}, NotImplementedError, r"bidirectional=True .* use torch\.nn\.LSTM"),
        ({"proj_size": 2}, NotImplementedError, r"proj_size=2 .* use torch\.nn\.LSTM"),
        (
            {"input_dropout": 0.5, "block": 3},
            ValueError,
            "block must divide input_size to drop it in blocks, got block=3, input_size=4",
        ),
        (
            {"recurrent_dropout": 0.5, "block": 5},
            ValueError,
            "block must divide hidden_size to drop it in blocks, got block=5, hidden_size=6",
        ),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        strop.LSTM(4, 6, 2, **arguments)


def test_block_matters_only_where_something_drops():
    strop.LSTM(5, 8, 2, dropout=0.5, block=4)
    strop.LSTM(5, 7, 2, block=4)
    strop.LSTM(8, 7, input_dropout=0.5, block=4)


def test_what_is_not_supported_yet_is_refused():
    lstm = strop.LSTM(4, 5)
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(3, 2, 4), torch.tensor([3, 2]))
    with pytest.raises(NotImplementedError, match=r"PackedSequence .* use torch\.nn\.LSTM"):
        lstm(packed)
    with pytest.raises(NotImplementedError, match=r"unbatched \[3, 4\] .*unsqueeze\(1\)"):
        lstm(torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("drawn_by", "size", "message"),
    [
        ((6, 8, 2), (4, 2), None),
        (
            (6, 8, 2),
            (5, 2),
            r"masks.input\[0\] must be drawn for \[steps, units\] = \[4, 6\], got",
        ),
        ((7, 8, 2), (4, 2), r"masks.input\[0\] must be drawn for"),
        ((6, 9, 2), (4, 2), r"masks.input\[1\] must be drawn for \[steps, units\] = \[4, 8\]"),
        ((6, 8, 3), (4, 2), r"masks.input must have 2 masks, one a layer, got 3"),
    ],
    ids=str,
)
def test_masks_are_checked(drawn_by, size, message):
    masks = strop.LSTM(*drawn_by, **EVERYWHERE).draw(*size)
    lstm, x = strop.LSTM(6, 8, 2), torch.zeros(4, 2, 6)
    if message is None:
        lstm(x, masks=masks)
        return
    with pytest.raises(ValueError, match=message):
        lstm(x, masks=masks)


def test_masks_of_other_kinds_are_refused():
    lstm, x = strop.LSTM(6, 8), torch.zeros(4, 2, 6)
    with pytest.raises(TypeError, match=r"masks must be what draw\(\) returns, got list"):
        lstm(x, masks=[None])
    with pytest.raises(TypeError, match=r"masks.recurrent\[0\] must be a strop\.Mask or None, got Tensor"):
        lstm(x, masks=strop.Masks((None,), (torch.zeros(1),)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"masks.recurrent\[0\] must be drawn for \[steps, batch, units\]"):
        lstm(x, masks=strop.LSTM(6, 8, recurrent_dropout=0.5, pattern="random").draw(4, 3))


def test_states_of_another_dtype_are_refused():
    lstm, state = strop.LSTM(6, 8, recurrent_dropout=0.5), torch.zeros(1, 2, 8)
    with pytest.raises(RuntimeError, match=r"hidden\[1\] must be torch.float32 on cpu as the input is"):
        lstm(torch.zeros(4, 2, 6), (state, state.double()))
