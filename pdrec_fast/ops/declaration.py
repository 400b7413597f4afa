"""One declaration for every custom op: its function.

The schema, the fake, the saved context, the backward's plumbing and the casts of autocast follow
from the function's parameters, so that none of them is written again::

    @operation(fake=lambda a: a.x.new_empty(a.x.shape), autocast={"cpu": torch.float32})
    def _scale(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor

    @_scale.gradient(of=["x"], saves=["factor"])
    def _(saved: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor]:
        return (grad_out * saved.factor,)

On plain tensors of the CPU the function is called without torch's dispatcher, whose custom ops cost
a tenth of a millisecond in each direction; compilers, modes, autocast and all else see the op.

A parameter may be a named tuple of tensors and numbers (``pdrec_fast.operands``): torch sees its
fields, everything written here sees the tuple.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any, get_type_hints

import torch

Fake = Callable[[Any], Any]


def operation(
    *, fake: Fake, mutates: Sequence[str] = (), autocast: Mapping[str, torch.dtype] | None = None
) -> Callable[[Callable[..., Any]], Operation]:
    """Register the decorated function ``_name`` as the custom op ``pdrec_fast::name``.

    Args:
        fake: outputs of the right shapes, dtypes and devices from the arguments, which are the
            attributes of what it is given.
        mutates: names of the tensors that the function writes to.
        autocast: device type -> dtype to which autocast brings the floating tensors there.
    """
    return lambda function: Operation(function, fake, mutates, autocast or {})


class Operation:
    """A registered custom op, called with the arguments of its function, by position."""

    def __init__(
        self,
        function: Callable[..., Any],
        fake: Fake,
        mutates: Sequence[str],
        autocast: Mapping[str, torch.dtype],
    ) -> None:
        hints = get_type_hints(function)
        self._signature = inspect.signature(function)
        # Parameter -> its type where that is a named tuple, else None.
        self._groups = {
            name: hints[name] if hasattr(hints[name], "_fields") else None
            for name in self._signature.parameters
        }
        flat = self._flat_parameters(hints)
        self._names = [parameter.name for parameter in flat]

        def of_flat(*arguments: Any) -> Any:
            return function(*self._grouped(arguments).values())

        of_flat.__name__ = function.__name__.lstrip("_")  # as profilers show it
        self._function, self._mutates = of_flat, bool(mutates)
        self._directly: Any = None  # the function with its gradient, once that is registered

        returns = None if hints["return"] is type(None) else hints["return"]
        of_flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            flat, return_annotation=returns
        )
        name = f"pdrec_fast::{function.__name__.lstrip('_')}"
        self.op = torch.library.custom_op(name, of_flat, mutates_args=mutates)
        self.op.register_fake(lambda *arguments: fake(SimpleNamespace(**self._grouped(arguments))))
        for device, dtype in autocast.items():
            _register_autocast(self.op, name, device, dtype)

    def __call__(self, *arguments: Any) -> Any:
        flat: list[Any] = []
        for argument in arguments:
            if isinstance(argument, tuple):
                flat.extend(argument)
            else:
                flat.append(argument)
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        if self._mutates or _torch_looks_on(tensors):
            return self.op(*flat)
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
            with torch.no_grad():
                return self._function(*flat)
        return (self._directly or self.op)(*flat)

    def gradient(
        self,
        *,
        of: Sequence[str],
        saves: Sequence[str],
        outputs: Sequence[int] = (),
        constant: Sequence[int] = (),
    ) -> Callable[[Callable[..., Any]], None]:
        """Register the decorated function as the op's backward.

        It takes what was saved and the gradient of every output, None where none flows, and
        returns the gradients of the tensors ``of`` in that order, None where none is needed.

        Args:
            of: names of the differentiable tensors.
            saves: names of the arguments that the backward reads, attributes of ``saved`` there;
                ``saved.needs`` has the names of the tensors whose gradient is needed.
            outputs: places of the outputs to save, in ``saved.outputs``.
            constant: places of the outputs that no gradient flows through.
        """

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            arguments = self._grouped(inputs)
            returned = output if isinstance(output, tuple) else (output,)
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*(returned[place] for place in constant))
            flat: list[Any] = []
            for name in saves:
                flat.extend(arguments[name] if self._groups[name] else [arguments[name]])
            ctx.is_tensor = [isinstance(value, torch.Tensor) for value in flat]
            ctx.constants = [value for value in flat if not isinstance(value, torch.Tensor)]
            tensors = [value for value in flat if isinstance(value, torch.Tensor)]
            ctx.save_for_backward(*tensors, *(returned[place] for place in outputs))

        def register(backward: Callable[..., Any]) -> None:
            def full(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
                result: dict[str, Any] = dict.fromkeys(self._names)
                if any(grad is not None for grad in grads):
                    saved = self._saved(ctx, saves)
                    saved.needs = {
                        name
                        for name, needed in zip(self._names, ctx.needs_input_grad, strict=False)
                        if needed
                    }
                    result |= dict(zip(of, backward(saved, *grads), strict=True))
                return tuple(result.values())

            self.op.register_autograd(full, setup_context=save)
            self._directly = _function_of(self._function, save, full)

        return register

    def _flat_parameters(self, hints: Mapping[str, Any]) -> list[inspect.Parameter]:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        flat = []
        for name, parameter in self._signature.parameters.items():
            group = self._groups[name]
            if group is None:
                flat.append(parameter.replace(annotation=hints[name]))
            else:
                fields = get_type_hints(group)
                flat += [inspect.Parameter(f, kind, annotation=fields[f]) for f in group._fields]
        return flat

    def _grouped(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """Flat arguments by the names of the function's parameters, in their order."""
        return self._regrouped(iter(arguments), self._groups)

    def _saved(self, ctx: Any, saves: Sequence[str]) -> SimpleNamespace:
        tensors, constants = iter(ctx.saved_tensors), iter(ctx.constants)
        flat = iter([next(tensors if is_tensor else constants) for is_tensor in ctx.is_tensor])
        return SimpleNamespace(**self._regrouped(flat, saves), outputs=tuple(tensors))

    def _regrouped(self, flat: Iterator[Any], names: Iterable[str]) -> dict[str, Any]:
        values = {}
        for name in names:
            group = self._groups[name]
            if group is not None:
                values[name] = group(*islice(flat, len(group._fields)))
            else:  # torch leaves out a last argument that equals its default
                values[name] = next(flat, self._signature.parameters[name].default)
        return values


# Kernels of a library stay registered as long as it lives.
_AUTOCAST = torch.library.Library("pdrec_fast", "IMPL")


def _register_autocast(op: Any, name: str, device: str, dtype: torch.dtype) -> None:
    """What ``op.register_autocast`` does, which came with torch 2.7."""
    if hasattr(op, "register_autocast"):
        op.register_autocast(device, dtype)
        return

    def cast(argument: Any) -> Any:
        if not isinstance(argument, torch.Tensor) or argument.device.type != device:
            return argument
        narrow = argument.is_floating_point() and argument.dtype != torch.float64
        return argument.to(dtype) if narrow else argument

    def in_autocast(*arguments: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return op(*map(cast, arguments))

    _AUTOCAST.impl(name, in_autocast, f"Autocast{device.upper()}")


def _torch_looks_on(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether something needs to see an op on these tensors, not what happens within it."""
    return (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(
            type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.device.type != "cpu"
            for tensor in tensors
        )
    )


def _function_of(
    function: Callable[..., Any], save: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """``function`` with its gradient, as torch's ``Function``."""

    def forward(ctx: Any, *arguments: Any) -> Any:
        output = function(*arguments)
        save(ctx, arguments, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    apply: Callable[..., Any] = type(function.__name__, (torch.autograd.Function,), members).apply  # type: ignore[attr-defined]
    return apply
