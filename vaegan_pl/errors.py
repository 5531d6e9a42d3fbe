"""Errors that a user can fix."""

import importlib
from types import ModuleType


class UserError(Exception):
    """A user's mistake; its message names the option or path and how to fix it."""


def import_extra(package: str, extra: str, what: str) -> ModuleType:
    """Import a package that an extra brings.

    Args:
        package: the package.
        extra: the extra.
        what: what needs it, for the message, such as "a.nii: reading NIfTI".

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{what} needs {package}; pip install -e '.[{extra}]'") from error


def check_part(option: str, part: object, kind: type) -> None:
    """Check that the object built from an option has the right class; without `_target_` it is a plain mapping.

    Raises:
        ValueError: if it is not an instance of `kind`.
    """
    if not isinstance(part, kind):
        target = f"{kind.__module__}.{kind.__qualname__}"
        raise ValueError(f"{option}: is a {type(part).__name__}; set {option}._target_={target}")
