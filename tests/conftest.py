"""What all tests share: compiled programs are kept between runs."""

import os
from pathlib import Path

# Set before JAX is imported, and in the environment so that subprocesses of tests inherit it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "dreamer_jax" / "tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tests compare numbers; accelerators have benchmarks
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own notes
