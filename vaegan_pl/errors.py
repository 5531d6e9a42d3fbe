"""Mistakes that a user can fix."""


class UserError(Exception):
    """One plain message that names the offending path or value and says what to do about it."""
