"""A W&B workspace for this project's runs: `python -m vaegan_pl.dashboard entity=NAME project=NAME`."""

import json
import logging
import re
from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.storage.outputs import MADE_BY, claim

log = logging.getLogger(__name__)


def dashboard(config: DictConfig) -> None:
    """Write the workspace as JSON; with `offline=false`, create it in W&B or replace the one at `url`.

    Raises:
        UserError: if wandb-workspaces is not installed, or W&B refuses the workspace.
    """
    path = Path(str(config.output)) / "workspace.json"
    claim(path.parent, re.escape(path.name), config.overwrite)
    try:
        from wandb_workspaces.workspaces import Workspace
    except ImportError as error:
        raise UserError("the dashboard needs wandb-workspaces; run pip install -e '.[dashboard]'") from error
    from vaegan_pl.report.workspace import workspace

    made = workspace(str(config.entity), str(config.project), str(config.name))
    if config.offline:
        content = made._to_model().model_dump(by_alias=True, mode="json")
        atomic_write(path, json.dumps({"made_by": MADE_BY, **content}, indent=1, ensure_ascii=False), durable=False)
        log.info("%s", path)
        log.info("to publish it, run wandb login, then this command with offline=false")
        return
    try:
        if config.url is not None:
            old = Workspace.from_url(str(config.url))
            made._internal_name, made._internal_id = old._internal_name, old._internal_id
        made.save()
    except Exception as error:  # no key, no such entity or project, no network
        raise UserError(
            f"W&B did not accept a workspace for {config.entity}/{config.project} ({type(error).__name__}: {error}); "
            "run wandb login, check entity and project, or set offline=true"
        ) from error
    log.info("%s", made.url)
