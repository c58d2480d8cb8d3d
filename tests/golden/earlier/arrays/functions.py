"""Functions of a project that an earlier version of the package ran."""


def double(raw):
    """Return twice the array."""
    return raw * 2
