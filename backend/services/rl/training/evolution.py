"""Evolution of a few dozen numbers by CMA-ES (Hansen 2016), resumable from a journal.

Every candidate of a generation plays the same days (common random numbers), so that differences
are the numbers' and not the days'. The answer is the average of the search distribution's means
over the last generations: a better estimate under noise than any candidate or the last mean.

What is slow is compiled and runs without the GIL: candidates are spread over threads, each with an
engine of its own. The scores of finished generations are kept in a file, from which a killed run
goes on: the search asks for the same points again.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from cmaes import CMA

from services.rl.errors import TrainingError
from services.rl.simulation.types import FloatArray

LATE = 0.6
"""Share of the generations after which the search has got near: their means are averaged."""


@dataclass(frozen=True)
class Evolution:
    """Budget of one search.

    Attributes:
        generations: How many.
        population: Candidates in each.
        sigma: Spread of the first.
        threads: Candidates played at once.
        seed: Of the candidates.
    """

    generations: int
    population: int
    sigma: float
    threads: int
    seed: int


World = TypeVar("World")
"""What candidates are played on: an engine, or several."""

Score = Callable[[World, FloatArray, int], float]
"""Score of a candidate in a generation, played on engines that are its own meanwhile."""


def evolve(
    plan: Evolution,
    origin: FloatArray,
    engine: Callable[[], World],
    score: Score[World],
    *,
    journal: "Journal | None" = None,
    on_generation: Callable[[int, float, float], None] | None = None,
    on_answer: Callable[[int, FloatArray], None] | None = None,
    out_of_time: Callable[[], bool] | None = None,
) -> tuple[FloatArray, int]:
    """Search from ``origin``; returns the averaged mean of the late generations.

    Args:
        plan: The budget.
        origin: Where the search starts, ``(K,)``.
        engine: Makes an engine, or whatever ``score`` plays on; called once for each thread.
        score: What is maximised; the higher, the better.
        journal: Scores of finished generations, to resume from.
        on_generation: Called with the generation, the score of the distribution's mean and that
            of the origin, on the generation's days.
        on_answer: Called with the generations finished and what the search would answer then.
        out_of_time: Asked before each generation that would have to be played; once it says True
            the search ends with what it has found so far.

    Returns:
        The answer, and the number of generations behind it.
    """
    engines: SimpleQueue[World] = SimpleQueue()
    for _ in range(plan.threads):
        engines.put(engine())
    search = CMA(mean=origin, sigma=plan.sigma, population_size=plan.population, seed=plan.seed)
    told = journal or Journal(None, {})
    average, averaged, played = np.zeros(origin.size), 0, 0
    with ThreadPoolExecutor(plan.threads) as pool:
        for generation in range(plan.generations):
            points = [search.ask() for _ in range(search.population_size)]
            scores = told.scores(generation)
            if scores is None and out_of_time is not None and out_of_time():
                break
            if scores is None:
                asked = [*points, search.mean, origin]
                scores = _played(pool, engines, score, asked, generation)
                told.add(generation, scores)
            search.tell([(p, -s) for p, s in zip(points, scores, strict=False)])
            played += 1
            if generation >= LATE * plan.generations:
                average += search.mean
                averaged += 1
            if on_generation is not None:
                on_generation(generation, scores[-2], scores[-1])
            if on_answer is not None:
                on_answer(played, average / averaged if averaged else search.mean)
    found: FloatArray = average / averaged if averaged else search.mean
    return found, played


def _played(
    pool: ThreadPoolExecutor,
    engines: "SimpleQueue[World]",
    score: Score[World],
    points: Sequence[FloatArray],
    generation: int,
) -> list[float]:
    def one(point: FloatArray) -> float:
        engine = engines.get()
        try:
            return score(engine, point, generation)
        finally:
            engines.put(engine)

    jobs = [pool.submit(one, point) for point in points]
    try:
        return [job.result() for job in jobs]
    except BaseException:  # Ctrl-C too: do not play the rest of the generation first
        pool.shutdown(cancel_futures=True)
        raise


class Journal:
    """Scores of finished generations, one JSON line each, under a line that names the fit.

    A file without one whole line was left by a run that was killed before it had scores: it is
    begun anew.

    Args:
        path: The file; None: nothing is kept.
        head: Names the fit; a journal under another head is refused.

    Raises:
        TrainingError: If the file is damaged or of another fit.
    """

    def __init__(self, path: Path | None, head: dict[str, Any]) -> None:
        self._path = path
        self._scores: dict[int, list[float]] = {}
        if path is None:
            return
        before = self._read(path, head) if path.exists() else ""
        whole = [json.dumps(head)] + [
            json.dumps({"generation": g, "scores": s}) for g, s in self._scores.items()
        ]
        now = "\n".join(whole) + "\n"
        if now != before:
            _replace(path, now)

    def _read(self, path: Path, head: dict[str, Any]) -> str:
        """Take the scores of finished generations; returns the file's text."""
        try:
            text = path.read_text(encoding="utf-8")
            if "\n" not in text:
                return ""
            lines = text.splitlines()
            if json.loads(lines[0]) != json.loads(json.dumps(head)):
                raise TrainingError(
                    f"{path} is of a fit with other settings; choose another --name"
                )
            for line in lines[1:]:
                try:
                    entry = json.loads(line)
                except ValueError:
                    break  # killed while writing: that generation is played again
                self._scores[int(entry["generation"])] = [float(s) for s in entry["scores"]]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise TrainingError(f"{path} cannot be read: {error}") from error
        return text

    def scores(self, generation: int) -> list[float] | None:
        """Scores of a generation that was played before."""
        return self._scores.get(generation)

    def add(self, generation: int, scores: list[float]) -> None:
        """Keep a generation's scores."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"generation": generation, "scores": scores}) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write a journal atomically: on a full disk the finished generations stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.partial")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)
