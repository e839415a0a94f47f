"""A tiny stateful task, and a program that trains it: `python toy_run.py '{"out": …, "epochs": …}'`.

Beside the loop's options the program takes `say_steps` (announce each step on stdout before it is made),
`hold_at` (a step that waits for a file `go` beside the run's folder), `spoil_at` (a step whose loss is NaN)
and `dropout`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from strop.training import EpochDecay, Lines, LoopOptions, Outcome, RunError, Silent, World, train, world

STEPS, BATCH, UNITS, WORDS = 5, 4, 8, 11


class Model(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, UNITS)
        self.lstm = nn.LSTM(UNITS, UNITS, 2, dropout=dropout)
        self.drop = nn.Dropout(dropout)
        self.output = nn.Linear(UNITS, WORDS)
        self.output.weight = self.embedding.weight

    def forward(self, x, state):
        y, state = self.lstm(self.drop(self.embedding(x)), state)
        return self.output(self.drop(y)), state


class ToyTask:
    steps_per_epoch = 12
    metric, goal, items, capturable = "loss", "min", "words", False

    def __init__(
        self, dropout=0.3, say_steps=False, spoil_at=-1, rate=0.01, world=None, signal_at=-1, hold=None
    ):
        torch.manual_seed(0)
        self.part = (world or World()).share(BATCH)
        self.model = Model(dropout)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
        self.schedule = EpochDecay(1.5, 1)
        self.identity = {"task": "toy", "rate": rate}
        self.noise = torch.Generator().manual_seed(7)
        self.generators = {"noise": self.noise}
        stream = torch.randint(
            WORDS, (self.steps_per_epoch * STEPS + 1, BATCH), generator=torch.Generator().manual_seed(1)
        )
        self.stream = stream[:, self.part]
        self.say_steps, self.spoil_at, self.signal_at = say_steps, spoil_at, signal_at
        self.hold_at, self.go = hold or (-1, None)
        self.evaluations = 0

    def batches(self, epoch, start):
        for index in range(start, self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + index
            if self.say_steps:
                print(f"step {step}", flush=True)
            if step == self.hold_at:
                wait_for(self.go)
            if step == self.signal_at:
                os.kill(os.getpid(), signal.SIGINT)
            first = index * STEPS
            yield step, self.stream[first : first + STEPS], self.stream[first + 1 : first + STEPS + 1]

    def first_carry(self):
        columns = self.stream.shape[1]
        return (torch.zeros(2, columns, UNITS), torch.zeros(2, columns, UNITS))

    def loss(self, model, batch, carry):
        step, x, y = batch
        logits, state = model(x, carry)
        mean = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss = mean * (1 + self.model.lstm.dropout * torch.rand((), generator=self.noise))
        if step == self.spoil_at:
            loss = loss * float("nan")
        return Outcome(loss, loss.detach(), y.numel(), tuple(s.detach() for s in state))

    def summary(self, mean):
        return {"loss": mean}

    def evaluate(self, split):
        self.evaluations += 1
        torch.rand(3)  # draws that must leave no trace in training
        self.model.eval()
        with torch.no_grad():
            logits, _ = self.model(self.stream[:-1], self.first_carry())
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), self.stream[1:].flatten())
        return {"loss": loss.item()}


def wait_for(file: Path) -> None:
    for _ in range(12_000):
        if file.exists():
            return
        time.sleep(0.01)


def main(arguments):
    out, task_names = Path(arguments.pop("out")), ("dropout", "say_steps", "spoil_at", "rate", "signal_at")
    torch.set_num_threads(1)
    hold = (arguments.pop("hold_at", -1), out.with_name("go"))
    task_arguments = {name: arguments.pop(name) for name in task_names if name in arguments}
    quiet = arguments.pop("quiet", True)
    with world() as processes:
        task = ToyTask(world=processes, hold=hold, **task_arguments)
        options = LoopOptions(out, **{"epochs": 3, "tensorboard": False, "plot": False, **arguments})
        try:
            train(task, options, processes, Silent() if quiet else Lines())
        except RunError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
