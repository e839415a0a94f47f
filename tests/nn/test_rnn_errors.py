"""What LSTM, GRU and RNN refuse: in torch's words where torch has any, in clearer ones where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import recurrent
import strop

pytestmark = pytest.mark.usefixtures("way")

EVERYWHERE = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}
USES = {
    "dropping": ({"input_dropout": 0.5, "recurrent_dropout": 0.5}, True),
    "training": ({}, True),
    "evaluation": ({"recurrent_dropout": 0.5}, False),
}
X = torch.zeros(3, 2, 4)


def packed(x=X, lengths=(3, 2), **how):
    return pack_padded_sequence(x, torch.tensor(lengths), **how)


#: What does not fit a module of 4 input and 5 hidden units: x, and the shape of hx.
SHAPES = {
    "4-D": (torch.zeros(1, 1, 1, 4), None),
    "1-D": (torch.zeros(4), None),
    "0-D": (torch.zeros(()), None),
    "width": (torch.zeros(3, 2, 5), None),
    "unbatched width": (torch.zeros(3, 5), None),
    "float64": (X.double(), None),
    "integer": (X.long(), None),
    "bfloat16": (X.bfloat16(), None),
    "no steps": (torch.zeros(0, 2, 4), None),
    "no steps unbatched": (torch.zeros(0, 4), None),
    "no steps of nothing": (torch.zeros(0, 0, 4), None),
    "device": (X.to("meta"), None),
    "hx rank": (X, (2, 5)),
    "hx rank 4": (X, (1, 1, 2, 5)),
    "hx batch": (X, (1, 3, 5)),
    "hx width": (X, (1, 2, 4)),
    "hx layers": (X, (2, 2, 5)),
    "unbatched hx 3-D": (X[:, 0], (1, 1, 5)),
    "unbatched hx 1-D": (X[:, 0], (5,)),
    "unbatched hx layers": (X[:, 0], (2, 5)),
}


def outcome(module, *arguments):
    """The error, and what it says."""
    with pytest.raises((ValueError, RuntimeError, IndexError, TypeError, AttributeError)) as error:
        module(*arguments)
    return error.type, str(error.value)


def states(mode, shape, **how):
    if shape is None:
        return None
    state = torch.zeros(shape, **how)
    return (state, state) if mode == "LSTM" else state


def assert_same_error(mode, use, *arguments):
    options, training = USES[use]
    theirs = outcome(recurrent.make_torchs(mode, 4, 5).train(training), *arguments)
    assert outcome(recurrent.make(mode, 4, 5, **options).train(training), *arguments) == theirs


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("mode", recurrent.MODES)
def test_mistakes_that_torch_knows_are_torchs_errors(mode, name, use):
    x, shape = SHAPES[name]
    assert_same_error(mode, use, x, states(mode, shape))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mode", recurrent.MODES)
def test_states_elsewhere_are_torchs_error(mode, use):
    assert_same_error(mode, use, X, states(mode, (1, 2, 5), device="meta"))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "hx",
    [
        (torch.zeros(1, 2, 5), torch.zeros(1, 2, 4)),
        (torch.zeros(1, 2, 5), torch.zeros(2, 5)),
        [torch.zeros(1, 2, 5)] * 3,
    ],
    ids=["c0 width", "c0 rank", "three"],
)
def test_mistakes_with_two_states_are_torchs_errors(hx, use):
    assert_same_error("LSTM", use, X, hx)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "hx", [(torch.zeros(1, 2, 5),), torch.zeros(1, 2, 5), torch.zeros(2, 1, 2, 5)], ids=len
)
def test_an_lstm_takes_two_states(hx, use):
    """Of one, torch says that an index is out of range, and of a tensor that lstm() has other overloads."""
    options, training = USES[use]
    lstm = strop.LSTM(4, 5, **options).train(training)
    assert outcome(lstm, X, hx) == (RuntimeError, "lstm expects two hidden states")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("layout", ["batched", "unbatched", "packed"])
@pytest.mark.parametrize("hx", ["h", 3, [1.0], {}, (), None, (X,), object()], ids=str)
@pytest.mark.parametrize("mode", recurrent.MODES)
def test_states_that_are_no_tensors_are_refused(mode, hx, layout, use):
    options, training = USES[use]
    module = recurrent.make(mode, 4, 5, **options).train(training)
    x = {"batched": X, "unbatched": X[:, 0], "packed": packed()}[layout]
    pair = (torch.zeros(1, 2, 5), hx) if mode == "LSTM" else hx
    for given in (hx, pair):
        if given is None:
            continue
        kind, message = outcome(module, x, given)
        assert kind in (TypeError, RuntimeError)
        assert "hx must be a t" in message or message == "lstm expects two hidden states"


@pytest.mark.parametrize("mode", recurrent.MODES)
def test_inputs_that_are_no_tensors_are_refused(mode):
    for x in (None, 3, [[[0.0]]], (X, X)):
        kind, message = outcome(recurrent.make(mode, 4, 5), x)
        assert (kind, message[:45]) == (TypeError, "input must be a Tensor or a PackedSequence, g")


#: Packed sequences that torch takes for something else, or refuses from deep within: x, hx, and our words.
PACKED = {
    "width": (
        packed(torch.zeros(3, 2, 5)),
        None,
        "input.size(-1) must be equal to input_size. Expected 4, got 5",
    ),
    "dtype": (packed(X.double()), None, "RNN input dtype (torch.float64) does not match weight dtype"),
    "3-D": (
        PackedSequence(torch.zeros(5, 1, 4), torch.tensor([2, 2, 1])),
        None,
        "input must have 2 dimensions",
    ),
    "too few rows": (
        PackedSequence(torch.zeros(5, 4), torch.tensor([2, 2, 2])),
        None,
        "sum to the 5 rows of x",
    ),
    "growing": (
        PackedSequence(torch.zeros(5, 4), torch.tensor([1, 2, 2])),
        None,
        "batch_sizes must never grow",
    ),
    "ended": (PackedSequence(torch.zeros(4, 4), torch.tensor([2, 2, 0])), None, "end with 1 or more"),
    "hx batch": (packed(), (1, 3, 5), "size (1, 2, 5), got [1, 3, 5]"),
    "hx batch unsorted": (
        packed(lengths=(2, 3), enforce_sorted=False),
        (1, 3, 5),
        "(1, 2, 5), got [1, 3, 5]",
    ),
    "hx rank": (packed(), (2, 5), "size (1, 2, 5), got [2, 5]"),
    "hx layers": (packed(), (2, 2, 5), "size (1, 2, 5), got [2, 2, 5]"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("mode", recurrent.MODES)
def test_packed_sequences_that_do_not_fit(mode, name, use):
    x, shape, message = PACKED[name]
    options, training = USES[use]
    module = recurrent.make(mode, 4, 5, **options).train(training)
    kind, text = outcome(module, x, states(mode, shape))
    assert kind in (RuntimeError, ValueError)
    assert message in text


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mode", recurrent.MODES)
def test_states_of_another_dtype_are_refused(mode, use):
    """torch speaks of mat1 and mat2, or of oneDNN."""
    options, training = USES[use]
    module = recurrent.make(mode, 4, 5, **options).train(training)
    name = "hidden[0]" if mode == "LSTM" else "hidden"
    message = f"{name} must be torch.float32 on cpu as the input is, got torch.float64 on cpu"
    assert outcome(module, X, states(mode, (1, 2, 5), dtype=torch.float64)) == (RuntimeError, message)


CONSTRUCTION = {
    "no input": ((0, 5), {}),
    "no hidden": ((4, 0), {}),
    "no layers": ((4, 5, 0), {}),
    "float input": ((4.0, 5), {}),
    "float hidden": ((4, 5.0), {}),
    "bias": ((4, 5), {"bias": 1}),
    "batch_first": ((4, 5), {"batch_first": "True"}),
}


@pytest.mark.parametrize("name", CONSTRUCTION)
@pytest.mark.parametrize("mode", recurrent.MODES)
def test_constructor_mistakes_that_torch_knows_are_torchs_errors(mode, name):
    sizes, options = CONSTRUCTION[name]
    theirs = outcome(lambda: recurrent.make_torchs(mode, *sizes, **options))
    assert outcome(lambda: recurrent.make(mode, *sizes, **options)) == theirs


@pytest.mark.parametrize("proj_size", [-1, 5, 9])
def test_projections_that_torch_refuses(proj_size):
    theirs = outcome(lambda: nn.LSTM(4, 5, proj_size=proj_size))
    assert outcome(lambda: strop.LSTM(4, 5, proj_size=proj_size)) == theirs


@pytest.mark.parametrize("mode", ["GRU", "RNN_TANH"])
def test_projections_are_of_an_lstm_alone(mode):
    with pytest.raises(TypeError, match="unexpected keyword argument 'proj_size'"):
        recurrent.make(mode, 4, 5, proj_size=2)


@pytest.mark.parametrize("kind", [strop.RNN, nn.RNN])
def test_unknown_nonlinearities(kind):
    with pytest.raises(ValueError, match="Unknown nonlinearity 'selu'"):
        kind(4, 5, nonlinearity="selu")


@pytest.mark.parametrize("mode", recurrent.MODES)
def test_dropout_in_one_layer_warns_as_torch_does(mode):
    for make in (recurrent.make_torchs, recurrent.make):
        with pytest.warns(
            UserWarning, match="dropout option adds dropout after all but last recurrent layer"
        ):
            make(mode, 4, 5, dropout=0.5)


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
        (
            {"dropout": 0.5, "block": 5, "bidirectional": True},
            ValueError,
            r"block must divide 2 \* hidden_size to drop it in blocks, got block=5, 2 \* hidden_size=12",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", recurrent.MODES)
def test_bad_arguments_are_refused(mode, arguments, error, message):
    with pytest.raises(error, match=message):
        recurrent.make(mode, 4, 6, 2, **arguments)


def test_blocks_must_divide_what_is_projected():
    message = "block must divide proj_size to drop it in blocks, got block=2, proj_size=3"
    with pytest.raises(ValueError, match=message):
        strop.LSTM(4, 6, proj_size=3, recurrent_dropout=0.5, block=2)


def test_block_matters_only_where_something_drops():
    strop.LSTM(5, 8, 2, dropout=0.5, block=4)
    strop.LSTM(5, 7, 2, block=4)
    strop.LSTM(8, 7, input_dropout=0.5, block=4)
    strop.LSTM(8, 6, 2, dropout=0.5, block=4, bidirectional=True)


@pytest.mark.parametrize(
    ("drawn_by", "size", "message"),
    [
        ((6, 8, 2), (4, 2), None),
        ((6, 8, 2), (5, 2), r"masks.input\[0\] must be drawn for \[steps, units\] = \[4, 6\], got"),
        ((7, 8, 2), (4, 2), r"masks.input\[0\] must be drawn for"),
        ((6, 9, 2), (4, 2), r"masks.input\[1\] must be drawn for \[steps, units\] = \[4, 8\]"),
        ((6, 8, 3), (4, 2), r"masks.input must have 2 masks, one for each layer and direction, got 3"),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", recurrent.MODES)
def test_masks_are_checked(mode, drawn_by, size, message):
    masks = recurrent.make(mode, *drawn_by, **EVERYWHERE).draw(*size)
    module, x = recurrent.make(mode, 6, 8, 2), torch.zeros(4, 2, 6)
    if message is None:
        module(x, masks=masks)
        return
    with pytest.raises(ValueError, match=message):
        module(x, masks=masks)


def test_masks_of_one_direction_do_not_fit_two():
    masks = strop.LSTM(6, 8, 2, **EVERYWHERE).draw(4, 2)
    with pytest.raises(
        ValueError, match=r"masks.input must have 4 masks, one for each layer and direction, got 2"
    ):
        strop.LSTM(6, 8, 2, bidirectional=True)(torch.zeros(4, 2, 6), masks=masks)


def test_masks_of_other_kinds_are_refused():
    lstm, x = strop.LSTM(6, 8), torch.zeros(4, 2, 6)
    with pytest.raises(TypeError, match=r"masks must be what draw\(\) returns, got list"):
        lstm(x, masks=[None])
    with pytest.raises(TypeError, match=r"masks.recurrent\[0\] must be a strop\.Mask or None, got Tensor"):
        lstm(x, masks=strop.Masks((None,), (torch.zeros(1),)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"masks.recurrent\[0\] must be drawn for \[steps, batch, units\]"):
        lstm(x, masks=strop.LSTM(6, 8, recurrent_dropout=0.5, pattern="random").draw(4, 3))
