import pytest

from strop.tasks.tagging.conlleval import Counts, evaluate


def tags(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def counts(evaluation) -> tuple[int, int, int]:
    return evaluation.total.gold, evaluation.total.guessed, evaluation.total.correct


def test_counted_by_hand():
    gold = tags("B-PER I-PER O B-LOC\nO B-ORG I-ORG I-ORG\nB-MISC O")
    guessed = tags("B-PER I-PER O B-ORG\nO B-ORG I-ORG O\nB-MISC B-PER")
    found = evaluate(gold, guessed)
    assert (found.words, found.right) == (10, 7)
    assert counts(found) == (4, 5, 2)
    assert found.types == {
        "LOC": Counts(1, 0, 0),
        "MISC": Counts(1, 1, 1),
        "ORG": Counts(1, 2, 0),
        "PER": Counts(1, 2, 1),
    }
    assert found.accuracy == pytest.approx(70)
    assert found.total.precision == pytest.approx(40)
    assert found.total.recall == pytest.approx(50)
    assert found.total.f1 == pytest.approx(100 * 4 / 9)


@pytest.mark.parametrize(
    ("gold", "guessed", "expected"),
    [
        ("B-A I-A", "B-A B-A", (1, 2, 0)),  # in two
        ("B-A B-A", "B-A I-A", (2, 1, 0)),  # in one
        ("I-A I-A B-A", "I-A I-A I-A", (2, 1, 0)),  # iob1: side by side
        ("I-A I-B", "I-A I-B", (2, 2, 2)),  # iob1: the type changes
        ("B-A I-A O", "I-A I-A O", (1, 1, 1)),  # a faulty guess is read as the entity that it covers
        ("B-A I-A I-A", "B-A I-A I-B", (1, 2, 0)),
        ("O O B-A", "O I-A I-A", (1, 1, 0)),
        ("B-A I-A\nI-A", "B-A I-A\nI-A", (2, 2, 2)),  # entities end with their sentence
        ("O", "O", (0, 0, 0)),
        ("O", "B-A", (0, 1, 0)),
        ("B-A", "O", (1, 0, 0)),
        ("S-A S-A", "S-A S-A", (2, 2, 2)),
        ("B-A E-A S-A", "B-A I-A E-A", (2, 1, 0)),
    ],
)
def test_entities_count_whole(gold, guessed, expected):
    assert counts(evaluate(tags(gold), tags(guessed))) == expected


def test_all_figures_are_zero_where_there_is_nothing_to_divide_by():
    for found in (evaluate([], []), evaluate(tags("O"), tags("B-A")), evaluate(tags("B-A"), tags("O"))):
        assert (found.total.precision, found.total.recall, found.total.f1) == (0, 0, 0)


def test_the_published_example_of_seqeval():
    """github.com/chakki-works/seqeval, README: F1 0.50, MISC 0 and PER 1."""
    found = evaluate(
        tags("O O O B-MISC I-MISC I-MISC O\nB-PER I-PER O"),
        tags("O O B-MISC I-MISC I-MISC I-MISC O\nB-PER I-PER O"),
    )
    assert found.total.f1 == pytest.approx(50)
    assert (found.types["MISC"].f1, found.types["PER"].f1) == (0, 100)
    assert found.accuracy == pytest.approx(80)


@pytest.mark.parametrize(
    ("total", "figures"),
    [
        # clips.uantwerpen.be/conll2000/chunking/output.html
        (Counts(459, 539, 371), ("68.83", "80.83", "74.35")),
        # github.com/achernodub/targer, README: conlleval on the CoNLL-2003 test set
        (Counts(5648, 5622, 5105), ("90.80", "90.39", "90.59")),
    ],
)
def test_published_figures_of_conlleval(total, figures):
    assert (f"{total.precision:.2f}", f"{total.recall:.2f}", f"{total.f1:.2f}") == figures


def test_the_table_is_conllevals():
    # What the Perl program prints for these.
    found = evaluate(tags("B-PER I-PER O\nB-LOC O"), tags("B-PER I-PER O\nB-ORG O"))
    assert found.table() == (
        "processed 5 tokens with 2 phrases; found: 2 phrases; correct: 1.\n"
        "accuracy:  80.00%; precision:  50.00%; recall:  50.00%; FB1:  50.00\n"
        "              LOC: precision:   0.00%; recall:   0.00%; FB1:   0.00  0\n"
        "              ORG: precision:   0.00%; recall:   0.00%; FB1:   0.00  1\n"
        "              PER: precision: 100.00%; recall: 100.00%; FB1: 100.00  1"
    )


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="guessed: 1 tags for the 2 words of sentence 2"):
        evaluate(tags("O\nO O"), tags("O\nO"))
    with pytest.raises(ValueError, match="shorter"):
        evaluate(tags("O\nO"), tags("O"))
