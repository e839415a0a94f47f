"""The CRF against the plain enumeration of every tag sequence, in double precision."""

from itertools import product

import pytest
import torch
from torch import Tensor

from strop.tasks.tagging.crf import CRF

EXACT = {"rtol": 1e-11, "atol": 1e-11}


def crf(tags: int, spread: float = 1.0) -> CRF:
    model = CRF(tags).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, spread)
    return model


def every_sequence(model: CRF, emissions: Tensor) -> tuple[list[tuple[int, ...]], Tensor]:
    """All tag sequences for the emissions [time, tags] of one sentence, and their scores."""
    steps, tags = emissions.shape
    sequences = list(product(range(tags), repeat=steps))
    scores = []
    for sequence in sequences:
        score = model.start[sequence[0]] + model.stop[sequence[-1]]
        for t, tag in enumerate(sequence):
            score = score + emissions[t, tag]
            if t:
                score = score + model.transitions[sequence[t - 1], tag]
        scores.append(score)
    return sequences, torch.stack(scores)


# Four words at most, sentences of all lengths, the longest neither first nor last.
LENGTHS = torch.tensor([2, 4, 1, 3])


@pytest.fixture(params=[1, 2, 3, 5], ids=lambda tags: f"{tags} tags")
def case(request) -> tuple[CRF, Tensor]:
    return crf(request.param), torch.randn(4, len(LENGTHS), request.param, dtype=torch.float64) * 2


def test_log_partition_and_marginals_are_those_of_the_enumeration(case):
    model, emissions = case
    z = model.log_partition(emissions, LENGTHS)
    marginals = model.marginals(emissions, LENGTHS)
    for b, length in enumerate(LENGTHS.tolist()):
        sequences, scores = every_sequence(model, emissions[:length, b])
        torch.testing.assert_close(z[b], scores.logsumexp(0), **EXACT)
        expected = torch.zeros_like(marginals[:, b])
        for sequence, probability in zip(sequences, scores.softmax(0), strict=True):
            for t, tag in enumerate(sequence):
                expected[t, tag] += probability.detach()
        torch.testing.assert_close(marginals[:, b], expected, **EXACT)


def test_probabilities_are_those_of_the_enumeration_and_their_gradients_too(case):
    model, emissions = case
    tags = torch.randint(emissions.shape[2], emissions.shape[:2])
    emissions.requires_grad_()
    weight = torch.randn(len(LENGTHS), dtype=torch.float64)  # each sentence has its own part in the loss
    actual = model(emissions, tags, LENGTHS)
    inputs = (emissions, *model.parameters())
    actual_gradients = torch.autograd.grad(actual @ weight, inputs)
    expected = []
    for b, length in enumerate(LENGTHS.tolist()):
        sequences, scores = every_sequence(model, emissions[:length, b])
        expected.append(scores.log_softmax(0)[sequences.index(tuple(tags[:length, b].tolist()))])
    expected = torch.stack(expected)
    torch.testing.assert_close(actual, expected, **EXACT)
    expected_gradients = torch.autograd.grad(expected @ weight, inputs)
    for actual_gradient, gradient in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(actual_gradient, gradient, **EXACT)


def test_viterbi_finds_the_best_of_the_enumeration(case):
    model, emissions = case
    path = model.decode(emissions, LENGTHS)
    for b, length in enumerate(LENGTHS.tolist()):
        sequences, scores = every_sequence(model, emissions[:length, b])
        assert tuple(path[:length, b].tolist()) == sequences[int(scores.argmax())]
        assert (path[length:, b] == -1).all()


def test_gradcheck():
    model = crf(3)
    emissions = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    tags, lengths = torch.randint(3, (4, 3)), torch.tensor([4, 1, 2])

    def loss(emissions, transitions, start, stop):
        return torch.func.functional_call(
            model, {"transitions": transitions, "start": start, "stop": stop}, (emissions, tags, lengths)
        )

    assert torch.autograd.gradcheck(loss, (emissions, model.transitions, model.start, model.stop))


def test_large_batches_have_gradients_of_the_same_bits_at_every_call_and_on_any_number_of_threads():
    # 60,000 words: torch shares them among threads.
    model, emissions = crf(17).float(), torch.randn(60, 1000, 17)
    tags, lengths = torch.randint(17, (60, 1000)), torch.randint(1, 61, (1000,))
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.autograd.grad(model(emissions, tags, lengths).sum(), list(model.parameters())))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


def test_a_batch_is_its_sentences_one_by_one_whatever_is_in_the_padding():
    model = crf(7)
    emissions = torch.randn(9, 5, 7, dtype=torch.float64)
    tags, lengths = torch.randint(7, (9, 5)), torch.tensor([9, 1, 5, 8, 5])
    inside = torch.arange(9).unsqueeze(1) < lengths
    emissions = emissions.masked_fill(~inside.unsqueeze(2), float("nan")).requires_grad_()
    together = model(emissions, tags, lengths)
    (gradient,) = torch.autograd.grad(together.sum(), emissions)
    assert not gradient[~inside].any()
    marginals, path = model.marginals(emissions, lengths), model.decode(emissions, lengths)
    torch.testing.assert_close(marginals.sum(2), inside.double(), **EXACT)
    for b, length in enumerate(lengths.tolist()):
        alone = emissions[:length, b : b + 1].detach().requires_grad_()
        one = lengths[b : b + 1]
        probability = model(alone, tags[:length, b : b + 1], one)
        torch.testing.assert_close(together[b : b + 1], probability, **EXACT)
        (expected,) = torch.autograd.grad(probability.sum(), alone)
        torch.testing.assert_close(gradient[:length, b : b + 1], expected, **EXACT)
        torch.testing.assert_close(marginals[:length, b : b + 1], model.marginals(alone, one), **EXACT)
        assert torch.equal(path[:length, b : b + 1], model.decode(alone, one))


def test_float32_holds_with_extreme_scores_over_long_sentences():
    model = crf(9, spread=30).float()
    emissions, lengths = torch.randn(300, 2, 9) * 100, torch.tensor([300, 211])
    tags = model.decode(emissions, lengths).clamp(min=0)
    emissions.requires_grad_()
    probability = model(emissions, tags, lengths)
    expected = crf(9)
    expected.load_state_dict(model.state_dict())
    exact = expected(emissions.double(), tags, lengths)
    # Scores are about 1e5 here: float32 resolves 1e-2 of their difference.
    torch.testing.assert_close(probability.double(), exact, rtol=0, atol=0.2)
    (gradient,) = torch.autograd.grad(probability.sum(), emissions)
    assert gradient.isfinite().all()


def test_unscored_tags_are_independent():
    model = CRF(4)
    emissions, lengths = torch.randn(6, 2, 4), torch.tensor([6, 3])
    marginals = model.marginals(emissions, lengths)
    torch.testing.assert_close(marginals[:3], emissions[:3].softmax(2))


@pytest.mark.parametrize(
    ("emissions", "tags", "lengths", "message"),
    [
        ((3, 2, 5), (3, 2), [3, 1], r"emissions: shape \[3, 2, 5\]; \[time, batch, 4\]"),
        ((3, 4), (3, 2), [3, 1], "emissions: shape"),
        ((3, 2, 4), (2, 2), [3, 1], r"tags: shape \[2, 2\]; \[3, 2\]"),
        ((3, 2, 4), (3, 2), [3], r"lengths: shape \[1\]; \[2\]"),
        ((3, 2, 4), (3, 2), [3, 0], r"lengths: \[3, 0\]; each must be in \[1, 3\]"),
        ((3, 2, 4), (3, 2), [4, 1], r"lengths: \[4, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(emissions, tags, lengths, message):
    with pytest.raises(ValueError, match=message):
        CRF(4)(torch.zeros(emissions), torch.zeros(tags, dtype=torch.int64), torch.tensor(lengths))
