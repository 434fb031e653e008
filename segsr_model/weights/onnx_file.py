"""A network as ONNX, for images of any height and width.

CLIP stays outside of the graph: the guidance maps of a network with ``guidance: map`` are a second input.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segsr_arch.guidance import MapGuidance, NoGuidance
from segsr_arch.segsr_arch import SeGSR
from segsr_model.files import write_output
from segsr_model.weights.building import channels_of
from segsr_model.weights.release import KEY, Release, as_json

os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')  # onnxruntime reports to its makers, from its import on
OPSET = 17
TOLERANCE = 1e-4  # between PyTorch and onnxruntime, of values in [0, 1]


class _AnySize(nn.Module):
    """A network between an extension of its input by reflection and a cut, of which neither asks how large it is."""

    def __init__(self, net: nn.Module, scale: int):
        super().__init__()
        self.net, self.scale = net, scale
        self.multiple = net.backbone.multiple_of if isinstance(net, SeGSR) else getattr(net, 'window_size', 1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        h, w = inputs[0].shape[-2:]
        padded = (self._extend(self._extend(x, -2), -1) for x in inputs) if self.multiple > 1 else inputs
        return self.net(*padded)[..., :h * self.scale, :w * self.scale]

    def _extend(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """`pad_to_multiple`, but that a trace of it is right for any size."""
        size = x.shape[dim]
        index = torch.arange((size + self.multiple - 1) // self.multiple * self.multiple, device=x.device)
        period = 2 * size - 2 + (size == 1) * 1
        index = index % period
        return x.index_select(dim, torch.where(index < size, index, period - index))


def write_onnx(path: str | Path, net: nn.Module, release: Release) -> None:
    """Write a network as ONNX, which appears when onnxruntime gives what PyTorch gives, at two sizes.

    Its inputs are ``lr``, (b, c, h, w), and for ``guidance: map`` ``guidance``, (b, k, h, w) in [-1, 1]; its output is
    ``sr``, (b, c, s h, s w), with b, h and w dynamic. The metadata are those of a release file.

    Args:
        path: of the file.
        net: in eval mode, on the CPU, fp32.
        release: of the network.

    Raises:
        ValueError: a package is missing, or the network cannot be written with dynamic sizes.
        CommandError: the file cannot be written.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"ONNX needs the package {error.name}: pip install 'segsr[onnx]'") from None
    maps = isinstance(net, SeGSR) and isinstance(net.guidance, MapGuidance)
    if isinstance(net, SeGSR) and not maps and type(net.guidance) is not NoGuidance:
        raise ValueError('a network guided by features has no ONNX form: with guidance: none or map it has')
    graph = _AnySize(net, release.scale).eval()  # the mode in which the exporter leaves the network
    channels = [channels_of(release.network_g), *([net.backbone.num_units] if maps else [])]
    names, m = ['lr', 'guidance'][:len(channels)], graph.multiple

    def inputs(batch: int, h: int, w: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.rand(batch, count, h, w) for count in channels)

    axes = {name: {0: 'batch', 2: 'height', 3: 'width'} for name in names}
    settings: dict[str, Any] = {
        'input_names': names, 'output_names': ['sr'], 'opset_version': OPSET,
        'dynamic_axes': {**axes, 'sr': {0: 'batch', 2: 'sr_height', 3: 'sr_width'}},
        'dynamo': False}  # the other exporter takes minutes for HAT, and then fails

    def write(temporary: str) -> None:
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings(), \
                    contextlib.redirect_stdout(io.StringIO()), _more_operators():  # which may print whole graphs
                warnings.simplefilter('ignore')  # of what a trace takes for constant, which is compared below
                torch.onnx.export(graph, inputs(1, 2 * m + 9, 2 * m + 7), temporary, **settings)
                model = onnx.load(temporary)
                onnx.helper.set_model_props(model, {KEY: as_json(release)})
                onnx.save(model, temporary)
                options = onnxruntime.SessionOptions()
                options.log_severity_level = 4  # its errors are raised as well
                session = onnxruntime.InferenceSession(temporary, options, providers=['CPUExecutionProvider'])
                for size in ((1, m + 9, 3 * m + 2), (2, 4 * m + 1, m)):
                    x = inputs(*size)
                    found, = session.run(None, {name: each.numpy() for name, each in zip(names, x)})
                    difference = np.abs(found - net(*x).numpy()).max()
                    if not difference <= TOLERANCE:
                        raise ValueError(f'at {size[1]} x {size[2]} pixels it differs by {difference:.1e}')
        except OSError:
            raise
        except Exception as error:  # the exporter's, of any kind: an operator it does not have, a size it has fixed
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f'{type(net).__name__} cannot be written as ONNX with dynamic height and width: '
                             f'{reason[:200]}') from None

    write_output(path, write)


@contextlib.contextmanager
def _more_operators() -> Iterator[None]:
    """Let the exporter know ``unfold`` of images of any size."""
    from torch.onnx import register_custom_op_symbolic, symbolic_helper, unregister_custom_op_symbolic
    register_custom_op_symbolic('aten::unfold', symbolic_helper.parse_args('v', 'i', 'i', 'i')(_unfold), OPSET)
    try:
        yield
    finally:
        unregister_custom_op_symbolic('aten::unfold', OPSET)


def _unfold(g: Any, x: Any, dim: int, size: int, step: int) -> Any:
    """``x.unfold(dim, size, step)`` as a Gather of indices that are computed from x's size."""
    def constant(value: Any) -> Any:
        return g.op('Constant', value_t=torch.tensor(value))

    length = g.op('Gather', g.op('Shape', x), constant(dim), axis_i=0)
    starts = g.op('Range', constant(0), g.op('Sub', length, constant(size - 1)), constant(step))
    index = g.op('Add', g.op('Unsqueeze', starts, constant([1])), constant(list(range(size))))
    rank = x.type().dim()
    return g.op('Transpose', g.op('Gather', x, index, axis_i=dim), perm_i=[*range(dim + 1), *range(dim + 2, rank + 1),
                                                                          dim + 1])
