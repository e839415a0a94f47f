"""Checks of what describes networks and machines: errors name the key, its value and what is allowed."""

import math
from numbers import Real
from typing import Any

MOST = 10**9
"""No size of a network or of a machine is larger."""


def check_count(name: str, value: Any, least: int = 1, most: int = MOST) -> None:
    """Refuses what is no integer from ``least`` to ``most``.

    Raises:
        TypeError: ``value`` is no integer.
        ValueError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: {value!r}; an integer is needed")
    if not least <= value <= most:
        raise ValueError(f"{name}: {value}; it must be from {least} to {most:,}")


def check_positive(name: str, value: Any, most: float = 1e15) -> None:
    """Refuses what is no finite number above 0.

    Raises:
        TypeError: ``value`` is no number.
        ValueError: it is out of range.
    """
    _check_real(name, value)
    if not 0 < value <= most:
        raise ValueError(f"{name}: {value}; it must be more than 0 and at most {most:g}")


def check_share(name: str, value: Any) -> None:
    """Refuses what is no share in (0, 1].

    Raises:
        TypeError: ``value`` is no number.
        ValueError: it is out of range.
    """
    _check_real(name, value)
    if not 0 < value <= 1:
        raise ValueError(f"{name}: {value}; a share in (0, 1] is needed")


def check_flag(name: str, value: Any) -> None:
    """Refuses what is neither True nor False.

    Raises:
        TypeError: ``value`` is no bool.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: {value!r}; true or false is needed")


def check_text(name: str, value: Any) -> None:
    """Refuses what is no name.

    Raises:
        TypeError: ``value`` is no text.
        ValueError: it is empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}: {value!r}; text is needed")
    if not value:
        raise ValueError(f"{name}: it is empty; give a name")


def choose(name: str, value: Any, known: dict[str, Any]) -> Any:
    """The entry of ``known`` that is called ``value``.

    Raises:
        TypeError: ``value`` is no text.
        ValueError: nothing is called so.
    """
    check_text(name, value)
    if value not in known:
        raise ValueError(f"{name}: {value!r} is not known; known are {', '.join(known)}")
    return known[value]


def _check_real(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: {value!r}; a number is needed")
    if not math.isfinite(value):
        raise ValueError(f"{name}: {value}; a finite number is needed")
