"""The family of errors this library raises on purpose.

Each carries one sentence that says what was wrong, where (file, line, field), and what to do.
Command lines print that sentence and exit with 2; the API turns it into a 4xx answer.
"""


class AtmrError(Exception):
    """Base of every error that a caller can cause and a person can mend."""


class UsageError(AtmrError):
    """A command, argument or option that cannot be carried out as given."""


class ScenarioError(AtmrError):
    """A scenario that is unknown, malformed, or inconsistent with what it refers to."""


class DataError(AtmrError):
    """Input data (history, trips, data sets) that is missing, malformed or empty."""


class StateError(AtmrError):
    """A dispatch state that cannot be encoded or decided on."""


class PolicyError(AtmrError):
    """A policy that is unknown, or whose stored weights do not fit."""


class TrainingError(AtmrError):
    """A training run that cannot start, go on or be resumed: configuration, checkpoint, numbers."""


class BundleError(AtmrError):
    """A model bundle that is damaged, altered, of another scenario, or cannot be served."""
