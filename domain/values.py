"""Values: data classes that nobody changes."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make a class of fields, compared and hashed by them; another one is made with `replace`.

    As `dataclass(frozen=True, slots=True)`, but it is the type checker that refuses a change. At
    run time each field of a frozen one is set by a call: it takes five times as long to make, and
    these are made for every call and every event.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
