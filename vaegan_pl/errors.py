"""Mistakes that a user can fix."""


class UserError(Exception):
    """One plain message that names the offending path or value and says what to do about it."""


def check_part(option: str, part: object, kind: type) -> None:
    """Check that an option holds what is made by its class, not the options of something without one.

    Raises:
        ValueError: if it holds anything else.
    """
    if not isinstance(part, kind):
        target = f"{kind.__module__}.{kind.__qualname__}"
        raise ValueError(f"{option}: holds a {type(part).__name__}; set {option}._target_={target}")
