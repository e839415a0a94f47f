"""Models of projects that train recurrent networks, made by their packages, at sizes that are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

Made = tuple[nn.Module, Any]
"""A model, and the arguments of its forward as ``strop.convert`` takes them."""


@dataclass(frozen=True)
class Client:
    """A project.

    Attributes:
        package: as the registry calls it.
        what: the class that is made.
        recipe: the line that converts it where people use the project.
    """

    package: str
    what: str
    recipe: str
    make: Callable[[], Made]


def _darts() -> Made:
    from darts.models.forecasting.block_rnn_model import _BlockRNNModule
    from darts.utils.data.torch_datasets.utils import PLModuleInput

    sizes: dict[str, Any] = {"input_size": 8, "hidden_dim": 128, "future_cov_dim": 0, "num_layers": 2}
    sizes |= {"target_size": 8, "nr_params": 1, "num_layers_out_fc": [128], "dropout": 0.3}
    model = _BlockRNNModule("LSTM", **sizes, input_chunk_length=96, output_chunk_length=24)
    return model, (PLModuleInput(torch.randn(32, 96, 8)),)


def _flair() -> Made:
    from flair.nn import LockedDropout

    class Tagger(nn.Module):
        """flair's SequenceTagger from embeddings to scores, in its order, of its own parts."""

        def __init__(self) -> None:
            super().__init__()
            self.locked_dropout = LockedDropout(0.5)
            self.rnn = nn.LSTM(1024, 256, batch_first=True, bidirectional=True)
            self.linear = nn.Linear(512, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.locked_dropout(self.rnn(self.locked_dropout(x))[0]))

    return Tagger(), torch.randn(32, 30, 1024)


def _gluonts() -> Made:
    from gluonts.torch.model.deepar.module import DeepARModel

    class Loss(nn.Module):
        """The loss of a training step of DeepAR."""

        def __init__(self) -> None:
            super().__init__()
            self.deepar = DeepARModel("h", 72, 24, num_layers=2, hidden_size=128, dropout_rate=0.2)

        def forward(self, **given: Tensor) -> Tensor:
            return self.deepar.loss(**given)

    past, future, rows = 72 + 721, 24, 32
    given = {
        "feat_static_cat": torch.zeros(rows, 1, dtype=torch.int64),
        "feat_static_real": torch.zeros(rows, 1),
        "past_time_feat": torch.randn(rows, past, 1),
        "past_target": torch.rand(rows, past),
        "past_observed_values": torch.ones(rows, past),
        "future_time_feat": torch.randn(rows, future, 1),
        "future_target": torch.rand(rows, future),
        "future_observed_values": torch.ones(rows, future),
    }
    return Loss(), given


def _joeynmt() -> Made:
    from joeynmt.decoders import RecurrentDecoder
    from joeynmt.encoders import RecurrentEncoder

    class Translator(nn.Module):
        """A GRU encoder and an attentional decoder with input feeding, as joeynmt builds them."""

        def __init__(self) -> None:
            super().__init__()
            of_encoder: dict[str, Any] = {"hidden_size": 256, "emb_size": 256, "num_layers": 1}
            self.encoder = RecurrentEncoder("gru", **of_encoder, dropout=0.3, emb_dropout=0.3)
            of_decoder: dict[str, Any] = {"emb_size": 256, "hidden_size": 256, "num_layers": 1}
            of_decoder |= {"vocab_size": 4000, "dropout": 0.3, "emb_dropout": 0.3, "hidden_dropout": 0.3}
            self.decoder = RecurrentDecoder("gru", encoder=self.encoder, **of_decoder)

        def forward(self, source: Tensor, lengths: Tensor, mask: Tensor, target: Tensor) -> Tensor:
            memory, last = self.encoder(source, lengths, mask)
            return self.decoder(target, memory, last, mask, target.shape[1])[0]

    lengths = torch.linspace(25, 12, 32).long()
    mask = torch.arange(25).view(1, 1, -1) < lengths.view(-1, 1, 1)
    return Translator(), (torch.randn(32, 25, 256), lengths, mask, torch.randn(32, 20, 256))


def _neuralforecast() -> Made:
    from neuralforecast.models import LSTM

    model = LSTM(h=24, input_size=96, encoder_hidden_size=200, encoder_dropout=0.3, decoder_hidden_size=200)
    window = {"insample_y": torch.randn(128, 96, 1), "futr_exog": None, "hist_exog": None, "stat_exog": None}
    return model, (window,)


def _opennmt() -> Made:
    from onmt.encoders.rnn_encoder import RNNEncoder
    from onmt.modules import Embeddings

    embeddings = Embeddings(500, 5000, 1, dropout=0.3)
    encoder = RNNEncoder("LSTM", True, 2, 500, 0.3, embeddings)
    return encoder, (torch.randint(2, 5000, (64, 25, 1)), torch.linspace(25, 12, 64).long())


def _pytorch_forecasting() -> Made:
    from pytorch_forecasting.models.nn.rnn import LSTM

    return LSTM(64, 256, num_layers=2, dropout=0.3, batch_first=True), torch.randn(32, 40, 64)


def _recbole() -> Made:
    from recbole.model.sequential_recommender.gru4rec import GRU4Rec

    class Items:
        def num(self, _: str) -> int:
            return 5000

    class Scores(nn.Module):
        """The scores of all items that GRU4Rec's cross entropy compares."""

        def __init__(self) -> None:
            super().__init__()
            settings = {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "dropout_prob": 0.3}
            names = {"USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "LIST_SUFFIX": "_list"}
            names |= {"ITEM_LIST_LENGTH_FIELD": "length", "NEG_PREFIX": "neg_", "loss_type": "CE"}
            config = {**settings, **names, "MAX_ITEM_LIST_LENGTH": 50, "device": "cpu"}
            self.model = GRU4Rec(config, Items())

        def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
            return self.model(items, lengths) @ self.model.item_embedding.weight.t()

    return Scores(), (torch.randint(1, 5000, (256, 50)), torch.randint(5, 51, (256,)))


def _sb3() -> Made:
    from gymnasium.spaces import Box, Discrete
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    class Update(nn.Module):
        """The evaluation in an update of RecurrentPPO."""

        def __init__(self) -> None:
            super().__init__()
            space = Box(-1, 1, (24,))
            self.policy = RecurrentActorCriticPolicy(space, Discrete(4), lambda _: 1e-3, lstm_hidden_size=256)

        def forward(self, seen: Tensor, actions: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
            zeros = torch.zeros(1, 8, 256)
            states = RNNStates((zeros, zeros), (zeros, zeros))
            return self.policy.evaluate_actions(seen, actions, states, starts)

    return Update(), (torch.randn(1024, 24), torch.randint(4, (1024,)), torch.zeros(1024))


def _stanza() -> Made:
    from stanza.models.common.packed_lstm import PackedLSTM

    lengths = list(range(40, 8, -1))
    x = pack_sequence([torch.randn(length, 400) for length in lengths])
    model = PackedLSTM(400, 256, 2, bias=True, batch_first=True, dropout=0.5, bidirectional=True)
    return model, (x, lengths)


def _supar() -> Made:
    from supar.modules import VariationalLSTM

    x = pack_sequence([torch.randn(length, 100) for length in range(24, 8, -1)])
    return VariationalLSTM(100, 400, num_layers=2, bidirectional=True, dropout=0.33), (x,)


CLIENTS = (
    Client("darts", "BlockRNNModel", "strop.convert(forecaster.model, …)", _darts),
    Client("flair", "SequenceTagger's layers", "strop.convert(tagger, …)", _flair),
    Client("gluonts", "DeepARModel", "strop.convert(module.model, …)", _gluonts),
    Client("joeynmt", "RecurrentEncoder, RecurrentDecoder", "strop.convert(model, …)", _joeynmt),
    Client("neuralforecast", "LSTM", "strop.convert(forecast.models[0], …)", _neuralforecast),
    Client("OpenNMT-py", "RNNEncoder", "strop.convert(model, …)", _opennmt),
    Client("pytorch-forecasting", "LSTM", "strop.convert(model, …)", _pytorch_forecasting),
    Client("recbole", "GRU4Rec", "strop.convert(model, …)", _recbole),
    Client("sb3-contrib", "RecurrentPPO's policy", "strop.convert(ppo.policy, …)", _sb3),
    Client("stanza", "PackedLSTM", "strop.convert(trainer.model, …)", _stanza),
    Client("supar", "VariationalLSTM", "strop.convert(parser.model, …)", _supar),
)
