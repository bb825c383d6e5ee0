"""What a run leaves to look at: TensorBoard events, metrics as JSON lines, a log, a curve.

``logs/metrics.jsonl`` holds no wall-clock time: a resumed run writes the same lines as one that
was never interrupted. Speed and times are in ``logs/training.log`` and TensorBoard.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rl import paths
from services.rl.evaluation.paired import estimate

logger = logging.getLogger("services.rl.training")


class RunLog:
    """Writes the logs of one run.

    Args:
        folder: ``results/<experiment>``.
        experiment: Its name.
        resumed_bytes: Length of the metrics file when the checkpoint resumed from was written;
            what came after it is cut off. None starts anew.
        step: The step resumed from.
        echo: Is told every line of the log, for the terminal.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        resumed_bytes: int | None = None,
        step: int = 0,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        (folder / "logs").mkdir(parents=True, exist_ok=True)
        self._metrics = folder / "logs" / "metrics.jsonl"
        if resumed_bytes is None:
            self._metrics.write_bytes(b"")
        else:
            self.rewind(resumed_bytes)
        events = paths.data_dir() / "tensorboard" / experiment
        if resumed_bytes is None and events.is_dir():
            for old in events.glob("events.out.tfevents.*"):
                old.unlink()
        self.writer = SummaryWriter(
            str(events), purge_step=None if resumed_bytes is None else step + 1
        )
        self._echo = echo
        self._handler = logging.FileHandler(
            folder / "logs" / "training.log",
            mode="w" if resumed_bytes is None else "a",
            encoding="utf-8",
        )
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(self._handler)
        logger.setLevel(logging.INFO)

    @property
    def size(self) -> int:
        """Length of the metrics file."""
        return self._metrics.stat().st_size

    def rewind(self, size: int) -> None:
        """Cut off the metrics beyond a length."""
        with self._metrics.open("ab") as file:
            file.truncate(min(size, file.tell()))

    def metrics(self, step: int, group: str, values: dict[str, float]) -> None:
        """Write scalars of a step: a JSON line, and TensorBoard's ``<group>/<name>``."""
        line = json.dumps({"step": step, "group": group, **values}, allow_nan=True)
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.scalars(step, group, values)

    def scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """Write to TensorBoard alone (what depends on the clock)."""
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def hyperparameters(self, parameters: dict[str, Any], score: float) -> None:
        """TensorBoard's table of runs."""
        flat = {
            k: v if isinstance(v, int | float | str | bool) else str(v)
            for k, v in parameters.items()
        }
        self.writer.add_hparams(flat, {"best/score": score}, run_name=".")

    def figure(self, name: str, figure: Any, step: int) -> None:
        """A figure, in TensorBoard."""
        self.writer.add_figure(name, figure, step)

    def say(self, message: str) -> None:
        """A line of the log, and of the terminal where one listens."""
        logger.info(message)
        if self._echo is not None:
            self._echo(message)

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()
        logger.removeHandler(self._handler)
        self._handler.close()


def read_metrics(folder: Path, group: str) -> list[dict[str, Any]]:
    """Lines of one group of ``logs/metrics.jsonl``, in order."""
    path = folder / "logs" / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["group"] == group]


def learning_curve(folder: Path, title: str, baselines: dict[str, float] | None = None) -> Any:
    """Draw ``learning_curve.png``: score on validation days over steps, and training reward.

    Args:
        folder: ``results/<experiment>``.
        title: Of the figure: experiment and scenario.
        baselines: Scores of other policies on the same days, drawn as lines.

    Returns:
        The Matplotlib figure.
    """
    from matplotlib.figure import Figure

    judged = read_metrics(folder, "eval")
    trained = read_metrics(folder, "train")
    # A foreign environment has episodes; only dispatching has days, with bookings in them.
    dispatch = any("bookings_due" in line for line in judged)
    figure = Figure(figsize=(9.0, 4.8), layout="constrained")
    axes = figure.subplots()
    if trained:
        steps, reward = _points(trained, "episode_reward")
        label = "training days" if dispatch else "training episodes"
        axes.plot(steps, reward, color="#b0b7c3", linewidth=1.0, label=label)
    if judged:
        steps, score = _points(judged, "score")
        label = "validation days" if dispatch else "evaluation episodes"
        axes.plot(steps, score, color="#1f5fbf", marker="o", markersize=3, label=label)
        _band(axes, folder, "days" if dispatch else "episodes")
        best = int(np.nanargmax(score))
        axes.plot(steps[best], score[best], "*", color="#d9822b", markersize=12, label="best")
    for style, (name, value) in zip(
        ("--", ":", "-.", "--"), (baselines or {}).items(), strict=False
    ):
        axes.axhline(value, linestyle=style, color="#555555", linewidth=1.0, label=name)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"reward per {'day' if dispatch else 'episode'}")
    axes.set_title(title.replace(": ", ", ", 1), loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(folder / "learning_curve.png", dpi=130)
    return figure


def _band(axes: Any, folder: Path, unit: str) -> None:
    """The 95 % interval of the score over the days it is a mean of."""
    path = folder / "eval" / "evaluations.npz"
    if not path.is_file():
        return
    with np.load(path) as kept:
        steps, results = kept["timesteps"], kept["results"]
    count = results.shape[1] if results.ndim == 2 else 0
    if count < 2:
        return
    estimates = [estimate(row) for row in results]
    axes.fill_between(
        steps, [e.low for e in estimates], [e.high for e in estimates], color="#1f5fbf",
        alpha=0.12, linewidth=0, label=f"95 % interval, {count} {unit}",
    )  # fmt: skip


def _points(
    lines: list[dict[str, Any]], name: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    kept = [line for line in lines if name in line]
    return np.array([line["step"] for line in kept], float), np.array(
        [line[name] for line in kept], float
    )
