"""Errors that a user can fix."""


class UserError(Exception):
    """A user's mistake; its message names the option or path and how to fix it."""


def check_part(option: str, part: object, kind: type) -> None:
    """Check that the object built from an option has the right class; without `_target_` it is a plain mapping.

    Raises:
        ValueError: if it is not an instance of `kind`.
    """
    if not isinstance(part, kind):
        target = f"{kind.__module__}.{kind.__qualname__}"
        raise ValueError(f"{option}: is a {type(part).__name__}; set {option}._target_={target}")
