"""Reading YAML files that anyone may have written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaegan_pl.storage.files import MOST_DEPTH, RefusedError, first_line, read_text

MOST_BYTES, MOST_NODES = 2**17, 20_000
"""Limits on the size and the number of values of a configuration; that of a run has some 4,000 bytes and 200 values."""

MOST_NUMBER = 2**63
"""The largest whole number."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file as OmegaConf does, into plain containers.

    Aliases (by which a few lines can expand to gigabytes), tags and deep nesting are refused before anything is built.

    Raises:
        OSError: see `read_bytes`.
        RefusedError: see `read_text`; also if the file is not YAML, or is YAML that this project does not write.
    """
    import yaml
    from omegaconf._utils import get_yaml_loader

    text = read_text(path, MOST_BYTES)
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH or number > MOST_NODES:
                raise RefusedError("is damaged (too many values, or nested too deeply)")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise RefusedError("is damaged (it contains YAML aliases or tags, which this project does not write)")
        content = yaml.load(text, Loader=get_yaml_loader())  # noqa: S506 # a SafeLoader
        if any(isinstance(leaf, int) and abs(leaf) > MOST_NUMBER for leaf in _leaves(content)):
            raise RefusedError("is damaged (it contains a number that is too large)")
        return content
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(f"is damaged (not YAML: {first_line(error)})") from error


def _leaves(content: Any) -> Iterator[Any]:
    """All keys and values that are not containers."""
    if isinstance(content, dict):
        content = [*content.keys(), *content.values()]
    if not isinstance(content, list):
        yield content
    else:
        for part in content:
            yield from _leaves(part)
