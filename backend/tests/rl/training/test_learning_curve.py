"""The learning curve names what it shows: days or episodes, with the interval over them."""

import json

import numpy as np
import pytest

from services.rl.training import run_log


def written(folder, **kpis):
    """A run's folder with two evaluations on 8 days or episodes."""
    (folder / "logs").mkdir()
    (folder / "eval").mkdir()
    results = np.arange(16.0).reshape(2, 8)
    lines = [
        {"step": step, "group": "eval", "score": float(row.mean()), **kpis}
        for step, row in zip((0, 100), results, strict=True)
    ]
    lines.append({"step": 50, "group": "train", "episode_reward": 3.0})
    (folder / "logs" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    np.savez(folder / "eval" / "evaluations.npz", timesteps=np.array([0, 100]), results=results)
    return folder


@pytest.mark.parametrize(
    ("kpis", "unit", "labels"),
    [
        (
            {"bookings_due": 60.0},
            "reward per day",
            ["training days", "validation days", "95 % interval, 8 days"],
        ),
        (
            {},
            "reward per episode",
            ["training episodes", "evaluation episodes", "95 % interval, 8 episodes"],
        ),
    ],
)
def test_days_and_episodes_are_called_what_they_are(tmp_path, kpis, unit, labels):
    figure = run_log.learning_curve(written(tmp_path, **kpis), "first: geneva", {"nearest": 5.0})
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "first, geneva"
    assert axes.get_ylabel() == unit
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *labels,
        "best",
        "nearest",
    ]
    assert axes.get_legend() is None


def test_the_band_is_the_interval_over_days(tmp_path):
    figure = run_log.learning_curve(written(tmp_path, bookings_due=60.0), "first: geneva")
    (band,) = figure.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    half_width = 2.364624 * np.std(np.arange(8.0), ddof=1) / np.sqrt(8)  # Student's t, 7 degrees
    assert heights.min() == pytest.approx(3.5 - half_width, abs=1e-4)
    assert heights.max() == pytest.approx(11.5 + half_width, abs=1e-4)
