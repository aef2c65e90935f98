"""Routes for what a shopper may ask of the shop. Ids stand in bodies, never in addresses, which proxies write into their logs."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any, Final

import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from recsys.errors import UserError
from recsys.privacy.deletions import DATABASE, REDIS, Receipt
from service.bundles import BundleHolder
from service.privacy import Privacy
from service.problem import problem
from service.schemas import StoredId

JSON: Final = "application/json"


class Who(BaseModel):
    """The shopper who asks, or for whom somebody does."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    user_id: StoredId


class PrivacyRoutes:
    """For the shop's own systems: whoever may call these may delete shoppers."""

    def __init__(self, privacy: Privacy, holder: BundleHolder) -> None:
        self._privacy = privacy
        self._holder = holder
        router = self.router = APIRouter(prefix="/privacy", tags=["privacy"])
        router.add_api_route("/export", self.export, methods=["POST"])
        router.add_api_route("/deletions", self.delete, methods=["POST"])
        router.add_api_route("/receipts/{receipt}", self.receipt, methods=["GET"])

    async def export(self, who: Who) -> Response:
        """All that the running service knows of a shopper, as JSON lines."""
        try:
            found = await asyncio.to_thread(self._privacy.export, who.user_id, [self._holder.live.bundle])
        except (DBAPIError, RedisError) as error:
            return problem(503, f"not everything can be read now, ask again: {type(error).__name__}")
        return Response(found, media_type="application/x-ndjson")

    async def delete(self, who: Who) -> Response:
        """Delete a shopper, with a receipt; 202 while the database or Redis cannot be reached and does so later."""
        receipt = await asyncio.to_thread(self._privacy.delete, who.user_id)
        return Response(_written(receipt), 200 if {DATABASE, REDIS} <= receipt.done.keys() else 202, media_type=JSON)

    async def receipt(self, receipt: str) -> Response:
        """What a deletion has removed by now."""
        try:
            return Response(
                _written(await asyncio.to_thread(self._privacy.deletions.receipt, receipt)), media_type=JSON
            )
        except UserError as error:
            return problem(404, str(error))


def _written(receipt: Receipt) -> bytes:
    content: dict[str, Any] = {**asdict(receipt), "pending": receipt.pending}
    del content["removing"]
    return orjson.dumps(content)
