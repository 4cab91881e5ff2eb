"""Asking every question of a behaviour measure once, and writing down each answer as it arrives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from safewright.measures.behaviour import Behaviour, record_of
from safewright.measures.journal import journal_rows, journalled, key_of
from safewright.measures.overflow import Attempt, next_attempt
from safewright.models import Loaded, with_recipe
from safewright.runs import Run, to_json
from safewright.runs.progress import Progress
from safewright.types import Decoding, Generation, Question, Record


class Answers:
    """The questions of a measure, in its order, and their answers so far."""

    def __init__(
        self,
        run: Run,
        behaviour: Behaviour,
        questions: Sequence[Question],
        models: Mapping[str, Loaded],
        *,
        seed: int,
        progress: Progress,
    ) -> None:
        self.run, self.behaviour, self.models = run, behaviour, models
        self.seed, self.progress = seed, progress
        self.questions = list(questions)
        self.keys = [key_of(question) for question in questions]
        if len(set(self.keys)) != len(self.keys):
            raise RuntimeError("a measure asks the same (role, id, sample) twice")
        self.conventions: dict[str, Any] = {}
        self.decoding: dict[str, Any] = {}
        self.calls = 0
        self._said: dict[int, Generation] = {}
        places = {key: place for place, key in enumerate(self.keys)}
        for key, row in journal_rows(run, "answers", ("generation",)).items():
            if key in places:
                self._settle(
                    Attempt(self.questions[places[key]], float(row.get("share", 1.0))),
                    places[key],
                    journalled(Generation, row["generation"], "answers"),
                )

    def answered(self, place: int) -> bool:
        """Whether this question has its answer, or a failure in the place of one."""
        return place in self._said

    def record(self, place: int) -> Record:
        """The question with its answer, unscored."""
        return record_of(self.questions[place], self._said.get(place))

    def ask(self, arrived: Callable[[], None]) -> None:
        """Ask what is not answered, role by role.

        Args:
            arrived: Called whenever some answers have arrived.

        Raises:
            BadInput: A prompt does not fit the model's context, and the measure's choice is an error.
        """
        for role in dict.fromkeys(question.role for question in self.questions):
            self._ask_role(role, [p for p, q in enumerate(self.questions) if q.role == role], arrived)
            if role in self.behaviour.derived and self.behaviour.derived[role].make is not None:
                self.models[role].close()  # a changed model is a second copy in memory

    def _ask_role(self, role: str, places: Sequence[int], arrived: Callable[[], None]) -> None:
        loaded = self.models[role]
        derived = self.behaviour.derived.get(role)
        chosen = {**self.behaviour.chosen, **(derived.decoding if derived else {})}
        decoding = with_recipe(self.behaviour.decoding, loaded.ref, chosen)
        decoding = dataclasses.replace(decoding, seed=self.seed)
        self.decoding[role] = to_json(decoding)
        about = {"step": "engine", "role": role}
        if all(self.answered(place) for place in places):
            # Everything is answered: the model is not even opened.
            self.conventions[role] = self.run.step(about, dict)
            return
        self.conventions[role] = self.run.step(about, lambda: dict(loaded.conventions))
        attempts = {place: Attempt(self.questions[place]) for place in places}
        while attempts:
            # All questions of the role are shown, those with an answer as done: what is generated for one must
            # not depend on where a run was interrupted.
            attempts = self._round(loaded, role, decoding, places, attempts, arrived)

    def _round(
        self,
        loaded: Loaded,
        role: str,
        decoding: Decoding,
        places: Sequence[int],
        attempts: Mapping[int, Attempt],
        arrived: Callable[[], None],
    ) -> dict[int, Attempt]:
        """Ask each question that is to be asked once; those that have to be asked again, shorter."""
        again: dict[int, Attempt] = {}
        done = frozenset(index for index, place in enumerate(places) if self.answered(place))
        chats = [
            (attempts[p].asked(self.behaviour) if p in attempts else self.questions[p]).chat for p in places
        ]

        def tell() -> None:
            self.progress(f"asking {role}", sum(map(self.answered, places)), len(places))

        tell()
        with closing(loaded.stream(chats, decoding, done=done)) as stream:
            for ready in stream:
                for index, said in ready:
                    place = places[index]
                    self.calls += 1
                    found = next_attempt(self.behaviour, attempts[place], said, decoding)
                    if isinstance(found, Attempt):
                        again[place] = found
                    else:
                        self._keep(attempts[place], place, found)
                tell()
                arrived()
        return again

    def _keep(self, attempt: Attempt, place: int, said: Generation) -> None:
        # A failure is not an answer: the next run asks again.
        if said.stop != "error":
            row: dict[str, Any] = {"key": self.keys[place], "generation": said}
            if attempt.share < 1:
                row["share"] = attempt.share
            self.run.append("answers", row)
        self._settle(attempt, place, said)

    def _settle(self, attempt: Attempt, place: int, said: Generation) -> None:
        self.questions[place] = attempt.asked(self.behaviour)
        self._said[place] = said
