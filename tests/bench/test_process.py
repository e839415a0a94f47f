import os
import time
from pathlib import Path

import pytest
import torch

from strop.bench.process import Remote


class Echo:
    def __init__(self, word: str) -> None:
        if word == "bad":
            raise ValueError("a bad word\nand more")
        self.word = word

    def say(self, *more: str) -> tuple[str, ...]:
        return (self.word, *more)

    def where(self) -> tuple[int, int, int, str]:
        cpus = len(os.sched_getaffinity(0))
        return os.getpid(), torch.get_num_threads(), cpus, os.environ["TORCHINDUCTOR_CACHE_DIR"]

    def sleep(self) -> None:
        time.sleep(60)

    def die(self) -> None:
        os._exit(7)


def test_an_object_answers_from_its_own_process():
    with Remote(Echo, "hello", threads=1) as remote:
        assert remote.call("say", "you") == ("hello", "you")
        pid, threads, cpus, scratch = remote.call("where")
        assert (threads, cpus) == (1, 1)
        assert pid != os.getpid()
        assert Path(scratch).is_dir()
        with pytest.raises(RuntimeError, match=r"AttributeError: .*no attribute 'shout'"):
            remote.call("shout")
        assert remote.call("say") == ("hello",)  # an error does not end it
        with pytest.raises(RuntimeError, match="its process ended with status 7"):
            remote.call("die")
    assert not Path(scratch).exists()


def test_what_takes_too_long_is_ended():
    remote = Remote(Echo, "hello", threads=1)
    remote.call("say")
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"over 0\.1 s"):
        remote.call("sleep", limit=0.1)
    assert time.monotonic() - start < 30
    assert not remote._process.is_alive()


def test_what_cannot_be_made_says_why():
    with (
        Remote(Echo, "bad", threads=1) as remote,
        pytest.raises(RuntimeError, match=r"^ValueError: a bad word$"),
    ):
        remote.call("say")
