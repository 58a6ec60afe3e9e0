"""What all tests share: compiled programs are kept between runs, nothing is timed."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before JAX is imported, and in the environment so that subprocesses of tests inherit it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "dreamer_jax" / "tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tests compare numbers; accelerators have benchmarks
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own notes
os.environ.pop("FORCE_COLOR", None)  # tests read plain text

# A first example may compile; and the same examples every time, so that a red run can be repeated.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="module", params=[1, 3, 256], ids="blocks of {}".format)
def blocks(request):
    """Rings whose files have blocks of so many rows: smaller than a window, and as always."""
    from dreamer_jax.replay import storage

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "BLOCK", request.param)
        yield request.param


@pytest.fixture(scope="module")
def process():
    """Runs commands in processes of their own, one at a time."""
    from trainer import trainer

    with trainer() as one:
        yield one
