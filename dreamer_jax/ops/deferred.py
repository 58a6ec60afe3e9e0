"""Weight gradients of a scan, taken after its backward pass in one product for each announced weight.

A scan over time that adds up its weight gradients step by step multiplies few rows each time and reads and writes
every sum; collected, the same rows are one product, and the backward loop has only the state to bring back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Operation = Callable[[jax.Array, jax.Array], jax.Array]
"""Of rows and a weight; linear or affine in either, and rows may have further axes in front."""
_use: ContextVar[Callable[[Operation, jax.Array, jax.Array], jax.Array] | None] = ContextVar("use", default=None)


def use_weight(operation: Operation, x: jax.Array, weight: jax.Array) -> jax.Array:
    """``operation(x, weight)``; in a step of ``scan_weights_apart`` the weight's gradient is taken after the scan."""
    use = _use.get()
    return operation(x, weight) if use is None else use(operation, x, weight)


def scan_weights_apart(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], params: Any, carry: Any, inputs: Any
) -> tuple[Any, Any]:
    """``lax.scan`` of ``step(params, carry, input) -> (carry, output)``; gradients of announced weights come after it.

    A use of a weight is announced by ``use_weight``. It gets a slot as a further input of the scan: zeros, whose
    gradient is that of the use's result. From these and the rows that met the weight, its gradient is one product.
    Parameters used in any other way, by an ordinary Flax layer for example, are differentiated through the scan.
    """

    @jax.custom_vjp
    def scan(params: Any, carry: Any, inputs: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda carry, now: step(params, carry, now), carry, inputs)

    def forward(params: Any, carry: Any, inputs: Any) -> tuple[Any, Any]:
        operations: list[Operation] = []
        slots: list[jax.Array] = []
        length = len(jax.tree.leaves(inputs)[0])

        def weights_of(params: Any) -> list[jax.Array]:
            weights = []

            def note(operation: Operation, x: jax.Array, weight: jax.Array) -> jax.Array:
                result = operation(*jax.lax.stop_gradient((x, weight)))  # only its shape is asked for
                operations.append(operation)
                weights.append(weight)
                slots.append(jnp.zeros((length, *result.shape), result.dtype))
                return result

            with _using(note):
                step(params, carry, jax.tree.map(lambda x: x[0], inputs))
            return weights

        weights, pull_weights = jax.vjp(weights_of, params)

        def with_slots(params: Any, carry: Any, now: tuple[Any, list[jax.Array]]) -> tuple[Any, Any]:
            inputs, slots = now
            rows: list[jax.Array] = []

            def tap(operation: Operation, x: jax.Array, weight: jax.Array) -> jax.Array:
                index = len(rows)
                rows.append(x)
                return _tapped(operation, x, weights[index], slots[index])

            with _using(tap):
                carry, output = step(params, carry, inputs)
            return carry, (output, rows)

        def rows_apart(params: Any, carry: Any, inputs: Any, slots: list[jax.Array]) -> tuple[Any, list[jax.Array]]:
            carry, (outputs, rows) = jax.lax.scan(partial(with_slots, params), carry, (inputs, slots))
            return (carry, outputs), rows

        results, pull, rows = jax.vjp(rows_apart, params, carry, inputs, slots, has_aux=True)
        pull_each = [
            jax.vjp(lambda weight, operation=operation, x=x: operation(x, weight), weight)[1]
            for operation, x, weight in zip(operations, rows, weights, strict=True)
        ]
        return results, (pull, pull_each, pull_weights)

    def backward(pulls: Any, cotangents: Any) -> Any:
        pull, pull_each, pull_weights = pulls
        within, *others, slots = pull(cotangents)  # ``within`` is zero for parameters whose every use is announced
        (after,) = pull_weights([pull(slot)[0] for pull, slot in zip(pull_each, slots, strict=True)])
        return jax.tree.map(jnp.add, within, after), *others

    scan.defvjp(forward, backward)
    return scan(params, carry, inputs)


def _tapped(operation: Operation, x: jax.Array, weight: jax.Array, slot: jax.Array) -> jax.Array:
    """``operation(x, weight)``; its cotangent goes on to ``x``, and to ``slot`` as it is."""

    @jax.custom_vjp
    def call(x: jax.Array, slot: jax.Array) -> jax.Array:
        return operation(x, weight)

    def forward(x: jax.Array, slot: jax.Array) -> tuple[jax.Array, Any]:
        return jax.vjp(lambda x: operation(x, weight), x)

    call.defvjp(forward, lambda pull, cotangent: (*pull(cotangent), cotangent))
    return call(x, slot)


@contextmanager
def _using(use: Callable[[Operation, jax.Array, jax.Array], jax.Array]) -> Iterator[None]:
    token = _use.set(use)
    try:
        yield
    finally:
        _use.reset(token)
