"""Metrics that several tasks have."""

import math


def perplexity_of(mean: float) -> float:
    """Of a mean negative log-likelihood: inf beyond the range of numbers, NaN where it is."""
    return math.inf if mean >= 700 else math.exp(mean)
