"""Search spaces as data: which fields of a configuration a study moves, and how far.

A parameter is named as the field it sets, with dots (``hyperparameters.learning_rate``). A default
lies within every range, so that a study can begin with it. A file may replace a built-in space
(``--space``):

```yaml
hyperparameters.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
hyperparameters.gamma: {low: 0.005, high: 0.3, log: true, complement: true}
hyperparameters.batch_size: {choices: [128, 256, 512]}
```
"""

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from services.rl.errors import UsageError

from .dotted_names import plain

POLICIES: Final = ("dqn_matching", "planner", "qnetwork")
FIXED: Final = (
    "seed", "threads", "num_threads", "device", "repeats", "care", "check_days", "check_moves",
    "total_timesteps", "experiment_name", "resume_training", "checkpoint_path",
    "busy.generations", "own.generations",
)  # fmt: skip
"""Fields that no study moves: trials of other budgets, seeds or judging days do not compare."""
_FIXED_GROUPS: Final = ("evaluation.", "checkpoints.", "sanity.")


@dataclass(frozen=True)
class Parameter:
    """One field that a study moves: a range, or a few choices.

    Attributes:
        name: The field, with dots.
        low: Least value of a range.
        high: Greatest value.
        log: Evenly spread over orders of magnitude.
        whole: Whole numbers only.
        complement: The range is that of one minus the field: for a discount, whose distance to 1
            is what matters.
        choices: Values to choose among; lists are allowed. Then there is no range.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    complement: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def label(self) -> str:
        """What the study calls it: ``1 - gamma``, say, where that is what it draws."""
        return f"1 - {self.name}" if self.complement else self.name

    def distribution(self) -> BaseDistribution:
        """As Optuna takes it; lists among the choices become JSON."""
        if self.choices:
            return CategoricalDistribution([_token(choice) for choice in self.choices])
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def field_value(self, drawn: Any) -> Any:
        """The field's value for what the study drew."""
        if self.choices:
            return next(c for c in self.choices if _token(c) == drawn)
        if self.complement:
            return round(1.0 - drawn, 12)
        return drawn

    def drawn_value(self, value: Any) -> Any:
        """What the study would have drawn for a field's value."""
        if self.choices:
            return _token(value)
        return round(1.0 - value, 12) if self.complement else value

    def check(self, default: Any) -> None:
        """Refuse what cannot be drawn, or does not hold the default.

        Raises:
            UsageError: Naming the parameter.
        """
        if self.choices:
            tokens = [_token(choice) for choice in self.choices]
            if not all(_keepable(choice) for choice in self.choices) or _twice(tokens):
                raise UsageError(
                    f"search space: {self.name}: choices must be different numbers, words, true, "
                    "false, null, or lists of these"
                )
            if (self.low, self.high) != (None, None):
                raise UsageError(f"search space: {self.name} has choices and a range; give one")
            if plain(default) not in [plain(choice) for choice in self.choices]:
                raise UsageError(
                    f"search space: {self.name}: the default, {_token(default)}, is not among the "
                    "choices; a study begins with it"
                )
            return
        for end in (self.low, self.high):
            if not _number(end):
                raise UsageError(
                    f"search space: {self.name} needs numbers low and high, or choices"
                )
        assert self.low is not None
        assert self.high is not None
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UsageError(
                f"search space: {self.name}: low ({self.low}) must be below high ({self.high})"
                + (", and above 0 on a log scale" if self.log else "")
            )
        if not _number(default):
            raise UsageError(f"search space: {self.name} is no number: it needs choices")
        if self.whole and (self.low % 1 or self.high % 1):
            raise UsageError(f"search space: {self.name} is a whole number: so must its ends be")
        if not self.low <= self.drawn_value(default) <= self.high:
            raise UsageError(
                f"search space: {self.name}: the default, {default}, lies outside the range; a "
                "study begins with it"
            )


@dataclass(frozen=True)
class SearchSpace:
    """All that a study moves.

    Attributes:
        parameters: In the order they are drawn.
    """

    parameters: tuple[Parameter, ...]

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """A trial's values by field."""
        drawn = {}
        for p in self.parameters:
            d = p.distribution()
            if isinstance(d, CategoricalDistribution):
                value: Any = trial.suggest_categorical(p.label, d.choices)
            elif isinstance(d, IntDistribution):
                value = trial.suggest_int(p.label, d.low, d.high, log=d.log)
            else:
                assert isinstance(d, FloatDistribution)
                value = trial.suggest_float(p.label, d.low, d.high, log=d.log)
            drawn[p.name] = p.field_value(value)
        return drawn

    def fields(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Values by field of a finished trial's parameters."""
        return {p.name: p.field_value(drawn[p.label]) for p in self.parameters}

    def defaults(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What a study draws for the default configuration, given by dotted field."""
        return {p.label: p.drawn_value(fields[p.name]) for p in self.parameters}

    def checked(self, fields: Mapping[str, Any]) -> "SearchSpace":
        """The space, if it goes with a configuration.

        Args:
            fields: The default configuration by dotted field.

        Raises:
            UsageError: If a parameter is unknown, or its range or choices cannot be.
        """
        if not self.parameters:
            raise UsageError("search space: it names no parameter")
        for p in self.parameters:
            if p.name not in fields:
                raise UsageError(
                    f"search space: unknown parameter {p.name!r}: a parameter is named as a field "
                    f"of the configuration, such as {_nearest(p.name, fields)!r}"
                )
            if _is_fixed(p.name):
                raise UsageError(
                    f"search space: {p.name} must stay as it is: trials would not compare"
                )
            p.check(fields[p.name])
        return self

    def document(self) -> dict[str, Any]:
        """As plain data, in the form of a space file."""
        shown: dict[str, Any] = {}
        for p in self.parameters:
            if p.choices:
                shown[p.name] = {"choices": [plain(c) for c in p.choices]}
            else:
                flags = {f: True for f in ("log", "whole", "complement") if getattr(p, f)}
                shown[p.name] = {"low": p.low, "high": p.high, **flags}
        return shown

    @property
    def sha256(self) -> str:
        """Of the document."""
        return document_sha256(self.document())


def document_sha256(document: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def load_space(path: Path, fields: Mapping[str, Any]) -> SearchSpace:
    """A space from a YAML or JSON file; see the module. Whole numbers are known by the default.

    Raises:
        UsageError: If the file cannot be read, or names what is unknown or impossible.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise UsageError(f"--space {path} cannot be read: {reason}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--space {path} is neither JSON nor YAML") from error
    if not isinstance(raw, dict):
        raise UsageError(f"--space {path} must hold a mapping of parameters")
    try:
        return parse_space(raw, fields)
    except UsageError as error:
        raise UsageError(f"--space {path}: {error}") from error


def parse_space(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> SearchSpace:
    """A space from plain data, in the form of a space file.

    Raises:
        UsageError: If it names what is unknown or impossible.
    """
    return kept_space(raw, fields).checked(fields)


def kept_space(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> SearchSpace:
    """A space that a study was begun with: its default may have been another than today's.

    Raises:
        UsageError: If it is none.
    """
    return SearchSpace(tuple(_parsed(str(n), v, fields) for n, v in raw.items()))


def _is_fixed(name: str) -> bool:
    return name in FIXED or name.startswith(_FIXED_GROUPS)


def _nearest(name: str, fields: Mapping[str, Any]) -> str:
    """The field that may be moved and is written most alike."""
    free = [field for field in fields if not _is_fixed(field)]
    return difflib.get_close_matches(name, free, 1, 0.0)[0]


def _parsed(name: str, raw: Any, fields: Mapping[str, Any]) -> Parameter:
    known = ("low", "high", "log", "whole", "complement", "choices")
    if not isinstance(raw, dict) or not set(raw) <= set(known):
        raise UsageError(
            f"search space: {name} must be a mapping of some of {', '.join(known)}, got {raw!r}"
        )
    for flag in ("log", "whole", "complement"):
        if not isinstance(raw.get(flag, False), bool):
            raise UsageError(f"search space: {name}: {flag} must be true or false")
    choices = raw.get("choices", [])
    if not isinstance(choices, list) or (not choices and "choices" in raw):
        raise UsageError(f"search space: {name}: choices must be a list of one value or more")
    default = fields.get(name)
    whole = isinstance(default, int) and not isinstance(default, bool)
    return Parameter(
        name,
        _as_number(raw.get("low")),
        _as_number(raw.get("high")),
        log=raw.get("log", False),
        whole=raw.get("whole", whole and not choices),
        complement=raw.get("complement", False),
        choices=tuple(tuple(c) if isinstance(c, list) else c for c in choices),
    )


def _token(value: Any) -> Any:
    """A choice as Optuna keeps it: lists as JSON."""
    return json.dumps(plain(value)) if isinstance(value, list | tuple) else value


def _keepable(value: Any) -> bool:
    """Whether a storage gives it back as it was."""
    if isinstance(value, list | tuple):
        return all(_keepable(part) for part in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int | bool)


def _twice(tokens: list[Any]) -> bool:
    return any(token in tokens[:i] for i, token in enumerate(tokens))


def _as_number(value: Any) -> Any:
    """YAML takes ``1e-05``, as JSON writes it, for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _number(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and math.isfinite(value)


# --- the spaces ------------------------------------------------------------------------------

_H = "hyperparameters."
_WIDTHS = ((64, 32), (128, 64), (256, 128), (512, 256, 128), (512, 512), (1024, 512, 256))

SPACES: Final[dict[str, SearchSpace]] = {
    "dqn_matching": SearchSpace(
        (
            Parameter(_H + "learning_rate", 1e-5, 3e-3, log=True),
            Parameter(_H + "gamma", 0.005, 0.4, log=True, complement=True),
            Parameter(_H + "batch_size", choices=(64, 128, 256, 512)),
            Parameter(_H + "pair_hidden", choices=(32, 64, 96, 128)),
            Parameter(_H + "n_step", 1, 10, whole=True),
            Parameter(_H + "tau", 1e-3, 0.1, log=True),
            Parameter(_H + "exploration_initial_eps", 0.01, 0.5, log=True),
            Parameter(_H + "exploration_final_eps", 1e-3, 0.01, log=True),
            Parameter(_H + "exploration_fraction", 0.05, 0.9),
            Parameter(_H + "buffer_size", choices=(10_000, 30_000, 100_000)),
            Parameter(_H + "reward_scale", 0.01, 0.5, log=True),
            Parameter("warm_start.keep_weight", 0.03, 3.0, log=True),
        )
    ),
    # The roadmap's four, and nothing else: network and observation stay as they are.
    "qnetwork": SearchSpace(
        (
            Parameter(_H + "learning_rate", 1e-5, 3e-3, log=True),
            Parameter(_H + "gamma", 0.005, 0.4, log=True, complement=True),
            Parameter(_H + "batch_size", choices=(64, 128, 256, 512)),
            Parameter(_H + "hidden", choices=_WIDTHS),
        )
    ),
    # Generations follow from the others: every trial plays the same number of moves.
    "planner": SearchSpace(
        (
            Parameter("hot", 0.5, 20.0, log=True),
            Parameter("look_ahead_min", 45.0, 360.0, log=True),
            Parameter(
                "without",
                choices=((), ("demand",), ("load",), ("later",), ("booking",), ("demand", "later")),
            ),
            Parameter("population", 6, 24, whole=True),
            Parameter("busy.moves", 200, 2_000, log=True, whole=True),
            Parameter("busy.days", 8, 32, log=True, whole=True),
            Parameter("busy.sigma", 0.15, 1.5, log=True),
            Parameter("own.moves", 400, 4_000, log=True, whole=True),
            Parameter("own.days", 8, 48, log=True, whole=True),
            Parameter("own.sigma", 0.08, 0.8, log=True),
        )
    ),
}
"""By policy kind; `dqn_matching` and `qnetwork` move `TrainingConfig`, `planner` `PlannerFit`."""
