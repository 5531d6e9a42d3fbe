"""What `push` and `pull` share: the names of a model's files on the Hugging Face Hub, and errors in one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODEL = "vae_gan_model.pth"
CARD = "README.md"
"""Names of a model's files in its repository; the Hub shows the card as the repository's page."""


def connect() -> "HfApi":
    """The Hub's client, for `HF_ENDPOINT` if the environment names another Hub.

    Raises:
        UserError: if huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise UserError("the Hugging Face Hub needs huggingface_hub: run pip install -e '.[hub]'") from error
    disable_progress_bars()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="vaegan_pl")


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn errors of the Hub into a `UserError` that says what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"repo={repo}: is not the name of a repository on the Hub, USER/NAME") from error
    except LocalTokenNotFoundError as error:
        raise UserError("the Hub needs a token: run hf auth login, or set HF_TOKEN") from error
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set, so the Hub cannot be reached; unset it") from error
    except LocalEntryNotFoundError as error:  # no connection, and no earlier download
        raise _unreachable(error) from error
    except EntryNotFoundError as error:
        raise UserError(f"repo={repo}: contains no {MODEL} or no {CARD}; push writes both") from error
    except RevisionNotFoundError as error:
        raise UserError(f"repo={repo}: has no such revision; leave revision out for the main branch") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"repo={repo}: there is no such repository, or it is private and your token cannot see it; check the name, "
            "or run hf auth login"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"repo={repo}: the Hub refused the token ({status}); run hf auth login with one that has access"
            ) from error
        raise UserError(
            f"repo={repo}: the Hub answered with an error ({first_line(error)}); try again later"
        ) from error
    except OSError as error:
        raise _unreachable(error) from error
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "requests")):  # the client's library, by its version
            raise
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> UserError:
    return UserError(f"the Hub cannot be reached ({first_line(error)}); check the connection")
