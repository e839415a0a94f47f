"""What the examples share: training steps timed in turn."""

import time

from strop.bench.measure import Percentiles, interleave


def print_speed_up(steps, seconds):
    """Times training steps of both models in turn for about so many seconds.

    `steps` are functions by name, `torch` and `strop`, that train one step on the batch of a number.
    """

    def timed(step):
        def once(repetition):
            start = time.perf_counter()
            step(repetition)
            return {"step": time.perf_counter() - start}

        return once

    times = interleave({name: timed(step) for name, step in steps.items()}, seconds)
    ms = {name: 1e3 * Percentiles.of(values["step"]).p50 for name, values in times.items()}
    both = f"torch {ms['torch']:.0f} ms, strop {ms['strop']:.0f} ms"
    print(f"a training step, median of each: {both}, speed-up {ms['torch'] / ms['strop']:.2f}x")
