"""Sentences of the pages that tell what was done and why: (French, English) by name."""

from typing import Final

RECORDS: Final[dict[str, tuple[str, str]]] = {
    # reasons
    "why.precaution": ("Par précaution", "As a precaution"),
    "why.late_pickups": ("Trop de retards", "Too many late pickups"),
    "why.wrong_choices": ("Choix incompréhensibles", "Choices nobody understands"),
    "why.incident": ("Incident", "Incident"),
    "why.maintenance": ("Maintenance", "Maintenance"),
    "why.checked": ("Vérifié, tout va bien", "Checked, all is well"),
    "why.gate_passed": ("Contrôle réussi", "Passed the gate"),
    "why.better_results": ("Meilleurs résultats", "Better results"),
    "why.worse_results": ("Moins bons résultats", "Worse results"),
    "why.patient_request": ("Souhait du patient", "Patient's request"),
    "why.continuity_of_care": ("Continuité des soins", "Continuity of care"),
    "why.vehicle": ("Véhicule", "Vehicle"),
    "why.driver_unavailable": ("Chauffeur indisponible", "Driver unavailable"),
    "why.traffic": ("Circulation", "Traffic"),
    "why.medical": ("Raison médicale", "Medical reason"),
    "why.other": ("Autre", "Other"),
    "why.guardrail_breach": ("Seuil d’un garde-fou dépassé", "A guardrail's threshold was passed"),
    # decisions
    "decisions.title": ("Dernières décisions", "Latest decisions"),
    "decisions.only": (
        "Attributions et choix humains seulement",
        "Assignments and people's choices",
    ),
    "decisions.all": ("Aussi les reports", "Deferrals too"),
    "decisions.shadow": ("Observation seulement", "Shadow only"),
    "decisions.none": ("Aucune décision en 48 heures.", "No decision in 48 hours."),
    "decisions.at": ("Quand", "When"),
    "decisions.what": ("Décision et explication", "Decision and explanation"),
    "decisions.by": ("Par", "By"),
    "decisions.older": ("Plus anciennes", "Older"),
    "decisions.latest": ("Les plus récentes", "Latest"),
    "decision.title": ("Décision du {at}", "Decision of {at}"),
    "decision.more": ("Détail", "Details"),
    "decision.override": ("Remplacer cette décision", "Override this decision"),
    "decision.override_short": ("Remplacer", "Override"),
    "decision.to": ("Donner la course à", "Give the booking to"),
    "decision.nobody": ("Personne pour l’instant", "Nobody yet"),
    "decision.submit": ("Enregistrer ma décision", "Record my decision"),
    "decision.kept": (
        "Votre choix est noté comme décision humaine ; le bras tiré pour la course reste le même "
        "pour les statistiques.",
        "Your choice is logged as a person's decision; the arm drawn for the booking stays the "
        "same in the statistics.",
    ),
    "decision.cannot": (
        "Cette décision ne peut plus être remplacée : {why}.",
        "This decision can no longer be overridden: {why}.",
    ),
    "cannot.shadow": ("elle n’a pas été exécutée", "it was not carried out"),
    "cannot.over": (
        "la course est terminée ou le patient est à bord",
        "the booking is over or the patient aboard",
    ),
    "cannot.later": ("il y en a une plus récente", "there is a later one"),
    "cannot.overridden": ("elle a été remplacée", "it was overridden"),
    "cannot.scope": (
        "il faut une clé avec le droit dispatch",
        "a key with the scope dispatch is needed",
    ),
    "decision.later": ("Voir la plus récente", "See the latest"),
    "decision.facts": ("Ce qui a été noté", "What was logged"),
    "fact.arm": ("Bras tiré", "Arm drawn"),
    "fact.unit": ("Unité", "Unit"),
    "fact.policy": ("A répondu", "Answered by"),
    "fact.model": ("Modèle", "Model"),
    "fact.fallback": ("Réponse de secours", "Fallback"),
    "fact.latency": ("Temps de réponse", "Latency"),
    "fact.propensity": ("Probabilité de ce choix", "Probability of this choice"),
    "fact.must_decide_by": ("À décider avant", "To be decided by"),
    "fact.again": ("Nouvel examen", "Looked at again"),
    "fact.reason": ("Motif", "Reason"),
    "fact.score": ("Score", "Score"),
    "fact.none": ("–", "–"),
    "fact.features": ("Grandeurs vues par la politique", "Figures the policy saw"),
    "by.heuristic": ("heuristique", "heuristic"),
    "by.human": ("une personne", "a person"),
    "by.model": ("modèle {version}", "model {version}"),
    "by.reconstructed": ("reconstitué", "reconstructed"),
    "by.fallback": ("heuristique, en secours ({why})", "heuristic, as fallback ({why})"),
    # explanations
    "said.assign": ("Chauffeur {driver} envoyé.", "Driver {driver} sent."),
    "said.human_assign": (
        "Une personne a choisi le chauffeur {driver} : {why}.",
        "A person chose driver {driver}: {why}.",
    ),
    "said.human_defer": (
        "Une personne a retiré la course : {why}.",
        "A person withdrew the booking: {why}.",
    ),
    "said.pin": (
        "Réservée au chauffeur {driver} par une personne.",
        "Pinned to driver {driver} by a person.",
    ),
    "said.pin_wait": (
        "Réservée à un chauffeur par une personne ; il n’est pas encore l’heure de partir.",
        "Pinned to a driver by a person; it is too early to leave.",
    ),
    "said.shadow_assign": (
        "La politique apprise aurait envoyé le chauffeur {driver}.",
        "The learned policy would have sent driver {driver}.",
    ),
    "said.shadow_defer": (
        "La politique apprise aurait attendu.",
        "The learned policy would have waited.",
    ),
    "said.away": ("À {min} min de route, {km} km à vide.", "{min} min away, {km} empty km."),
    "said.on_time": (
        "Prise en charge prévue à {at}, à l’heure.",
        "Pickup planned at {at}, on time.",
    ),
    "said.late": (
        "Prise en charge prévue à {at}, {min} min après la fenêtre.",
        "Pickup planned at {at}, {min} min after the window.",
    ),
    "said.late_only": ("{min} min après la fenêtre.", "{min} min after the window."),
    "said.defer": (
        "Pas encore attribuée : attendre peut apporter un meilleur chauffeur.",
        "Not assigned yet: waiting may bring a better driver.",
    ),
    "said.defer_until": (
        "Nouvel examen à {again}, à décider avant {by}.",
        "Looked at again at {again}, to be decided by {by}.",
    ),
    "said.defer_none": (
        "Pas de chauffeur qui puisse être là dans la fenêtre ; nouvel examen à {again}.",
        "No driver can be there within the window; looked at again at {again}.",
    ),
    "said.explored": (
        "Tiré au hasard parmi {k} chauffeurs presque aussi bons, pour apprendre.",
        "Drawn at random among {k} drivers nearly as good, to learn.",
    ),
    "said.conflict": (
        "Le chauffeur voulu a été pris par l’autre bras.",
        "The driver wanted was taken by the other arm.",
    ),
    "said.fallback": (
        "L’heuristique a répondu à la place : {why}.",
        "The heuristic answered instead: {why}.",
    ),
    "said.overridden": ("Remplacée depuis par une personne.", "Overridden since by a person."),
    # one booking
    "timeline.title": ("Déroulement", "Timeline"),
    "timeline.why": ("Pourquoi en retard ?", "Why late?"),
    "timeline.how": ("Comment cela s’est passé", "How it went"),
    "timeline.created": ("Course demandée pour {at}.", "Booked for {at}."),
    "timeline.promised": ("Heure promise.", "Promised time."),
    "timeline.deferred": ("Reportée {n} fois jusqu’à {at}.", "Deferred {n} times until {at}."),
    "timeline.deferred_once": ("Reportée une fois.", "Deferred once."),
    "timeline.assigned_elsewhere": (
        "Attribuée au chauffeur {driver} hors de ce système.",
        "Given to driver {driver} outside this system.",
    ),
    "timeline.pickup": (
        "Prise en charge par le chauffeur {driver}.",
        "Picked up by driver {driver}.",
    ),
    "timeline.dropoff": ("Dépose.", "Dropped off."),
    "timeline.cancelled": ("Annulée par le patient.", "Called off by the patient."),
    "timeline.no_show": ("Patient absent.", "The patient was not there."),
    "timeline.pinned": (
        "Réservée au chauffeur {driver} : {why}.",
        "Pinned to driver {driver}: {why}.",
    ),
    "timeline.planned": (
        "Prévu : prise en charge {pickup}, dépose {dropoff}.",
        "Planned: pickup {pickup}, dropoff {dropoff}.",
    ),
    "timeline.window": ("Fin de la fenêtre promise.", "End of the promised window."),
    "late.open": (
        "Pas encore prise en charge ; encore dans les temps.",
        "Not picked up yet; still in time.",
    ),
    "late.not_due": (
        "Ne compte pas : annulée, ou patient absent.",
        "Does not count: called off, or the patient was not there.",
    ),
    "late.on_time": (
        "À l’heure : prise en charge {wait} après l’heure promise.",
        "On time: picked up {wait} after the promised time.",
    ),
    "late.late": ("En retard : le patient a attendu {wait}.", "Late: the patient waited {wait}."),
    "late.unserved": ("Personne n’est venu dans le délai.", "Nobody came in time."),
    "because.reassigned": (
        "Un changement de chauffeur décidé par une personne ({why}) à {at}, peu avant l’heure "
        "promise, en est à l’origine.",
        "A person changed the driver ({why}) at {at}, close to the promised time.",
    ),
    "because.short_notice": (
        "La course a été demandée {lead} avant l’heure promise et aucun chauffeur ne pouvait "
        "être là dans la fenêtre.",
        "It was booked {lead} before the promised time and no driver could be there within the "
        "window.",
    ),
    "because.nobody_free": (
        "Au moment de la première décision ({at}), aucun chauffeur ne pouvait être là dans la "
        "fenêtre.",
        "At the first decision ({at}) no driver could be there within the window.",
    ),
    "because.decided_late": (
        "Elle devait être décidée avant {by} et ne l’a été qu’à {at}, après {n} reports.",
        "It had to be decided by {by} and was only at {at}, after {n} deferrals.",
    ),
    "because.planned_late": (
        "Le retard était dans le plan : à {at}, le chauffeur {driver} ne pouvait arriver qu’à "
        "{pickup}.",
        "The delay was planned: at {at} driver {driver} could not be there before {pickup}.",
    ),
    "because.on_the_road": (
        "Le plan était bon (prise en charge prévue à {planned}) ; {lost} ont été perdues en "
        "route ou aux courses précédentes.",
        "The plan was good (pickup planned at {planned}); {lost} were lost on the road or at "
        "earlier jobs.",
    ),
    "because.no_vehicle": (
        "Aucun véhicule adapté n’était en service.",
        "No suitable vehicle was on duty.",
    ),
    "because.never_decided": (
        "Aucune décision n’a été prise à son sujet.",
        "No decision was made about it.",
    ),
    "because.kept_waiting": (
        "Elle a été reportée {n} fois ; jusqu’à {by} un chauffeur pouvait encore être là dans la "
        "fenêtre.",
        "It was deferred {n} times; until {by} a driver could still be there within the window.",
    ),
    "because.at_once": (
        "Elle a été demandée pour tout de suite, et le chauffeur {driver} ne pouvait être là "
        "qu’à {pickup}.",
        "It was asked for at once, and driver {driver} could not be there before {pickup}.",
    ),
    "because.driver_not_there": (
        "Elle était attribuée au chauffeur {driver} (prise en charge prévue à {planned}), mais "
        "aucune prise en charge n’a été annoncée.",
        "Driver {driver} had it (pickup planned at {planned}), but no pickup was told.",
    ),
    "because.unknown": ("Le journal n’en dit pas la cause.", "The log does not say why."),
    "suggest.title": ("Chauffeurs possibles maintenant", "Possible drivers now"),
    "suggest.chosen": ("choix de la politique", "the policy's choice"),
    "suggest.waits": (
        "La politique préfère attendre avant d’engager un chauffeur.",
        "The policy prefers to wait before committing a driver.",
    ),
    "suggest.none": (
        "Aucun chauffeur ne peut prendre cette course dans le délai.",
        "No driver can take this booking in time.",
    ),
    "status.PENDING": ("attend un chauffeur", "waits for a driver"),
    "status.ASSIGNED": ("attribuée", "has a driver"),
    "status.IN_PROGRESS": ("patient à bord", "patient aboard"),
    "status.COMPLETED": ("terminée", "completed"),
    "status.NO_SHOW": ("patient absent", "patient absent"),
    "status.CANCELED": ("annulée", "cancelled"),
    "status.UNASSIGNED": ("non servie", "unserved"),
    "status.other": ("autre", "other"),
    # models
    "models.title": ("Modèles", "Models"),
    "models.none": (
        "Aucun modèle enregistré. deploy_agent.py en enregistre un.",
        "No model is registered. deploy_agent.py registers one.",
    ),
    "models.no_registry": (
        "Ce serveur n’a pas de registre de modèles.",
        "This server has no model registry.",
    ),
    "models.version": ("Version", "Version"),
    "models.kind": ("Type", "Kind"),
    "models.made_for": ("Fait pour", "Made for"),
    "models.roles": ("Rôle", "Role"),
    "models.metrics": ("Mesures", "Measures"),
    "models.damaged": ("endommagé", "damaged"),
    "models.other_scenario": (
        "autre scénario que celui de ce serveur",
        "another scenario than this server's",
    ),
    "models.history": ("Historique", "History"),
    "models.move": ("{alias} : {before} → {after}", "{alias}: {before} → {after}"),
    "models.promote": ("Promouvoir {version}", "Promote {version}"),
    "models.promote_what": (
        "Ce modèle décidera pour votre entreprise dans les secondes qui suivent, là où "
        "l’expérience donne la main à la politique apprise.",
        "Within seconds this model decides for your company, wherever the experiment gives the "
        "learned policy a say.",
    ),
    "models.rollback": (
        "Revenir au champion précédent ({version})",
        "Roll back to the previous champion ({version})",
    ),
    "models.confirm": ("Confirmer", "Confirm"),
    "models.admin": (
        "Promouvoir ou revenir en arrière demande une clé avec le droit admin.",
        "Promoting and rolling back need a key with the scope admin.",
    ),
    "alias.champion": ("champion", "champion"),
    "alias.candidate": ("candidat", "candidate"),
    "alias.previous": ("précédent", "previous"),
    "loop.title": ("Boucle d’apprentissage", "Learning loop"),
    "loop.collection": ("Dernière collecte", "Last collection"),
    "loop.retraining": ("Dernier réentraînement", "Last retraining"),
    "loop.letters": ("Tâches abandonnées", "Tasks given up"),
    "loop.never": ("jamais", "never"),
    "loop.candidate": ("candidat {version}", "candidate {version}"),
    "loop.no_candidate": (
        "aucun candidat",
        "no candidate",
    ),
    "loop.state.running": ("en cours", "under way"),
    "loop.state.failed": ("a échoué, sera repris", "failed, will be tried again"),
    "loop.state.dead": ("abandonné", "given up"),
    "loop.state.done": ("terminé", "done"),
    "loop.no_letters": ("aucune", "none"),
    "loop.some_letters": (
        "{count}, en attente d’une personne (task_runs.py)",
        "{count}, waiting for a person (task_runs.py)",
    ),
    "loop.late": ("en retard", "late"),
    # report
    "report.title": ("Rapport du jour", "Daily report"),
    "report.of": ("Rapport du {day}", "Report of {day}"),
    "report.text": (
        "Les chiffres d’une journée d’exploitation, à imprimer ou à traiter dans un tableur. "
        "Aucune donnée de patient.",
        "The figures of one operating day, to print or to use in a spreadsheet. No patient data.",
    ),
    "report.day": ("Jour", "Day"),
    "report.show": ("Afficher", "Show"),
    "report.html": ("Télécharger (HTML, imprimable)", "Download (HTML, printable)"),
    "report.csv": ("Télécharger (CSV)", "Download (CSV)"),
    "report.made": ("Établi le {at}, entreprise {company}.", "Made on {at}, company {company}."),
    "report.so_far": (
        "Journée en cours : chiffres provisoires.",
        "The day is not over: figures so far.",
    ),
    "report.results": ("Résultats par bras", "Results by arm"),
    "report.engine": ("Moteur de décision", "Decision engine"),
    "report.overrides": ("Décisions humaines", "People's decisions"),
    "report.answers": ("Réponses", "Answers"),
    "report.learned": ("demandées à la politique apprise", "asked of the learned policy"),
    "report.fallbacks": ("Réponses de secours", "Fallbacks"),
    "report.none": ("Aucune.", "None."),
    "report.late_list": ("Courses en retard ou non servies", "Late and unserved bookings"),
    "report.open": ("encore ouvertes", "still open"),
    "report.not_due": ("annulées ou patient absent", "called off or missed"),
    "report.figure": ("Chiffre", "Figure"),
    "report.value": ("Valeur", "Value"),
}
