"""Storage of experience."""

from dreamer_jax.replay.export import export_episodes, open_read_only
from dreamer_jax.replay.host import Replay
from dreamer_jax.replay.plan import Plan, plan
from dreamer_jax.replay.storage import clear, record_bytes
from dreamer_jax.replay.windows import align

__all__ = ["Plan", "Replay", "align", "clear", "export_episodes", "open_read_only", "plan", "record_bytes"]
