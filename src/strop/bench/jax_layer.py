"""An LSTM layer with recurrent dropout in JAX: a jitted `lax.scan` over the steps."""

from time import perf_counter
from typing import Any

import jax  # pyright: ignore[reportMissingImports]
import torch
from jax import lax, nn  # pyright: ignore[reportMissingImports]
from jax import numpy as jnp  # pyright: ignore[reportMissingImports]
from torch import Tensor

from strop.bench.presets import Preset
from strop.bench.problem import Outcome, Problem


def scanned_lstm(weights: Any, x: Any, input_mask: Any, recurrent_mask: Any) -> Any:
    """A layer over x [steps, batch, input], with masks [steps, 1, units] to multiply by.

    One product projects the input of all steps.

    Args:
        weights: of the input [input, 4H] and of the state [H, 4H], and the bias [4H]. Input-major, as JAX's
            own layers have them; transposed in the products the same took 0 to 10 % longer.
    """
    of_input, of_state, bias = weights
    projected = (x * input_mask) @ of_input + bias
    zeros = jnp.zeros((x.shape[1], of_state.shape[0]), x.dtype)

    def step(state: Any, now: Any) -> Any:
        h, c = state
        of_x, mask = now
        i, f, g, o = jnp.split(of_x + (h * mask) @ of_state, 4, axis=1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return lax.scan(step, (zeros, zeros), (projected, recurrent_mask))[1]


def _gradients(weights: Any, x: Any, grad: Any, masks: Any) -> Any:
    """y, and the gradients of the weights and of x."""
    y, pull = jax.vjp(lambda weights, x: scanned_lstm(weights, x, *masks), weights, x)
    return y, *pull(grad)


_forward_backward: Any = jax.jit(_gradients)


class Scan:
    """See `contestants.Contestant`."""

    def __init__(self, preset: Preset) -> None:
        self.software = f"jax {jax.__version__}"
        self._given = _arrays(Problem.of(preset))
        steps, (layers,) = preset.steps, preset.stack
        sizes = ((layers.input, preset.nr), (layers.hidden, preset.rh))

        def masks(key: Any) -> Any:
            return tuple(
                jax.random.bernoulli(own, 1 - p, (steps, 1, units)).astype(jnp.float32) / (1 - p)
                for own, (units, p) in zip(jax.random.split(key), sizes, strict=True)
            )

        self._masks, self._key = jax.jit(masks), jax.random.key(0)
        jax.block_until_ready(self._masks(self._key))

    def outcome(self, problem: Problem) -> Outcome:
        y, (of_input, of_state, bias), x = _forward_backward(*_arrays(problem), _masks(problem))
        grads = {"x": x, "weight_ih": of_input.T, "weight_hh": of_state.T, "bias_ih": bias, "bias_hh": bias}
        return {
            "its output": _tensor(y),
            **{f"the gradient of {name}": _tensor(grad) for name, grad in grads.items()},
        }

    def seconds(self) -> float:
        start = perf_counter()
        self._key, own = jax.random.split(self._key)
        jax.block_until_ready(_forward_backward(*self._given, self._masks(own)))
        return perf_counter() - start


def _arrays(problem: Problem) -> Any:
    w_ih, w_hh, b_ih, b_hh = problem.weights
    weights = (_array(w_ih.t()), _array(w_hh.t()), _array(b_ih + b_hh))
    return weights, _array(problem.x), _array(problem.grad)


def _masks(problem: Problem) -> Any:
    return tuple(_array(mask) for mask in problem.multipliers)


def _array(tensor: Tensor) -> Any:
    return jnp.array(tensor.detach().numpy())


def _tensor(array: Any) -> Tensor:
    return torch.tensor(jax.device_get(array))
