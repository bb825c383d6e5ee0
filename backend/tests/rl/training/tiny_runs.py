"""Runs of seconds that touch every part, and the whole state of a trainer to compare."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from services.rl.training.config import TrainingConfig
from services.rl.training.task import GymnasiumTask
from services.rl.training.trainer import Trainer

ENVS = 4


def tiny(name="run", vector_steps=40, **fields) -> TrainingConfig:
    """Four small networks' worth of Geneva; learning begins at vector step 10."""
    return (
        TrainingConfig()
        .changed(
            experiment_name=name,
            total_timesteps=ENVS * vector_steps,
            hyperparameters={
                "num_envs": ENVS,
                "learning_starts": 10 * ENVS,
                "batch_size": 16,
                "buffer_size": 100,  # overwritten from vector step 25 on
                "pair_hidden": 8,
                "hidden": (16,),
                "n_step": 1,
                "exploration_initial_eps": 0.5,
            },
            checkpoints={"min_interval_s": 0.0},
            evaluation={"eval_freq": 20, "n_eval_episodes": 3},
        )
        .changed(**fields)
    )


def foreign(name="run", vector_steps=60, **fields) -> TrainingConfig:
    """The same for CartPole."""
    return tiny(name, vector_steps, hyperparameters={"network": "flat"}).changed(**fields)


def interrupted_at(trainer: Trainer, vector_steps: int) -> Trainer:
    """As if Ctrl-C were pressed during that vector step."""

    def look(_steps, _numbers):
        if trainer.progress.vector_steps == vector_steps:
            trainer._interrupted = True

    trainer._on_progress = look
    return trainer


def cartpole() -> GymnasiumTask:
    return GymnasiumTask("CartPole-v1")


@contextmanager
def other_torch_state() -> Iterator[None]:
    """Nothing may hang on random numbers that the process drew before."""
    torch.manual_seed(12345)
    yield


def everything(trainer: Trainer) -> dict[str, object]:
    """All that a run consists of, as bytes and plain values."""
    agent, buffer = trainer.agent, trainer.agent.buffer
    state: dict[str, object] = {}
    for part in ("online", "target"):
        for name, values in getattr(agent, part).state_dict().items():
            state[f"{part} {name}"] = values.numpy().tobytes()
    for index, moments in agent.optimizer.state_dict()["state"].items():
        for name, values in moments.items():
            state[f"optimizer {index} {name}"] = values.numpy().tobytes()
    for name, array in buffer._ring.items():
        state[f"ring {name}"] = array[: buffer.size].tobytes()
    for name, array in buffer._lanes.items():
        state[f"lanes {name}"] = array.tobytes()
    if buffer.tree is not None:
        state["tree"] = buffer.tree.nodes.tobytes()
    state |= {
        "buffer counters": (buffer.size, buffer.position, buffer.pushed, buffer._turn),
        "highest priority": buffer._highest,
        "random buffer": buffer.random.bit_generator.state,
        "random agent": agent.random.bit_generator.state,
        "random torch": torch.get_rng_state().numpy().tobytes(),
        "epsilon": agent.epsilon,
        "steps": (agent.steps, agent.updates),
        "progress": vars(trainer.progress),
        "observation": trainer._state.tobytes(),
        "mask": trainer._mask.tobytes(),
        "metrics": (trainer.folder / "logs" / "metrics.jsonl").read_bytes(),
        "evaluations": (trainer.folder / "eval" / "evaluations.npz").read_bytes(),
    }
    engine = getattr(trainer.stream, "engine", None)
    if engine is not None:
        state["engine"] = engine.memory.buffer.tobytes()
    else:
        state["episodes"] = (trainer.stream._episode, trainer.stream._actions)
        state["totals"] = trainer.stream._total.tobytes()
    return state


def differences(a: dict[str, object], b: dict[str, object]) -> list[str]:
    """Names of what differs."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
