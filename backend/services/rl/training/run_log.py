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
        title: Of the figure.
        baselines: Scores of other policies on the same days, drawn as lines.

    Returns:
        The Matplotlib figure.
    """
    from matplotlib.figure import Figure

    judged = read_metrics(folder, "eval")
    trained = read_metrics(folder, "train")
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    if trained:
        steps, reward = _points(trained, "episode_reward")
        axes.plot(steps, reward, color="#b0b7c3", linewidth=1.0, label="training episodes")
    if judged:
        steps, score = _points(judged, "score")
        axes.plot(steps, score, color="#1f5fbf", marker="o", markersize=3, label="validation days")
        best = int(np.nanargmax(score))
        axes.plot(steps[best], score[best], "*", color="#d9822b", markersize=12, label="best")
    for style, (name, value) in zip(
        ("--", ":", "-.", "--"), (baselines or {}).items(), strict=False
    ):
        axes.axhline(value, linestyle=style, color="#555555", linewidth=1.0, label=name)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("reward per day")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(folder / "learning_curve.png", dpi=130)
    return figure


def _points(
    lines: list[dict[str, Any]], name: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    kept = [line for line in lines if name in line]
    return np.array([line["step"] for line in kept], float), np.array(
        [line[name] for line in kept], float
    )
