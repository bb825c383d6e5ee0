"""A study's report: Markdown in French, JSON, plots, and TensorBoard's table of trials."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from services.rl import paths
from services.rl.evaluation.french_numbers import interval
from services.rl.evaluation.french_numbers import number as _n

from ..evolution_run import write_document
from .study import (
    DEFAULT_TRIAL,
    KPIS_ATTR,
    REASON,
    RUNS,
    STARTUP_TRIALS,
    STEPS,
    WHOLE,
    complete_trials,
    default_trial,
    standing,
)

REPORT_FILE: Final = "report.md"
STUDY_FILE: Final = "study.json"
KPI_NAMES: Final = {
    "reward": "récompense par jour",
    "on_time_pct": "à l'heure, %",
    "completion_pct": "servis, %",
    "unserved": "non servis par jour",
    "unserved_p4": "non servis par jour, priorité 4",
    "unserved_p5": "non servis par jour, priorité 5 (la plus urgente)",
    "wait_mean_min": "attente moyenne, min",
    "wait_p95_min": "attente, 95e centile, min",
    "deadhead_km_per_trip": "km à vide par course",
}
_KPIS: Final = ("on_time_pct", "completion_pct", "unserved", "deadhead_km_per_trip")


def study_document(study: optuna.Study, confirmed: Mapping[str, Any] | None) -> dict[str, Any]:
    """All that the report says, as plain data.

    Args:
        study: With its trials.
        confirmed: What `confirm.confirm` returned, if it has been run.
    """
    trials = study.get_trials(deepcopy=False)
    now = standing(study)
    ran = [t for t in trials if STEPS in t.user_attrs and t.state != TrialState.RUNNING]
    # Without pruning each trial that could be judged would have run to the end.
    judged = [t for t in ran if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    whole = [t.user_attrs[STEPS] for t in complete_trials(study)]
    full = float(np.mean(whole)) if whole else 0.0
    spent = sum(t.user_attrs[STEPS] for t in judged)
    unpruned = sum(_whole(t, full) for t in judged)
    seconds = [trial_seconds(t) for t in complete_trials(study)]
    without = len(judged) * float(np.mean(seconds)) if seconds else 0.0
    used_s = sum(trial_seconds(t) for t in judged)
    return {
        "study": study.study_name,
        **{k: v for k, v in study.user_attrs.items() if k != "begun"},
        "standing": vars(now),
        "best": _row(study.best_trial) if now.complete else None,
        "default": None if (d := default_trial(study)) is None else _row(d),
        "steps": {"spent": spent, "full": full, "saved_pct": saved_pct(spent, unpruned)},
        "time": {
            "trials_s": used_s,
            "without_pruning_s": without,
            "saved_pct": saved_pct(used_s, without),
            "wall_s": _wall(ran),
        },
        "importances": importances(study),
        "trials": [_row(t) for t in trials],
        "confirmed": confirmed,
    }


def write_report(
    study: optuna.Study, folder: Path, confirmed: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write ``report.md``, ``study.json`` and the plots into a folder."""
    from .plots import draw

    document = study_document(study, confirmed)
    folder.mkdir(parents=True, exist_ok=True)
    write_document(folder / STUDY_FILE, document)
    pictures = draw(document, folder)
    path = folder / REPORT_FILE
    write_markdown(path, markdown(document, [p.name for p in pictures]))
    return [path, folder / STUDY_FILE, *pictures]


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each parameter in what sets good trials apart (PED-ANOVA, Watanabe et al. 2023).

    Empty below `STARTUP_TRIALS` complete trials, where it would be noise.
    """
    done = complete_trials(study)
    if len(done) < STARTUP_TRIALS or len({t.values[0] for t in done}) < 2:
        return {}
    found = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: float(share) for name, share in found.items()}


def _row(trial: FrozenTrial) -> dict[str, Any]:
    attrs = trial.user_attrs
    rungs = {str(k): v for k, v in sorted(trial.intermediate_values.items())}
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "default": DEFAULT_TRIAL in attrs,
        "score": float(trial.values[0]) if trial.values else None,
        "params": trial.params,
        "rungs": rungs,
        "steps": attrs.get(STEPS, 0),
        "seconds": round(trial_seconds(trial), 1),
        "kpis": attrs.get(KPIS_ATTR, {}),
        "reason": attrs.get(REASON),
        "retry_of": trial.system_attrs.get("failed_trial"),
    }


def _whole(trial: FrozenTrial, mean: float) -> float:
    """Steps of a trial if it is not stopped; older versions did not note them."""
    own = trial.user_attrs[STEPS] if trial.state == TrialState.COMPLETE else mean
    return float(trial.user_attrs.get(WHOLE, own))


def trial_seconds(trial: FrozenTrial) -> float:
    """How long it took by the clock; 0 before it has ended."""
    return trial.duration.total_seconds() if trial.duration is not None else 0.0


def _wall(trials: Sequence[FrozenTrial]) -> float | None:
    starts = [t.datetime_start for t in trials if t.datetime_start and t.datetime_complete]
    ends = [t.datetime_complete for t in trials if t.datetime_start and t.datetime_complete]
    return (max(ends) - min(starts)).total_seconds() if starts else None


def judged_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were judged, in the order in which they ended."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    found = study.get_trials(deepcopy=False, states=states)
    return sorted(found, key=lambda t: (t.datetime_complete is None, t.datetime_complete, t.number))


def saved_pct(spent: float, without: float) -> float | None:
    """Share of an effort that was not made, in percent; None of no effort."""
    return 100.0 * (1.0 - spent / without) if without > 0 else None


# --- Markdown --------------------------------------------------------------------------------


def markdown(document: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """The report."""
    d = document
    state = d["standing"]
    sampler = "TPE multivarié" if d["sampler"] == "tpe" else "tirage au hasard"
    lines = [
        f"# Étude `{d['study']}`",
        "",
        f"Politique `{d['policy']}`, scénario `{d['scenario']}` ({d['drivers']} chauffeurs, "
        f"{_n(d['day_hours'], 0)} h). Le résultat vaut pour ce scénario et cette taille de flotte.",
        "",
        f"{sampler}, {'avec' if d['pruning'] else 'sans'} élagage. "
        f"{state['complete'] + state['pruned'] + state['failed']} essais : "
        f"{state['complete']} menés à terme, {state['pruned']} élagués, {state['failed']} en "
        f"échec ; interrompus et remis en file : {state['lost']}.",
        "",
        *_effort(d),
        *_screening_table(d),
        *_confirmed_part(d),
        *_failures(d),
    ]
    if pictures:
        lines += ["## Figures", "", *[f"![{name}]({name})" for name in pictures], ""]
    marks = ("scenario_hash", "space_hash", "budget_hash", "code_hash")
    lines += ["## Empreintes", "", *[f"- {name} : `{d[name]}`" for name in marks], ""]
    lines += _provenance(d)
    return "\n".join(lines)


def _effort(d: Mapping[str, Any]) -> list[str]:
    steps, time = d["steps"], d["time"]
    saved = "inconnue" if steps["saved_pct"] is None else f"{_n(steps['saved_pct'], 0)} %"
    units = {"environment steps": "pas", "moves of the search": "coups de recherche"}
    unit = units.get(d["unit"], d["unit"])
    line = (
        f"Effort : {_n(steps['spent'], 0)} {unit} ; un essai entier en prend "
        f"{_n(steps['full'], 0)}. Part épargnée par l'élagage : {saved}."
    )
    if time["saved_pct"] is not None:
        line += (
            f" Temps de calcul des essais : {_n(time['trials_s'] / 60, 1)} min au lieu de "
            f"{_n(time['without_pruning_s'] / 60, 1)} min (estimé par la durée moyenne d'un essai "
            "entier)."
        )
    if time["wall_s"] is not None:
        line += f" Du premier au dernier essai : {_n(time['wall_s'] / 60, 1)} min."
    return [line, ""]


def _screening_table(d: Mapping[str, Any]) -> list[str]:
    done = [t for t in d["trials"] if t["state"] == "complete"]
    if not done:
        return ["Aucun essai n'est allé à son terme.", ""]
    shown = sorted(done, key=lambda t: -t["score"])[:5]
    default = d["default"]
    if default is not None and default not in shown:
        shown.append(default)
    lines = [
        "## Criblage (jours de validation)",
        "",
        "Ces écarts choisissent des candidats ; ils ne prouvent aucun gain.",
        "",
        "| essai | récompense/jour | à l'heure % | servis % | non servis/jour | km à vide/course | "
        "réglages |",
        "|---|---|---|---|---|---|---|",
    ]
    for t in shown:
        kpis = " | ".join(_n(t["kpis"].get(k), 1) for k in _KPIS)
        name = f"{t['number']} (défaut)" if t["default"] else str(t["number"])
        lines.append(f"| {name} | {_n(t['score'], 2)} | {kpis} | {_params(t['params'])} |")
    if d["importances"]:
        parts = ", ".join(f"`{_brief(n)}` {_n(100 * s, 0)} %" for n, s in d["importances"].items())
        lines += ["", f"Importance (PED-ANOVA) : {parts}."]
    return [*lines, ""]


def _confirmed_part(d: Mapping[str, Any]) -> list[str]:
    c = d["confirmed"]
    if c is None:
        return [
            "## Confirmation",
            "",
            "Pas encore faite : aucun gain n'est revendiqué (`auto_tune.py confirm`).",
            "",
        ]
    plan, test = c["plan"], c["test"]
    lines = [
        "## Confirmation",
        "",
        f"{_counted(len(c['candidates']) - 1, 'candidat')} et le défaut, réentraînés au budget "
        f"`{plan['mode']}` avec {plan['seeds']} graines neuves chacun ; un candidat est choisi sur "
        f"{plan['choice_days'][2]} jours de validation"
        f"{' neufs' if plan['fresh_choice_days'] else ' (que l’étude a joués aussi)'}, puis "
        f"comparé seul au défaut sur {plan['test_days'][2]} jours de test. Les intervalles (95 %) "
        f"comptent les graines et les jours comme aléatoires. Faite après {c['trials']} essais.",
        "",
        "| candidat | criblage | budget plein | par graine |",
        "|---|---|---|---|",
    ]
    for row in c["candidates"]:
        name = "défaut" if row["name"] == "default" else row["name"]
        name = f"**{name}**" if row["name"] == c["candidate"] else name
        if row["failed"]:
            lines.append(f"| {name} | {_n(row['screening'], 1)} | échec | {row['failed']} |")
            continue
        seeds = ", ".join(_n(v, 1) for v in row["by_seed"])
        lines.append(
            f"| {name} | {_n(row['screening'], 1)} | {_n(row['full_budget'], 1)} | {seeds} |"
        )
    ranks = c["rank_correlation"]
    if ranks["rho"] is not None:
        lines += ["", f"Corrélation de rang criblage → budget plein : ρ = {_n(ranks['rho'], 2)} "
                  f"(n = {ranks['n']}, p = {_n(ranks['p'], 2)})."]  # fmt: skip
    else:
        lines += ["", "Corrélation de rang criblage → budget plein : moins de trois candidats "
                  "comparables (`--top`)."]  # fmt: skip
    lines += ["", f"### Jours de test, `{c['scenario']}`", "", *_test_table(test), ""]
    verdict = "Gain confirmé" if test["claimed"] else "Aucun gain confirmé"
    reward = interval(test["kpis"]["reward"]["difference"])
    share = interval(test["gain_pct"], " %")  # of a default that is not above 0 there is none
    unknown = "en % inconnu : le défaut ne gagne pas nettement plus que 0"
    shown = f"{reward} ({unknown})" if share == "–" else f"{reward}, soit {share}"
    lines += [f"{verdict} : récompense par jour {shown}.", ""]
    if looks := c.get("earlier", []):
        lines += [
            f"**Attention** : {_counted(len(looks), 'autre confirmation', 'autres confirmations')} "
            "de cette étude, autrement budgétée, a déjà regardé les jours de test ; "
            "l'intervalle ne le compte pas.",
            "",
        ]
    if test["worse"]:
        names = " ; ".join(KPI_NAMES.get(kpi, kpi) for kpi in test["worse"])
        lines += [f"**Attention, pire pour les patients** (intervalle entier) : {names}.", ""]
    kept = "ces réglages" if c["winner"] != "default" else "les réglages par défaut, inchangés"
    lines += [f"`winner.json` porte {kept} ; pour l'entraîner comme ici : `{c['train']}`.", ""]
    if c["transfer"] is not None:
        t = c["transfer"]
        lines += [
            f"### Transfert tel quel sur `{t['scenario']}` ({t['drivers']} chauffeurs)",
            "",
            *_test_table(t),
            "",
        ]
    return lines


def _test_table(test: Mapping[str, Any]) -> list[str]:
    lines = ["| indicateur | candidat | défaut | écart |", "|---|---|---|---|"]
    for kpi, row in test["kpis"].items():
        lines.append(
            f"| {KPI_NAMES.get(kpi, kpi)} | {_n(row['winner'], 2)} | {_n(row['default'], 2)} | "
            f"{interval(row['difference'])} |"
        )
    return lines


def _failures(d: Mapping[str, Any]) -> list[str]:
    failed = [t for t in d["trials"] if t["reason"]]
    if not failed:
        return []
    rows = [f"- essai {t['number']} : {t['reason']}" for t in failed]
    return ["## Essais en échec", "", *rows, ""]


def _provenance(d: Mapping[str, Any]) -> list[str]:
    runs = [*d.get(RUNS, [])]
    if d["confirmed"] is not None:
        runs.append(d["confirmed"].get("provenance", {}))
    told = [f"- `{run['command']}`, commit `{run['commit']}`" for run in runs if run]
    seeds = [f"- graine des tirages et des essais : {d['sampler_seed']}"]
    if d["confirmed"] is not None:
        plan = d["confirmed"]["plan"]
        last = plan["first_seed"] + plan["seeds"] - 1
        seeds.append(f"- graines de la confirmation : {plan['first_seed']} à {last}")
    return ["## Provenance", "", *told, *seeds, ""]


def _counted(count: int, one: str, more: str | None = None) -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{_brief(n)} = {_value(v)}" for n, v in params.items())


def _brief(name: str) -> str:
    return name.replace("hyperparameters.", "").replace("warm_start.", "")


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_markdown(path: Path, text: str) -> None:
    """Write a report under a hidden name, then rename."""
    hidden = path.with_name(f".{path.name}.partial")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)


# --- TensorBoard -----------------------------------------------------------------------------


def write_hparams(study: optuna.Study) -> Path:
    """TensorBoard's table of trials, ``data/rl/tensorboard/<study>/trial_<number>``; rewritten."""
    from torch.utils.tensorboard import SummaryWriter

    root = paths.data_dir() / "tensorboard" / study.study_name
    for trial in judged_trials(study):
        folder = root / f"trial_{trial.number:04d}"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        last = trial.intermediate_values[max(trial.intermediate_values)]
        score = float(trial.values[0]) if trial.state == TrialState.COMPLETE else last
        writer = SummaryWriter(str(folder))
        try:
            for rung, value in sorted(trial.intermediate_values.items()):
                writer.add_scalar("tuning/score", value, rung)
            metrics = {"tuning/score_last": score}
            metrics |= {f"tuning/{k}": v for k, v in trial.user_attrs.get(KPIS_ATTR, {}).items()}
            writer.add_hparams(dict(trial.params), metrics, run_name=".")
        finally:
            writer.close()
    return root
