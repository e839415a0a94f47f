"""What is wrong with data."""


class DataError(ValueError):
    """Text that cannot be used. The message names the file or argument and what to do about it."""
