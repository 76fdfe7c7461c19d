"""Everything that is chosen by name: models, split schemes, layouts, tasks, optimizers, lessons.

A function marked `@registered(kind)` is found by reading the syntax of the modules of its kind,
without importing them: composing an experiment must not import torch. Its keyword-only arguments
are its settings, each with its type, range and default in this one place, the signature.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from swath.errors import ConfigError, nearest

PACKAGE = Path(__file__).parent
# kind -> the module, or the package of modules, that holds it
PLACES = {
    "model": "models",
    "scheme": "split/schemes.py",
    "drawing": "data/drawings.py",
    "layout": "data/layouts",
    "task": "learn/tasks.py",
    "optim": "learn/optim.py",
    "figure": "report/figures.py",
    "lesson": "ladder",
}

# The words in which settings are typed; pydantic checks them (swath.settings).
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Activation = Literal[
    "linear", "sigmoid", "tanh", "relu", "softplus", "leaky_relu", "elu", "gelu", "silu"
]
WORDS: dict[str, Any] = {
    "Activation": Activation,
    "Any": Any,
    "Count": Count,
    "Decay": Decay,
    "Literal": Literal,
    "NonNegative": NonNegative,
    "Positive": Positive,
    "Share": Share,
    "Whole": Whole,
}

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """A registered function, known from its syntax alone."""

    kind: str
    name: str
    module: str
    doc: str
    takes: tuple[str, ...]
    """The names of its positional arguments."""
    settings: dict[str, tuple[Any, Any]]
    """setting -> (type, default); the default is `...` where there is none"""


def registered(kind: str) -> Callable[[Function], Function]:
    """Mark a function as chosen by its name; `entries` finds the mark."""
    if kind not in PLACES:
        raise ConfigError(f"no kind '{kind}' of registered functions", mend=nearest(kind, PLACES))
    return lambda function: function


@functools.cache
def entries(kind: str) -> dict[str, Entry]:
    """The registered functions of a kind by name, in the order in which they are written."""
    place = PACKAGE / PLACES[kind]
    files = sorted(place.glob("*.py")) if place.is_dir() else [place]
    found: dict[str, Entry] = {}
    for file in files:
        module = ".".join(("swath", *file.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and _is_marked(node, kind):
                found[node.name] = _entry(kind, module, node)
    return found


def entry(kind: str, name: str, *, where: str = "") -> Entry:
    """The entry of that name.

    Raises:
        ConfigError: there is none; the nearest name is given.
    """
    known = entries(kind)
    if name not in known:
        raise ConfigError(f"no {kind} is named '{name}'", where=where, mend=nearest(name, known))
    return known[name]


def load(kind: str, name: str) -> Callable[..., Any]:
    """The registered function itself; imports its module.

    Raises:
        ConfigError: there is none of that name.
    """
    function: Callable[..., Any] = getattr(importlib.import_module(entry(kind, name).module), name)
    return function


def _is_marked(node: ast.FunctionDef, kind: str) -> bool:
    return any(
        isinstance(mark, ast.Call)
        and isinstance(mark.func, ast.Name)
        and mark.func.id == "registered"
        and ast.literal_eval(mark.args[0]) == kind
        for mark in node.decorator_list
    )


def _entry(kind: str, module: str, node: ast.FunctionDef) -> Entry:
    settings = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else "Any"
        # Our own source, in the words above and the builtin types: nothing else can be named.
        settings[argument.arg] = (
            eval(annotation, dict(WORDS)),
            ... if default is None else ast.literal_eval(default),
        )
    takes = tuple(argument.arg for argument in node.args.args)
    return Entry(kind, node.name, module, ast.get_docstring(node) or "", takes, settings)
