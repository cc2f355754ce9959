"""Settings: what ``config/lanes.toml`` says. Read once, at the edge, and passed down."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from celery_lanes.config.complaints import Complaints, dotted, problem
from celery_lanes.config.names import (
    A_NAME,
    Alias,
    Family,
    Name,
    Spec,
    fit_name,
    is_lane_name,
)
from celery_lanes.config.tables import (
    Callers,
    CallerSettings,
    HealthSettings,
    LaneSettings,
    Rule,
    StoreSettings,
    Table,
)
from celery_lanes.errors import ConfigError, SpecError
from celery_lanes.llm.spec import Expansion
from celery_lanes.store.rules import CallerRules, LaneRules, Preemption

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "CallerSettings",
    "HealthSettings",
    "LaneSettings",
    "Match",
    "Rule",
    "Settings",
    "StoreSettings",
]

DEFAULT_FILE = "config/lanes.toml"
FILE_VARIABLE = "CELERY_LANES_CONFIG"
STORE_VARIABLE = "CELERY_LANES_STORE_URL"
DEFAULT_LANE = "default"


@dataclass(frozen=True, slots=True)
class Match:
    """Where a model goes, and by which rule; ``None`` = by its provider's name."""

    lane: str
    rule: Rule | None


class Settings(Table):
    """The whole file.

    Attributes:
        enabled: false is plain Celery.
        store: where the lanes' state lives.
        defaults: of every lane.
        lanes: those with a table of their own.
        families: the lane tables whose name is a glob.
        rules: which models go to which lane; the first that matches counts.
        callers: their shares and rates.
        aliases: names for specs, for ``generate`` and ``lanes.registry``.
        unknown_lanes: what a publish does into a lane that is named nowhere here.
    """

    enabled: bool = Field(default=True, description="true or false")
    unknown_lanes: Literal["accept", "warn", "refuse"] = Field(
        default="warn", description='"accept", "warn" or "refuse"'
    )
    store: StoreSettings = StoreSettings()
    health: HealthSettings = HealthSettings()
    defaults: LaneSettings = LaneSettings()
    lanes: Mapping[Name, LaneSettings] = Field(default={}, description="a table")
    families: Mapping[Family, LaneSettings] = Field(default={}, alias="lanes*")
    rules: tuple[Rule, ...] = Field(
        default=(), strict=False, description="an array of tables: [[rules]]"
    )
    callers: Callers = Field(default={}, description="a table")
    aliases: Mapping[Alias, Spec] = Field(default={}, description="a table")

    @classmethod
    def load(cls, path: str | Path | None = None, env: Mapping[str, str] = os.environ) -> Settings:
        """Read the file: ``path``, else $CELERY_LANES_CONFIG, else ``config/lanes.toml``.

        Without any of them: the defaults. $CELERY_LANES_STORE_URL overrides ``[store] url``.
        Raises ``ConfigError``, which lists everything that is wrong.
        """
        named = path or env.get(FILE_VARIABLE)
        data = _read(file := Path(named or DEFAULT_FILE), is_needed=bool(named))
        if url := env.get(STORE_VARIABLE):
            data = _with_store_url(data, url)
        return cls.parse(data, source=str(file))

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, source: str = "settings") -> Settings:
        """Check what a TOML file holds; ``source`` is named in each line of the ``ConfigError``."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            complaints = Complaints(data, source, cls, _TABLES)
            raise ConfigError("\n".join(complaints.of(error))) from None

    def lane(self, name: str) -> LaneSettings:
        """Give a lane's settings; a lane that no table names has those of its family, or defaults.

        Raises ``ConfigError`` for what cannot be a lane's name.
        """
        if (named := self.lanes.get(name)) is not None:
            return named
        if not is_lane_name(name):
            raise ConfigError(f"expected a lane to have {A_NAME}, got {name!r}")
        families = (lane for glob, lane in self.families.items() if fnmatchcase(name, glob))
        return next(families, self.defaults)

    def is_early(self, lane: str, task: Any) -> bool:
        """Whether a call counts as run once its body has begun: it ends as lost with its worker."""
        acks = self.lane(lane).acks
        return not task.acks_late if acks == "task" else acks == "early"

    def lane_for(self, model: str) -> Match:
        """Find the lane of ``provider/model``: the first rule that matches, else the provider.

        Of a chain "a/x,b/y" it is the first model's.
        """
        first = model.split(",", 1)[0].strip()
        for matches, rule in self._compiled:
            if matches(first):
                return Match(rule.lane, rule)
        return Match(_provider_lane(first), None)

    def knows(self, model: str) -> bool:
        """Tell whether a rule or a lane names the model's provider; a catch-all does not."""
        match = self.lane_for(model)
        if match.rule is not None:
            return match.rule.match.partition("/")[0].strip("*?") != ""
        return match.lane in self.lanes or any(fnmatchcase(match.lane, f) for f in self.families)

    def names(self, lane: str) -> bool:
        """Tell whether a table, also by a glob, or a rule names a lane."""
        return lane in self.named_lanes or any(fnmatchcase(lane, f) for f in self.families)

    @cached_property
    def named_lanes(self) -> frozenset[str]:
        """The lanes of tables and rules, without those of globs."""
        return frozenset({*self.lanes, *(rule.lane for rule in self.rules)})

    def queue(self, lane: str) -> str:
        """Name the Celery queue of a lane."""
        return self.lane(lane).queue_prefix + lane

    def lane_of_queue(self, queue: str) -> str | None:
        """Name the lane of a Celery queue; ``None`` for a plain queue."""
        if (named := self._lanes_by_queue.get(queue)) is not None:
            return named
        for prefix in self._free_prefixes:
            lane = queue.removeprefix(prefix)
            if lane != queue and is_lane_name(lane) and self.queue(lane) == queue:
                return lane
        return None

    @cached_property
    def preempts(self) -> bool:
        """Whether running calls may have to make room in any lane."""
        tables = (self.defaults, *self.lanes.values(), *self.families.values())
        return any(lane.preemption for lane in tables)

    def rules_of(self, lane: str) -> LaneRules:
        """Give what the store must know of a lane."""
        settings = self.lane(lane)
        return LaneRules(
            max_concurrent=settings.max_concurrent,
            lease_ttl_ms=round(settings.lease_ttl_s * 1000),
            max_leases=settings.max_leases,
            dedupe_ttl_ms=round(settings.dedupe_ttl_s * 1000),
            adaptive=settings.adaptive,
            rate=settings.rate,
            tokens=settings.tokens,
            preemption=_preemption(settings),
            callers={
                name: CallerRules(caller.weight, caller.rate)
                for name, caller in self.callers.items()
            },
        )

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        """Put ``[defaults]`` under each lane's table, and the glob tables apart."""
        if not isinstance(data, Mapping) or not isinstance(data.get("lanes", {}), Mapping):
            return data
        defaults = _as_table(data.get("defaults", {}))
        lanes = {name: _over(defaults, lane) for name, lane in data.get("lanes", {}).items()}
        exact = {name: lane for name, lane in lanes.items() if not _is_glob(name)}
        families = {name: lane for name, lane in lanes.items() if _is_glob(name)}
        return {**data, "lanes": exact, "lanes*": families}

    @model_validator(mode="after")
    def _one_queue_each(self) -> Settings:
        queues: dict[str, str] = {}
        for name, lane in self.lanes.items():
            queue = lane.queue_prefix + name
            if (other := queues.setdefault(queue, name)) != name:
                raise problem(f"lanes {other} and {name} have the same queue, {queue}")
        return self

    @model_validator(mode="after")
    def _aliases_lead_to_models(self) -> Settings:
        expansion = Expansion(self.aliases)
        wrong = ((name, _mistake(expansion, name)) for name in self.aliases)
        for name, mistake in wrong:
            if mistake is not None:
                raise problem(f"{dotted(('aliases', name))}: {mistake}")
        return self

    @cached_property
    def _compiled(self) -> list[tuple[Callable[[str], object], Rule]]:
        return [(re.compile(translate(rule.match)).match, rule) for rule in self.rules]

    @cached_property
    def _lanes_by_queue(self) -> dict[str, str]:
        return {lane.queue_prefix + name: name for name, lane in self.lanes.items()}

    @cached_property
    def _free_prefixes(self) -> set[str]:
        unnamed = (self.defaults, *self.families.values())
        return {lane.queue_prefix for lane in unnamed}


def _mistake(expansion: Expansion, alias: str) -> SpecError | None:
    try:
        expansion.targets(alias)
    except SpecError as error:
        return error
    return None


def _preemption(lane: LaneSettings) -> Preemption | None:
    if not lane.preemption:
        return None
    most, fails = lane.max_preemptions, lane.on_preempt == "fail"
    return Preemption(round(lane.min_runtime_s * 1000), most, fails)


_TABLES: dict[str, type[Table]] = {
    "store": StoreSettings,
    "health": HealthSettings,
    "defaults": LaneSettings,
    "lanes": LaneSettings,
    "rules": Rule,
    "callers": CallerSettings,
}


def _read(file: Path, *, is_needed: bool) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        data: dict[str, Any] = tomllib.loads(text)
    except OSError as error:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)) and not is_needed:
            return {}
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        end = f"at line {text.count(chr(10)) + 1}, at the end of the file"
        message = f"{file} is not valid TOML: {error}".replace("at end of document", end)
        raise ConfigError(message) from error
    return data


def _with_store_url(data: dict[str, Any], url: str) -> dict[str, Any]:
    if "://" not in url:
        raise ConfigError(f"expected ${STORE_VARIABLE} to be a URL: redis://localhost:6379/0")
    store = data.get("store", {})
    return {**data, "store": {**store, "url": url}} if isinstance(store, dict) else data


def _as_table(lane: object) -> dict[str, Any]:
    """Give a lane's raw table; of a model, what was set in it."""
    if isinstance(lane, LaneSettings):
        fields = ((n, LaneSettings.model_fields[n].alias or n) for n in lane.model_fields_set)
        return {key: getattr(lane, name) for name, key in fields}
    return dict(lane) if isinstance(lane, Mapping) else {}


def _over(defaults: dict[str, Any], lane: object) -> object:
    """Lay a lane's table over the defaults; with its own exec_timeout comes its own hard one."""
    if not isinstance(lane, (LaneSettings, Mapping)):
        return lane
    table = _as_table(lane)
    dropped = "hard_timeout" if "exec_timeout" in table else None
    return {**{k: v for k, v in defaults.items() if k != dropped}, **table}


def _is_glob(name: object) -> bool:
    return isinstance(name, str) and any(sign in name for sign in "*?[")


def _provider_lane(model: str) -> str:
    """Make a lane's name of the provider's; ``default`` if there is none."""
    provider, slash, _ = model.partition("/")
    return (fit_name(provider) if slash else "") or DEFAULT_LANE
