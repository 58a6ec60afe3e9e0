"""How many operations does one trip of the loops of an update execute? One JSON line, of each loop.

    python benchmarks/loop_bodies.py --size 1m --observation proprio
    python benchmarks/loop_bodies.py FILE.txt [FILE.txt ...]

Without files, the update of this package is lowered for CUDA, and nothing is compiled: StableHLO, which no device has
shaped yet. Files are of any program, StableHLO (``lowered.as_text(debug_info=True)``) or an optimized HLO module
(``compiled.as_text()``), where a fusion is one operation. Where a small batch leaves the device waiting for the next
launch, this number is the time of the loop.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "call", "while"}
"""HLO instructions that do no work of their own; what calls and loops run is counted instead."""
FREE_STABLEHLO = {"stablehlo.constant", "stablehlo.return", "stablehlo.while", "func.call", "func.return"}
PRODUCTS = {"dot", "convolution", "stablehlo.dot_general", "stablehlo.convolution"}


@dataclass
class Loop:
    """A loop: its place in the program, and per trip the operations executed, inner trips multiplied out.

    ``products`` are the matrix products and convolutions, also those inside of fusions.
    """

    name: str
    backward: bool
    trips: int
    operations: int = 0
    products: int = 0
    inner: list[Loop] = field(default_factory=list)

    def count(self, operation: str, free: set[str]) -> None:
        self.operations += operation not in free
        self.products += operation in PRODUCTS

    def nest(self, loop: Loop) -> None:
        loop.backward |= self.backward
        self.inner.append(loop)
        self.operations += loop.trips * loop.operations
        self.products += loop.trips * loop.products


def loops(text: str) -> list[Loop]:
    """The outermost loops of either kind of module, in program order."""
    return hlo_loops(text) if text.lstrip().startswith("HloModule") else stablehlo_loops(text)


@dataclass
class _Instruction:
    operation: str
    rest: str

    def attribute(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.rest)


def hlo_loops(text: str) -> list[Loop]:
    """Loops of an optimized module; a loop without a known number of trips counts as one trip."""
    computations, entry = _computations(text)
    program = Loop("", False, 1)
    _count_hlo(computations, entry, program)
    return program.inner


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    found: dict[str, list[_Instruction]] = {}
    entry = ""
    body: list[_Instruction] = []
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            found[header[2]] = body = []
            entry = header[2] if header[1] else entry
        elif instruction := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = .*?\s([a-z][\w\-]*)\((.*)", line):
            body.append(_Instruction(instruction[1], instruction[2]))
    return found, entry


def _count_hlo(computations: dict[str, list[_Instruction]], name: str, loop: Loop) -> None:
    for instruction in computations[name]:
        operation = instruction.operation
        loop.count(operation, FREE)
        if operation == "custom-call":
            loop.products += bool(instruction.attribute(r'custom_call_target="[^"]*(?:gemm|matmul|conv)'))
        elif operation == "fusion":
            (fused,) = instruction.attribute(r"\bcalls=%?([\w.\-]+)")
            loop.products += sum(x.operation in PRODUCTS for x in computations[fused])
        elif operation == "while":
            (body,) = instruction.attribute(r"\bbody=%?([\w.\-]+)")
            trips = instruction.attribute(r'"known_trip_count":\{"n":"(\d+)"')
            names = instruction.attribute(r'op_name="([^"]*)"')
            inner = _loop(names[0] if names else "", int(trips[0]) if trips else 1)
            _count_hlo(computations, body, inner)
            loop.nest(inner)
        elif operation == "call":
            for called in instruction.attribute(r"to_apply=%?([\w.\-]+)"):
                _count_hlo(computations, called, loop)
        elif operation == "conditional":
            for group in instruction.attribute(r"branch_computations=\{([^}]*)\}"):
                for called in re.findall(r"[\w.\-]+", group):
                    _count_hlo(computations, called, loop)


def stablehlo_loops(text: str) -> list[Loop]:
    """Loops of a module before compilation; what a reduction or a sort applies is part of it."""
    from jax.extend.mlir import ir
    from jax.interpreters.mlir import make_ir_context

    with make_ir_context():
        module = ir.Module.parse(text)
        operations = [operation.operation for operation in module.body.operations]
        functions = {_symbol(x, "sym_name"): x for x in operations if x.name == "func.func"}
        program = Loop("", False, 1)
        _count_stablehlo(functions, functions["main"], program)
        return program.inner


def _count_stablehlo(functions: dict[str, Any], parent: Any, loop: Loop, regions: slice = slice(None)) -> None:
    for operation in _inside(parent, regions):
        loop.count(operation.name, FREE_STABLEHLO)
        if operation.name == "stablehlo.while":
            inner = _loop(str(operation.location), _bound(operation))
            _count_stablehlo(functions, operation, inner, slice(1, 2))
            loop.nest(inner)
        elif operation.name == "func.call":
            _count_stablehlo(functions, functions[_symbol(operation, "callee")], loop)
        elif operation.name in ("stablehlo.if", "stablehlo.case"):
            _count_stablehlo(functions, operation, loop)


def _symbol(operation: Any, name: str) -> str:
    return str(operation.attributes[name].value)


def _inside(parent: Any, regions: slice) -> Iterator[Any]:
    for region in list(parent.regions)[regions]:
        for block in region.blocks:
            for operation in block.operations:
                yield operation.operation


def _bound(loop: Any) -> int:
    """A scan's condition compares its counter, from zero, with one constant."""
    constants = [x for x in _inside(loop, slice(0, 1)) if x.name == "stablehlo.constant"]
    bounds = [re.search(r"dense<(\d+)> : tensor<u?i\d+>", str(x.attributes["value"])) for x in constants]
    return int(bounds[0][1]) if len(bounds) == 1 and bounds[0] else 1


def _loop(place: str, trips: int) -> Loop:
    names = re.findall(r"[\w()./ \-<>]*while", place)
    return Loop(names[0] if names else "", "transpose(" in place, trips)


def update_text(size: str, observation: str, dtype: str) -> str:
    """The update as StableHLO for CUDA, batch 16 x 64, whatever device is here."""
    import jax

    from dreamer_jax.agent import make_agent
    from dreamer_jax.config.loading import load
    from dreamer_jax.profiling.speed import SPECS, random_windows

    # An accelerator's form: no chunks of rows.
    config = load(size=size, overrides=[("dtype", dtype), ("behavior.chunk_rows", "0")])
    spec = SPECS[observation]
    agent, key = make_agent(config, spec), jax.random.PRNGKey(0)
    batch = random_windows(spec, agent.latent_spec, config.train.batch_size, config.train.batch_length)
    traced = jax.jit(agent.update).trace(jax.eval_shape(agent.init, key), key, batch)
    return str(traced.lower(lowering_platforms=("cuda",)).as_text(debug_info=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.txt")
    parser.add_argument("--size", default="1m")
    parser.add_argument("--observation", choices=("proprio", "vision", "atari"), default="proprio")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    texts = {str(path): path.read_text() for path in options.files}
    if not texts:
        name = f"dreamer_jax {options.observation} {options.size} {options.dtype}, for CUDA"
        texts = {name: update_text(options.size, options.observation, options.dtype)}
    for name, text in texts.items():
        print(json.dumps({"benchmark": "loop_bodies", "file": name, "loops": [asdict(loop) for loop in loops(text)]}))


if __name__ == "__main__":
    main()
