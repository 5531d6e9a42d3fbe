"""Publish a model on the Hugging Face Hub: `python -m vaegan_pl.push weights=PATH repo=USER/NAME`."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl import pretrained
from vaegan_pl.cli import commands, hub
from vaegan_pl.errors import UserError

log = logging.getLogger(__name__)


def push(config: DictConfig) -> None:
    """Upload a model file and its card, with the Hub's front matter, in one commit.

    Raises:
        UserError: if the file is not a model, its card is missing or is that of another file, or the Hub refuses.
    """
    path = commands.model_path(config.weights)
    if pretrained.is_pretrained(path):
        raise UserError("weights=pretrained: is published with the project; push a model of your own")
    if config.license is not None and not isinstance(config.license, str):
        raise UserError(f"license={config.license}: must be an identifier, such as mit, or null")
    commands.import_torch("torch")
    from vaegan_pl.model import weights
    from vaegan_pl.report import model_card

    content = path.read_bytes()
    model = weights.load(path)
    card = model_card.for_the_hub(path, config.license)
    repo = str(config.repo)
    api = hub.connect()
    from huggingface_hub import CommitOperationAdd

    files = {hub.MODEL: content, hub.CARD: card.encode()}
    with hub.hub_errors(repo):
        url = api.create_repo(repo, private=bool(config.private), exist_ok=True)
        operations = [CommitOperationAdd(name, data) for name, data in files.items()]
        api.create_commit(repo, operations, commit_message=f"{model.kind} trained on {model.trained_on.caption}")
    log.info("%s", url)
    log.info("fetch it  python -m vaegan_pl.pull repo=%s output=%s", repo, Path(repo).name)
