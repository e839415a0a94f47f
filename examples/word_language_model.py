"""A word-level language model: two LSTM layers of 650 units, dropout 0.5, in plain PyTorch.

    python examples/word_language_model.py             # trains
    python examples/word_language_model.py --strop     # trains, with one line more (search for strop.convert)
    python examples/word_language_model.py --compare   # times training steps of both, in turn

The text is Python's language reference, which every Python carries.
"""

import argparse
import math
import re
import time
from collections import Counter
from pydoc_data.topics import topics

import torch
from compare import print_speed_up
from torch import nn

import strop


class WordModel(nn.Module):
    def __init__(self, words, units, layers, dropout):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(words, units)
        self.rnn = nn.LSTM(units, units, layers, dropout=dropout)
        self.decoder = nn.Linear(units, words)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, ids, hidden=None):
        embedded = self.drop(self.encoder(ids))
        output, hidden = self.rnn(embedded, hidden)
        return self.decoder(self.drop(output)), hidden


def read_text(words):
    """The ids of all tokens, the last tenth apart; rare words are one. And how many words there are."""
    text = "\n".join(topics[name] for name in sorted(topics))
    tokens = re.findall(r"[a-z]+|\d|[^\w\s]|\n", text.lower())
    known = [word for word, _ in Counter(tokens).most_common(words - 1)]
    number = {word: i for i, word in enumerate(known, 1)}
    ids = torch.tensor([number.get(token, 0) for token in tokens])
    held_out = len(ids) // 10
    return ids[:-held_out], ids[-held_out:], len(known) + 1


def batches(ids, batch, steps):
    """Pairs of ids and of the words that follow, [steps, batch]; each column reads on in the next pair."""
    columns = ids[: len(ids) // batch * batch].view(batch, -1).t()
    for start in range(0, len(columns) - 1, steps):
        stop = min(start + steps, len(columns) - 1)
        yield columns[start:stop], columns[start + 1 : stop + 1]


def loss_of(model, ids, targets, hidden):
    logits, hidden = model(ids, hidden)
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), hidden


def train_step(model, optimizer, ids, targets, hidden):
    if hidden is not None:
        hidden = tuple(state.detach() for state in hidden)
    optimizer.zero_grad()
    loss, hidden = loss_of(model, ids, targets, hidden)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    return loss.item(), hidden


@torch.no_grad()
def perplexity(model, ids, options):
    model.eval()
    losses, hidden = [], None
    for x, targets in batches(ids, options.batch, options.steps):
        loss, hidden = loss_of(model, x, targets, hidden)
        losses.append(loss.item())
    return math.exp(sum(losses) / len(losses))


def train(model, train_ids, valid_ids, options):
    optimizer = torch.optim.SGD(model.parameters(), lr=options.rate)
    for epoch in range(1, options.epochs + 1):
        model.train()
        hidden, start, losses = None, time.perf_counter(), []
        for ids, targets in batches(train_ids, options.batch, options.steps):
            loss, hidden = train_step(model, optimizer, ids, targets, hidden)
            losses.append(loss)
            if len(losses) % 25 == 0:
                step = (time.perf_counter() - start) / len(losses)
                ppl = math.exp(sum(losses[-25:]) / 25)
                print(f"epoch {epoch} · step {len(losses)} · {1e3 * step:.0f} ms/step · perplexity {ppl:.1f}")
        print(f"epoch {epoch} · valid perplexity {perplexity(model, valid_ids, options):.1f}")


def compare(make, train_ids, options):
    """Times whole training steps, of the model as it is and converted."""
    pairs = list(batches(train_ids, options.batch, options.steps))[:-1]

    def steps(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=options.rate)
        return lambda number: train_step(model, optimizer, *pairs[number % len(pairs)], None)

    plain, converted = make(), make()
    print(strop.convert(converted, recurrent_dropout=options.dropout, example_inputs=pairs[0][0]))
    print_speed_up({"torch": steps(plain), "strop": steps(converted)}, options.seconds)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strop", action="store_true", help="convert the model")
    parser.add_argument("--compare", action="store_true", help="time both instead of training")
    parser.add_argument("--words", type=int, default=10_000, help="size of the vocabulary, at most")
    parser.add_argument("--units", type=int, default=650)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--rate", type=float, default=1.0, help="learning rate")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to compare")
    options = parser.parse_args()
    torch.manual_seed(0)
    train_ids, valid_ids, words = read_text(options.words)
    print(f"{len(train_ids):,} words to train on, {len(valid_ids):,} held out, {words:,} different ones")

    def make():
        return WordModel(words, options.units, options.layers, options.dropout)

    if options.compare:
        compare(make, train_ids, options)
        return
    model = make()
    if options.strop:
        example, _ = next(batches(train_ids, options.batch, options.steps))
        strop.convert(model, recurrent_dropout=options.dropout, example_inputs=example)
    train(model, train_ids, valid_ids, options)


if __name__ == "__main__":
    main()
