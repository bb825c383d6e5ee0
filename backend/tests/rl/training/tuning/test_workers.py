"""Workers that are killed or interrupted in mid-trial: nothing runs for ever, nothing is lost."""

import os
import signal
import threading
import time
from multiprocessing import get_context

import pytest
from optuna.trial import TrialState

from scripts.rl.command import ended_as_by_ctrl_c
from services.rl.training.tuning.storage import close, open_storage, turnstile
from services.rl.training.tuning.study import open_study, standing
from services.rl.training.tuning.trainings import Job, train_all
from services.rl.training.tuning.worker import (
    _child,
    remove_leftovers,
    trial_folder,
    work,
    work_together,
)

from .toy_studies import toy

CONTEXT = get_context("fork")  # starts at once


def begun(order):
    storage = order.connect()
    return storage, open_study(order.setup(), storage, resume=False)


def child_in_mid_trial(order, study):
    """A worker that has done the default and hangs in its next trial."""
    child = CONTEXT.Process(target=_child, args=(order, 0))
    child.start()
    until = time.monotonic() + 120
    while not (order.folder / "first").exists():
        assert child.is_alive() and time.monotonic() < until
        time.sleep(0.05)
    (trial,) = study.get_trials(states=(TrialState.RUNNING,))
    return child, trial


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_a_killed_workers_trial_is_failed_and_its_values_are_played_again(
    atmr_home, tmp_path, where, request
):
    url = None if where == "sqlite" else request.getfixturevalue("postgres_database")
    order = toy(tmp_path, trials=4, trouble="hangs once", storage=url)
    storage, study = begun(order)
    child, trial = child_in_mid_trial(order, study)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert standing(study).running == 1  # it looks alive
    work(order, worker=1)
    now = standing(study)
    assert (now.finished, now.running, now.lost, now.waiting) == (4, 0, 1, 0)
    trials = study.get_trials()
    assert trials[trial.number].state == TrialState.FAIL
    (again,) = [t for t in trials if t.system_attrs.get("failed_trial") == trial.number]
    assert again.params == trial.params
    assert again.state in (TrialState.COMPLETE, TrialState.PRUNED)
    close(storage)


def test_a_trial_that_never_gave_a_sign_of_life_is_given_up_too(atmr_home, tmp_path):
    order = toy(tmp_path, trials=2)
    storage, study = begun(order)
    with pytest.warns(UserWarning, match="Heartbeat"):
        taken = study.ask()  # as if killed right after taking the defaults
    work(order)
    trials = study.get_trials()
    assert trials[taken.number].state == TrialState.FAIL
    assert standing(study).finished == 2 and standing(study).running == 0
    assert any(t.user_attrs.get("default") and t.state.name == "COMPLETE" for t in trials)
    close(storage)


def test_an_interrupted_worker_queues_its_trial_again(atmr_home, tmp_path):
    order = toy(tmp_path, trials=3, trouble="hangs once")
    storage, study = begun(order)
    child, trial = child_in_mid_trial(order, study)
    os.kill(child.pid, signal.SIGINT)
    child.join(60)
    assert child.exitcode == 0
    now = standing(study)
    assert (now.running, now.lost, now.waiting) == (0, 1, 1)
    work(order, worker=1)
    played = [t.params for t in study.get_trials() if t.state.is_finished()]
    assert played.count(trial.params) == 2
    close(storage)


def test_what_a_killed_trial_left_is_removed_and_nothing_else(atmr_home, tmp_path):
    order = toy(tmp_path, trials=2)
    storage, study = begun(order)
    work(order)
    with pytest.warns(UserWarning, match="Heartbeat"):
        playing = trial_folder(study, study.ask().number)
    own, other = trial_folder(study, 1), "toy.another.trial_0001"
    for name in (own, other, playing, "toy"):
        (atmr_home / "results" / name).mkdir(parents=True)
    remove_leftovers(study)
    left = {path.name for path in (atmr_home / "results").iterdir()}
    assert left == {other, playing, "toy"}
    close(storage)


@pytest.mark.slow
def test_two_workers_share_a_study_on_postgres_and_one_that_dies_is_replaced(
    atmr_home, tmp_path, postgres_database
):
    order = toy(tmp_path, trials=8, trouble="dies once", storage=postgres_database)
    storage, study = begun(order)
    work_together(order, 2)
    now = standing(study)
    assert (now.finished, now.running, now.lost) == (8, 0, 1)
    marks = {path.name.rsplit(".", 1)[1] for path in tmp_path.glob("toy.*.trial_*")}
    assert len(marks) >= 2, "more than one process took trials"
    close(storage)


def test_any_machine_sees_the_same_study(atmr_home, tmp_path, postgres_database, monkeypatch):
    order = toy(tmp_path, trials=2, storage=postgres_database)
    storage, study = begun(order)
    work(order)
    monkeypatch.setenv("ATMR_HOME", str(tmp_path / "elsewhere"))
    other = open_storage(postgres_database)
    seen = open_study(order.setup(), other, resume=True)
    assert [t.values for t in seen.get_trials()] == [t.values for t in study.get_trials()]
    close(other)
    close(storage)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_trainings_of_a_confirmation_end_with_it_however_it_ends(atmr_home, tmp_path):
    order = toy(tmp_path, trouble="hangs in training")
    jobs = [Job(order, "quick", None, "default", {"height": 5.0}, seed) for seed in (1, 2)]
    parent = CONTEXT.Process(target=train_all, args=(jobs, 2, print))
    parent.start()
    until = time.monotonic() + 120
    while len(begun := list(tmp_path.glob("training.*"))) < 2:
        assert parent.is_alive() and time.monotonic() < until
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    pids = [int(path.suffix[1:]) for path in begun]
    until = time.monotonic() + 30
    while any(map(_alive, pids)):
        assert time.monotonic() < until, "trainings go on without anybody to take them"
        time.sleep(0.05)


def _confirming(jobs):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with ended_as_by_ctrl_c():
        train_all(jobs, 2, print)


def test_one_sigterm_ends_a_confirmation_in_mid_training(atmr_home, tmp_path):
    order = toy(tmp_path, trouble="hangs in training")
    jobs = [Job(order, "quick", None, "default", {"height": 5.0}, seed) for seed in (1, 2)]
    parent = CONTEXT.Process(target=_confirming, args=(jobs,))
    parent.start()
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("training.*"))) < 2:
        assert parent.is_alive() and time.monotonic() < until
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGTERM)
    parent.join(30)
    assert parent.exitcode is not None, "it waits for trainings that take minutes"


def _held(url, name, inside, go_on):
    """A worker of another machine that stands in the turnstile."""
    storage = open_storage(url)
    with turnstile(storage, name):
        inside.set()
        go_on.wait(60)
    close(storage)


def _waits(storage, name):
    """Enter in a thread; returns what is set once it is in, and the thread."""
    entered = threading.Event()

    def enter():
        with turnstile(storage, name) as let_next:
            let_next()
            entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    return entered, thread


@pytest.mark.parametrize("ending", ["leaves", "is killed"])
@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_machines_on_one_storage_take_trials_one_after_the_other(
    atmr_home, tmp_path, where, ending, request, monkeypatch
):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    if where == "postgres":
        url = request.getfixturevalue("postgres_database")
    storage = open_storage(url)
    inside, go_on = CONTEXT.Event(), CONTEXT.Event()
    monkeypatch.setenv("ATMR_HOME", str(tmp_path / "another machine"))
    other = CONTEXT.Process(target=_held, args=(url, "study", inside, go_on))
    other.start()
    assert inside.wait(60)
    entered, thread = _waits(storage, "study")
    unhindered, free = _waits(storage, "another study")
    assert unhindered.wait(30), "another study has a turnstile of its own"
    assert not entered.wait(0.5), "two were in the turnstile at once"
    if ending == "leaves":
        go_on.set()
    else:
        os.kill(other.pid, signal.SIGKILL)
    assert entered.wait(30)
    for one in (thread, free, other):
        one.join(30)
    close(storage)


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_a_trial_that_fails_in_the_turnstile_lets_the_next_one_in(
    atmr_home, tmp_path, where, request
):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    if where == "postgres":
        url = request.getfixturevalue("postgres_database")
    storage = open_storage(url)
    with pytest.raises(ZeroDivisionError), turnstile(storage, "study"):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), turnstile(storage, "study") as let_next:
        let_next()
        raise KeyboardInterrupt  # in mid-trial
    entered, thread = _waits(storage, "study")
    assert entered.wait(30)
    thread.join(30)
    close(storage)
