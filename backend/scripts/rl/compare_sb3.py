"""Our DQN against Stable-Baselines3's on problems others know, at equal steps and settings.

Same environment steps, same hyper-parameters (RL Baselines3 Zoo's), same periodic evaluation. What
is compared is the return of episodes that neither saw, played greedily by the last model and by
the best of the periodic evaluations. Needs stable-baselines3 (requirements-dev.txt). Every finished
training is kept under data/rl/cache: an interrupted comparison goes on where it stopped.
"""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from scipy import stats

from scripts.rl.command import command_parser, positive_int, provenance, run, write_json
from scripts.rl.train_dqn import foreign_defaults
from services.rl import paths
from services.rl.evaluation.paired import Estimate
from services.rl.training.config import TrainingConfig

EXAMPLES = """
compare_sb3.py
compare_sb3.py --environments CartPole-v1 --seeds 1
compare_sb3.py --seeds 5 --json results/compare_sb3.json
"""
CACHE_VERSION = 1
"""Raise it when a change alters how models are trained here or judged."""

JUDGE_SEED = 3_000_000
"""First seed of the judging episodes: the same for all, never trained or selected on."""

IMPLEMENTATIONS = ("ours", "sb3")
LEARNER = ("dqn_agent.py", "q_networks.py", "replay_buffer.py")
"""Files on which our results depend: with another content they are computed anew."""

_CODE = [
    hashlib.sha256((Path(paths.__file__).parent / name).read_bytes()).hexdigest()
    for name in LEARNER
]  # as this process imports them: an edit during a long run must not pass as its code

logger = logging.getLogger(__name__)

States = npt.NDArray[np.float32]
Greedy = Callable[[States], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Problem:
    """An environment with settings known to solve it, in Stable-Baselines3's terms.

    ``train_freq`` and ``target_update_interval`` count environment steps. Source: RL Baselines3
    Zoo, ``hyperparams/dqn.yml``.

    Attributes:
        environment: Gymnasium id.
        timesteps: Environment steps.
        eval_freq: Steps between periodic evaluations.
        eval_episodes: Episodes of each.
        required: Mean return that our best model must reach; None: only SB3's.
    """

    environment: str
    timesteps: int
    learning_rate: float
    batch_size: int
    buffer_size: int
    learning_starts: int
    gamma: float
    target_update_interval: int
    train_freq: int
    gradient_steps: int
    exploration_fraction: float
    exploration_final_eps: float
    net_arch: tuple[int, ...] = (256, 256)
    eval_freq: int = 5_000
    eval_episodes: int = 20
    required: float | None = None

    @property
    def updates_per_target(self) -> int:
        """Gradient updates between target updates, as we count them.

        Stable-Baselines3 copies every ``target_update_interval`` environment steps; copies between
        two rounds of updates change nothing, so that at least one round lies between them.
        """
        steps = max(self.target_update_interval, self.train_freq)
        return steps * self.gradient_steps // self.train_freq


PROBLEMS = {
    problem.environment: problem
    for problem in (
        Problem(
            "CartPole-v1", timesteps=50_000, learning_rate=2.3e-3, batch_size=64,
            buffer_size=100_000, learning_starts=1_000, gamma=0.99, target_update_interval=10,
            train_freq=256, gradient_steps=128, exploration_fraction=0.16,
            exploration_final_eps=0.04, required=475.0,
        ),
        Problem(
            "Acrobot-v1", timesteps=100_000, learning_rate=6.3e-4, batch_size=128,
            buffer_size=50_000, learning_starts=0, gamma=0.99, target_update_interval=250,
            train_freq=4, gradient_steps=4, exploration_fraction=0.12,
            exploration_final_eps=0.1,
        ),
    )
}  # fmt: skip


# --- one training -------------------------------------------------------------------------------


def our_config(problem: Problem, seed: int) -> TrainingConfig:
    """The problem's settings in our terms."""
    return (
        TrainingConfig()
        .changed(**foreign_defaults())
        .changed(
            experiment_name=f"compare_sb3_{problem.environment}_{seed}",
            seed=seed,
            total_timesteps=problem.timesteps,
            hyperparameters={
                "hidden": problem.net_arch,
                "learning_rate": problem.learning_rate,
                "batch_size": problem.batch_size,
                "buffer_size": problem.buffer_size,
                "learning_starts": problem.learning_starts,
                "gamma": problem.gamma,
                "train_freq": problem.train_freq,
                "gradient_steps": problem.gradient_steps,
                "target_update_interval": problem.updates_per_target,
                "exploration_fraction": problem.exploration_fraction,
                "exploration_final_eps": problem.exploration_final_eps,
            },
            evaluation={
                "eval_freq": problem.eval_freq,
                "n_eval_episodes": problem.eval_episodes,
            },
            checkpoints={"save_freq": problem.timesteps, "save_replay_buffer": False},
        )
    )


def train_ours(problem: Problem, seed: int, episodes: int) -> dict[str, Any]:
    """Train our agent with our trainer; returns of the last and of the best model."""
    from services.rl.policies.flat_network import FlatForward
    from services.rl.policies.model_files import read_arrays
    from services.rl.training.task import GymnasiumTask
    from services.rl.training.trainer import Trainer

    def greedy(arrays: dict[str, npt.NDArray[Any]]) -> Greedy:
        forward = FlatForward(arrays, dueling=False)
        return lambda states: forward(states, np.empty((0, 0), np.bool_)).argmax(axis=1)

    trainer = Trainer(GymnasiumTask(problem.environment), our_config(problem, seed))
    begun = time.process_time()
    try:
        result = trainer.train()
    finally:
        trainer.cleanup()
    if result.stopped != "done":  # the trainer leaves cleanly; a part of a training is no result
        raise KeyboardInterrupt
    seconds = time.process_time() - begun
    last = {k: v.detach().cpu().numpy() for k, v in trainer.agent.online.state_dict().items()}
    best = read_arrays(result.folder / "checkpoints" / "best")
    return {
        "last": judged(problem.environment, greedy(last), episodes),
        "best": judged(problem.environment, greedy(best), episodes),
        "best_step": result.best_step,
        "updates": trainer.agent.updates,
        "process_s": seconds,
    }


def train_sb3(problem: Problem, seed: int, episodes: int) -> dict[str, Any]:
    """The same with Stable-Baselines3's DQN and its `EvalCallback`."""
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.monitor import Monitor

    def greedy(model: DQN) -> Greedy:
        return lambda states: model.predict(states, deterministic=True)[0]

    torch.set_num_threads(1)
    model = DQN(
        "MlpPolicy",
        gymnasium.make(problem.environment),
        learning_rate=problem.learning_rate,
        batch_size=problem.batch_size,
        buffer_size=problem.buffer_size,
        learning_starts=problem.learning_starts,
        gamma=problem.gamma,
        target_update_interval=problem.target_update_interval,
        train_freq=problem.train_freq,
        gradient_steps=problem.gradient_steps,
        exploration_fraction=problem.exploration_fraction,
        exploration_final_eps=problem.exploration_final_eps,
        policy_kwargs={"net_arch": list(problem.net_arch)},
        seed=seed,
        device="cpu",
    )
    periodic = Monitor(gymnasium.make(problem.environment))
    periodic.reset(seed=seed + 2**31)
    with tempfile.TemporaryDirectory() as folder:
        callback = EvalCallback(
            periodic,
            n_eval_episodes=problem.eval_episodes,
            eval_freq=problem.eval_freq,
            best_model_save_path=folder,
            verbose=0,
        )
        begun = time.process_time()
        model.learn(problem.timesteps, callback=callback)
        seconds = time.process_time() - begun
        stored = Path(folder) / "best_model.zip"
        best = DQN.load(stored, device="cpu") if stored.exists() else model
    return {
        "last": judged(problem.environment, greedy(model), episodes),
        "best": judged(problem.environment, greedy(best), episodes),
        "updates": model._n_updates,
        "process_s": seconds,
    }


def judged(environment: str, greedy: Greedy, episodes: int) -> list[float]:
    """Returns of so many episodes from fixed seeds, all played side by side."""
    envs = [gymnasium.make(environment) for _ in range(episodes)]
    states = np.array([e.reset(seed=JUDGE_SEED + i)[0] for i, e in enumerate(envs)], np.float32)
    totals = np.zeros(episodes)
    playing = np.arange(episodes)
    while playing.size:
        over = np.zeros(len(playing), dtype=np.bool_)
        for row, action in enumerate(greedy(states[playing]).tolist()):
            env = playing[row]
            states[env], reward, terminated, truncated, _ = envs[env].step(action)
            totals[env] += float(reward)
            over[row] = terminated or truncated
        playing = playing[~over]
    return [float(total) for total in totals]


# --- all of them --------------------------------------------------------------------------------


def result_of(implementation: str, problem: Problem, seed: int, episodes: int) -> dict[str, Any]:
    """Train and judge, or take what an earlier call kept."""
    key = _key(implementation, problem, seed, episodes)
    path = paths.cache_dir() / "compare_sb3" / f"{key}.json"
    if path.exists():
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError) as error:
            logger.warning("cached result %s cannot be read, training again: %s", path, error)
    train = train_ours if implementation == "ours" else train_sb3
    result = train(problem, seed, episodes)
    write_json(path, result)
    return result


def _key(implementation: str, problem: Problem, seed: int, episodes: int) -> str:
    part: Any
    if implementation == "ours":
        part = [_CODE, our_config(problem, seed).model_dump_json()]
    else:
        part = version("stable-baselines3")
    libraries = [version(name) for name in ("torch", "gymnasium")]
    settings = [CACHE_VERSION, implementation, asdict(problem), seed, episodes, part, libraries]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Mean difference of two independent samples, with Welch's 95 % interval (Welch 1947)."""
    a, b = np.asarray(ours), np.asarray(theirs)
    mean = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2:
        return Estimate(mean, float("inf"))
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb == 0.0:
        return Estimate(mean, 0.0)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return Estimate(mean, float(stats.t.ppf(0.975, freedom) * np.sqrt(va + vb)))


def table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> tuple[str, list[dict[str, Any]]]:
    """Markdown, and the same as rows."""
    lines = [
        "| environment | model | ours | SB3 | ours − SB3 (95 %) | not worse | ours by seed | SB3 by seed |",  # noqa: E501
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for environment, by_implementation in results.items():
        for model in ("best", "last"):
            means = {
                name: [float(np.mean(r[model])) for r in by_implementation[name]]
                for name in IMPLEMENTATIONS
            }
            gap = difference(means["ours"], means["sb3"])
            ours, theirs = (float(np.mean(means[name])) for name in IMPLEMENTATIONS)
            interval = f"[{gap.low:+.1f}, {gap.high:+.1f}]" if np.isfinite(gap.low) else "one seed"
            shown = {n: " ".join(f"{m:.1f}" for m in means[n]) for n in IMPLEMENTATIONS}
            lines.append(
                f"| {environment} | {model} | {ours:.1f} | {theirs:.1f} | {gap.mean:+.1f} "
                f"{interval} | {'yes' if gap.high >= 0 else 'NO'} "
                f"| {shown['ours']} | {shown['sb3']} |"
            )
            rows.append(
                {
                    "environment": environment, "model": model, "ours": means["ours"],
                    "sb3": means["sb3"], "difference": gap.mean,
                    "ci95": [gap.low, gap.high] if np.isfinite(gap.low) else None,
                }
            )  # fmt: skip
    return "\n".join(lines), rows


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, print the table."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "--environments", nargs="+", choices=sorted(PROBLEMS), default=list(PROBLEMS),
        metavar="ID", help=f"default all: {' '.join(PROBLEMS)}",
    )  # fmt: skip
    parser.add_argument("--seeds", type=positive_int, default=5, help="0 to N-1 (default 5)")
    parser.add_argument("--episodes", type=positive_int, default=100, help="judged (default 100)")
    parser.add_argument("--timesteps", type=positive_int, help="shorten both (for a quick look)")
    arguments = parser.parse_args(argv)
    say: Callable[..., None] = (lambda *_, **__: None) if arguments.quiet else print
    problems = [PROBLEMS[name] for name in arguments.environments]
    if arguments.timesteps is not None:
        problems = [replace(p, timesteps=arguments.timesteps) for p in problems]
    results: dict[str, dict[str, list[dict[str, Any]]]] = {
        p.environment: {name: [] for name in IMPLEMENTATIONS} for p in problems
    }
    for problem in problems:
        for seed in range(arguments.seeds):
            for name in IMPLEMENTATIONS:
                result = result_of(name, problem, seed, arguments.episodes)
                results[problem.environment][name].append(result)
                say(
                    f"{problem.environment} seed {seed} {name:4s}: best "
                    f"{np.mean(result['best']):.1f}, last {np.mean(result['last']):.1f}; "
                    f"{result['updates']:,} updates, {result['process_s']:.0f} s of processor time",
                    flush=True,
                )
    text, rows = table(results)
    steps = ", ".join(f"{p.environment} {p.timesteps:,} steps" for p in problems)
    say(f"\n{text}\n\n{steps}; {arguments.seeds} seeds, {arguments.episodes} judged episodes each.")
    say("Process time includes the periodic evaluations, which the two play differently.")
    for problem in problems:
        mean = float(np.mean([np.mean(r["best"]) for r in results[problem.environment]["ours"]]))
        if problem.required is not None:
            verdict = "reached" if mean >= problem.required else "MISSED"
            say(f"{problem.environment}: required {problem.required:.0f}, {verdict} ({mean:.1f}).")
    if arguments.json is not None:
        write_json(arguments.json, {"rows": rows, "results": results, **provenance()})
    return 0


if __name__ == "__main__":
    run(main)
