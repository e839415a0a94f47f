"""Seeds made of seeds: another stream of random numbers for every purpose, always the same."""

import hashlib


def seed_of(*what: object) -> int:
    """A seed in [0, 2**63) for what is told by these, such as a purpose, a seed and an epoch."""
    digest = hashlib.sha256(" ".join(map(str, ("strop", *what))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
