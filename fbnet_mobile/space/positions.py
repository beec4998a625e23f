"""The places in the chain of blocks of a space, and the variables that decide which block stands there."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fbnet_mobile.arch import Block

Option = int | float | bool | str
"""One value that a choice can take."""

RESOLUTION = "resolution"
"""The variable that is the input resolution of the network."""

CANDIDATE = "candidate"
"""What the choice between the ``candidates`` of a stage is called."""


@dataclass(frozen=True)
class Position:
    """A place in the chain of blocks and the choices that decide which block stands there.

    Attributes:
        name: such as ``stage2.block1``.
        kind: the kind of its blocks; of no meaning where there are candidates.
        stride: of its blocks.
        downsampling: the product of the strides before it.
        variables: their options in the order of the axes of a cost array: input resolution, input width, output width
            (left out when it is the same variable), then the block's own.
        in_channels: the variable that is its input width, or that width where it is no choice.
        out_channels: likewise of its output.
        own: the variable's name by what the block calls its choice.
        skip: the variable that says whether the block is left out, if it may be.
        fixed: what the block's choices are for which there is no variable.
        candidates: for each option of a choice between whole blocks, the position with nothing but that block.
        trained: whether its choices are fields of the block itself, which is then searched as the largest that it may
            be, with less of it (``Block.from_fields``), instead of ``Block.choices``.
    """

    name: str
    kind: type[Block]
    stride: int
    downsampling: int
    variables: Mapping[str, tuple[Option, ...]]
    in_channels: str | int
    out_channels: str | int
    own: Mapping[str, str] = field(default_factory=dict)
    skip: str | None = None
    fixed: Mapping[str, Option] = field(default_factory=dict)
    candidates: Mapping[str, "Position"] = field(default_factory=dict)
    trained: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its variables."""
        return tuple(self.variables)

    @property
    def between(self) -> bool:
        """Whether it is neither the first nor the last, whose input or output has no choice of width."""
        return isinstance(self.in_channels, str) and isinstance(self.out_channels, str)

    def only(self, choice: str) -> Option | None:
        """The value of a choice of the block's that the space leaves no other option; None if it says nothing of it."""
        if choice in self.fixed:
            return self.fixed[choice]
        options = self.variables[self.own[choice]] if choice in self.own else ()
        return options[0] if len(options) == 1 else None

    def widths(self, name: str | int) -> tuple[int, ...]:
        """The options of a variable that is a whole number: a width, a kernel size; a number is its own only option."""
        return (name,) if isinstance(name, int) else tuple(int(option) for option in self.variables[name])

    def texts(self, name: str) -> tuple[str, ...]:
        """The options of a variable that is a name."""
        return tuple(str(option) for option in self.variables[name])

    def pin(self, options: Mapping[str, Option]) -> "Position":
        """The position with no other option than these for some of its variables."""
        if self.candidates and self.own[CANDIDATE] in options:
            return self.candidates[str(options[self.own[CANDIDATE]])]
        return replace(self, variables={**self.variables, **{name: (option,) for name, option in options.items()}})

    def block(self, assignment: Mapping[str, Option]) -> Block | None:
        """The block for one value of each variable; none if it is skipped.

        A variable with one option needs no value.

        Raises:
            ValueError: there is no such block (pydantic's ``ValidationError``).
        """
        if self.skip is not None and self._value(self.skip, assignment):
            return None
        if self.candidates:
            return self.candidates[str(self._value(self.own[CANDIDATE], assignment))].block(assignment)
        return self.build(
            int(self._value(RESOLUTION, assignment)),
            int(self._value(self.in_channels, assignment)),
            int(self._value(self.out_channels, assignment)),
            {choice: self._value(name, assignment) for choice, name in self.own.items()},
        )

    def largest(self) -> Block:
        """The block with the largest option of each choice; of several candidates, the one with the most parameters."""
        if self.candidates:
            return max((position.largest() for position in self.candidates.values()), key=lambda block: block.params)
        options = {name: max(options, key=_size) for name, options in self.variables.items() if name != self.skip}
        block = replace(self, skip=None).block(options)
        assert block is not None, "nothing says that it is skipped"
        return block

    def build(self, resolution: int, in_channels: int, out_channels: int, own: Mapping[str, Option]) -> Block:
        """The block for an input resolution of the network, its widths, and a value for each of its own choices."""
        make = self.kind.from_fields if self.trained else self.kind.from_choices
        return make(
            in_channels=in_channels,
            out_channels=out_channels,
            resolution=-(-resolution // self.downsampling),
            stride=self.stride,
            **self.fixed,
            **own,
        )

    def _value(self, name: str | int, assignment: Mapping[str, Option]) -> Option:
        if isinstance(name, int):
            return name
        options = self.variables[name]
        return options[0] if len(options) == 1 else assignment[name]


def _size(option: Option) -> tuple[bool, Option]:
    return isinstance(option, str), option
