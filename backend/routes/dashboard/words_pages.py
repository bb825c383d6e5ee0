"""Sentences of the pages that show how things stand: (French, English) by name."""

from typing import Final

PAGES: Final[dict[str, tuple[str, str]]] = {
    "title": ("Tableau de bord", "Dashboard"),
    "skip": ("Aller au contenu", "Skip to the content"),
    "nav": ("Pages", "Pages"),
    "nav.today": ("Aujourd’hui", "Today"),
    "nav.decisions": ("Décisions", "Decisions"),
    "nav.experiment": ("Expérience", "Experiment"),
    "nav.models": ("Modèles", "Models"),
    "nav.report": ("Rapport", "Report"),
    "other_language": ("English", "Français"),
    "logout": ("Se déconnecter", "Log out"),
    "footer.company": ("Entreprise {company}", "Company {company}"),
    "footer.key": ("clé « {key} »", "key “{key}”"),
    "footer.zone": ("heures : {zone}", "times: {zone}"),
    "choose": ("Choisir…", "Choose…"),
    "reason": ("Motif", "Reason"),
    "driver": ("Chauffeur", "Driver"),
    "driver.n": ("Chauffeur {n}", "Driver {n}"),
    "booking": ("Course", "Booking"),
    "booking.n": ("Course {n}", "Booking {n}"),
    "wheelchair": ("fauteuil roulant", "wheelchair"),
    "priority.n": ("priorité {n}", "priority {n}"),
    "pinned": ("réservée au chauffeur {n}", "pinned to driver {n}"),
    # login
    "login.title": ("Connexion", "Log in"),
    "login.text": (
        "Connectez-vous avec une clé d’API de votre entreprise. La session dure 12 heures au "
        "plus et prend fin si la clé est révoquée.",
        "Log in with an API key of your company. A session lasts at most 12 hours and ends when "
        "the key is revoked.",
    ),
    "login.key": ("Clé d’API", "API key"),
    "login.button": ("Se connecter", "Log in"),
    "login.wrong": (
        "Cette clé est inconnue, expirée ou révoquée.",
        "This key is unknown, expired or revoked.",
    ),
    "login.no_read": (
        "Cette clé n’a pas le droit de lecture (read) qu’il faut pour le tableau de bord.",
        "This key lacks the scope read, which the dashboard needs.",
    ),
    "login.where": ("Une clé se crée sur le serveur :", "A key is made on the server:"),
    "off.title": ("Le tableau de bord est désactivé", "The dashboard is switched off"),
    "off.text": (
        "Aucun secret ne signe les sessions : personne ne peut se connecter. L’API et la "
        "répartition fonctionnent normalement. Pour l’activer, donnez un secret au serveur :",
        "No secret signs the sessions, so nobody can log in. The API and dispatching work as "
        "usual. To switch it on, give the server a secret:",
    ),
    "off.then": (
        "puis redémarrez-le. Gardez le même secret sur tous les serveurs et d’un démarrage à "
        "l’autre : un nouveau secret met fin aux sessions.",
        "then restart it. Keep the same secret on all servers and from start to start: a new one "
        "ends all sessions.",
    ),
    # problems
    "problem.title": ("Cela n’a pas fonctionné", "That did not work"),
    "problem.403": ("Ce n’est pas permis", "That is not allowed"),
    "problem.404": ("Il n’y a rien à cette adresse", "There is nothing here"),
    "problem.409": ("La situation a changé", "Things have changed"),
    "problem.429": ("Trop de demandes", "Too many requests"),
    "problem.503": ("La base de données ne répond pas", "The database does not answer"),
    "problem.back": ("Retour à la page Aujourd’hui", "Back to Today"),
    "told.this form is out of date; load the page again": (
        "Ce formulaire est périmé : rechargez la page et recommencez.",
        "This form is out of date: load the page again and repeat.",
    ),
    "told.there is nothing at this address": (
        "L’adresse est fausse, ou ce que vous cherchez n’existe pas.",
        "The address is wrong, or what you look for does not exist.",
    ),
    "told.there is no such booking": (
        "Cette course n’existe pas dans votre entreprise.",
        "Your company has no such booking.",
    ),
    "told.there is no such decision": (
        "Cette décision n’existe pas dans votre entreprise.",
        "Your company has no such decision.",
    ),
    "told.there is no such driver": (
        "Ce chauffeur n’existe pas dans votre entreprise.",
        "Your company has no such driver.",
    ),
    "told.too many requests with a wrong key; wait a minute": (
        "Trop de clés fausses depuis cette adresse. Attendez une minute.",
        "Too many wrong keys from this address. Wait a minute.",
    ),
    "told.this key's rate limit is reached": (
        "La limite de demandes de cette clé est atteinte. Attendez une minute.",
        "This key's rate limit is reached. Wait a minute.",
    ),
    "told.this key lacks the scope 'admin'": (
        "Il faut une clé avec le droit admin.",
        "A key with the scope admin is needed.",
    ),
    "told.this key lacks the scope 'dispatch'": (
        "Il faut une clé avec le droit dispatch.",
        "A key with the scope dispatch is needed.",
    ),
    "told.this driver's queue is full": (
        "Ce chauffeur a déjà toutes les courses qu’il peut avoir.",
        "This driver has all the jobs a driver can have.",
    ),
    "told.this vehicle cannot carry a wheelchair": (
        "Ce véhicule ne peut pas prendre de fauteuil roulant.",
        "This vehicle cannot carry a wheelchair.",
    ),
    "told.this driver is not active": ("Ce chauffeur n’est pas actif.", "This driver is inactive."),
    "told.the patient is aboard": ("Le patient est à bord.", "The patient is aboard."),
    "told.this decision was overridden before": (
        "Cette décision a déjà été remplacée.",
        "This decision was overridden before.",
    ),
    "told.a later decision about this booking exists": (
        "Une décision plus récente existe pour cette course : remplacez celle-là.",
        "There is a later decision about this booking: override that one.",
    ),
    "told.this server has no model registry": (
        "Ce serveur n’a pas de registre de modèles.",
        "This server has no model registry.",
    ),
    "told.this version is not the champion": (
        "Cette version n’est plus le champion : quelqu’un a été plus rapide.",
        "This version is no longer the champion: somebody was faster.",
    ),
    # live
    "live.fresh": ("À jour à", "Up to date at"),
    "live.lost": (
        "Connexion perdue : les chiffres ci-dessous ne sont plus à jour.",
        "Connection lost: the figures below are out of date.",
    ),
    "live.ended": (
        "La session a pris fin : rechargez la page pour vous reconnecter.",
        "The session has ended: reload the page to log in again.",
    ),
    "live.paused": ("En pause", "Paused"),
    # switch
    "switch.state.off": ("Heuristique seule.", "Heuristic only."),
    "switch.state.stopped": ("Arrêté par un garde-fou.", "Stopped by a guardrail."),
    "switch.state.shadow": ("Mode observation.", "Shadow mode."),
    "switch.state.ab": ("Expérience A/B en cours.", "A/B experiment running."),
    "switch.says.off": (
        "La politique apprise ne décide rien ; les courses sont réparties par l’heuristique.",
        "The learned policy decides nothing; the heuristic dispatches all bookings.",
    ),
    "switch.says.stopped": (
        "La politique apprise ne reçoit plus de courses jusqu’à ce qu’une personne la relance.",
        "The learned policy gets no bookings until a person resumes it.",
    ),
    "switch.says.shadow": (
        "L’heuristique décide ; ce que la politique apprise aurait fait est seulement noté.",
        "The heuristic decides; what the learned policy would have done is only logged.",
    ),
    "switch.says.ab": (
        "La politique apprise décide pour {share} des unités, l’heuristique pour le reste.",
        "The learned policy decides for {share} of units, the heuristic for the rest.",
    ),
    "switch.since": ("Depuis {at}.", "Since {at}."),
    "switch.button": ("Heuristique seule", "Heuristic only"),
    "switch.what": (
        "Dès la prochaine décision, l’heuristique répartira toutes les courses. Les courses déjà "
        "attribuées ne changent pas.",
        "From the next decision on the heuristic dispatches all bookings. Bookings that have a "
        "driver do not change.",
    ),
    "switch.confirm": ("Oui, heuristique seule", "Yes, heuristic only"),
    "switch.admin": (
        "Pour passer à l’heuristique seule il faut une clé avec le droit admin.",
        "Switching to heuristic only needs a key with the scope admin.",
    ),
    "switch.to_experiment": ("Voir l’expérience", "See the experiment"),
    "note.off": ("C’est fait : l’heuristique décide seule.", "Done: the heuristic decides alone."),
    "note.nothing_off": (
        "Il n’y a pas d’expérience : l’heuristique décidait déjà seule.",
        "There is no experiment: the heuristic decided alone already.",
    ),
    "note.on": (
        "C’est fait : la politique apprise est relancée.",
        "Done: the learned policy runs.",
    ),
    "note.overridden": ("C’est fait : votre décision est notée.", "Done: your decision is logged."),
    "note.promoted": ("C’est fait : nouveau champion.", "Done: there is a new champion."),
    "note.rolled_back": (
        "C’est fait : le champion précédent est de retour.",
        "Done: the previous champion is back.",
    ),
    # tiles
    "today.forgotten": (
        "Promises il y a plus d'un jour, toujours ouvertes, sans chauffeur : réservations "
        "{bookings}. "
        "Personne n'est envoyé ; clôturez-les, ou donnez-leur une nouvelle heure.",
        "Promised more than a day ago, still open, without a driver: bookings {bookings}. "
        "Nobody is sent; close them, or give them a new time.",
    ),
    "tile.overdue": ("en retard, sans chauffeur", "overdue without a driver"),
    "tile.open": ("courses ouvertes", "open bookings"),
    "tile.urgent": ("à décider dans 10 min", "to decide within 10 min"),
    "tile.committed": ("courses attribuées en cours", "bookings under way"),
    "tile.free": ("chauffeurs libres", "drivers free"),
    "tile.on_time": ("à l’heure aujourd’hui", "on time today"),
    "tile.of_duty": ("sur {n} en service", "of {n} on duty"),
    "tile.of_known": ("de {n} courses", "of {n} bookings"),
    # map
    "map.title": ("Carte", "Map"),
    "map.said": (
        "Carte : {drivers} chauffeurs et {bookings} courses ouvertes ; les mêmes figurent dans "
        "les tableaux.",
        "Map: {drivers} drivers and {bookings} open bookings; the tables hold the same.",
    ),
    "map.estimate": ("position estimée", "estimated position"),
    "map.outside": ("{n} hors de la carte.", "{n} beyond the map."),
    "driver.free": ("libre", "free"),
    "driver.waiting": ("partira plus tard", "leaves later"),
    "driver.driving": ("en route vers le patient", "driving to the patient"),
    "driver.onboard": ("patient à bord", "patient aboard"),
    "driver.down": ("hors service", "out of service"),
    "driver.off": ("hors horaire", "off shift"),
    "urgency.overdue": ("en retard", "overdue"),
    "urgency.nobody": ("aucun véhicule adapté", "no suitable vehicle"),
    "urgency.late": ("sera en retard", "will be late"),
    "urgency.now": ("à décider maintenant", "decide now"),
    "urgency.soon": ("à décider bientôt", "decide soon"),
    "urgency.calm": ("a le temps", "has time"),
    "urgent.overdue": (
        "En retard de {minutes} : avertir le patient",
        "Overdue by {minutes}: tell the patient",
    ),
    "urgent.unreachable": (
        "Personne ne peut être là dans la tolérance : avertir le patient",
        "Nobody can be there within the grace: tell the patient",
    ),
    "urgent.nobody": ("Aucun véhicule adapté en service", "No suitable vehicle on duty"),
    "urgent.late": (
        "Personne ne peut être là dans la fenêtre",
        "Nobody can be there within the window",
    ),
    "urgent.now": ("À décider avant {by} ({minutes})", "Decide by {by} ({minutes})"),
    "urgent.soon": ("À décider avant {by} ({minutes})", "Decide by {by} ({minutes})"),
    "urgent.calm": ("A le temps jusqu’à {by}", "Has time until {by}"),
    # open bookings and drivers
    "open.title": (
        "Courses ouvertes, les plus urgentes d’abord",
        "Open bookings, most urgent first",
    ),
    "open.none": ("Aucune course n’attend de chauffeur.", "No booking waits for a driver."),
    "open.promised": ("Promise", "Promised"),
    "open.urgency": ("Urgence", "Urgency"),
    "open.needs": ("Besoins", "Needs"),
    "open.more": ("et {n} autres, moins urgentes", "and {n} more, less urgent"),
    "drivers.title": ("Chauffeurs", "Drivers"),
    "drivers.none": ("Aucun chauffeur actif.", "No active driver."),
    "drivers.state": ("État", "State"),
    "drivers.next": ("Course en cours", "Job in hand"),
    "drivers.pickup": ("prise en charge prévue {at}", "pickup planned {at}"),
    "drivers.dropoff": ("dépose prévue {at}", "dropoff planned {at}"),
    "drivers.queue": ("+ {n} ensuite", "+ {n} next"),
    "drivers.free_at": ("Libre à", "Free at"),
    "drivers.shift_end": ("Fin de service", "End of shift"),
    # KPIs
    "kpis.title": ("Résultats du jour par bras", "Today's results by arm"),
    "kpis.arm": ("Bras", "Arm"),
    "kpis.due": ("Courses échues", "Bookings due"),
    "kpis.on_time": ("À l’heure (≤ {min} min)", "On time (≤ {min} min)"),
    "kpis.late": ("En retard", "Late"),
    "kpis.unserved": ("Non servies", "Unserved"),
    "kpis.wait": ("Attente moyenne", "Mean wait"),
    "kpis.too_few": ("trop peu de données ({n} sur {of})", "not enough data ({n} of {of})"),
    "kpis.explained": (
        "Intervalles à 95 % (Wilson). Le bras est celui qui a été tiré pour la course, quoi que "
        "quelqu’un ait changé ensuite. Sans les courses annulées par le patient et les absences.",
        "95 % intervals (Wilson). The arm is the one drawn for the booking, whatever somebody "
        "changed later. Without bookings that patients called off or missed.",
    ),
    "kpis.cut": (
        "Il y a plus de courses que cette page n’en lit.",
        "There are more bookings than this page reads.",
    ),
    "arm.all": ("Tous", "All"),
    "arm.heuristic": ("Heuristique", "Heuristic"),
    "arm.rl": ("Politique apprise", "Learned policy"),
    "arm.human": ("Choix fixé par une personne", "Fixed by a person"),
    "arm.none": ("Sans décision", "No decision"),
    "arm.other": ("Autre", "Other"),
    # health
    "health.title": ("Moteur de décision", "Decision engine"),
    "health.last_day": ("24 dernières heures", "last 24 hours"),
    "health.fallback": (
        "Réponses de secours données par l’heuristique",
        "Answers that fell back to the heuristic",
    ),
    "health.fallback_said": (
        "{share} des {n} réponses demandées à la politique apprise.",
        "{share} of {n} answers asked of the learned policy.",
    ),
    "health.not_asked": (
        "La politique apprise n’a pas été consultée.",
        "The learned policy was not asked.",
    ),
    "health.latency": ("Temps de réponse", "Latency"),
    "health.latency_said": (
        "Sur la journée : médiane {p50} ms, 99 % en moins de {p99} ms ({n} réponses).",
        "Over the day: median {p50} ms, 99 % within {p99} ms ({n} answers).",
    ),
    "health.p50": ("médiane (p50)", "median (p50)"),
    "health.p99": ("les 1 % les plus lents (p99)", "slowest 1 % (p99)"),
    "health.no_answers": ("Aucune réponse.", "No answers."),
    "fallback.budget": ("temps écoulé", "out of time"),
    "fallback.error": ("erreur ({name})", "error ({name})"),
    "fallback.no_model": ("aucun modèle", "no model"),
    "fallback.infeasible": ("réponse irréalisable", "infeasible answer"),
    "fallback.other": ("{name}", "{name}"),
}
