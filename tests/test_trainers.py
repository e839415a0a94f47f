"""The trainers that people use, for a few steps on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import strop


class Tagger(nn.Module):
    """``[batch, 5, 6]`` to logits of 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        drops = {"dropout": 0.5, "input_dropout": 0.2, "recurrent_dropout": 0.5}
        self.rnn = strop.LSTM(6, 8, 2, batch_first=True, bidirectional=True, **drops)
        self.head = strop.Linear(16, 3, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self(x).flatten(0, 1), target.flatten())


def batches() -> DataLoader:
    """Classes that a layer can tell: the largest of three inputs."""
    x = torch.randn(64, 5, 6)
    return DataLoader(TensorDataset(x, x[..., :3].argmax(-1)), 16)


def loss_of(model: Tagger, data: DataLoader) -> float:
    model.eval()
    with torch.no_grad():
        return sum(model.loss(*batch).item() for batch in data) / len(data)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning(precision, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Tagger()

        def training_step(self, batch, index):
            return self.model.loss(*batch)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.02)

    module, data = Module(), batches()
    before = loss_of(module.model, data)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=6,
        precision=precision,
        gradient_clip_val=1.0,
        accumulate_grad_batches=2,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **quiet,
    )
    trainer.fit(module.train(), data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert loss_of(module.model, data) < before - 0.02
    again = Module.load_from_checkpoint(tmp_path / "model.ckpt")
    assert all(map(torch.equal, again.state_dict().values(), module.state_dict().values()))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
    plain, data = Tagger(), batches()
    before = loss_of(plain, data)
    optimizer = torch.optim.Adam(plain.parameters(), 0.02)
    model, optimizer, data = accelerator.prepare(plain.train(), optimizer, data)
    try:
        for _ in range(6):
            for x, target in data:
                with accelerator.accumulate(model):
                    loss = nn.functional.cross_entropy(model(x).flatten(0, 1).float(), target.flatten())
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
        unwrapped = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        assert type(unwrapped.rnn) is strop.LSTM
        assert loss_of(unwrapped, data) < before - 0.02
    finally:
        accelerator.free_memory()
        accelerate.state.AcceleratorState._reset_state(True)
