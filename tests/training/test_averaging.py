import pytest
import torch
from test_loop import assert_same, last_weights, options
from torch import nn
from toy_run import ToyTask

from strop.training import InterruptedRunError, NtAsgd, read_trained, train
from strop.training.checkpoint import CheckpointStore


def triggered_at(losses, trigger):
    """Merity et al. 2017, Algorithm 1, word by word: v > min over l in {0, …, t - n - 1} of logs[l]."""
    logs = []
    for t, v in enumerate(losses):
        if t > trigger and v > min(logs[: t - trigger]):
            return t
        logs.append(v)
    return None


@pytest.mark.parametrize("trigger", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_it_triggers_as_the_algorithm_says(trigger, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(30, generator=generator) * 3
    losses = (10 / (1 + torch.arange(30)) + noise).tolist()
    optimizer = NtAsgd([nn.Parameter(torch.zeros(1))], lr=1.0, trigger=trigger)
    expected = triggered_at(losses, trigger)
    for t, loss in enumerate(losses):
        optimizer.observe(loss)
        assert optimizer.averaging == (expected is not None and t >= expected)


def test_falling_losses_never_trigger():
    optimizer = NtAsgd([nn.Parameter(torch.zeros(1))], lr=1.0, trigger=1)
    for loss in range(20, 0, -1):
        optimizer.observe(float(loss))
    assert not optimizer.averaging


def test_steps_and_averages_are_those_of_a_plain_computation():
    torch.manual_seed(0)
    own = [nn.Parameter(torch.randn(3, 4, dtype=torch.float64)), nn.Parameter(torch.randn(2).double())]
    plain = [p.detach().clone() for p in own]
    seen = [[] for _ in own]
    optimizer = NtAsgd(own, lr=0.1, trigger=1, weight_decay=0.01)
    for step in range(12):
        rate = 0.1 * (1 + step % 3)
        optimizer.param_groups[0]["lr"] = rate
        if step == 4:
            for loss in (3.0, 2.0, 4.0):
                optimizer.observe(loss)
        for i, p in enumerate(own):
            p.grad = torch.randn_like(p)
            plain[i] = plain[i] - rate * (p.grad + 0.01 * plain[i])
            if step >= 4:
                seen[i].append(plain[i])
        optimizer.step()
    for p, expected in zip(own, plain, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)
    with optimizer.averaged():
        for p, values in zip(own, seen, strict=True):
            torch.testing.assert_close(p.detach(), torch.stack(values).mean(0), rtol=0, atol=1e-12)
    for p, expected in zip(own, plain, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)


def test_without_averages_the_weights_are_judged_themselves():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = NtAsgd([parameter], lr=1.0, trigger=1)
    for loss in (1.0, 2.0, 3.0):
        optimizer.observe(loss)
    assert optimizer.averaging
    with optimizer.averaged():
        assert torch.equal(parameter, torch.ones(2))


def test_a_trigger_must_wait_at_least_once():
    with pytest.raises(ValueError, match="trigger: 0"):
        NtAsgd([nn.Parameter(torch.ones(1))], lr=1.0, trigger=0)


class Averaged(ToyTask):
    """Averages from the evaluation at step 12 on; records the weights that are judged."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.optimizer = NtAsgd(self.model.parameters(), lr=0.5, trigger=1, weight_decay=1e-4)
        for _ in range(2):
            self.optimizer.observe(0.0)
        self.judged = []

    def evaluate(self, split):
        self.judged.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return super().evaluate(split)


def test_averages_are_judged_kept_and_tested(tmp_path):
    task = Averaged()
    result = train(task, options(tmp_path / "run", evaluations=3))
    weights = [value for row, value in zip(result.rows, task.judged, strict=False) if row["step"] > 12]
    assert_same(dict(read_trained(tmp_path / "run").weights), task.judged[-1])
    best = next(i for i, row in enumerate(result.rows) if row["step"] == result.best["step"])
    assert_same(task.judged[best], task.judged[-1])
    # Training went on from the weights themselves.
    assert not torch.equal(last_weights(tmp_path / "run")["output.bias"], weights[-1]["output.bias"])


@pytest.mark.parametrize("stop", [9, 17])
def test_averaging_resumes_exactly(tmp_path, stop):
    whole = Averaged()
    train(whole, options(tmp_path / "whole"))
    with pytest.raises(InterruptedRunError):
        train(Averaged(signal_at=stop), options(tmp_path / "run"))
    resumed = Averaged()
    train(resumed, options(tmp_path / "run", resume=True))
    assert_same(last_weights(tmp_path / "whole"), last_weights(tmp_path / "run"))
    assert_same(whole.judged[-1], resumed.judged[-1])
    for a, b in zip(averages(tmp_path / "whole"), averages(tmp_path / "run"), strict=True):
        assert torch.equal(a, b)


def averages(out):
    store = CheckpointStore(out / "checkpoints")
    state = store.load(store.latest()).optimizer
    assert state["param_groups"][0]["steps_averaged"] == 24
    return [each["average"] for each in state["state"].values()]
