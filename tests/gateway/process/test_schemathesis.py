"""Requests made up from the gateway's own OpenAPI document, valid and not: every answer is one that it describes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from local_gateway.edge.openapi import DOCUMENT
from tests.gateway.gateway_process import GatewayProcess, bearer, new_key, started

ROOT = Path(__file__).parents[3]
NUM_EXAMPLES = 60  # for each operation
# What is wrong with a body is for its target to say, so that acceptance and rejection are not checked.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    ignored_auth,
    unsupported_method,
]

load_all_checks()
schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """Its address. A process, because these tests have no event loop."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.targets.on_socket"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def gateway(target: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Whatever model is asked for, there is one."""
    model = {"targets": [{"type": "openai", "base_url": target}]}
    config = {"models": {"model": model, "*": model}, "server": {"require_keys": True}}
    with started(tmp_path_factory.mktemp("gateway"), config) as gateway:
        yield gateway
        assert "unexpected error" not in gateway.log


@pytest.fixture(scope="module")
def key(gateway: GatewayProcess) -> str:
    return new_key(gateway, "tester", "--admin")


def test_document(gateway: GatewayProcess) -> None:
    """It is read without a key."""
    assert requests.get(f"{gateway.url}/openapi.json", timeout=10).json() == DOCUMENT


@schema.parametrize()
@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_answers(case: "schemathesis.Case[Any]", gateway: GatewayProcess, key: str) -> None:
    """No server error, and status, headers and body as the document says; without the key nothing."""
    response = case.call(gateway.url, headers=bearer(key))
    is_events = "text/event-stream" in response.headers.get("content-type", [""])[0]
    # It takes the schema of a stream for that of each event.
    case.validate_response(
        response, headers=bearer(key), excluded_checks=[response_schema_conformance] * is_events, checks=CHECKS
    )
