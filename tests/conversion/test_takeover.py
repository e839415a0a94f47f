"""Which dropouts are taken over by what they feed, and why others stay."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import strop
from strop.nn.taken_over import TakenOver

convert = partial(strop.convert, only_if_faster=False)  # at sizes at which nothing pays

T, B, U = 5, 3, 4


class Base(nn.Module):
    """A dropout, a recurrent layer, and a linear one behind it."""

    def __init__(self, batch_first=False, **dropout):
        super().__init__()
        self.drop = nn.Dropout(**({"p": 0.5} | dropout))
        self.rnn = nn.LSTM(U, U, batch_first=batch_first)
        self.fc = nn.Linear(U, U)


def model(forward, **options):
    return type("Model", (Base,), {"forward": forward})(**options)


def why(made, x=None):
    report = convert(made, example_inputs=torch.randn(T, B, U) if x is None else x)
    entry = next(entry for entry in report if entry.name == "drop")
    assert (entry.action == "taken over") == (isinstance(made.drop, TakenOver))
    if entry.action == "left":
        assert made.rnn.input_dropout == 0
        assert type(made.fc) is nn.Linear
    return entry.why if entry.action == "left" else entry.action


def twice(m, x):
    y = m.drop(x)
    return m.rnn(y)[0], m.fc(y)


TAKEN = {
    "into two layers": twice,
    "transposed": lambda m, x: m.rnn(m.drop(x.transpose(0, 1)).transpose(0, 1)),
    "permuted and copied": lambda m, x: m.rnn(m.drop(x.transpose(0, 1)).permute(1, 0, 2).contiguous()),
    "into the rnn": lambda m, x: m.fc(m.rnn(m.drop(x))[0]),
    "into the rnn by keyword": lambda m, x: m.rnn(input=m.drop(x)),
    "into the linear layer": lambda m, x: m.fc(m.drop(m.rnn(x)[0])),
    "into both in turn": lambda m, x: m.fc(m.drop(m.rnn(m.drop(x))[0])),
    "its shape is read": lambda m, x: (lambda y: m.rnn(y, (y.new_zeros(1, y.shape[1], U),) * 2))(m.drop(x)),
    "twice into the rnn": lambda m, x: m.rnn(m.drop(x))[0] + m.rnn(m.drop(x))[0],
    "packed": lambda m, x: m.rnn(pack_padded_sequence(m.drop(x), torch.tensor([5, 3, 2])))[0],
    "packed in any order": lambda m, x: m.rnn(
        pack_padded_sequence(m.drop(x), torch.tensor([2, 5, 3]), enforce_sorted=False)
    )[0],
    "rows of a packed sequence": lambda m, x: m.rnn(
        (lambda packed: packed._replace(data=m.drop(packed.data)))(
            pack_padded_sequence(x, torch.tensor([5, 3, 2]))
        )
    )[0],
    "the last step": lambda m, x: m.fc(m.drop(m.rnn(x)[1][0][-1])),
}


@pytest.mark.parametrize("name", TAKEN)
def test_taken_over(name):
    assert why(model(TAKEN[name])) == "taken over"


def with_state(m, x):
    y = m.drop(x)
    return m.rnn(x, (y[:1].contiguous(), y[:1].contiguous()))


def as_state(m, x):
    y = m.drop(x[:1])
    return m.rnn(x, (y, torch.zeros_like(y)))


def residual(m, x):
    y = m.drop(x)
    return y + m.rnn(y)[0]


def kept(m, x):
    m.seen = [m.drop(x)]
    return m.rnn(m.seen[0])


def in_an_object(m, x):
    y = m.drop(x)
    return SimpleNamespace(rnn=m.rnn(y), parts=[y])


def returned(m, x):
    y = m.drop(x)
    return {"y": m.rnn(y)[0], "x": (y,)}


LEFT = {
    "not run": (lambda m, x: m.rnn(x), "did not run on example_inputs"),
    "residual": (residual, "its output also goes into add"),
    "indexed": (with_state, "its output also goes into slice"),
    "a state": (as_state, "its output also goes into the state of 'rnn'"),
    "two layers, twice": (
        lambda m, x: (twice(m, x), twice(m, x)),
        "runs more than once, and its output goes into several layers",
    ),
    "kept": (kept, "its output also goes into the attribute 'seen'"),
    "returned": (returned, "its output also goes into what the model returns"),
    "returned in an object": (in_an_object, "its output also goes into what the model returns"),
    "unused": (
        lambda m, x: (m.drop(x), m.rnn(x))[1],
        "its output also goes into nothing that convert can see",
    ),
    "a function": (lambda m, x: m.rnn(torch.relu(m.drop(x))), "its output also goes into relu"),
    "joined in time": (lambda m, x: m.rnn(torch.cat((m.drop(x), x))), "its output also goes into cat"),
    "joined with other units": (
        lambda m, x: m.fc(torch.cat((m.drop(x)[..., :2], x[..., 2:]), -1)),
        "its output also goes into slice",
    ),
    "another dropout": (
        lambda m, x: m.rnn(m.drop(m.drop(x))),
        "its output also goes into another dropout, 'drop'",
    ),
    "rows picked": (
        lambda m, x: m.rnn(m.drop(x).index_select(1, torch.tensor([0]))),
        "its output also goes into index_select",
    ),
    "sometimes": (
        lambda m, x: m.rnn(m.drop(x))[0] + m.rnn(x)[0],
        "feeds 'rnn': also reads inputs that are not dropped",
    ),
    "flattened": (
        lambda m, x: m.fc(m.drop(m.rnn(x)[0].flatten(0, 1))),
        "feeds 'fc': reads all steps as rows of one axis, so that they would share one mask",
    ),
    "in both orders": (
        lambda m, x: m.fc(m.drop(x)) + m.fc(m.drop(m.rnn(x)[0].transpose(0, 1))).transpose(0, 1),
        "feeds 'fc': reads [time, batch, units] and [batch, time, units]",
    ),
    "of unknown axes": (
        lambda m, x: (m.rnn(x), m.fc(m.drop(x[1:])))[1],
        "feeds 'fc': reads [4, 3, 4], of which no recurrent layer tells which axis is time",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left(name):
    forward, reason = LEFT[name]
    assert why(model(forward)).startswith(reason)


def test_one_obstacle_keeps_a_dropout_and_all_that_hangs_on_it():
    """fc also reads what is not dropped, so drop stays, and so does the other dropout that feeds the rnn."""

    def forward(m, x):
        m.rnn(m.other(x))
        return m.fc(m.drop(m.rnn(m.drop(x))[0])) + m.fc(x)

    made = model(forward)
    made.other = nn.Dropout(0.5)
    report = convert(made, example_inputs=torch.randn(T, B, U))
    reasons = {entry.name: entry.why for entry in report}
    assert reasons["drop"] == "feeds 'fc': also reads inputs that are not dropped"
    assert reasons["other"] == "feeds 'rnn': is also fed by 'drop', which stays"


def test_different_shares_stay():
    made = model(lambda m, x: m.rnn(m.drop(x))[0] + m.rnn(m.other(x))[0])
    made.other = nn.Dropout(0.25)
    assert why(made) == "feeds 'rnn': reads inputs dropped by 0.25 and 0.5"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"p": 0.0}, "drops nothing"),
        ({"p": 1.0}, "drops everything"),
        ({"inplace": True}, "works in place, on a tensor that others may read"),
    ],
    ids=str,
)
def test_dropouts_that_stay_whatever_they_feed(options, reason):
    assert why(model(lambda m, x: m.rnn(m.drop(x)), **options)) == reason


def test_other_dropouts_stay():
    made = nn.Sequential(nn.AlphaDropout(0.5), nn.LSTM(U, U))
    report = convert(made, example_inputs=torch.randn(T, B, U))
    assert report[0].why == "drops in a way of its own, which no layer of strop's has"


def test_hooks_that_read_the_dropped_input_keep_the_dropout():
    for register in (
        lambda m: m.rnn.register_forward_hook(lambda _, args, output: (output[0], args[0].sum())),
        lambda m: m.rnn.register_forward_pre_hook(lambda _, args: (args[0] * 2,)),
        lambda m: m.drop.register_forward_hook(lambda _, args, output: output * 2),
    ):
        made = model(lambda m, x: m.rnn(m.drop(x)))
        register(made)
        assert "its output also goes into" in why(made)


def test_batch_first():
    taken = model(lambda m, x: m.rnn(m.drop(x))[0], batch_first=True)
    assert why(taken, torch.randn(B, T, U)) == "taken over"


@pytest.mark.parametrize("batch_first", [False, True])
def test_linear_layers_learn_which_axis_is_time(batch_first):
    """The gradient of their input tells the mask: one for all rows, another at each step."""
    made = model(lambda m, x: m.fc(m.drop(m.rnn(x)[0])), batch_first=batch_first)
    x = torch.randn(B, 40, U) if batch_first else torch.randn(40, B, U)
    report = convert(made, example_inputs=x)
    assert isinstance(made.drop, TakenOver)
    assert made.fc.batch_first == batch_first
    assert ("batch_first" in str(report)) == batch_first
    y = made.rnn(x)[0].detach().requires_grad_()
    made.fc(y).pow(2).sum().backward()
    kept = (y.grad if batch_first else y.grad.transpose(0, 1)) != 0  # [batch, time, units]
    assert (kept == kept[:1]).all()
    assert (kept[0].sum(1) == U // 2).all()
    assert len(set(map(tuple, kept[0].tolist()))) > 1
    strop.revert(made)
    assert vars(made.fc).keys() == vars(nn.Linear(U, U)).keys()


def test_the_last_step_tells_no_order():
    made = model(lambda m, x: (m.fc(m.drop(m.rnn(x)[0])), m.fc(m.drop(m.rnn(x)[1][0][-1]))), batch_first=True)
    convert(made, example_inputs=torch.randn(B, T, U))
    assert made.fc.batch_first


def test_as_many_steps_as_rows_do_not_tell_which_axis_is_time():
    made = model(TAKEN["into the linear layer"])
    assert "give example_inputs that have more steps than rows, or fewer" in why(made, torch.randn(3, 3, U))
    assert why(made, torch.randn(4, 3, U)) == "taken over"


def test_nothing_is_counted_twice_with_strops_own_dropout():
    made = nn.Sequential(nn.Dropout(0.5), strop.LSTM(U, U, input_dropout=0.5))
    report = convert(made, example_inputs=torch.randn(T, B, U))
    assert report[0].why == "feeds '1': drops its input already"


def test_what_is_taken_over_is_dropped_once_per_step_and_for_the_whole_batch():
    """The gradient of the input tells the mask: exactly half of the units, the same for all rows."""
    made = model(lambda m, x: m.rnn(m.drop(x))[0])
    x = torch.randn(T, B, U, requires_grad=True)
    convert(made, example_inputs=x)
    made(x).pow(2).sum().backward()
    kept = x.grad != 0
    assert (kept == kept[:, :1]).all()
    assert (kept[:, 0].sum(1) == U // 2).all()
    assert torch.equal(made.eval()(x), made.rnn(x)[0])


def test_a_dropout_within_a_compiled_function_is_seen():
    @torch.compile(backend="eager")
    def dropped(m, x):
        return m.drop(x)

    assert why(model(lambda m, x: m.rnn(dropped(m, x)))) == "taken over"
    assert why(model(lambda m, x: m.rnn(dropped(m, x) + 1))) == "its output also goes into add"


def functions(forward):
    report = convert(model(forward), example_inputs=torch.randn(T, B, U))
    return [(entry.name, entry.action, entry.why) for entry in report if entry.before == "F.dropout"]


def test_dropout_by_a_function_is_named():
    start = "p=0.3 in its code, which convert cannot change: "
    drop = nn.functional.dropout
    assert functions(lambda m, x: m.rnn(drop(x, 0.3, m.training))) == [
        ("", "left", f"{start}an nn.Dropout in its place could be taken over by 'rnn'")
    ]
    assert functions(lambda m, x: m.fc(drop(m.rnn(drop(x, 0.3))[0], p=0.3))) == [
        ("", "left", f"{start}an nn.Dropout in its place could be taken over by 'rnn' and 'fc'")
    ]
    assert functions(lambda m, x: m.rnn(torch.dropout(x, 0.3, True) + x)) == [
        ("", "left", f"{start}its output goes into add")
    ]
    two = functions(lambda m, x: (m.rnn(drop(x, 0.3)), drop(x, 0.25)))
    assert two == [
        ("", "left", f"{start}an nn.Dropout in its place could be taken over by 'rnn'"),
        ("", "left", two[1][2]),
    ]
    assert two[1][2] == f"{start.replace('0.3', '0.25')}its output goes into what the model returns"
    assert functions(lambda m, x: m.rnn(drop(x, 0.3, training=False))) == []
    assert functions(lambda m, x: m.rnn(m.drop(x))) == []


def test_what_a_function_drops_counts_as_not_dropped():
    made = model(lambda m, x: m.rnn(m.drop(x))[0] + m.rnn(nn.functional.dropout(x, 0.5))[0])
    assert why(made) == "feeds 'rnn': also reads inputs that are not dropped"
