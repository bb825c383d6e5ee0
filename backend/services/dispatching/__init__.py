"""Dispatching for a company: database rows in, decisions and commitments out.

Between the library (`services.rl`, which knows no database) and the faces (routes, tasks): builds
the `DispatchState` of a company from its rows, asks the experiment's arm for decisions, and commits
and logs them in one transaction. Nothing here depends on one process remembering anything: plans
are caches, and every fact is in the database.
"""
