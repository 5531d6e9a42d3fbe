"""Steps recorded as CUDA graphs: what takes hundreds of launches is replayed by one.

A step of these networks is short for a GPU, so that telling it what to do takes longer than doing it.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

log = logging.getLogger(__name__)

WARM_UP = 3
"""Calls before a function is recorded: cuDNN chooses its algorithms in them, and optimizers make their state."""

Inputs = Sequence[Tensor | None]


RECORDED_OPTIMIZERS = (torch.optim.RMSprop, torch.optim.SGD)
"""Optimizers whose step is the same arithmetic in a graph, and depends on nothing that is counted outside of it."""


class Recorded:
    """A function of tensors, computed as it is for `WARM_UP` calls, then recorded and from there on replayed.

    It must do the same in every call, whatever its inputs hold, and read no number. What it returns is overwritten by
    the next replay.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.inputs: list[Tensor | None] = []
        self.output: Any = None
        self.replay: Callable[[], None] | None = None

    def record(self, function: Callable[..., Any], inputs: Inputs) -> None:
        """Record the function; it is not computed.

        Raises:
            Exception: whatever the function or CUDA raises, if it cannot be recorded.
        """
        self.inputs = [None if given is None else given.clone() for given in inputs]
        self.output, self.replay = record(function, self.inputs)

    def __call__(self, function: Callable[..., Any], inputs: Inputs) -> Any:
        """What the function returns for inputs, whose shapes are the same in every call."""
        if self.replay is None:
            result = function(*inputs)
            self.calls += 1
            return result
        for held, given in zip(self.inputs, inputs, strict=True):
            if held is not None and given is not None:
                held.copy_(given)
        self.replay()
        return self.output


def record(function: Callable[..., Any], inputs: Inputs) -> tuple[Any, Callable[[], None]]:
    """Where a function's results will be, and what computes them from what the inputs hold then; nothing is run yet.

    Raises:
        Exception: if the function does what a CUDA graph cannot hold.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the GPU
            output = function(*inputs)
    finally:
        torch.cuda.set_stream(stream)
    return output, graph.replay


@contextmanager
def recordable(optimizer: Optimizer) -> Iterator[None]:
    """Let an optimizer step inside a graph; afterwards its options are what a checkpoint should hold."""
    for parameter, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].to(parameter.device)
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value


def options(optimizer: Optimizer) -> str:
    """An optimizer's options, which a recorded step keeps as they were."""
    return str([{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups])


class Recordings:
    """The recorded functions of a run, by name; none once recording has failed."""

    def __init__(self) -> None:
        self.known: dict[Hashable, tuple[Hashable, Recorded]] = {}
        self.works = True

    def __call__(
        self, name: Hashable, depends: Hashable, function: Callable[..., Any], *inputs: Tensor | None
    ) -> tuple[Any, bool]:
        """What a function returns for inputs, and whether it was replayed.

        Args:
            name: functions of the same name do the same,
            depends: as long as this stays equal; then they are recorded anew.
            function: see `Recorded`.
            inputs: its inputs.
        """
        if not self.works:
            return function(*inputs), False
        before, recorded = self.known.get(name, (None, Recorded()))
        if before != depends:
            recorded = Recorded()
        self.known[name] = depends, recorded
        if recorded.replay is None and recorded.calls >= WARM_UP:
            try:
                recorded.record(function, inputs)
            except Exception as error:
                self.works = False
                self.known.clear()
                log.warning("the step cannot be recorded as a CUDA graph; its parts are launched singly: %s", error)
            torch.clear_autocast_cache()  # the weights in it were cast in the graph, which has not run
            if not self.works:
                return function(*inputs), False
        return recorded(function, inputs), recorded.replay is not None
