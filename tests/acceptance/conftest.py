"""A cluster by pytest-celery: two workers with lanes, on processes or in Docker's containers.

``--nodes=docker`` takes pytest-celery's own containers instead; that needs a Docker engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from pytest_celery import (
    DEFAULT_WORKER_CONTAINER_TIMEOUT,
    DEFAULT_WORKER_VOLUME,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestWorker,
    CeleryWorkerCluster,
    RabbitMQTestBroker,
    RedisTestBackend,
    RedisTestBroker,
)
from pytest_docker_tools import build, container, fxtr

from celery_lanes import Lanes
from celery_lanes.config.settings import STORE_VARIABLE, Settings
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.llm_stub import LLMStub
from celery_lanes.testing.rabbitmq import EmbeddedRabbitMQ
from tests import services
from tests.acceptance.nodes import (
    LANES,
    ROOT,
    LanesWorkerContainer,
    ServerContainer,
    ServerProcess,
    WorkerProcess,
)

NODES = {
    "process": {
        "valkey": "valkey_broker",
        "rabbitmq": "rabbitmq_broker",
        "backend": "valkey_backend",
        "workers": ("first_worker", "second_worker"),
    },
    "docker": {
        "valkey": "celery_redis_broker",
        "rabbitmq": "celery_rabbitmq_broker",
        "backend": "celery_redis_backend",
        "workers": ("first_docker_worker", "second_docker_worker"),
    },
}
"""The fixtures that make each node."""

DOCKER_HOST = "host.docker.internal"
"""This machine, as containers see it."""


# -- what pytest-celery asks for -------------------------------------------------------------------


@pytest.fixture(scope="session")
def nodes(pytestconfig: pytest.Config) -> str:
    return pytestconfig.getoption("nodes")


@pytest.fixture(params=["valkey", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def celery_broker(request: pytest.FixtureRequest, nodes: str) -> CeleryTestBroker:
    return request.getfixturevalue(NODES[nodes][request.param])


@pytest.fixture
def celery_backend(request: pytest.FixtureRequest, nodes: str) -> CeleryTestBackend:
    return request.getfixturevalue(NODES[nodes]["backend"])


@pytest.fixture
def celery_worker_cluster(
    request: pytest.FixtureRequest, nodes: str, celery_setup_app: Celery
) -> CeleryWorkerCluster:
    containers = [request.getfixturevalue(name) for name in NODES[nodes]["workers"]]
    workers = [CeleryTestWorker(worker, celery_setup_app) for worker in containers]
    if nodes == "process":
        for worker in containers:
            worker._container.wait_until_ready()
    celery_setup_app.set_current()  # to read its configuration, pytest-celery has made more apps
    return CeleryWorkerCluster(*workers)


@pytest.fixture
def default_worker_container_cls() -> type[LanesWorkerContainer]:
    return LanesWorkerContainer


@pytest.fixture
def default_worker_env(
    default_worker_env: dict[str, str], celery_backend: CeleryTestBackend, observer: LLMStub
) -> dict[str, str]:
    """Have the store beside the results, and the observer for every provider."""
    dsn = observer.dsn.replace("0.0.0.0", DOCKER_HOST)
    providers = {f"LLM_{name}": dsn for name in ("OLLAMA", "OPENAI", "GROQ")}
    store = {STORE_VARIABLE: store_url(celery_backend.config()["url"])}
    return {**default_worker_env, **providers, **store}


@pytest.fixture
def celery_setup_app(
    celery_setup_app: Celery, celery_backend: CeleryTestBackend, tmp_path: Path
) -> Iterator[Celery]:
    """Add lanes to the test's own app; what is set here reaches the workers' apps as well."""
    file = tmp_path / "lanes.toml"
    file.write_text(LANES)
    url = store_url(celery_backend.config()["host_url"])
    celery_setup_app.conf.update(
        broker_connection_retry_on_startup=True,
        result_extended=True,
        worker_cancel_long_running_tasks_on_connection_loss=True,  # must not concern lane calls
    )
    Lanes(celery_setup_app, Settings.load(file, {STORE_VARIABLE: url}))
    yield celery_setup_app
    celery_setup_app.close()


@pytest.fixture
def observer(nodes: str) -> Iterator[LLMStub]:
    """Serve all models, and see from outside what the cluster does."""
    with LLMStub(host="0.0.0.0" if nodes == "docker" else "127.0.0.1") as stub:
        yield stub


def store_url(backend: str) -> str:
    return f"{backend.rpartition('/')[0]}/2"


# -- nodes that are processes ----------------------------------------------------------------------


@pytest.fixture
def valkey_broker() -> Iterator[CeleryTestBroker]:
    with ServerProcess(EmbeddedValkey()) as process:
        yield RedisTestBroker(ServerContainer(process))


@pytest.fixture
def valkey_backend() -> Iterator[CeleryTestBackend]:
    with ServerProcess(EmbeddedValkey()) as process:
        yield RedisTestBackend(ServerContainer(process))


@pytest.fixture
def rabbitmq_broker(rabbitmq_process: ServerProcess) -> CeleryTestBroker:
    return RabbitMQTestBroker(ServerContainer(rabbitmq_process))


@pytest.fixture(scope="module")
def rabbitmq_process() -> Iterator[ServerProcess]:
    """One for all tests, for it takes 4 s to start."""
    with EmbeddedRabbitMQ(services.rabbitmq_program()) as server:
        yield ServerProcess(server)


def _worker(name: str):
    """Make a fixture; pytest-docker-tools adds a container fixture's log to a failure's report."""

    @pytest.fixture(name=name)
    def worker(
        tmp_path: Path,
        default_worker_command: list[str],
        default_worker_initial_content: dict[str, bytes],
        default_worker_env: dict[str, str],
    ) -> Iterator[LanesWorkerContainer]:
        with WorkerProcess(
            tmp_path / name,
            command=default_worker_command,
            content=default_worker_initial_content,
            env=default_worker_env,
        ) as process:
            yield LanesWorkerContainer(process)

    return worker


first_worker = _worker("first_worker")
second_worker = _worker("second_worker")


# -- nodes that are containers ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def worker_dockerfile(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("image") / "Dockerfile"
    lines = ["FROM python:3.11-slim", "COPY . /src", "RUN pip install /src", "WORKDIR /app"]
    file.write_text("\n".join(lines))
    return str(file)


worker_image = build(
    path=str(ROOT), dockerfile=fxtr("worker_dockerfile"), tag="celery-lanes/tests/worker"
)


def _docker_worker():
    return container(
        image="{worker_image.id}",
        environment=fxtr("default_worker_env"),
        network="{default_pytest_celery_network.name}",
        volumes={"{default_worker_volume.name}": DEFAULT_WORKER_VOLUME},
        extra_hosts={DOCKER_HOST: "host-gateway"},
        wrapper_class=LanesWorkerContainer,
        timeout=DEFAULT_WORKER_CONTAINER_TIMEOUT,
        command=fxtr("default_worker_command"),
    )


first_docker_worker = _docker_worker()
second_docker_worker = _docker_worker()
