"""The tables of ``config/lanes.toml``, as frozen models.

The keys of the file and the keywords of the models are the same; an attribute that holds a time
has its unit in its name: ``exec_timeout = "5m"`` becomes ``exec_timeout_s == 300.0``.
A field's ``description`` completes the sentence "expected KEY to be ..." of a ``ConfigError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from celery_lanes.config import durations
from celery_lanes.config.amounts import (
    A_DURATION,
    A_RATE,
    MIN_RUNTIME_S,
    Count,
    Runtime,
    Seconds,
    Slots,
    read_rate,
)
from celery_lanes.config.complaints import expected
from celery_lanes.config.names import Caller, Name
from celery_lanes.llm.chains.effects import OnAllBenched
from celery_lanes.store.health import HealthConfig
from celery_lanes.store.rules import MAX_CALLERS, Bucket, Policy, Scope

HARD_MARGIN_S = 60.0
MIN_LEASE_TTL_S = 3.0


class Table(BaseModel):
    """A table that refuses unknown keys and keeps its values out of pydantic's own errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class StoreSettings(Table):
    """``[store]``: where the lanes' state lives. The URL, with its password, is never shown.

    ``url`` is "" for the Celery broker's own, if that is a Redis. ``on_store_down`` is what a
    publish does without the store: fail, or go to the queue in the broker, to be admitted later.
    """

    url: SecretStr = Field(default=SecretStr(""), description="a URL: redis://localhost:6379/0")
    prefix: Name = Field(default="lanes", description="a key prefix")
    durability: str = Field(
        default="store",
        pattern=r"^(store|aof|replicas:[1-9][0-9]?)$",
        description='"store", "aof" or "replicas:N"',
    )
    on_store_down: Literal["fail", "bypass"] = Field(
        default="fail", description='"fail" or "bypass"'
    )

    @property
    def url_value(self) -> str:
        """The URL in clear text, for the one who connects."""
        return self.url.get_secret_value()

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: SecretStr) -> SecretStr:
        if (text := url.get_secret_value()) and "://" not in text:
            raise expected("a URL: redis://localhost:6379/0")
        return url


class HealthSettings(Table):
    """``[health]``: when an LLM target that fails is left alone, and who learns of it.

    Attributes:
        shared: whether all who have the store learn from each other; else each process by itself.
        failure_threshold: a target is benched after so many failures in a row.
        base_cooldown_s: so long at first.
        multiplier: and so many times as long each time after that.
        max_cooldown_s: up to this; 5 minutes, or ``base_cooldown`` if that is longer.
        quota_cooldown_s: so long at first for a provider whose quota is used up.
        max_quota_cooldown_s: up to this; a day, or ``quota_cooldown`` if that is longer.
        on_all_benched: what a call does all of whose targets are left alone, as ``ChainConfig`` has
            it. The file goes before what the app says, if it says something.
    """

    shared: bool = Field(default=True, description="true or false")
    failure_threshold: Count = Field(default=2, description="a positive integer")
    multiplier: float = Field(default=2.0, ge=1, le=1000, description="a number, 1 to 1000")
    base_cooldown_s: Seconds = Field(default=5.0, alias="base_cooldown", description=A_DURATION)
    max_cooldown_s: Seconds = Field(
        default_factory=lambda table: max(300.0, table.get("base_cooldown_s", 0.0)),
        alias="max_cooldown",
        description=A_DURATION,
    )
    quota_cooldown_s: Seconds = Field(
        default=5 * 3600.0, alias="quota_cooldown", description=A_DURATION
    )
    max_quota_cooldown_s: Seconds = Field(
        default_factory=lambda table: max(24 * 3600.0, table.get("quota_cooldown_s", 0.0)),
        alias="max_quota_cooldown",
        description=A_DURATION,
    )

    on_all_benched: OnAllBenched = Field(default="wait", description='"wait", "raise" or "force"')

    @field_validator("max_cooldown_s", "max_quota_cooldown_s")
    @classmethod
    def _no_shorter(cls, most_s: float, info: ValidationInfo) -> float:
        first = "quota_cooldown" if info.field_name == "max_quota_cooldown_s" else "base_cooldown"
        first_s = info.data.get(f"{first}_s", 0.0)
        if most_s < first_s:
            raise expected(f"at least {first} ({durations.written(first_s)})")
        return most_s

    @property
    def config(self) -> HealthConfig:
        """The numbers."""
        return HealthConfig(**self.model_dump(exclude={"shared", "on_all_benched"}))


class LaneSettings(Table):
    """``[defaults]`` and ``[lanes.NAME]``: one scarce resource.

    Attributes:
        max_concurrent: slots of the whole cluster.
        policy: fair shares between callers, or first in, first out.
        preemption: whether urgent calls may take the slots of running preemptible ones of lower
            priority.
        priority_scope: whose calls a priority orders: one caller's own, or all of the lane's, as
            preemption needs it. Another one holds from when the lane is empty.
        min_runtime_s: how long a call may run before it can be stopped; 0 = at once, less = 30 s.
        preempt_grace_s: how long a body that must make room may take to save its work.
        max_preemptions: how often a call is stopped; after that it is left alone.
        on_preempt: a stopped call waits again at its place, or fails with ``Preempted``.
        intake: where a publish puts the call: the lane store, or the lane's Celery queue.
        exec_timeout_s: soft limit of one execution; waiting never counts.
        hard_timeout_s: the end of it; ``exec_timeout`` and a minute if not given.
        queue_prefix: the lane's queue is this and its name.
        burst: calls that ``rate`` lets through at once; 1 if not given.
        rate: wall-clock limit in calls; "" takes an inherited one away.
        tokens: wall-clock limit in cost, as much as one period's at once.
        lease_ttl_s: how long a silent worker keeps its slots.
        adaptive: whether the cap follows what the provider bears: halved when it is overloaded,
            raised again step by step. A lane waits in any case when the provider asks it to.
        acks: what becomes of a call whose worker dies: it runs again ("late"), ends as lost
            ("early"), or as its task's ``acks_late`` says ("task").
        max_leases: how many lost workers make a call a dead letter.
        dedupe_ttl_s: how long an ended call is remembered, against redelivery.
        cost: what fair shares count: calls, or the tokens of LLM calls.
        stream_slot: how long a stream holds its slot: to its end ("full"), or until its first piece
            has come ("establish"); then it runs on without one, and the cap does not count it.
    """

    max_concurrent: Slots = Field(default=4, description="a positive integer")
    policy: Policy = Field(default=Policy.FAIR, strict=False, description='"fair" or "fifo"')
    preemption: bool = Field(default=False, description="true or false")
    priority_scope: Scope = Field(
        default_factory=lambda lane: Scope.LANE if lane.get("preemption") else Scope.CALLER,
        strict=False,
        description='"caller" or "lane"',
    )
    min_runtime_s: Runtime = Field(
        default=MIN_RUNTIME_S, alias="min_runtime", description=A_DURATION
    )
    preempt_grace_s: Seconds = Field(default=5.0, alias="preempt_grace", description=A_DURATION)
    max_preemptions: Count = Field(default=3, description="a positive integer")
    on_preempt: Literal["requeue", "fail"] = Field(
        default="requeue", description='"requeue" or "fail"'
    )
    intake: Literal["store", "broker"] = Field(default="store", description='"store" or "broker"')
    exec_timeout_s: Seconds = Field(default=300.0, alias="exec_timeout", description=A_DURATION)
    hard_timeout_s: Seconds = Field(
        default_factory=lambda lane: lane.get("exec_timeout_s", 0.0) + HARD_MARGIN_S,
        alias="hard_timeout",
        description=A_DURATION,
    )
    queue_prefix: Name = Field(default="lanes.", description="a queue prefix")
    burst: Count | None = Field(default=None, description="a positive integer")
    rate: Bucket | None = Field(default=None, description=A_RATE)
    tokens: Bucket | None = Field(default=None, description=A_RATE)
    lease_ttl_s: Seconds = Field(default=30.0, alias="lease_ttl", description=A_DURATION)
    adaptive: bool = Field(default=False, description="true or false")
    acks: Literal["task", "late", "early"] = Field(
        default="task", description='"task", "late" or "early"'
    )
    max_leases: Count = Field(default=5, description="a positive integer")
    dedupe_ttl_s: Seconds = Field(default=120.0, alias="dedupe_ttl", description=A_DURATION)
    cost: Literal["calls", "tokens"] = Field(default="calls", description='"calls" or "tokens"')
    stream_slot: Literal["full", "establish"] = Field(
        default="full", description='"full" or "establish"'
    )

    @field_validator("priority_scope")
    @classmethod
    def _orders_all(cls, scope: Scope, info: ValidationInfo) -> Scope:
        if info.data.get("preemption") and scope is Scope.CALLER:
            raise expected('"lane" where preemption is true')
        return scope

    @field_validator("hard_timeout_s")
    @classmethod
    def _after_exec(cls, hard_s: float, info: ValidationInfo) -> float:
        exec_s = info.data.get("exec_timeout_s", 0.0)
        if hard_s <= exec_s:
            raise expected(f"longer than exec_timeout ({durations.written(exec_s)})")
        return hard_s

    @field_validator("lease_ttl_s")
    @classmethod
    def _renewable(cls, ttl_s: float) -> float:
        if ttl_s < MIN_LEASE_TTL_S:
            raise expected(f"at least {durations.written(MIN_LEASE_TTL_S)}")
        return ttl_s

    @field_validator("rate", mode="before")
    @classmethod
    def _calls(cls, value: object, info: ValidationInfo) -> Bucket | None:
        burst = info.data.get("burst")
        return read_rate(value, burst=burst or (None if isinstance(value, Bucket) else 1))

    @field_validator("tokens", mode="before")
    @classmethod
    def _costs(cls, value: object) -> Bucket | None:
        return read_rate(value, burst=None)


class Rule(Table):
    """``[[rules]]``: models that match the glob go to the lane. Upper and lower case differ."""

    match: str = Field(min_length=1, description='a glob such as "openai/*"')
    lane: Name = Field(description="a lane's name")


class CallerSettings(Table):
    """``[callers.NAME]``: a caller's share against others, and optionally its own rate."""

    weight: float = Field(default=1.0, ge=1e-3, le=1e3, description="a number, 0.001 to 1000")
    rate: Bucket | None = Field(default=None, description=A_RATE)

    @field_validator("rate", mode="before")
    @classmethod
    def _calls(cls, value: object) -> Bucket | None:
        return read_rate(value, burst=1)


def _not_too_many(callers: Mapping[str, CallerSettings]) -> Mapping[str, CallerSettings]:
    if len(callers) > MAX_CALLERS:
        raise expected(f"a table of up to {MAX_CALLERS} callers")
    return callers


Callers = Annotated[Mapping[Caller, CallerSettings], AfterValidator(_not_too_many)]
