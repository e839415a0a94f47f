"""LSTM, GRU and RNN in all of their options, against the oracle and against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch

import oracle
import recurrent
import strop
from pairwise import pairwise
from strop.ops import dispatch
from strop.pattern import CASES

#: T, B, I, H, proj_size
SIZES = [(1, 1, 1, 1, 0), (5, 3, 7, 17, 5), (4, 20, 16, 8, 2), (3, 33, 66, 16, 15)]
OPTIONS = {
    "size": SIZES,
    "num_layers": (1, 2, 3),
    "bias": (True, False),
    "batch_first": (False, True),
    "bidirectional": (False, True),
    "projected": (False, True),
    "layout": recurrent.LAYOUTS,
    "hx": (True, False),
}
DROPPING = {
    "pattern": tuple(CASES),
    "exact": (True, False),
    "block": (1, 2),
    "drops": tuple(recurrent.DROPS),
}


def allowed(row):
    *_, features, hidden, projection = row["size"]
    if row["projected"] and not projection:
        return False
    units = projection if row["projected"] else hidden
    return features % row.get("block", 1) == units % row.get("block", 1) == 0


def rows(options):
    found = []
    for mode in recurrent.MODES:
        own = options if mode == "LSTM" else options | {"projected": (False,)}
        for row in pairwise(allowed, own):
            words = [name if value is True else str(value) for name, value in row.items() if value]
            found.append(pytest.param(mode, row, id="-".join((mode, *words))))
    return found


def module_of(make, mode, row, **arguments):
    *_, features, hidden, projection = row["size"]
    options = {name: row[name] for name in ("num_layers", "bias", "batch_first", "bidirectional")}
    options |= {"proj_size": projection} if row["projected"] else {}
    return make(mode, features, hidden, **options, **arguments)


def operands(module, row):
    steps, batch, features, *_ = row["size"]
    batch = 1 if row["layout"] == "unbatched" else batch
    grads = recurrent.upstream(module, steps, batch)
    states = recurrent.upstream(module, steps, batch)[1:] if row["hx"] else None
    lengths = recurrent.lengths_of(row["layout"], steps, batch)
    return torch.randn(steps, batch, features), states, grads, row["layout"], lengths


def to(operands, dtype):
    x, states, grads, *how = operands
    return x.to(dtype), recurrent.cast(states, dtype), recurrent.cast(grads, dtype), *how


@pytest.mark.parametrize(("mode", "row"), rows(OPTIONS | DROPPING))
def test_equals_the_oracle(backend, mode, row):
    pattern = strop.Pattern.named(row["pattern"], 0.0, row["block"], row["exact"])
    drops = recurrent.drops(row["drops"], row["num_layers"])
    module = module_of(recurrent.make, mode, row, pattern=pattern, **drops)
    given = operands(module, row)
    x, *_, lengths = given
    masks = module.draw(*x.shape[:2])

    def by_module(dtype):
        return recurrent.results(copy.deepcopy(module).to(dtype), *to(given, dtype), masks=masks)

    def by_oracle(dtype):
        x, states, grads, *_ = to(given, dtype)
        return recurrent.results(recurrent.Oracle(module, lengths).to(dtype), x, states, grads, masks=masks)

    def on_the_reference(dtype):
        with dispatch.use("reference"):
            return by_module(dtype)

    oracle.check(backend, by_module(backend.dtype), by_oracle, on_the_reference)


# torch says once that projections are the slow way in float32.
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("mode", "row"), rows(OPTIONS | {"training": (True, False)}))
def test_equals_torch_when_nothing_is_dropped(backend, mode, row):
    drops = {} if row["training"] else recurrent.drops("both", row["num_layers"])
    ours, theirs = module_of(recurrent.make, mode, row, **drops), module_of(recurrent.make_torchs, mode, row)
    theirs.load_state_dict(ours.state_dict())
    given = operands(ours, row)

    def by(module):
        return lambda dtype: recurrent.results(
            copy.deepcopy(module).to(dtype).train(row["training"]), *to(given, dtype)
        )

    def by_oracle(dtype):
        x, states, grads, *_, lengths = to(given, dtype)
        nothing = strop.Masks((None,) * 6, (None,) * 6)  # as many as there can be layers and directions
        return recurrent.results(recurrent.Oracle(ours, lengths).to(dtype), x, states, grads, masks=nothing)

    actual = by(ours)(backend.dtype)
    oracle.check(backend, actual, by(theirs), by_oracle)
    x, states, _, *how = to(given, backend.dtype)
    with torch.no_grad():  # which may take another way
        y, last = recurrent.call(ours.to(backend.dtype).train(row["training"]), x, states, *how)
    outputs = dict(zip(("y", "h", "c"), (y, *last), strict=False))

    def without_gradients(compute):
        return lambda dtype: {name: value for name, value in compute(dtype).items() if name in outputs}

    oracle.check(backend, outputs, without_gradients(by(theirs)), without_gradients(by_oracle))
