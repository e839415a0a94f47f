import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from strop.tasks.files import check_files, with_digests
from strop.tasks.options import TrainOptions
from strop.training import RunFolderError


@dataclass(frozen=True)
class Options(TrainOptions):
    command: ClassVar[str] = "train toy"

    kind: Literal["a", "b"] = "a"
    data: Path | None = None
    sizes: tuple[int, ...] = (1,)
    rate: float | None = None

    @property
    def default_folder(self) -> Path:
        return Path("runs") / self.kind


def write(folder: Path, options: TrainOptions) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(options.describe()))
    return folder


def test_a_run_remembers_its_options_but_not_its_place(tmp_path):
    given = Options(out=tmp_path / "run", kind="b", data=Path("text"), sizes=(2, 3), rate=0.5, seed=7)
    folder = write(tmp_path / "run", given)
    for config in (folder, folder / "run.json"):
        again = Options(config=config).stored()
        assert (again.kind, again.sizes, again.rate, again.seed) == ("b", (2, 3), 0.5, 7)
        assert again.data == Path("text").resolve()
        assert (again.out, again.resume, again.config) == (None, False, None)
        assert again.folder == Path("runs/b")
    resumed = Options(out=folder, resume=True).stored()
    assert resumed.out == folder
    assert resumed.resume
    assert resumed.sizes == (2, 3)


def test_options_that_came_later_have_their_defaults(tmp_path):
    described = Options(seed=3).describe()
    del described["options"]["config"], described["options"]["sizes"]
    (tmp_path / "run.json").write_text(json.dumps(described))
    assert Options(config=tmp_path).stored() == Options(seed=3)


def test_resume_and_config_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match=r"config: .*leave it out"):
        Options(out=tmp_path, resume=True, config=tmp_path).stored()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", "x", r"run.json: option seed: 'x'; it must be int"),
        ("seed", True, "option seed: True"),
        ("kind", "c", r"option kind: 'c'; it must be Literal\['a', 'b'\]"),
        ("sizes", [1, "2"], "option sizes: '2'"),
        ("sizes", 4, "option sizes: 4"),
        ("rate", "fast", "option rate: 'fast'"),
        ("speed", 1, "not a run of strop train toy"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, name, value, message):
    described = Options().describe()
    described["options"][name] = value
    (tmp_path / "run.json").write_text(json.dumps(described))
    with pytest.raises(RunFolderError, match=message):
        Options(config=tmp_path).stored()


def test_kept_files_are_those_that_the_run_wrote(tmp_path):
    files = {"a.json": '["ä"]\n', "b.json": "[]"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    check_files(tmp_path)  # nothing to compare with
    (tmp_path / "run.json").write_text("{}")
    check_files(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(with_digests(Options().describe(), files)))
    check_files(tmp_path)
    assert Options(config=tmp_path).stored() == Options()
    (tmp_path / "b.json").write_text(files["a.json"])
    with pytest.raises(RunFolderError, match=r"b\.json: not the file that the run wrote"):
        check_files(tmp_path)
    (tmp_path / "b.json").unlink()
    check_files(tmp_path)  # who needs it says so
    (tmp_path / "run.json").write_text('{"files": 3}')
    with pytest.raises(RunFolderError, match=r"run\.json: not a run's description"):
        check_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ("[]", "not a run's description"),
        ('{"command": "train lm", "options": {}}', "not a run of strop train toy"),
        ('{"command": "train toy"}', "not a run of strop train toy"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match=message):
        Options(config=tmp_path).stored()
    with pytest.raises(RunFolderError, match="no run there"):
        Options(config=tmp_path / "none").stored()
