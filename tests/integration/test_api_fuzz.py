"""The real service asked everything that its own OpenAPI document allows, and much that it does not: no server error, and answers as declared.

`API_EXAMPLES=1000 python -m pytest tests/integration/test_api_fuzz.py` asks more of each operation than the default.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.shop import publish_tiny_shop, running_service

EXAMPLES = int(os.environ.get("API_EXAMPLES", "40"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
REFUSABLE = (
    "GET /recommend",
    "POST /recommend",
    "POST /page",
    "POST /events",
    "GET /events/verdicts",
    "GET /items/{item_id}",
    "PUT /items/{item_id}",
    "DELETE /items/{item_id}",
    "POST /items",
    "PATCH /items",
    "GET /search",
)
"""Operations that can be asked what they do not allow."""
OPERATIONS = (
    *REFUSABLE,
    "GET /demo/shoppers",
    "GET /demo/key",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("fuzzed")
    publish_tiny_shop(folder)
    with running_service(folder) as url:
        yield url


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture(scope="module")
def document(url: str) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("asked", OPERATIONS)
def test_an_operation_answers_as_declared(
    document: BaseSchema, session: requests.Session, asked: str, mode: GenerationMode
) -> None:
    method, path = asked.split()
    operation, statuses = document[path][method], Counter[int]()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="API_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers(case: schemathesis.Case) -> None:
        statuses[case.call_and_validate(session=session, checks=CHECKS).status_code] += 1

    if mode is GenerationMode.NEGATIVE and asked not in REFUSABLE:
        pytest.skip("there is nothing to get wrong")
    answers()
    # It was not refused at the door: where the document allows the question, some are answered.
    assert mode is GenerationMode.NEGATIVE or any(status < 300 or status == 404 for status in statuses), statuses


def test_no_operation_is_left_out(document: BaseSchema) -> None:
    assert {result.ok().label for result in document.get_all_operations()} == set(OPERATIONS)
