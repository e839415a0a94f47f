"""Translating text with the model of a run: from Python by `Translator`, from the command line by `run`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from strop.data.parallel import encode
from strop.data.text import Vocabulary, decode_lines, in_chunks
from strop.limits import check_sizes, find_device, use_threads
from strop.streams import write_utf8
from strop.tasks.files import check_files
from strop.tasks.translation import decoding
from strop.tasks.translation.decoding import check_search
from strop.tasks.translation.model import TranslationModel
from strop.tasks.translation.task import SOURCE, TARGET, text
from strop.tasks.translation.translate_options import Options
from strop.training import RunFolderError, read_trained


class Translator:
    """A trained model with its vocabularies.

    Args:
        run: folder of a run of `strop train nmt`, finished or not.

    Raises:
        strop.training.RunError, DataError: nothing to translate with is there, or it is damaged.
    """

    def __init__(self, run: Path, device: torch.device | str = "cpu") -> None:
        trained = read_trained(run)
        identity = trained.identity
        if identity.get("task") != "translation":
            raise RunFolderError(f"{run}: a run of another task ({identity.get('task')}), not of train nmt")
        check_files(run)
        self.source, self.target = (Vocabulary.read(run / name) for name in (SOURCE, TARGET))
        preset = identity["preset"]
        self.model = TranslationModel(
            len(self.source),
            len(self.target),
            preset["units"],
            preset["layers"],
            preset["p"],
            identity["dropout"],
        )
        try:
            self.model.load_state_dict(trained.weights)
        except RuntimeError as error:
            raise RunFolderError(
                f"{run}: {SOURCE} or {TARGET} do not fit the weights ({error}); restore them from a copy"
            ) from error
        self.model.to(device).eval()

    def __call__(
        self, lines: Sequence[str], *, beam: int = 5, alpha: float = 1.0, batch: int = 64
    ) -> list[str]:
        """The translation of every line; an empty one stays empty."""
        sentences = [encode(self.source, line.split()) for line in lines]
        written = [number for number, ids in enumerate(sentences) if ids]
        translations = [""] * len(lines)
        given = [sentences[number] for number in written]
        for number, ids in decoding.translate(self.model, given, beam=beam, alpha=alpha, batch=batch):
            translations[written[number]] = text(self.target, ids)
        return translations


def run(options: Options) -> int:
    """The command `strop translate`: 0 when all of stdin is translated."""
    if options.batch < 1:
        raise ValueError(f"batch: {options.batch}; at least 1 is needed")
    check_search(options.beam, options.alpha)
    check_sizes(options)
    use_threads(options.threads)
    translator = Translator(options.run, find_device(options.device))
    write_utf8()
    lines = decode_lines("stdin", sys.stdin.buffer)
    # At a terminal an answer to every line, else enough at a time to put sentences of like length together.
    at_once = 1 if sys.stdin.isatty() else 16 * options.batch
    shows = sys.stderr.isatty() and not sys.stdout.isatty()
    done = 0
    for chunk in in_chunks(lines, at_once):
        for line in translator(chunk, beam=options.beam, alpha=options.alpha, batch=options.batch):
            print(line)
        sys.stdout.flush()
        done += len(chunk)
        if shows:
            print(f"\r{done:,} sentences translated", end="", file=sys.stderr, flush=True)
    if shows and done:
        print(file=sys.stderr)
    return 0
