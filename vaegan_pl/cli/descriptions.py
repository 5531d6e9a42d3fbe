"""What the comments in the files of `conf/` say about these files and their options."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Descriptions:
    """The comments of one configuration file.

    Attributes:
        summary: the first paragraph of the comment at the head of the file, in one line; empty if there is none.
        more: the other lines of that comment, without empty ones.
        groups: for each group in the defaults list, the comment directly above it; empty if there is none.
        options: for each option, by its name in the file with dots, the comment directly above it; empty if there is
            none. Options of Hydra (`_target_`, `_partial_`) are left out.
    """

    summary: str
    more: list[str]
    groups: dict[str, str]
    options: dict[str, str]


def read(path: Path) -> Descriptions:
    """The descriptions in a configuration file.

    The head is the comment on the first lines, without Hydra's `# @package`; it describes no option.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    head = list(takewhile(lambda line: line.startswith("#"), lines))
    body = [line.lstrip("# ") for line in head if not line.startswith("# @package")]
    summary = list(takewhile(bool, body))
    content = yaml.compose(text, Loader=yaml.SafeLoader)
    groups, options = dict[str, str](), dict[str, str]()
    for name, line in _options(content):
        if name == "defaults" or name.startswith("defaults."):
            continue
        options[name] = _comment_above(line, lines, len(head))
    for name, line in _groups(content):
        groups[name] = _comment_above(line, lines, len(head))
    return Descriptions(" ".join(summary), [line for line in body[len(summary) :] if line], groups, options)


def _options(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Names of options with the line that each is on."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.value not in ("_target_", "_partial_"):
            yield f"{prefix}{key.value}", key.start_mark.line
            yield from _options(value, f"{prefix}{key.value}.")


def _groups(node: yaml.Node) -> Iterator[tuple[str, int]]:
    """Groups in the defaults list with the line that each is on."""
    entries: list[yaml.Node] = next((value.value for key, value in node.value if key.value == "defaults"), [])
    for entry in entries:
        if isinstance(entry, yaml.MappingNode):
            name = entry.value[0][0].value
            if not name.startswith("override "):
                yield name.partition("@")[0], entry.start_mark.line


def _comment_above(number: int, lines: list[str], first: int) -> str:
    """The comment on the lines directly above line `number`, not above line `first`; both count from 0."""
    comment = list(takewhile(lambda line: line.startswith("#"), (line.strip() for line in lines[first:number][::-1])))
    return " ".join(line.lstrip("# ") for line in comment[::-1])
