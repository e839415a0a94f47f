"""functional.linear_cross_entropy and Linear.cross_entropy: torch's contract, and nothing but its numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

import oracle
import strop
from strop import functional
from strop.functional import cross_entropy
from strop.ops import dispatch, native
from strop.pattern import CASES, Mask, Pattern

built = pytest.mark.skipif(native.missing is not None, reason=f"not built: {native.missing}")
OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0, "reduction": "none"},
    {"ignore_index": 2},
]


class Case:
    """Operands, and the loss with the gradients of all of them; every fourth target is ignored."""

    def __init__(
        self, steps: int, batch: int, inputs: int, classes: int, pattern: str | None, p: float = 0.5
    ):
        generator = torch.Generator().manual_seed(steps + 7 * classes)
        self.x = torch.randn(steps, batch, inputs, generator=generator)
        self.weight = torch.randn(classes, inputs, generator=generator) / inputs**0.5
        self.bias: Tensor | None = torch.randn(classes, generator=generator)
        self.target = torch.randint(classes, (steps, batch), generator=generator)
        self.target.view(-1)[3::4] = -100
        self.upstream = torch.randn(steps, batch, generator=generator)
        self.mask: Mask | None = None
        if pattern is not None:
            self.mask = Pattern.named(pattern, p).draw(steps, inputs, batch, generator=generator)

    def run(self, dtype: torch.dtype, independent: bool = False, **options) -> dict[str, Tensor]:
        leaves = [
            None if v is None else v.to(dtype).clone().requires_grad_()
            for v in (self.x, self.weight, self.bias)
        ]
        x, weight, bias = leaves
        assert x is not None
        assert weight is not None
        target = self.target
        if "ignore_index" in options:
            target = target.masked_fill(target == -100, options["ignore_index"])
        if independent:
            logits = oracle.linear(x, weight, bias, self.mask)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), **options)
            loss = loss.view(target.shape) if options.get("reduction") == "none" else loss
        else:
            loss = functional.linear_cross_entropy(x, weight, target, bias=bias, mask=self.mask, **options)
        upstream = self.upstream.to(dtype) if loss.dim() else torch.tensor(3.0, dtype=dtype)
        sources = {n: v for n, v in zip(("dx", "dweight", "dbias"), leaves, strict=True) if v is not None}
        grads = torch.autograd.grad(loss, list(sources.values()), upstream)
        return {"loss": loss.detach()} | dict(zip(sources, grads, strict=True))


def compare(backend, case: Case, **options) -> None:
    def unfused(dtype: torch.dtype) -> dict[str, Tensor]:
        with dispatch.use("reference"):
            return case.run(dtype, **options)

    oracle.check(
        backend,
        case.run(backend.dtype, **options),
        lambda dtype: case.run(dtype, independent=True, **options),
        unfused,
    )


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_oracle(backend, name, options):
    compare(backend, Case(4, 7, 17, 131, name), **options)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 1, 3, 2), (5, 1, 2, 64), (2, 21, 65, 65), (3, 5, 33, 900)], ids=str
)
@pytest.mark.parametrize("bias", [True, False])
def test_odd_sizes(backend, shape, bias):
    case = Case(*shape, "structured")
    case.bias = case.bias if bias else None
    compare(backend, case)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("kept", ["ragged", "nothing", "all"])
def test_kept_counts(backend, kept):
    case = Case(6, 3, 20, 70, None)
    dense = torch.rand(6, 1, 20, generator=torch.Generator().manual_seed(3)) < 0.5
    dense[0], dense[1] = False, True
    dense = {"ragged": dense, "nothing": dense & False, "all": dense | True}[kept]
    index = torch.where(dense[:, 0], torch.arange(20), 20).sort(1).values.int()
    case.mask = Mask(6, 3, 20, 2.0, index, dense.sum((1, 2)).int(), None)
    assert torch.equal(case.mask.dense(torch.float32), 2.0 * dense)
    compare(backend, case)


@built
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("shape", [(700, 40), (35, 20, 40), (5, 7, 20, 40)], ids=str)
def test_nothing_dropped_is_fused_at_size(shape, monkeypatch):
    classes = 1300
    assert math.prod(shape) * classes > cross_entropy._LEAST_FUSED
    x, weight = torch.randn(shape), torch.randn(classes, shape[-1]) / 6
    target = torch.randint(classes, shape[:-1])

    def compute(dtype, fused=False):
        leaves = [x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
        if fused:
            loss = functional.linear_cross_entropy(*leaves, target, reduction="none")
        else:
            logits = torch.nn.functional.linear(*leaves).flatten(0, -2)
            loss = torch.nn.functional.cross_entropy(logits, target.flatten(), reduction="none").view(
                target.shape
            )
        return dict(
            zip(("loss", "dx", "dw"), (loss.detach(), *torch.autograd.grad(loss.sum(), leaves)), strict=True)
        )

    with dispatch.use("native"):
        ours = compute(torch.float32, fused=True)
    oracle.assert_as_accurate(ours, [compute(torch.float32)], compute(torch.float64))
    monkeypatch.setattr(native, "linear_cross_entropy", None)
    with pytest.raises(TypeError, match="not callable"):  # it is what ran
        compute(torch.float32, fused=True)


@built
def test_as_accurate_as_pytorch_at_size():
    """In norm no further from float64 than twice what PyTorch's float32 is; no floor."""
    case = Case(20, 20, 200, 3000, "structured")
    with dispatch.use("native"):
        ours = case.run(torch.float32, reduction="none")
    torchs = case.run(torch.float32, independent=True, reduction="none")
    for name, truth in case.run(torch.float64, independent=True, reduction="none").items():
        error, allowed = (ours[name].double() - truth).norm(), (torchs[name].double() - truth).norm()
        assert error <= 2 * allowed, f"{name}: {error / allowed:.2f} times the error of PyTorch's float32"


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name):
    case = Case(3, 2, 5, 4, name)
    operands = tuple(v.double().requires_grad_() for v in (case.x, case.weight, torch.randn(4)))
    assert torch.autograd.gradcheck(
        lambda x, w, b: functional.linear_cross_entropy(
            x, w, case.target, bias=b, mask=case.mask, label_smoothing=0.2
        ),
        operands,
    )


def test_rows_that_are_all_ignored_are_torchs(backend):
    case = Case(2, 3, 8, 70, "structured")
    case.target.fill_(-100)
    for reduction in ("mean", "sum", "none"):
        ours = case.run(backend.dtype, reduction=reduction)
        theirs = case.run(backend.dtype, independent=True, reduction=reduction)
        assert torch.equal(ours["loss"].nan_to_num(7), theirs["loss"].nan_to_num(7))
        for name in ("dx", "dweight", "dbias"):
            assert not ours[name].any(), (reduction, name)


@pytest.mark.parametrize("classes", [130, 60])
def test_classes_ruled_out_by_an_infinite_bias(backend, classes):
    case = Case(2, 3, 8, classes, "structured")
    assert case.bias is not None
    case.bias[: classes // 2 + 5] = -math.inf  # more than a whole panel of 130
    case.target.clamp_(min=classes // 2 + 5)
    compare(backend, case)
    case.target[0, 0] = 1
    assert case.run(backend.dtype)["loss"] == math.inf


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_logits_of_any_size(backend, scale):
    case = Case(2, 5, 8, 200, "structured")
    case.weight *= scale
    ours, truth = case.run(backend.dtype), case.run(torch.float64, independent=True)
    for name, value in truth.items():
        torch.testing.assert_close(
            ours[name].double(), value, rtol=1e-4, atol=1e-5 * value.abs().max().item()
        )


def test_a_nan_reaches_the_loss(backend):
    case = Case(2, 3, 8, 70, "structured")
    assert case.mask is not None
    assert case.mask.index is not None
    case.x[0, 0, int(case.mask.index[0, 0])] = math.nan
    losses = case.run(backend.dtype, reduction="none")["loss"]
    assert losses[0, 0].isnan()
    assert not losses.flatten()[1:].isnan().any()


@built
@pytest.mark.parametrize("needed", ["x", "weight", "bias", "x bias"])
def test_any_subset_of_gradients(needed):
    case = Case(3, 5, 20, 130, "structured")
    assert case.bias is not None
    everything = case.run(torch.float32)
    leaves = {"x": case.x, "weight": case.weight, "bias": case.bias}
    leaves = {n: v.clone().requires_grad_(n in needed.split()) for n, v in leaves.items()}
    bias, given = leaves["bias"], (leaves["x"], leaves["weight"], case.target)
    loss = functional.linear_cross_entropy(*given, bias=bias, mask=case.mask)
    (3 * loss).backward()
    for name, leaf in leaves.items():
        if name in needed.split():
            assert leaf.grad is not None
            torch.testing.assert_close(leaf.grad, everything[f"d{name}"], rtol=1e-6, atol=1e-7)
        else:
            assert leaf.grad is None


@built
def test_what_is_saved_is_one_number_for_each_logit():
    case = Case(7, 5, 11, 128, "structured")
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    x, weight = case.x.requires_grad_(), case.weight.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = functional.linear_cross_entropy(x, weight, case.target, mask=case.mask, reduction="none")
    rows = 7 * 5
    assert sum(saved.values()) == rows * (128 + 2 + 1) + x.numel() + weight.numel()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.no_grad():
        saved.clear()
        again = functional.linear_cross_entropy(x, weight, case.target, mask=case.mask, reduction="none")
    assert not saved
    assert torch.equal(loss, again)


@pytest.mark.parametrize("name", ["structured", "random", None])
def test_autocast(name):
    case = Case(3, 5, 20, 130, name)
    x = case.x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = functional.linear_cross_entropy(x.bfloat16(), case.weight, case.target, mask=case.mask)
    full = functional.linear_cross_entropy(x, case.weight, case.target, mask=case.mask)
    torch.testing.assert_close(half.float(), full, rtol=0.02, atol=0.02)
    half.backward()
    assert x.grad is not None


BAD = {
    "reduction": ({"reduction": "max"}, ValueError, "reduction must be mean, sum or none, got 'max'"),
    "smoothing": ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\], got 1.5"),
    "target dtype": ({"target": torch.zeros(3, 2)}, TypeError, "target must be int64"),
    "target shape": ({"target": torch.zeros(2, 3).long()}, ValueError, r"target must be \[3, 2\] on cpu"),
    "target device": ({"target": torch.zeros(3, 2, device="meta").long()}, ValueError, "on meta"),
    "no class": ({"target": torch.full((3, 2), 5)}, IndexError, r"target must be in \[0, 5\).*got 5"),
    "negative": ({"target": torch.full((3, 2), -1)}, IndexError, "got -1"),
    "huge": ({"target": torch.full((3, 2), 2**32)}, IndexError, "got 4294967296"),
    "weight": ({"weight": torch.zeros(5, 3)}, ValueError, r"weight must have shape \[5, 4\]"),
    "weight rank": ({"weight": torch.zeros(5)}, ValueError, r"weight must be \[classes, in\]"),
    "bias": ({"bias": torch.zeros(4)}, ValueError, r"bias must have shape \[5\], got \[4\]"),
    "x": ({"x": torch.zeros(3, 2, 4).long()}, ValueError, "x must be a floating-point"),
    "mask": ({"mask": "structured"}, TypeError, "mask must be a strop.Mask"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    changed, error, message = BAD[name]
    good = {"x": torch.zeros(3, 2, 4), "weight": torch.zeros(5, 4), "target": torch.zeros(3, 2).long()}
    with pytest.raises(error, match=message):
        functional.linear_cross_entropy(**good | changed)


def test_a_layers_cross_entropy_is_that_of_its_logits():
    fc, x = strop.Linear(16, 7, dropout=0.5), torch.randn(4, 3, 16)
    target = torch.randint(7, (4, 3))

    def plain(logits: Tensor, **options) -> Tensor:
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten(), **options)

    mask = fc.draw(4, 3)
    torch.testing.assert_close(fc.cross_entropy(x, target, mask), plain(fc(x, mask)))
    torch.manual_seed(3)
    drawn = fc.cross_entropy(x, target)
    torch.manual_seed(3)
    torch.testing.assert_close(drawn, plain(fc(x)))
    assert not torch.equal(drawn, fc.cross_entropy(x, target))
    fc.eval()
    torch.testing.assert_close(fc.cross_entropy(x, target), plain(fc(x)))
    target[1] = -1
    losses = fc.cross_entropy(x, target, reduction="none", ignore_index=-1)
    assert losses.shape == (4, 3)
    assert not losses[1].any()


def test_a_layers_cross_entropy_of_one_step():
    fc, x, target = strop.Linear(16, 7, dropout=0.5), torch.randn(3, 16), torch.randint(7, (3,))
    mask = fc.draw(1, 3)
    losses = fc.cross_entropy(x, target, mask, reduction="none")
    torch.testing.assert_close(
        losses, torch.nn.functional.cross_entropy(fc(x, mask), target, reduction="none")
    )
    with pytest.raises(ValueError, match=r"input must be \[time, batch, 16\]"):
        fc.cross_entropy(torch.zeros(16), target)
    with pytest.raises(ValueError, match=r"target must be"):
        fc.cross_entropy(x, target[:2])


@built
def test_a_layer_trains_the_same_way_fused_or_not():
    fc = strop.Linear(40, 200, dropout=0.5)
    x, target, mask = torch.randn(6, 5, 40), torch.randint(200, (6, 5)), fc.draw(6, 5)
    grads = []
    for backend in ("native", "reference"):
        layer = copy.deepcopy(fc)
        with dispatch.use(backend):
            layer.cross_entropy(x, target, mask).backward()
        grads.append([p.grad for p in layer.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
