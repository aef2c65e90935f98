"""`recsys serve`: one Redis, then as many workers as asked for, and all of them gone together."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from uvicorn.supervisors import Multiprocess

from recsys.bundle import BundleError, read_manifest
from recsys.errors import UserError
from recsys.experiments.reading import read_plan
from recsys.privacy.pseudonyms import Pseudonyms
from recsys.privacy.tombstones import Tombstones
from recsys.publish import may_answer
from recsys.rules.reading import read_rules
from recsys.store.database import database_url, opened
from recsys.store.migrate import upgrade
from service.embedded_redis import embedded_redis
from service.keys import keys_path, require_keys
from service.protocol import BoundedHttp
from service.settings import Settings

LISTENERS: Final = 16
"""Ways into one socket. uvloop accepts one connection for each in a turn of the loop, and a turn may hold many answers: a crowd that
comes at once would wait at the door for seconds, and nobody inside would know."""
WORKER_SECONDS: Final = 30
"""In which a new worker must be ready to take an old one's place, and one that does not answer its parent is taken for hung."""
CLOSING_SECONDS: Final = 10
"""For requests on their way, when the time to drain is over."""


def serve(settings: Settings) -> None:
    """Serve until interrupted or terminated; then everything that was started is stopped. Several workers are replaced one by one at SIGHUP.

    Raises:
        UserError: no bundle is live, the rules, the experiments, the keys, the database or the key of pseudonyms cannot be used, others
            could reach a service without keys, the port is taken, or Redis does not start.
    """
    bundles = settings.data_dir / "bundles"
    version = _readable(bundles)
    if settings.rules is not None:
        read_rules(settings.rules)
    if settings.experiments is not None:
        read_plan(settings.experiments)
    require_keys(settings)
    Tombstones(settings.data_dir, Pseudonyms(settings.data_dir, settings.privacy_key)).check()
    if settings.worker_requests and settings.workers == 1:
        raise UserError("RECSYS_WORKER_REQUESTS needs several workers: somebody has to answer while one is replaced")
    _require_free(settings.host, settings.port)
    with opened(database_url(settings.data_dir, settings.database_url)) as engine:
        upgrade(engine)
    # uvicorn shuts down at a signal and then raises it again: by default that would end the process before the block does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with ExitStack() as stack:
        url = settings.redis_url or stack.enter_context(embedded_redis(settings.data_dir / "redis"))
        _export(settings, url)
        if settings.workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
        print(f"serving {version}\n  storefront  http://{settings.host}:{settings.port}/", flush=True)
        print(f"  API docs    http://{settings.host}:{settings.port}/docs", flush=True)
        _run(settings)


def _run(settings: Settings) -> None:
    """As `uvicorn.run`, on a socket with several ways in; see `LISTENERS`."""
    config = uvicorn.Config(
        "service.main:app_from_settings",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=BoundedHttp,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=settings.trusted_proxies,
        ws="none",
        timeout_graceful_shutdown=CLOSING_SECONDS,
        timeout_worker_healthcheck=WORKER_SECONDS,
    )
    door = config.bind_socket()
    sockets = [door, *(door.dup() for _ in range(LISTENERS - 1))]
    if settings.workers > 1:
        Multiprocess(config, sockets).run()
    else:
        gc.disable()  # until all is loaded, most of which stays: see `service.main`
        uvicorn.Server(config).run(sockets)


def _readable(bundles: Path) -> str:
    """The live bundle, or the last one before it whose manifest can be read; each worker looks closer.

    Raises:
        BundleError: nothing was published, or none can be read.
    """
    versions = may_answer(bundles)
    for version in versions:
        with suppress(BundleError):
            return str(read_manifest(bundles / version)["version"])
    return str(read_manifest(bundles / versions[0])["version"])  # which says what is wrong with it


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"cannot listen on {host}:{port} ({error.strerror}): choose another with --port") from error


def _export(settings: Settings, redis_url: str) -> None:
    """Workers are processes of their own: they read the settings from the environment."""
    for name, value in settings.model_dump(exclude={"redis_url"}).items():
        if value is not None:
            os.environ[f"RECSYS_{name.upper()}"] = str(value)
    if (keys := keys_path(settings)).exists():
        os.environ["RECSYS_KEYS"] = str(keys)  # a worker that starts when they are gone must not be open
    os.environ["RECSYS_REDIS_URL"] = redis_url
