"""The translation model against itself written plainly, and what padding and dropout do to it."""

import pytest
import torch
from torch import Tensor, nn

import strop
from strop.data.parallel import BEGIN_ID, END_ID, PAD_ID, Batch, Pairs, collate
from strop.ops import native
from strop.tasks.translation import DROPOUTS, TranslationModel
from strop.tasks.translation.attention import Memory, attend, attend_backward
from strop.tasks.translation.model import TranslationMasks
from strop.tasks.translation.task import cross_entropy

STRUCTURED = DROPOUTS[1:]


def model_of(dropout, dtype=torch.float64, p=0.3, units=8, layers=2, seed=0) -> TranslationModel:
    model = TranslationModel(12, 14, units, layers, p, dropout)
    model.initialise(0.5, seed)
    return model.to(dtype)


def batch_of(sources=(5, 3, 3), targets=(2, 4, 3)) -> Batch:
    generator = torch.Generator().manual_seed(1)

    def sentences(lengths, words):
        return [torch.randint(4, words, (length,), generator=generator).tolist() for length in lengths]

    pairs = Pairs(sentences(sources, 12), sentences(targets, 14), [""] * len(sources))
    return collate(pairs, range(len(sources)))


def dense(mask, like: Tensor, steps: int) -> Tensor:
    return torch.ones(steps, 1, 1, dtype=like.dtype) if mask is None else mask.dense(like.dtype)


def plainly(model: TranslationModel, batch: Batch, masks: TranslationMasks, encoder_seed: int) -> Tensor:
    """`model(batch)` one sentence and one step at a time, with products by dense masks."""
    torch.manual_seed(encoder_seed)
    outputs, (h0, c0) = model.encoder(batch.source, batch.lengths)
    outputs = outputs * dense(masks.memory, outputs, len(outputs))
    target = batch.target[:-1]
    between, recurrent, final, output = (
        [dense(mask, outputs, len(target)) for mask in group]
        for group in (
            masks.decoder.between,
            masks.decoder.recurrent,
            [masks.decoder.final],
            [masks.decoder.output],
        )
    )
    logits = []
    for row, length in enumerate(batch.lengths.tolist()):
        source = outputs[:length, row]
        h, c = list(h0[:, row : row + 1]), list(c0[:, row : row + 1])
        fed = torch.zeros_like(h[0])
        steps = []
        for step, word in enumerate(target[:, row]):
            x = torch.cat((model.decoder.embedding(word)[None], fed), 1)
            for layer, cell in enumerate(model.decoder.cells):
                if layer:
                    x = x * between[layer - 1][step]
                h[layer], c[layer] = cell(x, (h[layer] * recurrent[layer][step], c[layer]))
                x = h[layer]
            query = x * final[0][step]
            weights = (source @ model.score.weight.mT @ query[0]).softmax(0)
            both = torch.cat((weights @ source, query[0]))
            fed = torch.tanh(model.decoder.combine(both[None])) * output[0][step]
            steps.append(model.output(fed)[0])
        logits.append(torch.stack(steps))
    return torch.stack(logits, 1)


def gradients(model: nn.Module, outputs: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs.dtype)
    (outputs * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", STRUCTURED)
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("sources", "targets", "layers"), [((5, 3, 3), (2, 4, 3), 2), ((1,), (1,), 1)])
def test_the_structured_decoder_is_the_plain_one(backend, dropout, p, sources, targets, layers):
    # The encoder draws its masks from the global generator: the same at both calls.
    model = model_of(dropout, backend.dtype, p, units=17, layers=layers).train()
    batch = batch_of(sources, targets)
    target = batch.target[:-1]
    masks = model.draw(len(batch.source), *target.shape)
    torch.manual_seed(7)
    ours = model(batch.source, batch.lengths, target, masks)
    theirs = plainly(model, batch, masks, 7)
    exact = backend.dtype == torch.float64
    close = {"rtol": 0, "atol": 1e-10} if exact else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours, theirs, **close)
    found, expected = gradients(model, ours), gradients(model, theirs)
    assert found.keys() == expected.keys() == {name for name, _ in model.named_parameters()}
    for name in found:
        torch.testing.assert_close(found[name], expected[name], **close, msg=lambda m, n=name: f"{n}: {m}")


def test_the_decoder_cannot_be_differentiated_twice():
    model = model_of("nr-st").train()
    batch = batch_of()
    loss = cross_entropy(model, batch)
    (gradient,) = torch.autograd.grad(loss, model.decoder.combine.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_the_loss_of_all_steps_is_that_of_one_step_after_another(dropout):
    model = model_of(dropout, p=0.0)
    batch = batch_of()
    for module in (model.train(), model.eval()):
        memory, state = module.encode(batch.source, batch.lengths)
        now, total = module.decoder.first_state(state), torch.zeros((), dtype=torch.float64)
        for word, after in zip(batch.target[:-1], batch.target[1:], strict=True):
            now, _ = module.decoder.step(module.decoder.embedding(word), now, memory)
            scores = module.output(now.fed).log_softmax(1).gather(1, after[:, None])[:, 0]
            total -= scores[after != PAD_ID].sum()
        torch.testing.assert_close(cross_entropy(module, batch), total, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_padding_changes_no_sentences_loss(dropout):
    model = model_of(dropout).eval()
    sources, targets = (9, 5, 5, 2, 1), (1, 6, 3, 2, 4)
    batch = batch_of(sources, targets)
    alone = 0.0
    for row, length in enumerate(batch.lengths.tolist()):
        words = int((batch.target[:, row] != PAD_ID).sum())
        one = Batch(
            batch.source[:length, row : row + 1],
            batch.lengths[row : row + 1],
            batch.target[:words, row : row + 1],
            words - 1,
        )
        alone += cross_entropy(model, one).item()
    assert cross_entropy(model, batch).item() == pytest.approx(alone, abs=1e-10)
    # What stands in the padding does not matter either.
    other = batch.source.clone()
    other[torch.arange(9)[:, None] >= batch.lengths] = 7
    assert cross_entropy(model, batch._replace(source=other)).item() == pytest.approx(alone, abs=1e-10)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_padding_receives_no_gradient(dropout):
    model = model_of(dropout).train()
    cross_entropy(model, batch_of()).backward()
    for embedding in (model.encoder.embedding, model.decoder.embedding):
        assert embedding.weight.grad is not None
        assert not embedding.weight.grad[PAD_ID].any()
        assert embedding.weight.grad[4:].any()


def test_attention_looks_at_no_padding():
    torch.manual_seed(0)
    keys, values, query = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.randn(2, 3)
    padding = torch.tensor([[False] * 4, [False, False, True, True]])
    context, weights = attend(query, Memory(keys, values, padding))
    assert (weights[padding] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    short, _ = attend(query[1:], Memory(keys[1:, :2], values[1:, :2], padding[1:, :2]))
    torch.testing.assert_close(context[1:], short)
    values[1, 2:] = 1e6
    torch.testing.assert_close(attend(query, Memory(keys, values, padding))[0], context)


def test_the_gradient_of_attention_is_autograds():
    torch.manual_seed(0)
    keys, values = torch.randn(2, 2, 4, 3, dtype=torch.float64)
    query = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    memory = Memory(keys, values, torch.tensor([[False] * 4, [False, True, True, True]]))
    context, weights = attend(query, memory)
    upstream = torch.randn_like(context)
    (expected,) = torch.autograd.grad(context, query, upstream)
    found, _ = attend_backward(upstream, weights.detach(), memory)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_encoder_ends_where_each_sentence_ends():
    model = model_of("nr-st").eval()
    batch = batch_of((6, 4, 4, 1), (1, 1, 1, 1))
    outputs, (h, c) = model.encoder(batch.source, batch.lengths)
    stock = nn.LSTM(8, 8, 2).double()
    stock.load_state_dict(model.encoder.lstm.state_dict())
    packed = nn.utils.rnn.pack_padded_sequence(model.encoder.embedding(batch.source), batch.lengths)
    expected, state = stock(packed)
    torch.testing.assert_close(outputs, nn.utils.rnn.pad_packed_sequence(expected)[0])
    torch.testing.assert_close((h, c), state)


def test_the_models_drop_what_their_names_say():
    kinds = {dropout: TranslationModel(12, 14, 10, 2, 0.3, dropout) for dropout in DROPOUTS}
    baseline = kinds["nr-random"]
    assert type(baseline.encoder.lstm) is nn.LSTM
    assert baseline.encoder.lstm.dropout == baseline.decoder.drop.p == 0.3
    masks = baseline.draw(5, 4, 3)
    assert masks.memory is masks.decoder.final is masks.decoder.output is None
    for dropout in STRUCTURED:
        everything = dropout == "nr-rh-st"
        model = kinds[dropout]
        lstm = model.encoder.lstm
        assert isinstance(lstm, strop.LSTM)
        assert (lstm.input_dropout, lstm.dropout) == (0.0, 0.3)
        assert lstm.recurrent_dropout == (0.3 if everything else 0.0)
        assert model.decoder.drop.p == 0
        masks = model.draw(5, 4, 3)
        drawn = [*masks.decoder.between, masks.decoder.output]
        assert len(drawn) == 2
        only_then = [masks.memory, masks.decoder.final, *masks.decoder.recurrent]
        assert len(only_then) == 4
        assert all((mask is not None) == everything for mask in only_then)
        for mask in drawn + [mask for mask in only_then if mask is not None]:
            assert mask.index.shape == (5 if mask is masks.memory else 4, 7)  # 7 of 10 kept at every step
            assert mask.scale == 10 / 7
            assert len({tuple(row) for row in mask.index.tolist()}) > 1  # anew at each step
    with pytest.raises(ValueError, match="'all'; it must be one of nr-random"):
        TranslationModel(9, 9, 6, 2, 0.5, "all")  # pyright: ignore[reportArgumentType]


def test_all_dropouts_have_the_same_weights_and_the_same_function_in_evaluation():
    batch = batch_of()
    models = [model_of(dropout, torch.float32).eval() for dropout in DROPOUTS]
    losses = [cross_entropy(model, batch) for model in models]
    for model, loss in zip(models[1:], losses[1:], strict=True):
        for name, weight in models[0].state_dict().items():
            assert torch.equal(model.state_dict()[name], weight), name
        torch.testing.assert_close(loss, losses[0])
    assert batch.target[0].unique().tolist() == [BEGIN_ID]
    assert (batch.target == END_ID).sum() == 3


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_autocast_to_bfloat16_rounds_and_no_more(dropout):
    model = model_of(dropout, torch.float32, units=24)
    batch = batch_of((5, 3, 3, 2), (2, 4, 3, 6))
    found = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = cross_entropy(model.train(), batch)
        found.append({"loss": loss.detach(), **gradients(model, loss.unsqueeze(0))})
    exact, rounded = found
    assert rounded.keys() == exact.keys()
    if native.has_bf16:  # elsewhere structured layers compute in float32 all the same
        assert not torch.equal(rounded["loss"], exact["loss"])
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        assert torch.linalg.vector_norm(rounded[name] - value) < 0.05 * torch.linalg.vector_norm(value), name
