"""What holds within a block of code, in one thread or task."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """A `ContextVar` that can be shipped: SAEs go to servers with their code, and there nothing is set yet."""

    def __init__(self, name: str, default: T) -> None:
        self._given = (name, default)
        self._here = ContextVar(name, default=default)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._given

    def get(self) -> T:
        """What is set."""
        return self._here.get()

    def set(self, value: T) -> Token[T]:
        """Sets it, and gives what `reset` takes."""
        return self._here.set(value)

    def reset(self, token: Token[T]) -> None:
        """Sets it back."""
        self._here.reset(token)
