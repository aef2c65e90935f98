"""Why a request cannot be answered as it stands, as every route says it."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from starlette.responses import Response


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """`{"detail": ...}`, which says what to do."""
    return Response(orjson.dumps({"detail": detail}), status, headers, "application/json")
