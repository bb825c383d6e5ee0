"""Two studies of the same thing, such as TPE and random search: at the end, and at equal effort."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from services.rl.errors import UsageError
from services.rl.evaluation.french_numbers import interval
from services.rl.evaluation.french_numbers import number as _n
from services.rl.evaluation.paired import Estimate, paired_difference

from ..evolution_run import write_document
from .report import judged_trials, saved_pct, trial_seconds, write_markdown
from .study import PER_DAY, RUNS, STEPS, standing

COMPARISON_FILE: Final = "comparison.md"


def comparison(a: optuna.Study, b: optuna.Study) -> dict[str, Any]:
    """Two studies of the same thing, such as TPE and random search, on the same validation days.

    Raises:
        UsageError: If they are not: of another policy, scenario or budget of a trial.

    Both best trials are compared at the end, and at the same number of steps: the best of each
    among the trials that had ended by then. The days are those that both studies searched on.
    """
    same = {
        name: a.user_attrs.get(name) == b.user_attrs.get(name)
        for name in ("policy", "scenario_hash", "space_hash", "budget_hash", "code_hash")
    }
    apart = [n for n in ("policy", "scenario_hash", "budget_hash") if not same[n]]
    if apart:
        raise UsageError(
            f"studies {a.study_name} and {b.study_name} differ in {', '.join(apart)}: their scores "
            "are not of the same thing"
        )
    spent = {s.study_name: _total(s) for s in (a, b)}
    even = min(spent.values())
    return {
        "a": _side(a),
        "b": _side(b),
        "differs": [name for name, equal in same.items() if not equal],
        "steps_saved_pct": saved_pct(spent[a.study_name], spent[b.study_name]),
        "at_the_end": _paired(a, b, None),
        "at_equal_steps": {"steps": even, **_paired(a, b, even)},
    }


def _side(study: optuna.Study) -> dict[str, Any]:
    seconds = sum(trial_seconds(t) for t in judged_trials(study))
    return {
        "study": study.study_name,
        "sampler": study.user_attrs.get("sampler"),
        "pruning": study.user_attrs.get("pruning"),
        "standing": vars(standing(study)),
        "steps": _total(study),
        "trials_s": seconds,
        "runs": study.user_attrs.get(RUNS, []),
        "sampler_seed": study.user_attrs.get("sampler_seed"),
        "curve": curve(study),
    }


def curve(study: optuna.Study) -> list[tuple[int, float]]:
    """Steps spent so far and the best score so far, at the end of each complete trial."""
    spent, best, points = 0, -np.inf, []
    for trial in judged_trials(study):
        spent += trial.user_attrs.get(STEPS, 0)
        if trial.state == TrialState.COMPLETE:
            best = max(best, float(trial.values[0]))
            points.append((spent, best))
    return points


def _total(study: optuna.Study) -> int:
    return sum(t.user_attrs.get(STEPS, 0) for t in judged_trials(study))


def _best_within(study: optuna.Study, steps: int | None) -> FrozenTrial | None:
    spent, best = 0, None
    for trial in judged_trials(study):
        spent += trial.user_attrs.get(STEPS, 0)
        if steps is not None and spent > steps:
            break
        if trial.state == TrialState.COMPLETE and (
            best is None or trial.values[0] > best.values[0]
        ):
            best = trial
    return best


def _paired(a: optuna.Study, b: optuna.Study, steps: int | None) -> dict[str, Any]:
    one, other = _best_within(a, steps), _best_within(b, steps)
    if one is None or other is None:
        return {"a": None, "b": None, "difference": None}
    days = [np.array(t.user_attrs[PER_DAY]) for t in (one, other)]
    found: Estimate | None = None
    if len(days[0]) == len(days[1]):
        found = paired_difference(days[0], days[1])
    return {
        "a": {"trial": one.number, "score": float(one.values[0])},
        "b": {"trial": other.number, "score": float(other.values[0])},
        "difference": None
        if found is None
        else {"mean": found.mean, "ci95": [found.low, found.high]},
    }


def _effort(saved: float | None) -> str:
    if saved is None:
        return "L'effort n'est pas comparable : la seconde n'a joué aucun essai."
    return (
        f"La première prend {_n(abs(saved), 0)} % d'étapes de {'moins' if saved >= 0 else 'plus'}."
    )


def comparison_markdown(document: Mapping[str, Any]) -> str:
    """The comparison in French."""
    a, b = document["a"], document["b"]
    lines = [f"# `{a['study']}` et `{b['study']}`", ""]
    if document["differs"]:
        lines += [f"Attention, les études diffèrent : {', '.join(document['differs'])}.", ""]
    lines += [
        "| étude | tirage | élagage | essais | élagués | étapes | calcul, min |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in (a, b):
        n = s["standing"]
        count = n["complete"] + n["pruned"] + n["failed"]
        lines.append(
            f"| {s['study']} | {s['sampler']} | {'oui' if s['pruning'] else 'non'} | {count} | "
            f"{n['pruned']} | {_n(s['steps'], 0)} | {_n(s['trials_s'] / 60, 1)} |"
        )
    lines += [
        "",
        _effort(document["steps_saved_pct"]),
        "",
    ]
    for key, title in (("at_the_end", "À la fin"), ("at_equal_steps", "À étapes égales")):
        found = document[key]
        if found["a"] is None:
            lines.append(f"- {title} : rien à comparer.")
            continue
        shown = found["difference"]
        lines.append(
            f"- {title} : {_n(found['a']['score'], 2)} contre {_n(found['b']['score'], 2)}"
            + (f", écart apparié {interval(shown)}." if shown else ".")
        )
    lines += [
        "",
        "Chaque étude a choisi son meilleur essai sur ces mêmes jours de validation : l'écart "
        "compare des recherches, il ne prouve aucun gain.",
        "",
        "## Provenance",
        "",
    ]
    for s in (a, b):
        told = [f"`{run['command']}`, commit `{run['commit']}`" for run in s["runs"]]
        lines.append(f"- {s['study']} : {' ; '.join(told) or '–'}, graine {s['sampler_seed']}")
    return "\n".join([*lines, ""])


def write_comparison(a: optuna.Study, b: optuna.Study, folder: Path) -> dict[str, Any]:
    """Write ``comparison.md`` and ``comparison.json`` with the figure; returns the document."""
    from .plots import draw_comparison

    document = comparison(a, b)
    folder.mkdir(parents=True, exist_ok=True)
    write_document(folder / "comparison.json", document)
    picture = draw_comparison(document, folder)
    write_markdown(
        folder / COMPARISON_FILE,
        comparison_markdown(document) + f"\n![{picture.name}]({picture.name})\n",
    )
    return document
