"""Networks as graphs of other engines: what a module computes, behind a plain function of arrays."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Graph = Callable[..., npt.NDArray[np.float32]]
# A module and example inputs by name, their first dimension the rows, to a function of such inputs in that order.
Maker = Callable[[nn.Module, Mapping[str, npt.NDArray]], Graph]

_TALKATIVE = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class GraphFailed(Exception):
    """An engine can't run a network, or runs it wrongly."""


def onnx_graph(module: nn.Module, inputs: Mapping[str, npt.NDArray]) -> Graph:
    """A module in onnxruntime, on one thread.

    Raises:
        GraphFailed: it can't be exported or loaded.
    """
    examples = tuple(torch.as_tensor(value) for value in inputs.values())
    content = io.BytesIO()
    try:
        import onnxruntime

        with _quietly():
            # By tracing: these networks have no branches, it takes 50 ms where the exporter of torch.export takes
            # 1 to 5 s of a serving process, and the result is compared with torch's anyway.
            torch.onnx.export(
                module.eval(),
                examples,
                content,  # type: ignore[arg-type]
                input_names=list(inputs),
                output_names=["output"],
                dynamic_axes={name: {0: "rows"} for name in (*inputs, "output")},
                dynamo=False,
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise GraphFailed(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    # What a network has no use for does not become an input.
    used = {each.name for each in session.get_inputs()}
    names = [(place, name) for place, name in enumerate(inputs) if name in used]

    def run(*values: npt.NDArray) -> npt.NDArray[np.float32]:
        return session.run(None, {name: values[place] for place, name in names})[0]  # type: ignore[return-value]

    return run


def compiled_graph(module: nn.Module, inputs: Mapping[str, npt.NDArray]) -> Graph:
    """A module by torch.compile, for any number of rows.

    Raises:
        GraphFailed: it can't be compiled.
    """
    compiled = torch.compile(module.eval(), dynamic=True)

    @torch.inference_mode()
    def run(*values: npt.NDArray) -> npt.NDArray[np.float32]:
        return compiled(*(torch.as_tensor(value) for value in values)).numpy()

    try:
        with _quietly():
            # One row is a case of its own for the compiler.
            for rows in (1, 2, 3):
                run(*(np.resize(value, (rows, *value.shape[1:])) for value in inputs.values()))
    except Exception as error:
        raise GraphFailed(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    return run


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what exporters say of themselves; what they can't do they raise."""
    before = {name: logging.getLogger(name).level for name in _TALKATIVE}
    for name in before:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
