"""The user's object: found in its file, built for a size, its arrays listed and replaced, called.

One `Kind` for each way in which a framework holds arrays. Everything here is NumPy outside and the framework's own
arrays inside.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .recipes import NoPlace

_INPUT = frozenset(
    [
        "inputsize",
        "inputdim",
        "infeatures",
        "indim",
        "inputfeatures",
        "ninput",
        "ninputs",
        "numinputs",
        "din",
        "insize",
        "input",
        "inputs",
        "nin",
        "d",
        "inchannels",
        "embeddim",
        "xdim",
        "nx",
        "dinput",
        "dimin",
        "xsize",
        "inputdims",
        "infeature",
        "numfeatures",
        "nfeatures",
    ]
)
_HIDDEN = frozenset(
    [
        "hiddensize",
        "hiddendim",
        "hiddenfeatures",
        "hidden",
        "hid",
        "units",
        "nhidden",
        "numhidden",
        "dhidden",
        "h",
        "hdim",
        "statesize",
        "hiddenunits",
        "outfeatures",
        "outputsize",
        "outdim",
        "numunits",
        "nunits",
        "nh",
        "dimhidden",
        "hsize",
        "statedim",
        "size",
        "width",
        "dmodel",
        "hiddendims",
    ]
)
_RANDOM = {"rngs": "rngs", "rng": "key", "key": "key", "seed": "seed", "prngkey": "key", "generator": "generator"}


def imported(file: Path, name: str) -> tuple[ModuleType, Any]:
    """The user's module, and the object of that name in it; its folder is importable from."""
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(f"own_cell_{re.sub(r'[^0-9A-Za-z]', '_', file.stem)}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == spec.name]
        raise AttributeError(f"{file.name} has no {name}; it defines {', '.join(own) or 'nothing'}")
    return module, getattr(module, name)


def loaded(name: str) -> Any:
    """A framework's module where the user's file has imported it, else None."""
    root = name.partition(".")[0]
    return importlib.import_module(name) if root in sys.modules else None


def arguments_for(function: Callable[..., Any], features: int, hidden: int) -> dict[str, Any] | None:
    """Keyword arguments for a constructor of these sizes; None where a required one is not understood."""
    sizes: dict[str, Any] = {}
    unknown: list[str] = []
    sized: set[str] = set()
    positional: dict[str, Any] = {}
    parameters = [
        p
        for p in inspect.signature(function.__init__ if isinstance(function, type) else function).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    names = {p.name.lower().replace("_", "") for p in parameters}
    for p in parameters:
        name = p.name.lower().replace("_", "")
        if p.name in ("parent", "name", "self"):
            continue
        if name in _INPUT or (name in ("features", "dim") and names & _HIDDEN and not names & _INPUT):
            sizes[p.name] = features
            sized.add("input")
        elif name in _HIDDEN or name in ("features", "dim"):
            sizes[p.name] = hidden
            sized.add("hidden")
        elif name in _RANDOM and (p.default is p.empty or p.default is None):
            sizes[p.name] = _random(_RANDOM[name])
        elif p.default is p.empty:
            unknown.append(p.name)
        positional[p.name] = p
    missing = [size for word, size in (("input", features), ("hidden", hidden)) if word not in sized]
    if len(unknown) == 1 and len(missing) == 2 and not sized:
        missing = [hidden]
    if len(unknown) > len(missing):
        return None
    sizes |= dict(zip(unknown, missing, strict=False))
    return sizes


def _random(kind: str) -> Any:
    if kind == "rngs":
        return importlib.import_module("flax.nnx").Rngs(0)
    if kind == "key":
        jax = loaded("jax")
        return np.random.default_rng(0) if jax is None else jax.random.PRNGKey(0)
    return 0 if kind == "seed" else np.random.default_rng(0)


class Kind:
    """A NumPy object, or a plain function: arrays in attributes, or in a tree of parameters."""

    # Whether square matrices are taken to stand as in x @ W.
    columns = True
    title = "NumPy"

    def to(self, array: np.ndarray) -> Any:
        """The framework's own array."""
        return np.array(array)

    def back(self, value: Any) -> np.ndarray:
        """A NumPy array of float32 or float64."""
        array = np.asarray(value)
        return array if array.dtype == np.float64 else array.astype(np.float32)

    def is_array(self, value: Any) -> bool:
        """Whether it is an array of this framework."""
        return isinstance(value, np.ndarray)

    def leaves(self, thing: Any, call: Callable[[], Sequence[Any]]) -> dict[str, np.ndarray]:
        """The arrays of an object by name; `call` gives arguments of a call, for lazily made ones."""
        return {path: self.back(getattr(owner, name)) for path, owner, name in self._attributes(thing)}

    def load(self, thing: Any, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the arrays."""
        for path, owner, name in self._attributes(thing):
            if path in arrays:
                setattr(owner, name, self.to(arrays[path].reshape(getattr(owner, name).shape)))

    def call(self, function: Callable[..., Any], thing: Any, arguments: Sequence[Any]) -> Any:
        """Call it."""
        return function(*arguments)

    def _attributes(self, thing: Any, prefix: str = "", depth: int = 0) -> list[tuple[str, Any, str]]:
        found = []
        for name, value in vars(thing).items() if hasattr(thing, "__dict__") else ():
            if self.is_array(value) and value.ndim >= 1 and _floating(value):
                found.append((prefix + name, thing, name))
            elif (
                depth < 2 and hasattr(value, "__dict__") and not callable(value) and not isinstance(value, ModuleType)
            ) or (depth < 2 and type(value).__module__.startswith("own_cell_")):
                found += self._attributes(value, f"{prefix}{name}.", depth + 1)
        return found


def _floating(value: Any) -> bool:
    return "float" in str(value.dtype)


class Jax(Kind):
    """Arrays of JAX."""

    title = "JAX"

    def to(self, array: np.ndarray) -> Any:
        return importlib.import_module("jax.numpy").asarray(array)

    def is_array(self, value: Any) -> bool:
        return isinstance(value, (np.ndarray, importlib.import_module("jax").Array))

    def call(self, function: Callable[..., Any], thing: Any, arguments: Sequence[Any]) -> Any:
        if thing is not None:
            return function(*arguments)
        jax = importlib.import_module("jax")
        try:
            return jax.jit(function)(*arguments)  # JAX remembers what it compiled for this function
        except (jax.errors.JAXTypeError, TypeError):  # code that looks at its numbers cannot be compiled
            return function(*arguments)


class Torch(Kind):
    """``torch.nn.Module``, or tensors."""

    columns = False
    title = "PyTorch"

    def to(self, array: np.ndarray) -> Any:
        return sys.modules["torch"].tensor(np.array(array))

    def back(self, value: Any) -> np.ndarray:
        return super().back(value.detach().cpu().numpy() if self.is_array(value) else value)

    def is_array(self, value: Any) -> bool:
        return isinstance(value, sys.modules["torch"].Tensor)

    def is_module(self, thing: Any) -> bool:
        """Whether the framework keeps the arrays itself."""
        return isinstance(thing, sys.modules["torch"].nn.Module)

    def leaves(self, thing: Any, call: Callable[[], Sequence[Any]]) -> dict[str, np.ndarray]:
        if self.is_module(thing):
            thing.eval()
            return {name: self.back(value) for name, value in thing.named_parameters()}
        return super().leaves(thing, call)

    def load(self, thing: Any, arrays: Mapping[str, np.ndarray]) -> None:
        if not self.is_module(thing):
            return super().load(thing, arrays)
        with sys.modules["torch"].no_grad():
            for name, value in thing.named_parameters():
                if name in arrays:
                    value.copy_(self.to(arrays[name].reshape(tuple(value.shape))))
        return None

    def call(self, function: Callable[..., Any], thing: Any, arguments: Sequence[Any]) -> Any:
        with sys.modules["torch"].no_grad():
            return function(*arguments)


class Mlx(Kind):
    """``mlx.nn.Module``, or arrays of MLX."""

    columns = False
    title = "MLX"

    def to(self, array: np.ndarray) -> Any:
        return importlib.import_module("mlx.core").array(np.array(array))

    def is_array(self, value: Any) -> bool:
        return isinstance(value, importlib.import_module("mlx.core").array)

    def is_module(self, thing: Any) -> bool:
        return isinstance(thing, importlib.import_module("mlx.nn").Module)

    def leaves(self, thing: Any, call: Callable[[], Sequence[Any]]) -> dict[str, np.ndarray]:
        if not self.is_module(thing):
            return super().leaves(thing, call)
        thing.eval()
        flat = importlib.import_module("mlx.utils").tree_flatten(thing.parameters())
        return {name: self.back(value) for name, value in flat if _floating(value)}

    def load(self, thing: Any, arrays: Mapping[str, np.ndarray]) -> None:
        if not self.is_module(thing):
            return super().load(thing, arrays)
        utils = importlib.import_module("mlx.utils")
        shapes = {name: value.shape for name, value in utils.tree_flatten(thing.parameters())}
        new = [(name, self.to(value.reshape(shapes[name]))) for name, value in arrays.items() if name in shapes]
        thing.update(utils.tree_unflatten(new))
        return None


class Linen(Jax):
    """``flax.linen.Module``: made without arrays, which are an argument of every call.

    initialised: whether a new object gets arrays of its own initialisers, and not zeros, which cost no compilation.
    """

    title = "Flax linen"
    initialised = False

    def __init__(self) -> None:
        # By object: each size has its own.
        self._variables: dict[int, Any] = {}
        self._compiled: dict[int, Any] = {}

    def leaves(self, thing: Any, call: Callable[[], Sequence[Any]]) -> dict[str, np.ndarray]:
        jax = importlib.import_module("jax")
        keys = {name: jax.random.PRNGKey(0) for name in ("params", "dropout")}
        if self.initialised:
            variables = dict(thing.init(keys, *call()))
        else:
            shapes = jax.eval_shape(thing.init, keys, *call())
            variables = dict(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
        self._variables[id(thing)] = variables
        return {name: self.back(value) for name, value in self._flat(thing).items()}

    def _flat(self, thing: Any) -> dict[str, Any]:
        traverse = importlib.import_module("flax.traverse_util")
        return dict(traverse.flatten_dict(self._variables[id(thing)].get("params", {}), sep="."))

    def load(self, thing: Any, arrays: Mapping[str, np.ndarray]) -> None:
        traverse = importlib.import_module("flax.traverse_util")
        new = self._flat(thing)
        new |= {name: self.to(value.reshape(new[name].shape)) for name, value in arrays.items() if name in new}
        variables = self._variables[id(thing)]
        self._variables[id(thing)] = {**variables, "params": traverse.unflatten_dict(new, sep=".")}

    def call(self, function: Callable[..., Any], thing: Any, arguments: Sequence[Any]) -> Any:
        jax = importlib.import_module("jax")
        compiled = self._compiled.setdefault(id(thing), jax.jit(thing.apply))
        try:
            return compiled(self._variables[id(thing)], *arguments)
        except jax.errors.JAXTypeError:  # code that looks at its numbers cannot be compiled
            return thing.apply(self._variables[id(thing)], *arguments)


class Nnx(Jax):
    """``flax.nnx.Module``."""

    title = "Flax NNX"

    def __init__(self) -> None:
        self._compiled: dict[int, Any] = {}

    def leaves(self, thing: Any, call: Callable[[], Sequence[Any]]) -> dict[str, np.ndarray]:
        nnx = importlib.import_module("flax.nnx")
        flat = nnx.to_flat_state(nnx.state(thing, nnx.Param))
        return {".".join(map(str, path)): self.back(variable[...]) for path, variable in flat}

    def load(self, thing: Any, arrays: Mapping[str, np.ndarray]) -> None:
        nnx = importlib.import_module("flax.nnx")
        state = nnx.state(thing, nnx.Param)
        for path, variable in nnx.to_flat_state(state):
            name = ".".join(map(str, path))
            if name in arrays:
                variable.set_value(self.to(arrays[name].reshape(variable[...].shape)))
        nnx.update(thing, state)

    def call(self, function: Callable[..., Any], thing: Any, arguments: Sequence[Any]) -> Any:
        if function is not thing:
            return function(*arguments)
        jax, nnx = importlib.import_module("jax"), importlib.import_module("flax.nnx")
        graph, state = nnx.split(thing)
        if id(thing) not in self._compiled:
            self._compiled[id(thing)] = jax.jit(lambda state, *given: nnx.merge(graph, state)(*given))
        try:
            return self._compiled[id(thing)](state, *arguments)
        except jax.errors.JAXTypeError:  # code that looks at its numbers cannot be compiled
            return function(*arguments)


def kind_of(thing: Any, framework: str) -> Kind:
    """How the arrays of a class, an instance or a function are held."""
    cls = thing if isinstance(thing, type) else type(thing)
    linen, nnx = loaded("flax.linen"), loaded("flax.nnx")
    if linen is not None and issubclass(cls, linen.Module):
        return Linen()
    if nnx is not None and issubclass(cls, nnx.Module):
        return Nnx()
    torch, mlx = loaded("torch"), loaded("mlx.nn")
    if torch is not None and (issubclass(cls, torch.nn.Module) or framework == "torch"):
        return Torch()
    if mlx is not None and (issubclass(cls, mlx.Module) or framework == "mlx"):
        return Mlx()
    return Jax() if loaded("jax") is not None else Kind()


class Subject:
    """The user's object, for any size.

    make: builds it for (features, hidden); a function that takes its arrays has them in `tree` instead.
    """

    def __init__(self, file: Path, name: str, framework: str) -> None:
        self.module, found = imported(file, name)
        self.name = name
        self.weights: dict[str, str] = dict(getattr(self.module, "WEIGHTS", {}))
        make = getattr(self.module, "make", None)
        self._found = found
        self._make: Any = None
        self._init: Any = None
        self._is_function = inspect.isfunction(found) or not (isinstance(found, type) or _modular(found))
        self.kind = kind_of(found, framework)
        if self._is_function and self._is_factory(found):
            self._make, self._is_function = found, False
            self.kind = kind_of(self._closed(found(*self._sizes(found, 3, 5))), framework)
        elif inspect.isfunction(make):
            built = make(*self._sizes(make, 3, 5))
            # A file may make something else than what is asked about; that must not be judged in its place.
            if isinstance(found, type) and isinstance(built, found):
                self._make = make
            elif self._is_function and not inspect.isfunction(built) and not _modular(built):
                self._init = make
        if self._is_function and self._init is None:
            self._init = self._initialiser()
        self.source = ""
        try:
            self.source = inspect.getsource(found)
        except (OSError, TypeError):
            self.source = ""

    @property
    def is_function(self) -> bool:
        """Whether it takes its arrays as arguments."""
        return self._is_function

    def _sizes(self, function: Callable[..., Any], features: int, hidden: int) -> list[Any]:
        known = arguments_for(function, features, hidden)
        if known is None:
            raise TypeError(
                f"{function.__name__}{inspect.signature(function)}: wanted {function.__name__}(input_size, hidden_size)"
            )
        ordered = inspect.signature(function).parameters
        return [known[name] for name in ordered if name in known]

    def _is_factory(self, function: Any) -> bool:
        try:
            names = {name.lower().replace("_", "") for name in inspect.signature(function).parameters}
        except (TypeError, ValueError):
            return False
        return bool(names & _HIDDEN - {"h", "hidden"}) and names <= _INPUT | _HIDDEN | _RANDOM.keys()

    def _initialiser(self) -> Any:
        for key, value in vars(self.module).items():
            if (
                inspect.isfunction(value)
                and value is not self._found
                and re.match(r"_?(init|make|create|new|get)_?", key)
            ):
                try:
                    if arguments_for(value, 3, 5) is not None and self._is_factory(value):
                        return value
                except ValueError:
                    continue
        return None

    def _closed(self, built: Any) -> Any:
        """The module that a function closes over, or the object itself."""
        if not inspect.isfunction(built):
            return built
        cells = [cell.cell_contents for cell in built.__closure__ or ()]
        return next((value for value in cells if _modular(value)), built)

    def made(self, features: int, hidden: int) -> tuple[Any, Callable[..., Any]]:
        """A new object of these sizes, and what to call."""
        if self._is_function:
            return None, self._found
        if self._make is not None:
            built = self._make(*self._sizes(self._make, features, hidden))
            if isinstance(built, type):
                raise TypeError(f"{self._make.__name__} returned a class, wanted the cell itself")
        else:
            cls = self._found if isinstance(self._found, type) else type(self._found)
            known = arguments_for(cls, features, hidden)
            if known is None:
                raise TypeError(
                    f"{cls.__name__}{inspect.signature(cls.__init__)}: cannot tell which arguments are the sizes; add a function "
                    "make(input_size, hidden_size) to the file that returns the cell"
                )
            built = cls(**known)
        return self._closed(built), _callee(built)

    def tree(self, features: int, hidden: int) -> Any:
        """The parameters that the file's own function makes; None without such a function."""
        return None if self._init is None else self._init(*self._sizes(self._init, features, hidden))

    def keys(self) -> list[str]:
        """Names of parameters that a function takes from its first argument, by its source."""
        if self.weights:
            return list(self.weights)
        try:
            body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(self._found)))
        except (OSError, TypeError, SyntaxError):
            return []
        found = []
        for node in ast.walk(body):
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.slice, ast.Constant)
                and isinstance(node.slice.value, str)
            ):
                found.append((node.lineno, node.col_offset, node.slice.value))
        return list(dict.fromkeys(name for _, _, name in sorted(found)))

    def globals_used(self) -> list[str]:
        """Arrays and modules of the file that a function reads without being given them."""
        names = set(getattr(getattr(self._found, "__code__", None), "co_names", ()))
        for const in getattr(getattr(self._found, "__code__", None), "co_consts", ()):
            names |= set(getattr(const, "co_names", ()))
        return [
            n
            for n in names
            if n in vars(self.module) and (self.kind.is_array(vars(self.module)[n]) or _modular(vars(self.module)[n]))
        ]


def _modular(value: Any) -> bool:
    """Whether it is an instance with arrays of its own."""
    if isinstance(value, type):
        return False
    for name, cls in (("torch.nn", "Module"), ("mlx.nn", "Module"), ("flax.linen", "Module"), ("flax.nnx", "Module")):
        module = loaded(name) if name.partition(".")[0] in sys.modules else None
        if module is not None and isinstance(value, getattr(module, cls)):
            return True
    return (
        type(value).__module__.startswith("own_cell_")
        and not callable(getattr(value, "__code__", None))
        and not inspect.isfunction(value)
    )


def _callee(built: Any) -> Callable[..., Any]:
    if inspect.isfunction(built) or _framework_module(built):
        return built
    for name in ("__call__", "forward", "step", "call", "run"):
        if callable(getattr(type(built), name, None)):
            return getattr(built, name)
    raise TypeError(f"{type(built).__name__} has no __call__, forward or step")


def _framework_module(built: Any) -> bool:
    return not type(built).__module__.startswith("own_cell_") or any(
        base.__module__.split(".")[0] in ("torch", "mlx", "flax") for base in type(built).__mro__
    )


__all__ = ["NoPlace", "Subject"]
