"""The model as LitServe serves it; `python -m benchmarks.peers.lit PORT`."""

# No postponed annotations: LitServe reads those of `decode_request`.
import os
import sys
from pathlib import Path
from typing import Any

import litserve
from fastapi import Request

from benchmarks.peers.model import BUNDLE, Recommender


class Served(litserve.LitAPI):
    """Answers a question."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """See `LitAPI`."""
        self._recommender = Recommender(Path(os.environ[BUNDLE]))

    def decode_request(self, request: Request) -> Any:
        """See `LitAPI`."""
        return request

    def predict(self, x: dict[str, Any]) -> dict[str, Any]:
        """See `LitAPI`."""
        return self._recommender.answer(x)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """See `LitAPI`."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Served(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
