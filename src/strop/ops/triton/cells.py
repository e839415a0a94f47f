"""The equations of ``ops.cells`` on a tile of units, as device functions: float32 in, float32 out."""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Within about 2 ulp everywhere: a polynomial (Cephes' tanhf) where the exponentials would cancel."""
    square = x * x
    series = -5.70498872745e-3
    series = series * square + 2.06390887954e-2
    series = series * square - 5.37397155531e-2
    series = series * square + 1.33314422036e-1
    series = series * square - 3.33332819422e-1
    small = x + x * square * series
    # exp of a large argument is infinite, and the quotient 0: tanh is 1.
    size = 1 - 2 / (tl.exp(2 * tl.abs(x)) + 1)
    return tl.where(tl.abs(x) < 0.625, small, tl.where(x < 0, -size, size))


@triton.jit
def lstm(i, f, g, o, c):
    """The gates after their nonlinearities, c and h."""
    i, f, g, o = tl.sigmoid(i), tl.sigmoid(f), tanh(g), tl.sigmoid(o)
    c = f * c + i * g
    return i, f, g, o, c, o * tanh(c)


@triton.jit
def lstm_backward(dh, dc, i, f, g, o, c, c_before):
    """Gradients of the four gates before their nonlinearities, and of ``c_before``."""
    squashed = tanh(c)
    dc += dh * o * ((1 - squashed) * (1 + squashed))
    di = dc * g * i * (1 - i)
    df = dc * c_before * f * (1 - f)
    dg = dc * i * ((1 - g) * (1 + g))
    do = dh * squashed * o * (1 - o)
    return di, df, dg, do, dc * f


@triton.jit
def gru(r, z, of_input, of_hidden, h):
    """The gates after their nonlinearities, and the next h."""
    r, z = tl.sigmoid(r), tl.sigmoid(z)
    n = tanh(of_input + r * of_hidden)
    return r, z, n, n + z * (h - n)


@triton.jit
def gru_backward(dh, r, z, n, of_hidden, h):
    """Gradients of r, z, n before their nonlinearities, of ``of_hidden``, and of h but for the product."""
    dn = dh * (1 - z) * ((1 - n) * (1 + n))
    dz = dh * (h - n) * z * (1 - z)
    dr = dn * of_hidden * r * (1 - r)
    return dr, dz, dn, dn * r, dh * z


@triton.jit
def rnn(a, CELL: tl.constexpr):
    """The next h."""
    if CELL == "rnn_relu":
        # Written so that NaN stays NaN, as in torch.
        return tl.where(a < 0, 0.0, a)
    return tanh(a)


@triton.jit
def rnn_backward(dh, h, CELL: tl.constexpr):
    """The gradient of what ``rnn`` was given."""
    if CELL == "rnn_relu":
        return tl.where(h > 0, dh, 0.0)
    return dh * ((1 - h) * (1 + h))
