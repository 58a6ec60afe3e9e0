"""How much a judgement measures: quick, standard, full."""

from __future__ import annotations

from typing import NamedTuple

from dreamer_jax.evaluation.features import image_names
from dreamer_jax.evaluation.subject import Subject


class Profile(NamedTuple):
    """How much is measured."""

    episodes: int  # in all, a quarter of them by the policy, a quarter with noise, the others random
    image_episodes: int
    samples: int
    starts: int
    image_starts: int
    contexts: tuple[int, ...]
    states: int  # for counterfactual actions, returns and values
    severities: tuple[int, ...]
    shifted_episodes: int
    value_records: int = 200  # most rewards that a critic is compared with; 0: in the policy's episodes
    image_value_records: int = 0
    value_states: int = 25
    ranked: int = 0  # states from which policies are put in order
    image_ranked: int = 0
    drawn_again: int = 0  # pieces of episodes whose pictures are shifted
    image_severities: tuple[int, ...] = ()  # of closed loops
    image_shifted_episodes: int = 0
    look_severities: tuple[int, ...] = (2,)
    costly: bool = False  # whether shifts that draw every picture twice are among them

    def suiting(self, subject: Subject) -> Profile:
        """The same, with what is there for images where it sees some: they take most of the time."""
        if not image_names(subject):
            return self
        return self._replace(
            episodes=self.image_episodes,
            starts=self.image_starts,
            value_records=self.image_value_records,
            ranked=self.image_ranked,
            severities=self.image_severities,
            shifted_episodes=self.image_shifted_episodes,
        )


PROFILES = {
    "quick": Profile(24, 12, 8, 100, 60, (5,), 50, (2,), 3, ranked=10, drawn_again=8),
    "standard": Profile(
        *(60, 24, 16, 300, 200, (5, 25), 100, (1, 2, 3), 10),
        value_records=500,
        image_value_records=200,
        value_states=50,
        ranked=40,
        image_ranked=20,
        drawn_again=24,
        image_severities=(2,),
        look_severities=(1, 2, 3),
        image_shifted_episodes=5,
    ),
    "full": Profile(
        *(120, 60, 16, 600, 300, (5, 25), 200, (1, 2, 3), 20),
        value_records=1000,
        image_value_records=500,
        value_states=100,
        ranked=60,
        image_ranked=40,
        drawn_again=40,
        image_severities=(1, 2, 3),
        look_severities=(1, 2, 3),
        image_shifted_episodes=10,
        costly=True,
    ),
}
