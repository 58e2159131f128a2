"""Specs: a part's `kind` and parameters, as a scenario writes them (`{kind: top_k, ratio: 0.01}`).

What a spec may contain is read off the part's factory: one pydantic model per part, made from its signature.
A parameter annotated with the product of a family (`codec: Codec`, `codecs: list[Codec]`) is a nested spec.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial, reduce
from typing import Annotated, Any, ClassVar, Final, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    create_model,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, ValidationError, core_schema

from psgdsim.compilation import keep_jitted
from psgdsim.data.base import datasets, partitions
from psgdsim.errors import PsgdsimError, nearest
from psgdsim.registry import REQUIRED, Family, Parameter, Part
from psgdsim.scenario.document import Path
from psgdsim.scenario.families import BY_PRODUCT

PARTITION: Final = "partition"
"""In the spec of a data set, the key of the partition's spec."""

SHARED: Final = frozenset({"model", "optimizer", "schedule", "codec"})
"""The families whose parts, as far as they are built in, are pure functions of their parameters."""

MAX_SHARED: Final = 64
"""So many of them are kept, with what has been compiled of each."""

MAX_SHARED_LENGTH: Final = 1000
"""A part that is given a longer list is built anew: comparing that would cost more than it saves."""

FAMILY_KEY: Final = "x-psgdsim-family"
"""In a JSON schema, marks the place of a spec until the definitions of its family are filled in."""


@dataclass(frozen=True, repr=False)
class PartSpec:
    """A part that a scenario names, with all its parameters.

    Attributes:
        kind: the part's name.
        parameters: every parameter, defaults filled in, quantities in base units, nested specs as `PartSpec`.
    """

    part: Part
    parameters: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The part's name."""
        return self.part.name

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join(f'{name}={value!r}' for name, value in self.parameters.items())})"

    def build(self) -> Any:
        """Call the part's factory, and those of nested specs first.

        What is compiled belongs to a model, an optimizer or a codec (see `compilation.jit_of`): where these are built
        in, equal specs build the same object. A factory of the user's own is called anew each time.

        Raises:
            ValueError: the factory found parameters that do not fit together.
        """
        if not _is_shared(self):
            return self.build_anew()
        return _shared(_Recipe(repr(self), tuple(_parts(self)), self))

    def build_anew(self) -> Any:
        """Build an object of its own."""
        return self.part.build(**{name: _build(value) for name, value in self.parameters.items()})

    def document(self) -> dict[str, Any]:
        """Return the spec as plain data that reads back as an equal spec; quantities carry their units."""
        model = parameters_model(self.part).model_construct(**self.parameters)
        written = model.model_dump(mode="json", include=set(self.parameters))
        return {"kind": self.kind, **written}


@dataclass(frozen=True, repr=False)
class DataSpec(PartSpec):
    """A data set, and how its rows are dealt out to blocks.

    Attributes:
        partition: the spec of the partition.
    """

    partition: PartSpec

    def __repr__(self) -> str:
        return f"{super().__repr__()} dealt out by {self.partition!r}"

    def document(self) -> dict[str, Any]:
        """Return the spec as plain data, the partition in it."""
        return {**super().document(), PARTITION: self.partition.document()}


@dataclass(frozen=True)
class _Recipe:
    """A spec by what it says, and of which parts."""

    text: str
    parts: tuple[Part, ...]
    spec: PartSpec = field(compare=False)


@lru_cache(maxsize=MAX_SHARED)
def _shared(recipe: _Recipe) -> Any:
    built = recipe.spec.build_anew()
    keep_jitted(built)
    return built


def _parts(value: Any) -> Iterator[Part]:
    """Return the part of a spec, and those inside."""
    if isinstance(value, PartSpec):
        yield value.part
        value = value.parameters
    if isinstance(value, list | tuple | Mapping):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _parts(each)


def _is_shared(value: Any) -> bool:
    """Whether all that is built of a value, or of a part of it, may be the same object each time."""
    if isinstance(value, PartSpec):
        home = getattr(value.part.factory, "__globals__", {}).get("__name__", "")  # a wrapper's own, whatever it wraps
        is_ours = value.part.family in SHARED and home.startswith("psgdsim.")
        return is_ours and all(map(_is_shared, value.parameters.values()))
    if isinstance(value, list | tuple):
        return len(value) <= MAX_SHARED_LENGTH and all(map(_is_shared, value))
    return not isinstance(value, dict) or all(map(_is_shared, value.values()))


def _build(value: Any) -> Any:
    if isinstance(value, PartSpec):
        return value.build()
    if isinstance(value, list | tuple):
        return type(value)(_build(item) for item in value)
    if isinstance(value, dict):
        return {key: _build(item) for key, item in value.items()}
    return value


def read_spec(family: Family, value: object) -> PartSpec:
    """Validate the spec of a part.

    Args:
        family: the family that the part must be of.
        value: a mapping with `kind` and parameters, or a finished spec.

    Returns:
        The spec with defaults filled in.

    Raises:
        ValidationError: problems inside the spec, each with its path.
        PydanticCustomError: the spec as a whole is none.
    """
    if isinstance(value, PartSpec):
        return value
    kind, parameters = _split(family, value)
    if kind not in family:
        raise _at(
            "kind",
            kind,
            "no_such_kind",
            f"no {family.name} is called {kind!r}; {nearest(kind, _names(family))}",
        )
    part = family[kind]
    fields = dict(parameters_model(part).model_validate(parameters))
    if family is datasets:
        partition = fields.pop(PARTITION)
        return _checked(DataSpec(part, fields, partition))
    return _checked(PartSpec(part, fields))


def _split(family: Family, value: object) -> tuple[str, dict[str, Any]]:
    """Return the kind and the parameters that a raw spec holds."""
    if not isinstance(value, Mapping):
        example = value if isinstance(value, str) and value in family else _names(family)[0]
        raise custom("expected", f"expected a mapping with a kind, such as {{kind: {example}}}")
    shorthand = shorthand_kind(family, value)
    if shorthand is not None:
        return shorthand, dict(value)
    if "kind" not in value:
        raise _at(
            "kind",
            value,
            "required",
            f"required: which {family.name} it is; valid: {', '.join(_names(family))}",
        )
    if not isinstance(value["kind"], str):
        raise _at("kind", value["kind"], "expected", f"expected the name of a {family.name}")
    return value["kind"], {key: item for key, item in value.items() if key != "kind"}


def shorthand_kind(family: Family, value: Mapping[str, Any]) -> str | None:
    """Return the kind of a spec that is written without one, or None if it is not.

    A mapping with nothing but a key that names a part, and a parameter of it, is that part: `{layers: ...}`.
    """
    names = [key for key in value if key in family and any(each.name == key for each in family[key].parameters)]
    return names[0] if len(value) == 1 and names else None


def _at(key: str, value: object, kind: str, message: str) -> ValidationError:
    """Return the error for one key of a mapping."""
    details = InitErrorDetails(type=custom(kind, message), loc=(key,), input=value)
    return ValidationError.from_exception_data("spec", [details])


def custom(kind: str, message: str) -> PydanticCustomError:
    """Return a pydantic error with a ready message.

    Args:
        kind: `expected` (what was got is added to the message), or any other word (the message is complete).
        message: taken as it is; braces mean nothing.
    """
    return PydanticCustomError(kind, "{message}", {"message": message})


def _names(family: Family) -> list[str]:
    return [part.name for part in family]


def _checked(spec: PartSpec) -> PartSpec:
    """Return the spec if its factory accepts it."""
    try:
        spec.build()
    except (ValueError, PsgdsimError) as error:
        path, message = blame(str(error), (), spec)
        details = InitErrorDetails(type=custom("rejected", message), loc=path, input=spec.parameters)
        raise ValidationError.from_exception_data("spec", [details]) from None
    return spec


def blame(message: str, path: Path, spec: PartSpec, others: Iterable[str] = ()) -> tuple[Path, str]:
    """Return the path that a part's own message is about, and the rest of the message.

    A part that rejects its parameters may begin with the name of one: `redundancy: expected at most 4; got 9`.

    Args:
        message: what the part said.
        path: where its spec stands.
        spec: the part's spec.
        others: names at the top level that the message may begin with, too.
    """
    name, colon, rest = message.partition(": ")
    if colon and name in spec.parameters:
        return (*path, name), rest
    return ((name,), rest) if colon and name in others else (path, message)


@dataclass(frozen=True)
class SpecOf:
    """Marks a pydantic field that holds the spec of a part: `Annotated[PartSpec, SpecOf(codecs)]`.

    Args:
        family: the family that the part must be of.
    """

    family: Family

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Tell pydantic how to read and write the spec."""
        return core_schema.no_info_plain_validator_function(
            partial(read_spec, self.family),
            serialization=core_schema.plain_serializer_function_ser_schema(operator.methodcaller("document")),
        )

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Leave a mark where the family's definitions belong."""
        return {FAMILY_KEY: self.family.name}


@cache
def parameters_model(part: Part) -> type[BaseModel]:
    """Return the pydantic model of a part's parameters, made from its factory's signature.

    Raises:
        PsgdsimError: the signature cannot be read as a spec; the message names the parameter.
    """
    fields: dict[str, Any] = {}
    for parameter in part.parameters:
        _refuse_unreadable(part, parameter)
        default = ... if parameter.default is REQUIRED else parameter.default
        description = parameter.help or None
        fields[parameter.name] = (field_type(parameter.annotation), Field(default, description=description))
    if part.family == datasets.name:
        default_partition = Field(
            read_spec(partitions, {"kind": "iid"}), description="how the rows are dealt out to blocks"
        )
        fields[PARTITION] = (Annotated[PartSpec, SpecOf(partitions)], default_partition)
    return create_model(part.name, __base__=_Parameters, **fields)


class _Parameters(BaseModel):
    """What the models of all parts share: nothing is converted silently and nothing is ignored."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


def _refuse_unreadable(part: Part, parameter: Parameter) -> None:
    where = f"{part.family} {part.name!r} ({part.module}): parameter {parameter.name!r}"
    if parameter.annotation is REQUIRED:
        raise PsgdsimError(f"{where} has no annotation; its type is what a scenario may write there")
    if parameter.name in {"kind", PARTITION} or parameter.name.startswith("_"):
        raise PsgdsimError(f"{where}: the name is reserved; choose another")
    if type(parameter.default) in BY_PRODUCT:
        raise PsgdsimError(f"{where}: a default cannot be a finished part; use None")


def field_type(annotation: Any) -> Any:
    """Return the pydantic type for a factory's annotation: products become specs, tuples may be lists."""
    if isinstance(annotation, type) and annotation in BY_PRODUCT:
        return Annotated[PartSpec, SpecOf(BY_PRODUCT[annotation])]
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        return Annotated[(field_type(inner), *metadata)]
    if origin in _CONTAINERS:
        arguments = tuple(each if each is Ellipsis else field_type(each) for each in get_args(annotation))
        return _CONTAINERS[origin](arguments)
    return annotation


_CONTAINERS: dict[Any, Callable[[tuple[Any, ...]], Any]] = {
    Union: lambda members: reduce(operator.or_, members),
    types.UnionType: lambda members: reduce(operator.or_, members),
    tuple: lambda items: Annotated[types.GenericAlias(tuple, items), Strict(strict=False)],
    list: lambda items: types.GenericAlias(list, items),
    dict: lambda items: types.GenericAlias(dict, items),
    Sequence: lambda items: types.GenericAlias(list, items),
}
"""How the pydantic type of a generic annotation is made of those of its arguments."""
