import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import strop
from strop.functional import routes
from strop.tasks.tagging import DROPOUTS, PRESETS, Tagger, TaggingTask
from strop.tasks.tagging.model import CharacterCNN


def test_the_presets_are_those_of_targer_and_of_ma_and_hovy():
    targer, ma_hovy = PRESETS["targer"], PRESETS["ma-hovy"]
    for preset in (targer, ma_hovy):
        assert (preset.word_units, preset.char_width, preset.p) == (100, 3, 0.5)
        assert (preset.batch, preset.momentum, preset.decay, preset.clip) == (10, 0.9, 0.05, 5.0)
        assert preset.epochs == 60
    assert (targer.char_units, targer.char_filters, targer.char_groups) == (25, 750, 25)
    assert (targer.units, targer.rate) == (100, 0.01)
    assert (ma_hovy.char_units, ma_hovy.char_filters, ma_hovy.char_groups) == (30, 30, 1)
    assert (ma_hovy.units, ma_hovy.rate, ma_hovy.scheme) == (200, 0.015, "iobes")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"p": 1.0}, r"p: 1.0; it must be in \[0, 1\)"),
        ({"output_p": math.nan}, "output_p: nan"),
        ({"units": 0}, "units: 0; it must be at least 1"),
        ({"rate": -0.1}, "rate: -0.1"),
        ({"rate": 0.0}, "rate: 0.0; it must be more than 0"),
        ({"clip": 0.0}, "clip: 0.0; it must be more than 0"),
        ({"scheme": "bio"}, "scheme: 'bio'; it must be one of iob1"),
        ({"char_groups": 3}, "char_groups: 3; it must divide char_units, 4"),
        ({"char_width": 2}, "char_width: 2; it must be odd"),
    ],
)
def test_hyper_parameters_are_checked(tiny, wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny, **wrong)


# With a share that drops nothing it still computes as if something were.
@pytest.mark.parametrize("p", [0.0, 1e-300])
@pytest.mark.parametrize(("groups", "width"), [(1, 3), (4, 3), (2, 1), (4, 5)])
def test_the_character_cnn_is_a_convolution_word_by_word(tiny, groups, width, p):
    cnn = CharacterCNN(9, replace(tiny, char_groups=groups, char_width=width), p).double()
    words = [[3, 4, 5, 6], [7], [8, 8], [1, 2, 3]]
    characters = torch.zeros(len(words), 6, dtype=torch.int64)
    for row, word in enumerate(words):
        characters[row, : len(word)] = torch.tensor(word)
    actual = cnn(characters)
    assert actual.shape == (4, tiny.char_filters)
    weights = list(cnn.parameters())
    gradients = torch.autograd.grad(actual.square().sum(), weights)
    conv = cnn.convolution
    expected = torch.cat(
        [
            nn.functional.conv1d(
                cnn.embedding(torch.tensor([word])).transpose(1, 2),
                conv.weight,
                conv.bias,
                padding=width // 2,
                groups=groups,
            ).amax(2)
            for word in words
        ]
    )
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for got, want in zip(gradients, torch.autograd.grad(expected.square().sum(), weights), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.fixture(params=DROPOUTS)
def task(request, corpus, tiny) -> TaggingTask:
    preset = replace(tiny, p=0.0)
    return TaggingTask(corpus, preset, request.param)


def test_padding_and_company_change_nothing(task, corpus):
    """A sentence's probability, gradient and tags are those it has alone."""
    model = task.model.double()
    words = [sentence.words for sentence in corpus.train[:6]]
    encoded = task.vocabularies.encode(words, [sentence.tags for sentence in corpus.train[:6]])
    batch = encoded.batch(torch.arange(6))
    assert batch.lengths.unique().numel() > 2
    together = model(batch)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(together.sum(), weights)
    sums = [torch.zeros_like(weight) for weight in weights]
    paths = model.decode(batch)
    for place, number in enumerate(batch.order.tolist()):
        alone = encoded.batch(torch.tensor([number]))
        probability = model(alone)
        torch.testing.assert_close(probability[0], together[place], rtol=1e-10, atol=1e-10)
        for total, gradient in zip(sums, torch.autograd.grad(probability.sum(), weights), strict=True):
            total += gradient
        assert model.decode(alone) == [paths[place]]
    for got, want in zip(gradients, sums, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_without_dropout_all_three_are_the_same_function(corpus, tiny):
    preset = replace(tiny, p=0.0)
    tasks = [TaggingTask(corpus, preset, dropout) for dropout in DROPOUTS]
    batch = next(tasks[0].batches(0, 0))
    first = list(tasks[0].model.named_parameters())
    for task in tasks:
        loss = -task.model(batch).sum()
        loss.backward()
        torch.testing.assert_close(loss, -tasks[0].model(batch).sum())
        for (name, p), (_, q) in zip(task.model.named_parameters(), first, strict=True):
            torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_all_dropouts_start_from_the_same_weights(corpus, tiny):
    states = [TaggingTask(corpus, tiny, dropout).model.state_dict() for dropout in DROPOUTS]
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(state[name], states[0][name]) for name in state)
    other = TaggingTask(corpus, tiny, "nr-st", seed=1).model.state_dict()
    assert not torch.equal(other["embedding.weight"], states[0]["embedding.weight"])


def test_the_first_weights_are_those_of_ma_and_hovy(corpus, tiny):
    state = TaggingTask(corpus, tiny, "nr-random").model.state_dict()
    bounds = {
        "embedding.weight": math.sqrt(3 / 10),
        "spelling.embedding.weight": math.sqrt(3 / 4),
        "spelling.convolution.weight": math.sqrt(6 / (3 + 3)),  # each of 4 groups: 3 filters on 3 characters
        "lstm.weight_ih_l0_reverse": math.sqrt(6 / (32 + 22)),
        "output.weight": math.sqrt(6 / (16 + 5)),
    }
    for name, bound in bounds.items():
        assert 0.8 * bound < state[name].abs().max() <= bound, name
    assert not state["spelling.embedding.weight"][0].any()
    for direction in ("", "_reverse"):
        bias = state[f"lstm.bias_ih_l0{direction}"].view(4, 8)
        assert torch.equal(bias, torch.tensor([0.0, 1, 0, 0]).view(4, 1).expand(4, 8))
        assert not state[f"lstm.bias_hh_l0{direction}"].any()
    assert not any(state[f"crf.{name}"].any() for name in ("transitions", "start", "stop"))


def test_the_models_drop_what_their_names_say(tiny):
    kinds = {dropout: Tagger(9, 8, 3, replace(tiny, p=0.5, output_p=0.25), dropout) for dropout in DROPOUTS}
    baseline = kinds["nr-random"]
    assert type(baseline.lstm) is nn.LSTM
    assert type(baseline.output) is nn.Linear
    assert isinstance(baseline.drop, nn.Dropout)
    assert (baseline.drop.p, baseline.spelling.drop.p, baseline.output_drop.p) == (0.5, 0.5, 0.25)
    for dropout, recurrent in (("nr-st", 0.0), ("nr-rh-st", 0.5)):
        model = kinds[dropout]
        assert isinstance(model.lstm, strop.LSTM)
        assert (model.lstm.input_dropout, model.lstm.recurrent_dropout) == (0.5, recurrent)
        assert model.lstm.bidirectional
        assert isinstance(model.output, strop.Linear)
        assert model.output.dropout == 0.25
        assert model.spelling.drop.p == 0
        assert isinstance(model.drop, nn.Identity)
    with pytest.raises(ValueError, match="'all'; it must be one of nr-random"):
        Tagger(9, 8, 3, tiny, "all")  # pyright: ignore[reportArgumentType]


def test_a_batch_without_tags_has_no_probability(task):
    batch = task.vocabularies.encode([("a", "b")]).batch(torch.tensor([0]))
    with pytest.raises(ValueError, match=r"batch\.tags: None"):
        task.model(batch)


@pytest.mark.parametrize("dropout", ["nr-st", "nr-rh-st"])
def test_gradients_are_the_same_bits_at_every_call_and_on_any_number_of_threads(
    corpus, tiny, dropout, monkeypatch
):
    # Torch's LSTM, which the rule takes for layers as small as this, promises less.
    monkeypatch.setattr(routes, "cheapest", lambda sizes, phase, ways, *_: min(ways))
    # 700 words of 120 numbers: from 32,768 on torch shares them among threads.
    preset = replace(tiny, char_filters=120, batch=130)
    gradients = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            task = TaggingTask(corpus, preset, dropout)
            task.model.train()
            torch.manual_seed(0)
            task.loss(task.model, next(task.batches(0, 0)), None).loss.backward()
            gradients.append({name: p.grad for name, p in task.model.named_parameters()})
    finally:
        torch.set_num_threads(before)
    first, *others = gradients
    assert [name for each in others for name in each if not torch.equal(each[name], first[name])] == []
