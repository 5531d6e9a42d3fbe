"""Record (capture) steps as CUDA graphs, so that one launch replays what otherwise takes hundreds.

A step of these networks is short on a GPU: launching its kernels takes longer than running them.
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
"""Calls before a function is recorded. In these, cuDNN chooses its algorithms, and optimizers create their state."""

Inputs = Sequence[Tensor | None]


RECORDED_OPTIMIZERS = (torch.optim.RMSprop, torch.optim.SGD)
"""Optimizers whose step computes the same in a graph and does not depend on a counter outside it."""


class Recorded:
    """A function of tensors that runs normally for `WARM_UP` calls, is then recorded, and replayed from then on.

    It must run the same kernels in every call, whatever its inputs, and must not read values back to the CPU. Its
    outputs are overwritten by the next replay.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.inputs: list[Tensor | None] = []
        self.output: Any = None
        self.replay: Callable[[], None] | None = None

    def record(self, function: Callable[..., Any], inputs: Inputs) -> None:
        """Record the function without running it.

        Raises:
            Exception: any error of the function or of CUDA if it cannot be recorded.
        """
        self.inputs = [None if given is None else given.clone() for given in inputs]
        self.output, self.replay = record(function, self.inputs)

    def __call__(self, function: Callable[..., Any], inputs: Inputs) -> Any:
        """Return the function's outputs for inputs of the same shapes in every call."""
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
    """Return a function's output tensors and a callable that fills them from the inputs. Nothing is run yet.

    Raises:
        Exception: if the function does something that a CUDA graph does not support.
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
    """Let an optimizer step inside a graph; restore its options afterwards, as a checkpoint should contain them."""
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
    """Return an optimizer's options, which are fixed in a recorded step."""
    return str([{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups])


class Recordings:
    """The recorded functions of a run, by name. After a failure nothing more is recorded."""

    def __init__(self) -> None:
        self.known: dict[Hashable, tuple[Hashable, Recorded]] = {}
        self.works = True

    def __call__(
        self, name: Hashable, depends: Hashable, function: Callable[..., Any], *inputs: Tensor | None
    ) -> tuple[Any, bool]:
        """Return a function's outputs, and whether it was replayed.

        Args:
            name: name of the function.
            depends: values that are fixed in the recording; if they change, the function is recorded again.
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
                log.warning(
                    "the step cannot be captured as a CUDA graph; its kernels are launched one by one: %s", error
                )
            torch.clear_autocast_cache()  # its weights were cast in the graph, which has not run
            if not self.works:
                return function(*inputs), False
        return recorded(function, inputs), recorded.replay is not None
