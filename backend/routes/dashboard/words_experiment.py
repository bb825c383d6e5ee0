"""What the experiment's page says: settings, verdict, KPIs, guardrails, events."""

EXPERIMENT: dict[str, tuple[str, str]] = {
    "exp.title": ("Expérience", "Experiment"),
    "exp.none": (
        "Il n’y a pas d’expérience : l’heuristique décide seule. Une expérience se crée par "
        "l’API (PUT /experiments/dispatch).",
        "There is no experiment: the heuristic decides alone. One is made through the API (PUT "
        "/experiments/dispatch).",
    ),
    "exp.verdict": ("Verdict", "Verdict"),
    "exp.settings": ("Réglages", "Settings"),
    "exp.arms": ("Bras", "Arms"),
    "exp.guardrails": ("Garde-fous", "Guardrails"),
    "exp.events": ("Événements", "Events"),
    "exp.default": (
        "Réglages par défaut, communs à toutes les entreprises.",
        "The default, shared by all companies.",
    ),
    "exp.mode": ("Mode", "Mode"),
    "exp.unit": ("Unité tirée au sort", "Unit of randomisation"),
    "exp.share": ("Part de la politique apprise", "Share of the learned policy"),
    "exp.block": ("Durée d’un bloc", "Length of a block"),
    "exp.epsilon": ("Exploration", "Exploration"),
    "exp.since": ("Comptée depuis", "Counted since"),
    "mode.off": ("heuristique seule", "heuristic only"),
    "mode.shadow": ("observation", "shadow"),
    "mode.ab": ("A/B", "A/B"),
    "unit.booking": ("course", "booking"),
    "unit.company": ("entreprise", "company"),
    "unit.switchback": ("zone × bloc de temps (switchback)", "zone × block of time (switchback)"),
    "exp.units": ("unités", "units"),
    "exp.bookings": ("courses avec issue", "bookings with an outcome"),
    "verdict.no_data": (
        "Pas encore de verdict : il manque des courses terminées dans l’un des bras.",
        "No verdict yet: one of the arms has no finished bookings.",
    ),
    "verdict.too_early": (
        "Pas encore de verdict : encore environ {more} courses avant de pouvoir comparer. À ce "
        "jour, écart de ponctualité : {difference}.",
        "No verdict yet: about {more} more bookings before a comparison is possible. So far the "
        "on-time difference is {difference}.",
    ),
    "verdict.wrong_split": (
        "Pas de verdict possible : la répartition entre les bras ({a} contre {b} unités) est "
        "invraisemblable pour la part réglée. Cherchez l’erreur avant de lire les chiffres.",
        "No verdict possible: the split between the arms ({a} against {b} units) is implausible "
        "for the share that is set. Find the fault before reading the figures.",
    ),
    "verdict.better": (
        "La politique apprise est plus ponctuelle : {difference} ({low} à {high}).",
        "The learned policy is more punctual: {difference} ({low} to {high}).",
    ),
    "verdict.worse": (
        "La politique apprise est moins ponctuelle : {difference} ({low} à {high}).",
        "The learned policy is less punctual: {difference} ({low} to {high}).",
    ),
    "verdict.same": (
        "Pas de différence qui compte : {difference} ({low} à {high}).",
        "No difference that matters: {difference} ({low} to {high}).",
    ),
    "verdict.undecided": (
        "Pas encore de verdict : écart de ponctualité {difference} ({low} à {high}), zéro compris.",
        "No verdict yet: on-time difference {difference} ({low} to {high}), zero included.",
    ),
    "verdict.more": (
        "Si l’écart reste le même, encore environ {more} courses.",
        "If the difference stays the same, about {more} more bookings.",
    ),
    "verdict.no_end": (
        "À ce rythme, aucune conclusion en vue : l’écart est trop petit.",
        "At this rate no conclusion is in sight: the difference is too small.",
    ),
    "verdict.too_few": (
        "Pas encore de verdict : trop peu d’unités pour comparer. À ce jour, écart de ponctualité "
        ": {difference}.",
        "No verdict yet: too few units to compare. So far the on-time difference is {difference}.",
    ),
    "verdict.more_days": (
        "Si l’écart reste le même, encore environ {more} courses ({days} jours).",
        "If the difference stays the same, about {more} more bookings ({days} days).",
    ),
    "verdict.stopped": (
        "Un garde-fou a arrêté la politique apprise.",
        "A guardrail has stopped the learned policy.",
    ),
    "verdict.note": (
        "Les intervalles des écarts valent quel que soit le nombre de fois où on les regarde "
        "(suite de confiance à 95 %, par unité tirée). Écart : politique apprise moins "
        "heuristique ; le verdict porte sur la part de courses à l’heure. Ne comptent que les "
        "courses dont l’issue est sûre.",
        "The intervals of differences hold however often they are looked at (95 % confidence "
        "sequence, by randomised unit). Difference: learned policy minus heuristic; the verdict is "
        "on the share of bookings on time. Only settled bookings count.",
    ),
    "verdict.cut": (
        "Trop de courses pour tout lire : le verdict porte sur les premières.",
        "Too many bookings to read them all: the verdict is on the first ones.",
    ),
    "verdict.shared_fleet": (
        "Unité « course » : les deux bras partagent les chauffeurs, ce qui fausse l’écart, "
        "jusqu’à son signe. Le switchback est fidèle.",
        "Unit “booking”: both arms share the drivers, which distorts the difference, even its "
        "sign. Switchback is faithful.",
    ),
    "verdict.carry_over": (
        "Blocs de moins d’une heure : chacun commence avec les files de l’autre bras, et l’écart "
        "paraît plus petit qu’il n’est.",
        "Blocks of less than an hour: each begins with the other arm’s queues, and the difference "
        "looks smaller than it is.",
    ),
    "verdict.few_looks": (
        "Unité « entreprise » : l’expérience n’est lue qu’après 7, 14, 28, 56… jours ; le verdict "
        "reste celui de la dernière lecture.",
        "Unit “company”: the experiment is read after 7, 14, 28, 56… days only; between, the last "
        "reading stands.",
    ),
    "split.right": (
        "Répartition des unités tirées : {a} contre {b}, conforme au tirage.",
        "Split of the units drawn: {a} against {b}, as it should be.",
    ),
    "split.wrong": (
        "Répartition des unités tirées : {a} contre {b}, invraisemblable.",
        "Split of the units drawn: {a} against {b}, implausible.",
    ),
    "outlook.days": (
        "Pour trouver un écart de {effect} avec une probabilité de {power} : environ {days} jours "
        "depuis le début (une seule lecture, à date fixée d’avance : {once}).",
        "To find a difference of {effect} with a probability of {power}: about {days} days from "
        "the start (read once, on a day fixed before: {once}).",
    ),
    "outlook.never": (
        "Un écart de {effect} est trop petit pour être trouvé ici en un temps raisonnable.",
        "A difference of {effect} is too small to be found here in any reasonable time.",
    ),
    "kpis.title": ("Résultats par bras (intervalles à 95 %)", "Results by arm (95 % intervals)"),
    "kpis.difference": ("Écart", "Difference"),
    "kpis.on_time": ("À l’heure", "On time"),
    "kpis.late": ("En retard", "Late"),
    "kpis.unserved": ("Non servies", "Unserved"),
    "kpis.urgent_unserved": (
        "Non servies, priorité 4 et 5",
        "Unserved, priority 4 and 5",
    ),
    "kpis.wait_min": ("Attente moyenne", "Mean wait"),
    "kpis.late_min": ("Retard moyen (après la fenêtre)", "Mean lateness (after the window)"),
    "guard.late": ("Retards", "Late bookings"),
    "guard.unserved": ("Courses non servies", "Unserved bookings"),
    "guard.fallback": ("Réponses de secours", "Fallback answers"),
    "guard.slow": ("Réponses lentes (> {ms} ms)", "Slow answers (> {ms} ms)"),
    "guard.infeasible": ("Réponses irréalisables", "Infeasible answers"),
    "guard.learned": ("Politique apprise", "Learned policy"),
    "guard.other": ("Heuristique", "Heuristic"),
    "guard.limit": ("Limite", "Limit"),
    "guard.margin": ("heuristique + {margin}", "heuristic + {margin}"),
    "guard.ceiling": ("{ceiling} au plus", "at most {ceiling}"),
    "guard.state": ("État", "State"),
    "guard.ok": ("respecté", "kept"),
    "guard.beyond": ("au-delà", "beyond"),
    "guard.no_data": ("trop peu de données", "not enough data"),
    "guard.note": (
        "Chiffres bruts des 7 derniers jours. Le garde-fou n’arrête la politique que si le "
        "dépassement est aussi certain : au plus une fausse alerte sur 100 semaines.",
        "Plain figures of the last 7 days. The guardrail stops the policy only if the excess is "
        "certain too: at most one false alarm in 100 weeks.",
    ),
    "guard.stopped": (
        "Arrêté le {at}. Message du garde-fou :",
        "Stopped on {at}. The guardrail says:",
    ),
    "guard.running": (
        "Aucun garde-fou n’a arrêté la politique apprise.",
        "No guardrail has stopped the learned policy.",
    ),
    "exp.switch_on": ("Relancer la politique apprise", "Let the learned policy run again"),
    "exp.as": ("Mode", "Mode"),
    "exp.sure": ("J’ai vérifié la cause de l’arrêt.", "I have checked why it was stopped."),
    "event.at": ("Quand", "When"),
    "event.what": ("Quoi", "What"),
    "event.who": ("Qui", "Who"),
    "event.why": ("Pourquoi", "Why"),
    "event.created": ("créée", "created"),
    "event.changed": ("réglages changés", "settings changed"),
    "event.heuristic_only": ("heuristique seule", "heuristic only"),
    "event.model": ("autre modèle : preuves à zéro", "another model: evidence begins anew"),
    "event.stopped": ("arrêtée par un garde-fou", "stopped by a guardrail"),
    "event.resumed": ("relancée", "resumed"),
    "event.other": ("autre", "other"),
}
