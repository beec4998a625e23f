"""From an ``nn.Module`` to a :class:`~fbnet_mobile.graph.operations.Graph`.

The module is run once, on an input of ones, while every call of torch's functions and tensor methods is
watched (``torch.overrides.TorchFunctionMode``). Each call that depends on the input is lowered to the small
operation set; any other (a standardised weight, a size) just happens. Branches on shapes are therefore taken
as the module takes them, and a layer and its functional form are one and the same.

An operation in place gives its tensor a new value. Every other tensor that shares the memory, as a view does, then
holds what the graph does not know, and is refused when it is read.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from fbnet_mobile.errors import FbnetError, UserError
from fbnet_mobile.graph.lowered import Lowered
from fbnet_mobile.graph.operations import INPUT, OUTPUT, Graph, Node, Shape, Weights
from fbnet_mobile.graph.rules import RULES, Rule, Value
from fbnet_mobile.graph.simplify import simplify

Inputs = Shape | Mapping[str, Shape]
"""The shape of the one input of a network, or that of each by name, in the order in which its forward takes them."""


def trace(module: nn.Module, input_shape: Inputs) -> Graph:
    """Lower a module, as it behaves in evaluation, to the operations of :mod:`fbnet_mobile.graph.operations`.

    The module is left as it was: weights, statistics and training modes. One that was lowered already gives its graph.

    Args:
        module: takes float tensors and returns one, or several: a dictionary of them by name, or a tuple, whose names
            are "output_0", "output_1" and so on.
        input_shape: (batch, channels, height, width), or any other shape; of several inputs, by name.

    Raises:
        UserError: the module uses an operation that cannot be exported, branches on the values of tensors, does not
            accept the shape, or is a program that runs out of PyTorch's sight.
    """
    if isinstance(module, Lowered):
        return module.graph()
    _check_visible(module)
    shapes = named_inputs(input_shape)
    _check_names(shapes)
    for shape in shapes.values():
        if len(shape) < 2 or min(shape) < 1:
            raise UserError(f"cannot export for the input shape {shape}: give (1, channels, height, width)")
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.ones(0))
    images = {name: torch.ones(shape, dtype=weight.dtype, device=weight.device) for name, shape in shapes.items()}
    watch = Watch(module, images)
    with evaluation(module), torch.no_grad(), watch.modules():
        try:
            with warnings.catch_warnings(), watch:
                warnings.simplefilter("ignore")  # PyTorch's remarks on how it would compute this itself
                returned = module(*images.values())
        except FbnetError:
            raise
        except Exception as error:
            raise UserError(
                f"cannot run {watch.where()} on an input of shape {', '.join(map(str, shapes.values()))}: "
                f"{type(error).__name__}: {_first_line(error)}"
            ) from error
    outputs: dict[str, str] = {}
    results = named_outputs(returned)
    _check_names(results)
    for output, tensor in results.items():
        result = watch.returned(tensor)
        if not isinstance(result, Value):
            raise UserError(
                f"cannot export {type(module).__name__}: it must return tensors that depend on its input; "
                "wrap it in a module that does"
            )
        if result.name in shapes:
            raise UserError(f"cannot export {type(module).__name__}: it returns its input, so nothing is left to run")
        if result.name in outputs.values() or output in watch.nodes or output in shapes:
            raise UserError(
                f"cannot export {type(module).__name__}: its result {output!r} is another one, too, or is called as a "
                "part of it is; return each once, under a name of its own"
            )
        outputs[output] = result.name
    return simplify(Graph(shapes, tuple(watch.nodes.values()), outputs))


def _check_names(names: Collection[str]) -> None:
    for name in names:
        if not (name.isascii() and name.isidentifier()):
            raise UserError(f"cannot call an input or a result {name!r}; use letters, digits and _, as formats do")
    if not names:
        raise UserError("cannot export without an input, or without a result; there must be one of each")


def named_inputs(shapes: Inputs) -> dict[str, Shape]:
    """Return the shapes of inputs by name; that of the only one is :data:`INPUT`."""
    if isinstance(shapes, Mapping):
        return {name: tuple(shape) for name, shape in shapes.items()}
    return {INPUT: tuple(shapes)}


def named_outputs(returned: Any) -> dict[str, Any]:
    """Return what a module returned, by name; that of the only one is :data:`OUTPUT`."""
    if isinstance(returned, Mapping):
        return {str(name): part for name, part in returned.items()}
    if isinstance(returned, tuple | list):
        return {f"{OUTPUT}_{number}": part for number, part in enumerate(returned)}
    return {OUTPUT: returned}


def _check_visible(module: nn.Module) -> None:
    """Refuse a module, or a part of one, whose operations do not pass through torch's functions."""
    for path, part in module.named_modules():
        made = None
        if isinstance(part, torch.jit.ScriptModule):
            made = "torch.jit (script, trace or freeze)"
        elif isinstance(part, torch.fx.GraphModule):
            operators = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
            if any(isinstance(node.target, operators) for node in part.graph.nodes):
                made = "torch.export"
        if made is not None:
            where = f"'{path}'" if path else type(module).__name__
            raise UserError(
                f"cannot export {where}: it was made by {made}, whose operations cannot be watched; export the "
                "module that it was made from"
            )


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Put every part of a module in evaluation mode, and back as it was on leaving."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"


_QUERIES = frozenset({"size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous",
                      "is_floating_point", "get_device", "__len__", "_assert"})  # fmt: skip
"""Calls that ask for what the shapes fix; the answer to any other depends on the values of the tensor."""
_WRITES = frozenset({"__setitem__", "__set__"})


@dataclass(frozen=True)
class _Written:
    """A piece of memory that an operation in place changed: its bytes, which change it was, and what to say of it."""

    first: int
    end: int
    change: int
    what: str


class Watch(TorchFunctionMode):
    """Sees the calls of one run, and holds the nodes made of them so far."""

    def __init__(self, module: nn.Module, images: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.nodes: dict[str, Node] = {}
        self._inputs = {name: tuple(image.shape) for name, image in images.items()}
        self.call = ""
        self.result: Any = None
        # By identity, with the number of changes that there were before. The tensors are kept as well, lest another
        # should take over an identity, or a memory.
        self._values: dict[int, tuple[torch.Tensor, Any, int]] = {
            id(image): (image, Value(name, tuple(image.shape)), 0) for name, image in images.items()
        }
        self._changes = 0
        self._written: dict[int, list[_Written]] = {}
        self._root = type(module).__name__
        self._paths = {id(part): path for path, part in module.named_modules()}
        self._open: list[str] = []

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Follow which module's forward is being run, within."""

        def enter(part: nn.Module, args: Any) -> None:
            self._open.append(self._paths.get(id(part), self.source()))

        def leave(part: nn.Module, args: Any, result: Any) -> None:
            self._open.pop()

        hooks = [
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def source(self) -> str:
        """Return the path of the module whose forward is being run, or has failed."""
        return self._open[-1] if self._open else ""

    def where(self) -> str:
        """Return the same for a message."""
        return f"'{self.source()}'" if self.source() else self._root

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # The values of the arguments as they were: an operation in place gives its tensor a new one.
        lowered, named = self._with_values(args), self._with_values(kwargs)
        depends = _any(lowered, Value) or _any(named, Value)
        if not depends and not self._written:  # most calls: kept short
            return self._run(func, args, kwargs)
        rule = RULES.get(func)
        if depends and rule is not None and rule.composed:
            self.call = func.__name__
            self._check_call(rule, args, kwargs)
            with self:
                return rule.lower(self, *args, **kwargs)
        tensors = list(_tensors((args, kwargs)))
        versions = [_version(tensor) for tensor in tensors]
        result = self._run(func, args, kwargs)
        attribute = func.__name__ == "__get__"
        self.call, self.result = func.__self__.__name__ if attribute else func.__name__, result
        if not _any(result, torch.Tensor) and (attribute or self.call in _QUERIES):
            return result
        for tensor in tensors:
            self._check_current(tensor)
        if not depends:
            return result
        if self.call in _WRITES:
            raise self.refused("it writes into a part of a tensor; make the whole of its parts, by torch.cat")
        if not _any(result, torch.Tensor):
            raise self.refused("the answer depends on the values of a tensor; a file can hold no branches")
        made = self._lower(func, lowered, named)
        for tensor, version in zip(tensors, versions, strict=True):
            if _version(tensor) != version:
                self._note_written(tensor)
        parts = zip(result, made, strict=True) if isinstance(made, tuple) else [(result, made)]
        for tensor, value in parts:
            if value is None:
                continue
            if not tensor.is_floating_point():
                raise self.refused(f"its result is {tensor.dtype}; only floats can be")
            self._values[id(tensor)] = (tensor, value, self._changes)
        return result

    def _note_written(self, tensor: torch.Tensor) -> None:
        """Remember that the current call changed the memory of a tensor."""
        self._changes += 1
        storage, (first, end) = tensor.untyped_storage()._cdata, _extent(tensor)
        written = _Written(first, end, self._changes, f"{self.call} in {self.where()}")
        self._written.setdefault(storage, []).append(written)

    def _check_current(self, tensor: torch.Tensor) -> None:
        """Refuse a tensor whose memory was changed, under another name, after it got its value."""
        known = self._values[id(tensor)][2] if id(tensor) in self._values else 0
        for written in self._written.get(tensor.untyped_storage()._cdata, ()) if self._written else ():
            first, end = _extent(tensor)
            if written.change > known and first < written.end and written.first < end:
                raise UserError(
                    f"cannot export {written.what}: it changes in place the memory of a tensor that is also read as "
                    f"another, by {self.call} in {self.where()}; use the form that gives a new tensor"
                )

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function; of a convolution of what depends on the input, though, only find the result's shape.

        No value of such a result is ever asked for, and computing it would be the longest part of a trace.
        """
        image = args[0] if args else kwargs.get("input")
        if func is not torch.conv2d or image is None or id(image) not in self._values:
            return func(*args, **kwargs)
        like = func(*map(_shape_of, args), **{name: _shape_of(argument) for name, argument in kwargs.items()})
        return image.new_zeros(like.shape)

    def returned(self, result: Any) -> Any:
        """Return the value of what the module returned; UserError if its memory was changed under another name."""
        if isinstance(result, torch.Tensor):
            self.call = "the result"
            self._check_current(result)
        return self.value(result)

    def value(self, argument: Any) -> Any:
        """Return the value of a tensor that depends on the input; anything else as it is."""
        return self._values[id(argument)][1] if id(argument) in self._values else argument

    def _with_values(self, argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return self.value(argument)
        if type(argument) in (tuple, list):
            return type(argument)(self._with_values(part) for part in argument)
        if isinstance(argument, dict):
            return {name: self._with_values(part) for name, part in argument.items()}
        return argument

    def _lower(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func not in RULES:
            raise self.refused("no format here has it; build the network from other operations")
        self._check_call(RULES[func], args, kwargs)
        return RULES[func].lower(self, *args, **kwargs)

    def _check_call(self, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            rule.signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise self.refused(f"the export does not know this way to call it ({error})") from error

    def refused(self, because: str) -> UserError:
        """Return the error that says that the current call cannot be exported."""
        return UserError(f"cannot export {self.call} in {self.where()}: {because}")

    def add(
        self,
        op: str,
        *inputs: Any,
        shape: Sequence[int] | None = None,
        weights: Weights | None = None,
        **attributes: Any,
    ) -> Value:
        """Add a node and return its value, of the shape of the current call's result unless one is given.

        An input that is a tensor, not a value, becomes a node of its own.
        """
        inputs = tuple(self.constant(value) if isinstance(value, torch.Tensor) else value for value in inputs)
        for value in inputs:
            if not isinstance(value, Value):
                raise self.refused(f"a {type(value).__name__} stands where only a tensor can be")
        shape = tuple(self.result.shape if shape is None else shape)
        if not shape or min(shape) < 1:
            raise self.refused(f"its result has the shape {shape}; only what has axes, and numbers in each, can be")
        stem = f"{self.source()}.{op}" if self.source() else op
        name, number = stem, 1
        while name in self.nodes or name in self._inputs:
            number += 1
            name = f"{stem}_{number}"
        names = tuple(value.name for value in inputs)
        self.nodes[name] = Node(name, op, names, shape, attributes, weights or {}, self.source())
        return Value(name, shape)

    def shape(self, name: str) -> Shape:
        """Return the shape of the value of a name."""
        return self._inputs[name] if name in self._inputs else self.nodes[name].shape

    def constant(self, tensor: torch.Tensor) -> Value:
        """Return the value of a tensor that does not depend on the input."""
        return self.add("constant", shape=tensor.shape, weights={"constant": self.array(tensor)})

    def array(self, tensor: Any) -> NDArray[np.float32]:
        """Return a constant tensor as a float32 array."""
        if not isinstance(tensor, torch.Tensor):
            raise self.refused("its weights depend on the input, or are no tensor")
        return np.array(tensor.detach().cpu().float().numpy(), order="C")


def _shape_of(argument: Any) -> Any:
    """A tensor without its values; anything else as it is."""
    return argument.detach().to("meta") if isinstance(argument, torch.Tensor) else argument


def _tensors(argument: Any) -> Iterator[torch.Tensor]:
    """The tensors that an argument is or holds."""
    if isinstance(argument, torch.Tensor):
        yield argument
    elif isinstance(argument, tuple | list):
        for part in argument:
            yield from _tensors(part)
    elif isinstance(argument, dict):
        yield from _tensors(tuple(argument.values()))


def _version(tensor: torch.Tensor) -> int:
    """A number that every operation in place on the tensor, or on a view of it, changes."""
    return -1 if tensor.is_inference() else tensor._version


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The bytes of its storage between which a tensor lies, the last excluded."""
    if not tensor.numel():
        return 0, 0
    last = sum(int((size - 1) * step) for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    first = int(tensor.storage_offset())
    return first * tensor.element_size(), (first + last + 1) * tensor.element_size()


def _any(argument: Any, kinds: Any) -> bool:
    """Tell whether an argument, or what it holds, is of one of the kinds."""
    if isinstance(argument, dict):
        argument = tuple(argument.values())
    if isinstance(argument, tuple | list):
        return any(_any(part, kinds) for part in argument)
    return isinstance(argument, kinds)
