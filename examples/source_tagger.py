"""A syntax highlighter: two bidirectional LSTM layers that tell what each character of Python source is.

    python examples/source_tagger.py             # trains
    python examples/source_tagger.py --strop     # trains, with one line more (search for strop.convert)
    python examples/source_tagger.py --compare   # times training steps of both, in turn

Lines of the standard library are the text, Python's own tokenizer gives the labels.
"""

import argparse
import importlib.util
import keyword
import random
import time
import tokenize

import torch
from compare import print_speed_up
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

import strop

MODULES = ("argparse", "ast", "calendar", "difflib", "inspect", "pathlib", "statistics", "tarfile", "typing")
KINDS = {tokenize.NAME: 2, tokenize.NUMBER: 3, tokenize.STRING: 4, tokenize.COMMENT: 5, tokenize.OP: 6}
SPACE, KEYWORD, TAGS = 0, 1, 7
IGNORED = -100


class Tagger(nn.Module):
    def __init__(self, characters, units, layers, dropout):
        super().__init__()
        self.embedding = nn.Embedding(characters, units)
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.LSTM(units, units, layers, dropout=dropout, bidirectional=True)
        self.classifier = nn.Linear(2 * units, TAGS)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.dropout(self.embedding(ids)), lengths, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.rnn(packed)[0])
        return self.classifier(self.dropout(output))


def read_lines(longest):
    """Pairs of a line of source and the tags of its characters, each line once, in a fixed mixed order."""
    lines = {}
    for name in MODULES:
        file = importlib.util.find_spec(name).origin
        with tokenize.open(file) as source:
            text = source.read().splitlines()
        tags = [[SPACE] * len(line) for line in text]
        with open(file, "rb") as source:
            for token in tokenize.tokenize(source.readline):
                kind = KEYWORD if keyword.iskeyword(token.string) else KINDS.get(token.type)
                if kind is None:
                    continue
                (first, left), (last, right) = token.start, token.end
                for row in range(first, last + 1):
                    begin = left if row == first else 0
                    end = right if row == last else len(text[row - 1])
                    tags[row - 1][begin:end] = [kind] * (end - begin)
        lines |= {line: tag for line, tag in zip(text, tags, strict=True) if 0 < len(line) <= longest}
    pairs = sorted(lines.items())
    random.Random(0).shuffle(pairs)
    return pairs


def batches(pairs, batch):
    """ids and tags [time, batch], padded, and the lengths."""
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        ids = [torch.tensor([min(ord(character), 127) for character in line]) for line, _ in part]
        tags = pad_sequence([torch.tensor(tags) for _, tags in part], padding_value=IGNORED)
        yield pad_sequence(ids), torch.tensor([len(line) for line, _ in part]), tags


def train_step(model, optimizer, ids, lengths, tags):
    optimizer.zero_grad()
    scores = model(ids, lengths)
    loss = nn.functional.cross_entropy(scores.flatten(0, 1), tags.flatten(), ignore_index=IGNORED)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(model, pairs, options):
    model.eval()
    right = total = 0
    for ids, lengths, tags in batches(pairs, options.batch):
        right += int((model(ids, lengths).argmax(-1) == tags).sum())
        total += int(lengths.sum())
    return right / total


def train(model, train_pairs, valid_pairs, options):
    optimizer = torch.optim.Adam(model.parameters(), lr=options.rate)
    for epoch in range(1, options.epochs + 1):
        model.train()
        start, losses = time.perf_counter(), []
        for batch in batches(train_pairs, options.batch):
            losses.append(train_step(model, optimizer, *batch))
            if len(losses) % 25 == 0:
                step = (time.perf_counter() - start) / len(losses)
                loss = sum(losses[-25:]) / 25
                print(f"epoch {epoch} · step {len(losses)} · {1e3 * step:.0f} ms/step · loss {loss:.3f}")
        print(f"epoch {epoch} · accuracy {accuracy(model, valid_pairs, options):.1%} of held-out characters")


def compare(make, pairs, options):
    """Times whole training steps, of the model as it is and converted."""
    data = list(batches(pairs, options.batch))[:-1]

    def steps(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=options.rate)
        return lambda number: train_step(model, optimizer, *data[number % len(data)])

    plain, converted = make(), make()
    print(strop.convert(converted, recurrent_dropout=options.dropout, example_inputs=data[0][:2]))
    print_speed_up({"torch": steps(plain), "strop": steps(converted)}, options.seconds)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strop", action="store_true", help="convert the model")
    parser.add_argument("--compare", action="store_true", help="time both instead of training")
    parser.add_argument("--units", type=int, default=384)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=32, help="lines in a batch")
    parser.add_argument("--longest", type=int, default=80, help="characters; longer lines are left out")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to compare")
    options = parser.parse_args()
    torch.manual_seed(0)
    pairs = read_lines(options.longest)
    held_out = len(pairs) // 10
    print(f"{len(pairs) - held_out:,} lines to train on, {held_out:,} held out")

    def make():
        return Tagger(128, options.units, options.layers, options.dropout)

    if options.compare:
        compare(make, pairs[held_out:], options)
        return
    model = make()
    if options.strop:
        example = next(batches(pairs, options.batch))[:2]
        strop.convert(model, recurrent_dropout=options.dropout, example_inputs=example)
    train(model, pairs[held_out:], pairs[:held_out], options)


if __name__ == "__main__":
    main()
