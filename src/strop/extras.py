"""What an optional part of strop needs, in words that work wherever strop came from."""

import re
from importlib.metadata import PackageNotFoundError, requires


def installing(extra: str) -> str:
    """The command that installs the packages of an extra of pyproject.toml.

    It names the packages themselves, as no package index has strop.
    """
    try:
        wanted = requires("strop") or []
    except PackageNotFoundError:
        wanted = []
    own = re.compile(rf"extra == ['\"]{re.escape(extra)}['\"]")
    packages = [line.partition(";")[0].strip() for line in wanted if own.search(line)]
    if not packages:  # run from its sources
        return f"pip install '.[{extra}]' in the folder of strop's sources"
    return "pip install " + " ".join(f"'{package}'" for package in packages)
