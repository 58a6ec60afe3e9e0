"""Windows drawn by how new and how badly predicted they are (Curious Replay, Kauvar et al. 2023, eq. 1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dreamer_jax.config.schema import ReplayConfig
from dreamer_jax.replay.draws import Windows
from dreamer_jax.types import Array


class Curiosity(NamedTuple):
    """A record has the priority ``novelty decay^visits + (|loss| + floor)^exponent``."""

    novelty: float
    decay: float
    exponent: float
    floor: float

    def priority(self, visits: Array, loss: Array) -> Array:
        return self.novelty * self.decay**visits + (abs(loss) + self.floor) ** self.exponent


def make_curiosity(config: ReplayConfig) -> Curiosity | None:
    """None where windows are not drawn so."""
    if config.sampling != "curious":
        return None
    return Curiosity(config.curious_novelty, config.curious_decay, config.curious_exponent, config.curious_floor)


class CuriousWindows(Windows):
    """Draws a window by the priority of its last record. Reports and held-out windows are drawn as by ``Windows``.

    ``visits`` says how often a record has been in a batch, ``loss`` what the world model's loss was there the last
    time, 0 at first, and ``seen`` for how many records up to it none has been held out; all [E, slots] of the ring.
    """

    def __init__(self, num_envs: int, length: int, *, online: bool, curiosity: Curiosity, slots: int) -> None:
        super().__init__(num_envs, length, online=online)
        self._curiosity = curiosity
        self.resize(slots)

    def resize(self, slots: int) -> None:
        """Forget everything, for a ring of so many rows."""
        self._slots = slots
        self.visits = np.zeros((self._num_envs, slots), np.int32)
        self.loss = np.zeros((self._num_envs, slots), np.float32)
        self.seen = np.zeros((self._num_envs, slots), np.int32)
        self._sums = SumTree(self._num_envs * slots)

    def append(self, rows: range, held_out: np.ndarray) -> None:
        """A row has been added, which is ``held_out`` [E] from training or not; the ring now holds these."""
        envs, newest, oldest = np.arange(self._num_envs), rows.stop - 1, rows.start + self._length - 2
        for values in (self.visits, self.loss):
            values[:, newest % self._slots] = 0
        before = self.seen[:, (newest - 1) % self._slots]
        self.seen[:, newest % self._slots] = np.where(held_out, 0, before + 1)
        if newest > oldest:
            self._refresh(envs, np.full_like(envs, newest))
        self._sums.set(self._place(envs, np.full_like(envs, oldest)), np.zeros(self._num_envs))

    def learnt(self, env: np.ndarray, row: np.ndarray, loss: np.ndarray, rows: range) -> None:
        """Records ``(env, row)`` [n] have been in a batch, some perhaps twice, where the model had these losses."""
        np.add.at(self.visits, (env, row % self._slots), 1)
        self.loss[env, row % self._slots] = loss
        ends = row >= rows.start + self._length - 1
        self._refresh(env[ends], row[ends])

    def state(self, rows: range) -> dict[str, np.ndarray]:
        """What a checkpoint must keep."""
        kept = np.arange(rows.start, rows.stop) % self._slots
        return {"curious/visits": self.visits[:, kept], "curious/loss": self.loss[:, kept]}

    def restore(self, state: dict[str, np.ndarray], rows: range, slots: int, held_out: np.ndarray) -> None:
        """Where ``state`` has nothing of them, no record has been in a batch; ``held_out`` is [E, rows]."""
        self.resize(slots)
        count = np.arange(1, len(rows) + 1)
        last = np.maximum.accumulate(np.where(held_out, count, 0), 1)
        self.seen[:, np.arange(rows.start, rows.stop) % slots] = count - last
        kept = np.arange(rows.start, rows.stop)
        if "curious/visits" in state:
            self.visits[:, kept % slots], self.loss[:, kept % slots] = state["curious/visits"], state["curious/loss"]
        ends = kept[self._length - 1 :]
        env, row = (x.reshape(-1) for x in np.meshgrid(np.arange(self._num_envs), ends, indexing="ij"))
        self._refresh(env, row)

    def _refresh(self, env: np.ndarray, row: np.ndarray) -> None:
        slot = row % self._slots
        priority = self._curiosity.priority(self.visits[env, slot], self.loss[env, slot].astype(np.float64))
        self._sums.set(self._place(env, row), np.where(self.seen[env, slot] >= self._length, priority, 0))

    def _place(self, env: np.ndarray, row: np.ndarray) -> np.ndarray:
        return row % self._slots * self._num_envs + env

    def _drawn(self, rng: np.random.Generator, count: int, rows: range) -> np.ndarray:
        slot, env = np.divmod(self._sums.draw(rng, count), self._num_envs)
        row = rows.start + (slot - rows.start) % self._slots
        return np.stack([env, row - self._length + 1], axis=1)


class SumTree:
    """Numbers of which one can be drawn in proportion to its size, and changed, in logarithmic time."""

    def __init__(self, size: int) -> None:
        self._leaves = 1 << max(1, (size - 1).bit_length())
        self._tree = np.zeros(2 * self._leaves, np.float64)  # node i is the sum of nodes 2i and 2i + 1

    def set(self, places: np.ndarray, values: np.ndarray) -> None:
        """Of several values for one place the last one stays."""
        nodes = self._leaves + places
        self._tree[nodes] = values
        nodes = np.unique(nodes // 2)
        while nodes.size and nodes[0]:
            self._tree[nodes] = self._tree[2 * nodes] + self._tree[2 * nodes + 1]
            nodes = np.unique(nodes // 2)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """At most ``count`` places: rounding may lead to one whose number is 0, which is left out."""
        rest, nodes = rng.random(count) * self._tree[1], np.ones(count, np.int64)
        while nodes[0] < self._leaves:
            left = self._tree[2 * nodes]
            right = rest >= left
            rest, nodes = np.where(right, rest - left, rest), 2 * nodes + right
        return nodes[self._tree[nodes] > 0] - self._leaves
