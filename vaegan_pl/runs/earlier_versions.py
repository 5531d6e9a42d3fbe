"""Updating run configurations that earlier versions wrote."""

from typing import Any

REMOVED: dict[str, dict[str, Any]] = {
    "callbacks.objective": {"_target_": "vaegan_pl.sweeps.pruning.Objective"},
    "logger.wandb.settings": {"_target_": "wandb.Settings", "silent": True},
}
"""Groups that earlier versions stored, with the options by which they are recognised; they are dropped."""

MOVED = {
    "vaegan_pl.callbacks.": "vaegan_pl.training.callbacks.",
    "vaegan_pl.checkpoints.": "vaegan_pl.training.checkpoints.",
    "vaegan_pl.loggers.": "vaegan_pl.training.loggers.",
    "vaegan_pl.pruning.": "vaegan_pl.sweeps.pruning.",
}
"""Modules that earlier versions' configurations name, and where they are now."""

CHANGED_DATA = {"published": False, "registered_correlation": None, "masks": "keep"}
"""Options of the data that earlier versions lacked and whose defaults choose or split images in another way, with the
values that do it as they did."""

EARLIER_DATA = {
    **CHANGED_DATA,
    "patients": None,
    "unknown_patients": "error",
    "families": False,
    "fold": None,
    "search": "exhaustive",
    "range": "fixed",
    "exclude": None,
}
"""All options of the data that earlier versions lacked, with such values."""

_POWER_DECAY = "vaegan_pl.model.schedule.PowerDecay"
"""Formerly the schedule itself; now the factor of a LambdaLR."""


def update(stored: dict[Any, Any]) -> None:
    """Bring a configuration of an earlier version up to date, in place; one of this version is left as it is."""
    _move(stored)
    for key, known in REMOVED.items():
        *parts, last = key.split(".")
        node: Any = stored
        for name in parts:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), dict) and known.items() <= node[last].items():
            del node[last]
    data = stored.get("data")
    if isinstance(data, dict) and "split" in data:
        for name, value in EARLIER_DATA.items():
            data.setdefault(name, value)
    callbacks = stored.get("callbacks")
    for name in ("quality", "pictures"):
        callback = callbacks.get(name) if isinstance(callbacks, dict) else None
        if isinstance(callback, dict):
            callback.setdefault("prior", "normal")  # as it was drawn, so that a run's values stay comparable
    model = stored.get("model")
    prior = model.get("prior") if isinstance(model, dict) else None
    if isinstance(prior, dict) and prior.get("warm_up") == 0:
        del prior["warm_up"]  # earlier versions could let its weight grow
    optimizer = stored.get("optimizer")
    schedule = optimizer.get("schedule") if isinstance(optimizer, dict) else None
    if isinstance(optimizer, dict) and isinstance(schedule, dict) and schedule.get("_target_") == _POWER_DECAY:
        optimizer["schedule"] = {
            "_target_": "torch.optim.lr_scheduler.LambdaLR",
            "_partial_": True,
            "lr_lambda": {**schedule, "epochs": "${trainer.max_epochs}"},
        }


def _move(stored: object) -> None:
    """Give this project's classes their present names."""
    if isinstance(stored, list):
        for value in stored:
            _move(value)
    elif isinstance(stored, dict):
        for value in stored.values():
            _move(value)
        target = stored.get("_target_")
        for before, now in MOVED.items():
            if isinstance(target, str) and target.startswith(before):
                stored["_target_"] = now + target.removeprefix(before)
