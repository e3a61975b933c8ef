"""One Optuna study on disk: suggestions that are recorded before they are tried, and the same after any crash.

Suggestions come in generations of a stated number. All of a generation are made before the first of them is told, and they are
told in the order of their numbers. So what is suggested depends on what earlier generations found, never on which trial of
this one ended first, nor on how many slots a machine has. Inside a generation each suggestion takes those before it, whose
values are not known, for bad ones (Optuna's constant liar), so that it keeps away from them.

A suggestion is drawn in memory, from a copy of the history, by a sampler seeded by the study's seed and the trial's number
(one that was reloaded from disk would not go on with its sequence), and written as one line of Optuna's journal with the state
RUNNING. A driver that dies leaves trials that were suggested and not told: the next one gets the same back, and none is asked
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llama.config import digest
from llama.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

Parameters = Mapping[str, Any]

#: Draws of one suggestion before a space is called empty.
MOST_DRAWS = 200
_IDENTITY = "isoloss.identity"


class Suggestion(NamedTuple):
    """One trial's parameters."""

    number: int
    parameters: Parameters


def open_journal(path: Path) -> BaseStorage:
    """Optuna's storage in a file, made where there is none. The caller holds the sweep's lease: nobody else writes there."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_torn_line(path)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_Unlocked()))


def _drop_torn_line(path: Path) -> None:
    """What a crash cut short would spoil the line that is appended to it."""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


class _Unlocked:
    """Optuna's own lock outlives a killed driver by 30 seconds; the sweep's lease does its work."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Suggestions:
    """The trials of one study, in generations of `at_once`."""

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        *,
        space: Mapping[str, BaseDistribution],
        n_objectives: int = 1,
        trials: int,
        at_once: int,
        seed: int,
        starts: Sequence[Parameters] = (),
        accepts: Callable[[Parameters], bool] = lambda parameters: True,
        identity: Mapping[str, Any],
    ) -> None:
        """`starts` are the first trials' parameters; the later ones come from TPE, which makes every objective small.
        `accepts` refuses a draw, which is then drawn again. `identity` is all that decides what a trial is.

        Raises:
            UserError: the storage holds a study of this name with another identity.
        """
        import optuna

        self._space, self._starts, self._accepts = dict(space), starts, accepts
        self._trials, self._at_once, self._seed = trials, at_once, seed
        self._storage, self.name = storage, name
        self._directions = ["minimize"] * n_objectives
        self.study: Study = optuna.create_study(
            storage=storage, study_name=name, directions=self._directions, load_if_exists=True
        )
        known = self.study.user_attrs.get(_IDENTITY)
        if known is None:
            self.study.set_user_attr(_IDENTITY, dict(identity))
        elif changed := _first_change(known, identity):
            raise UserError(
                f"the tuning study {name} was begun with another {changed}: what it tried would not compare. Give the sweep "
                "another name, or put it back"
            )

    @property
    def told(self) -> list[FrozenTrial]:
        """The trials that ended, in order."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def generation(self) -> list[Suggestion]:
        """The trials to run now: what was suggested and not told, and the rest of its generation. Empty at the end.

        Raises:
            UserError: the space has nothing that is accepted.
        """
        trials = self.study.get_trials(deepcopy=False)
        open_numbers = [trial.number for trial in trials if not trial.state.is_finished()]
        first = min(open_numbers, default=len(trials))
        end = min(first - first % self._at_once + self._at_once, self._trials)
        for number in range(len(trials), end):
            self._record(number)
        trials = self.study.get_trials(deepcopy=False)
        return [Suggestion(t.number, dict(t.params)) for t in trials[first:end] if not t.state.is_finished()]

    def tell(self, number: int, values: Sequence[float], outcome: Mapping[str, Any]) -> None:
        """A trial's objectives, and what else is to be known of it: `user_attrs` of its row in `told`."""
        from optuna.trial import TrialState

        self._end(number, TrialState.COMPLETE, list(values), outcome)

    def tell_ended_early(self, number: int, outcome: Mapping[str, Any]) -> None:
        """A trial that was pruned or diverged: to the sampler it is worse than any that was told with a value."""
        from optuna.trial import TrialState

        state = TrialState.PRUNED if len(self._directions) == 1 else TrialState.FAIL  # Optuna prunes one objective only
        self._end(number, state, None, outcome)

    def _end(self, number: int, state: TrialState, values: list[float] | None, outcome: Mapping[str, Any]) -> None:
        study_id = self._storage.get_study_id_from_name(self.name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        for name, value in outcome.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        self._storage.set_trial_state_values(trial_id, state, values)

    def _record(self, number: int) -> None:
        from optuna.trial import TrialState, create_trial

        parameters = self._starts[number] if number < len(self._starts) else self._draw(number)
        self.study.add_trial(create_trial(state=TrialState.RUNNING, params=dict(parameters), distributions=self._space))

    def _draw(self, number: int) -> Parameters:
        import optuna
        from optuna.trial import TrialState

        copy = optuna.create_study(directions=self._directions)
        copy.add_trials(self.study.get_trials(deepcopy=False))
        for draw in range(MOST_DRAWS):
            copy.sampler = optuna.samplers.TPESampler(
                seed=int(digest([self._seed, self.name, number, draw])[:8], 16),
                n_startup_trials=max(len(self._starts), 2 * len(self._space)),
                multivariate=True,
                constant_liar=True,
            )
            drawn = copy.ask(self._space)
            if self._accepts(drawn.params):
                return dict(drawn.params)
            copy.tell(drawn, state=TrialState.FAIL)
        raise UserError(f"tune: none of {MOST_DRAWS} suggestions fits: widen tune.shape.n_params, or train for longer")


def _first_change(before: Any, now: Any, where: str = "") -> str | None:
    """The first key at which two identities differ, with both values: `recipe.name (llama, now porian)`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in now:
            if found := _first_change(before.get(key), now[key], f"{where}.{key}" if where else key):
                return found
        return None
    return None if before == now else f"{where} ({before}, now {now})"
