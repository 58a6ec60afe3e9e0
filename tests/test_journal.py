"""Crash safety of the ring: whatever happens, every checkpoint that may be asked for comes back bit for bit."""

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.replay import Replay, clear, open_read_only, storage
from dreamer_jax.replay.journal import _after, _Marks
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep

pytestmark = pytest.mark.usefixtures("blocks")
ROOT = Path(__file__).parents[1]
ENVS, ROWS, LENGTH = 2, 7, 3
SPEC = EnvSpec({"x": ArraySpec((2,), "float32"), "id": ArraySpec((), "int32")}, {"a": ArraySpec((1,), "float32")})
LATENTS = {"deter": ArraySpec((3,), "bfloat16"), "stoch": ArraySpec((2,), "uint8")}


def make(directory, latents=LATENTS):
    return Replay(
        directory, SPEC, latents, num_envs=ENVS, capacity=ENVS * ROWS, batch_length=LENGTH, online=True, seed=0
    )


def some(rng, spec, *shape):
    values = rng.integers(0, 200, (*shape, *spec.shape))
    return values.astype(ml_dtypes.bfloat16 if spec.dtype == "bfloat16" else spec.dtype)


class Model:
    """What the ring should hold: for every row and environment a dict of bytes."""

    def __init__(self):
        self.first, self.rows = 0, []
        self.episode, self.step = [-1] * ENVS, [-1] * ENVS

    @property
    def stop(self):
        return self.first + len(self.rows)

    def append(self, timestep, action, latents):
        row = []
        for env in range(ENVS):
            if timestep.is_first[env] or self.episode[env] < 0:
                self.episode[env], self.step[env] = self.episode[env] + 1, -1
            self.step[env] += 1
            record = {f"observation/{name}": value[env].tobytes() for name, value in timestep.observation.items()}
            record |= {f"action/{name}": value[env].tobytes() for name, value in action.items()}
            record |= {f"latents/{name}": value[env].tobytes() for name, value in latents.items()}
            for name in ("reward", "is_first", "is_last", "is_terminal"):
                record[name] = getattr(timestep, name)[env].tobytes()
            record["episode"] = np.int32(self.episode[env]).tobytes()
            record["episode_step"] = np.int32(self.step[env]).tobytes()
            row.append(record)
        self.rows.append(row)
        if len(self.rows) > ROWS:
            self.rows.pop(0)
            self.first += 1

    def write_back(self, index, latents):
        for b, (env, start) in enumerate(index):
            for t in range(LENGTH):
                if 0 <= start + 1 + t - self.first < len(self.rows):
                    record = self.rows[start + 1 + t - self.first][env]
                    record |= {f"latents/{name}": value[b, t].tobytes() for name, value in latents.items()}


def content(replay):
    columns = [{name: replay.column(name, env, replay.rows) for name in replay.fields} for env in range(ENVS)]

    def record(number, env):
        return {name: column[number].tobytes() for name, column in columns[env].items()}

    return [[record(number, env) for env in range(ENVS)] for number in range(len(replay.rows))]


def matches(replay, model):
    return replay.rows == range(model.first, model.stop) and content(replay) == model.rows


def new_record(rng):
    flags = rng.random((3, ENVS)) < 0.2
    timestep = TimeStep(
        {name: some(rng, spec, ENVS) for name, spec in SPEC.observation.items()},
        some(rng, ArraySpec((), "float32"), ENVS),
        *flags,
    )
    action = {name: some(rng, spec, ENVS) for name, spec in SPEC.action.items()}
    return timestep, action, {name: some(rng, spec, ENVS) for name, spec in LATENTS.items()}


def new_latents(rng, stop):
    """A batch of windows, some evicted, some overlapping, with refreshed latents."""
    index = np.stack([rng.integers(0, ENVS, 3), rng.integers(max(0, stop - 2 * ROWS), stop - LENGTH, 3)], 1)
    return index, {name: some(rng, spec, 3, LENGTH) for name, spec in LATENTS.items()}


class Crash(Exception):
    pass


class CrashesAfter(dict):
    """Arrays by name of which the ring gets only so many before it dies."""

    left = 0

    def __getitem__(self, name):
        if self.left == 0:
            raise Crash
        self.left -= 1
        return super().__getitem__(name)


def die_within(replay, change, where, directory):
    """Carry out ``change`` up to some point: within the log's entry, after it, or amid the arrays."""
    arrays, flat, write = replay._store.arrays, replay._flat, replay._journal._write

    def cut_off(file, group, slots):
        path = directory / f"undo-{max(replay._journal.segments())}.bin"
        start = path.stat().st_size
        write(file, group, slots)
        size = path.stat().st_size - start
        os.truncate(path, start + min(size, where * 13))
        raise Crash

    if where < 12:
        replay._journal._write = cut_off
    else:
        replay._store.arrays, replay._flat = CrashesAfter(arrays), CrashesAfter(flat)
        replay._store.arrays.left = replay._flat.left = where - 12
    try:
        change()
    except Crash:
        return True
    finally:
        replay._store.arrays, replay._flat, replay._journal._write = arrays, flat, write
    return False


OPERATIONS = st.tuples(
    st.sampled_from(["append"] * 6 + ["write_back"] * 5 + ["snapshot", "snapshot", "commit", "die", "restore", "view"]),
    st.integers(0, 22),
)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1000), st.lists(OPERATIONS, min_size=20, max_size=60))
def test_every_checkpoint_comes_back_as_it_was(tmp_path_factory, seed, operations):
    directory = tmp_path_factory.mktemp("ring")
    rng = np.random.default_rng(seed)
    replay, model, saved, name = make(directory), Model(), {}, 0

    def crash_and_restore(number):
        nonlocal replay, model, saved
        replay.close()
        chosen = sorted(saved)[number % len(saved)]
        replay = make(directory)
        if number % 3 == 0:  # killed during an earlier try
            replay._journal.resume = lambda name, valid: None
            replay.restore(saved[max(saved)][0], max(saved))
            replay = make(directory)
        replay.restore(saved[chosen][0], chosen)
        saved = {key: value for key, value in saved.items() if key <= chosen}
        model = copy.deepcopy(saved[chosen][1])

    for operation, number in operations:
        change = None
        if operation == "append" or (operation == "die" and number % 2 == 0):
            record = new_record(rng)
            change = lambda target, record=record: target.append(*record)  # noqa: E731
        elif model.stop > LENGTH and operation in ("write_back", "die"):
            index, latents = new_latents(rng, model.stop)
            change = lambda target, index=index, latents=latents: target.write_back(index, latents)  # noqa: E731
        elif operation == "snapshot":
            name += 1 + number % 2
            saved[name] = (replay.snapshot(name), copy.deepcopy(model))
        elif operation == "commit" and saved:
            chosen = sorted(saved)[number % len(saved)]
            replay.committed(chosen)
            saved = {key: value for key, value in saved.items() if key >= chosen}
        elif operation == "restore" and saved:
            crash_and_restore(number)
        elif operation == "view" and saved:
            chosen = sorted(saved)[number % len(saved)]
            assert matches(open_read_only(directory, saved[chosen][0], chosen), saved[chosen][1])
        if change and operation == "die" and saved and die_within(replay, lambda: change(replay), number, directory):  # noqa: B023
            crash_and_restore(number)
        elif change:
            if operation != "die" or not saved:
                change(replay)
            change(model)
        assert matches(replay, model)
    replay.close()


def segment_sizes(directory):
    return {path.name: path.stat().st_size for path in directory.glob("undo-*")}


def test_only_the_first_touch_of_what_the_checkpoint_holds_is_logged(tmp_path):
    rng, replay = np.random.default_rng(0), make(tmp_path)
    for _ in range(4):
        replay.append(*new_record(rng))
    index = np.array([[0, 0]])
    latents = {name: some(rng, spec, 1, LENGTH) for name, spec in LATENTS.items()}
    replay.write_back(index, latents)
    assert segment_sizes(tmp_path) == {}  # no checkpoint, no log
    replay.snapshot(5)
    assert segment_sizes(tmp_path) == {"undo-5.bin": 0}
    for _ in range(3):
        replay.append(*new_record(rng))
    replay.write_back(index + np.array([0, 3]), latents)
    assert segment_sizes(tmp_path) == {"undo-5.bin": 0}  # the checkpoint does not know those slots
    replay.write_back(index, latents)
    once = segment_sizes(tmp_path)
    replay.write_back(index, latents)
    assert segment_sizes(tmp_path) == once and once["undo-5.bin"] > 0
    replay.append(*new_record(rng))
    more = segment_sizes(tmp_path)
    replay.write_back(index + np.array([0, 4]), latents)
    assert segment_sizes(tmp_path) == more and more["undo-5.bin"] > once["undo-5.bin"]
    with pytest.raises(ValueError, match="checkpoint 5"):
        replay.snapshot(5)
    replay.snapshot(9)
    replay.committed(9)
    assert segment_sizes(tmp_path) == {"undo-9.bin": 0}
    with pytest.raises(ValueError, match="checkpoint 10"):
        replay.committed(10)


def test_a_log_that_does_not_lead_back_is_refused(tmp_path):
    rng, replay = np.random.default_rng(0), make(tmp_path)
    for _ in range(ROWS):
        replay.append(*new_record(rng))
    state = replay.snapshot(1)
    replay.append(*new_record(rng))
    replay.snapshot(2)
    replay.close()
    with pytest.raises(ConfigError, match=r"undo-3\.bin: missing"):
        make(tmp_path).restore(state, 3)
    path = tmp_path / "undo-1.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"undo-1\.bin: damaged"):  # not the newest: never cut off by a kill
        make(tmp_path).restore(state, 1)


def test_the_order_in_which_latents_are_named_does_not_matter(tmp_path):
    rng, replay = np.random.default_rng(0), make(tmp_path)
    for _ in range(ROWS):
        replay.append(*new_record(rng))
    state, before = replay.snapshot(1), content(replay)
    replay.write_back(*new_latents(rng, ROWS))
    assert content(replay) != before
    replay = make(tmp_path, dict(reversed(LATENTS.items())))
    replay.restore(state, 1)
    assert content(replay) == before


def test_a_log_on_a_full_disk_leaves_ring_and_log_usable(tmp_path, monkeypatch):
    rng, replay = np.random.default_rng(0), make(tmp_path)
    for _ in range(ROWS):
        replay.append(*new_record(rng))
    state, before = replay.snapshot(1), content(replay)
    calls = iter([7])

    def full(descriptor, parts):
        for size in calls:
            return os.write(descriptor, b"".join(parts)[:size])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        with pytest.raises(OSError, match="No space"):
            replay.append(*new_record(rng))
    assert content(replay) == before and segment_sizes(tmp_path) == {"undo-1.bin": 0}
    replay.append(*new_record(rng))
    replay.close()
    replay = make(tmp_path)
    replay.restore(state, 1)
    assert content(replay) == before


@given(st.integers(1, 40), st.data())
def test_marks_are_a_set_of_slots(count, data):
    marks, clear_ones = _Marks(count), set()
    slots = st.lists(st.integers(0, count - 1), max_size=9).map(lambda numbers: np.array(numbers, np.int64))
    for _ in range(4):
        if data.draw(st.booleans()):
            first = data.draw(st.integers(0, count))
            marks.clear_first(first)
            clear_ones = set(range(first))
        marks.set(changed := data.draw(slots))
        clear_ones -= set(changed.tolist())
        asked = data.draw(slots)
        assert marks.unset(asked).tolist() == sorted(clear_ones & set(asked.tolist()))
    assert marks.unset(np.arange(count)).tolist() == sorted(clear_ones)


@given(st.lists(st.binary(max_size=5)), st.integers(0, 30))
def test_what_is_left_to_write(parts, count):
    left = _after([memoryview(part) for part in parts], count)
    assert b"".join(left) == b"".join(parts)[count:]
    assert left or count >= sum(map(len, parts))


def step(target, number):
    """Operation ``number`` of the writer below, on a ring or on a model."""
    rng = np.random.default_rng(number)
    if number % 3 == 2 and number > 10:
        target.write_back(*new_latents(rng, number - (number + 1) // 3 + 3))
    else:
        target.append(*new_record(rng))


def write_forever(directory):
    """Change the ring until killed, with checkpoints that complete a few operations later."""
    checkpoint, pending, number = directory / "checkpoint.npz", None, 0
    if checkpoint.exists():
        state = dict(np.load(checkpoint))
        number = int(state.pop("number"))
        replay = make(directory / "ring")
        replay.restore(state, number)
    else:
        clear(directory / "ring")
        replay = make(directory / "ring")
    while True:
        if pending and number == pending["number"] + 7:
            np.savez(directory / "new.npz", **pending)
            os.replace(directory / "new.npz", checkpoint)
            replay.committed(pending["number"])
        step(replay, number)
        number += 1
        if number % 40 == 0:
            pending = replay.snapshot(number) | {"number": number}


def write_and_be_killed(directory):
    """For every line of input start a writer and kill it after so many seconds; importing once is enough."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            write_forever(directory)
        time.sleep(float(line))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "failed", flush=True)


def test_killed_writers_leave_the_newest_checkpoint_intact(tmp_path):
    rng = np.random.default_rng()  # other moments every time, on purpose
    model, done, reached, rounds = Model(), 0, [], 0
    command, environment = [sys.executable, __file__, str(tmp_path)], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        while (rounds < 14 or len(set(reached)) < 5) and rounds < 300:  # slow machines need more rounds
            rounds += 1
            print(rng.uniform(0, 0.15), file=process.stdin, flush=True)
            assert process.stdout.readline() == "killed\n"
            if not (tmp_path / "checkpoint.npz").exists():
                continue
            state = dict(np.load(tmp_path / "checkpoint.npz"))
            number = int(state.pop("number"))
            for earlier in range(done, number):
                step(model, earlier)
            done = number
            assert matches(open_read_only(tmp_path / "ring", state, number), model)
            if len(reached) % 2:
                replay = make(tmp_path / "ring")
                replay.restore(state, number)
                assert matches(replay, model)
                replay.close()
            reached.append(number)
        process.stdin.close()
    assert len(set(reached)) >= 5


if __name__ == "__main__":
    storage.BLOCK = 3
    write_and_be_killed(Path(sys.argv[1]))
