"""How much arithmetic a program is: its matrix products and convolutions, bodies of loops times their trips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.interpreters import partial_eval


class Work(NamedTuple):
    """Of a whole program."""

    flops: int  # multiplications and additions of all products
    products: int  # how many there are, each as often as it runs

    def times(self, count: int) -> Work:
        return Work(count * self.flops, count * self.products)


def count_work(function: Callable[..., Any], *args: Any) -> Work:
    """Products alone; elementwise work, gathers and sorts are not in it.

    The bodies of scans count as often as they run; those of loops that end by themselves once, and of branches the
    largest.
    """
    whole = jax.make_jaxpr(function)(*args).jaxpr
    # Rules of derivation leave values behind that nothing uses; the compiler drops them, too.
    used, _ = partial_eval.dce_jaxpr(whole, [True] * len(whole.outvars))
    return _work(used)


def _work(jaxpr: Any) -> Work:
    parts = []
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        inner = [_work(one) for one in _programs(parameters)]
        if name == "dot_general":
            parts.append(Work(_dot(equation), 1))
        elif name == "conv_general_dilated":
            parts.append(Work(_convolution(equation), 1))
        elif name == "scan":
            parts += [one.times(parameters["length"]) for one in inner]
        elif name == "cond":
            parts += [max(inner)] if inner else []
        else:
            parts += inner
    return Work(sum(part.flops for part in parts), sum(part.products for part in parts))


def _programs(parameters: dict[str, Any]) -> Iterator[Any]:
    """What an operation calls; rules of derivation are not called where there is a function."""
    for name, value in parameters.items():
        if name.endswith(("_thunk", "fwd", "bwd")):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if hasattr(one, "eqns") or hasattr(one, "jaxpr"):
                yield getattr(one, "jaxpr", one)


def _dot(equation: Any) -> int:
    ((contracted, _), _) = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    """Each output is a product with the kernel of one output channel; of the zeros between strided inputs none."""
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    numbers = equation.params["dimension_numbers"]
    channels = kernel[numbers.rhs_spec[0]]
    dilated = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(out) * math.prod(kernel) // channels // dilated
