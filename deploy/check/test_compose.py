"""compose.yaml, read by Docker Compose itself."""

import json
import os
from typing import Any

import pytest
from tools import ROOT, output_of, run

PROFILES = {
    "": {"gateway"},
    "cpu": {"gateway", "worker-cpu"},
    "gpu": {"gateway", "worker-gpu"},
    "chatbot-ui": {"gateway", "chatbot-ui"},
    "open-webui": {"gateway", "open-webui"},
    "*": {"gateway", "worker-cpu", "worker-gpu", "chatbot-ui", "open-webui"},
}
KEY = "lg-0123456789abcdef0123456789abcdef"


def environment(**variables: str) -> dict[str, str]:
    """Without what this machine happens to have set."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}


def config(profile: str, **variables: str) -> dict[str, Any]:
    arguments = ["--profile", profile] if profile else []
    env = environment(GATEWAY_ADMIN_KEY=KEY, **variables)
    command = ("docker-compose", "--env-file", "/dev/null", *arguments, "config", "--format", "json")
    parsed: dict[str, Any] = json.loads(output_of(*command, env=env))
    return parsed


@pytest.mark.parametrize(("profile", "services"), PROFILES.items())
def test_profile_has_its_services(profile: str, services: set[str]) -> None:
    assert config(profile)["services"].keys() == services


def test_without_a_key_the_first_step_is_said() -> None:
    """The first thing that a user meets."""
    result = run("docker-compose", "--env-file", "/dev/null", "config", "-q", env=environment())

    assert result.returncode != 0
    assert "copy .env.example to .env and set GATEWAY_ADMIN_KEY" in result.stderr


def test_ports_are_published_to_this_machine_alone() -> None:
    ports = [port for service in config("*")["services"].values() for port in service.get("ports", [])]

    assert {port["published"] for port in ports} == {"8000", "3000", "3001"}
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_chat_pages_wait_for_a_healthy_gateway() -> None:
    services = config("*")["services"]

    for name in ("chatbot-ui", "open-webui"):
        assert services[name]["depends_on"]["gateway"]["condition"] == "service_healthy"
        assert services[name]["environment"]["OPENAI_API_KEY"] == KEY
    for name in ("worker-cpu", "worker-gpu"):
        assert services[name]["healthcheck"]["test"]


def test_chat_page_may_have_a_key_of_its_own() -> None:
    services = config("chatbot-ui", CHAT_API_KEY="lg-chat")["services"]

    assert services["chatbot-ui"]["environment"]["OPENAI_API_KEY"] == "lg-chat"
    assert services["gateway"]["environment"]["GATEWAY_ADMIN_KEY"] == KEY


def test_worker_is_asked_unless_there_is_none() -> None:
    """An empty WORKER_BASE_URL in .env is one that was meant."""
    assert config("")["services"]["gateway"]["environment"]["WORKER_BASE_URL"] == "http://worker:8001/v1"
    assert config("", WORKER_BASE_URL="")["services"]["gateway"]["environment"]["WORKER_BASE_URL"] == ""


def test_example_of_env_names_what_the_file_reads() -> None:
    text = (ROOT / "compose.yaml").read_text()
    example = (ROOT / ".env.example").read_text()
    names = {
        line.lstrip("# ").partition("=")[0] for line in example.splitlines() if "=" in line and " " not in line[2:]
    }

    assert "GATEWAY_ADMIN_KEY" in names
    assert all(f"${{{name}" in text for name in names - {"COMPOSE_PROFILES"}), names


def test_file_has_compose_schema() -> None:
    output_of("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.gateway", "deploy/tilt/Dockerfile"])
def test_dockerfiles_are_clean(file: str) -> None:
    output_of("hadolint", file)
