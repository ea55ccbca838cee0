"""`python -m local_gateway check`: the configuration is read, every target is asked how it is; a table shows it."""

import argparse
import asyncio
import re
import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from pydantic import SecretStr

from local_gateway.backends.base import Health
from local_gateway.backends.http import HttpClient
from local_gateway.commands.table import Listing
from local_gateway.config.proxy import ProxyRules
from local_gateway.config.settings import GatewaySettings, RunpodTarget, TargetSettings
from local_gateway.errors import RequestError
from local_gateway.gateway import Targets, backend_for, build_targets, close, distinct, look_for
from local_gateway.routing.target import Target

# How other programs' settings name an environment variable; here it is ${NAME}, which has been replaced already.
FOREIGN_VARIABLES = re.compile(r"os\.environ[/.\[(].*|os\.getenv\(.*|env[:.][A-Z]\w*|\$[A-Z]\w*|%[A-Z]\w*%|\{\{.*\}\}")
COLUMNS = ("target", "models", "state", "detail")


class Finding(NamedTuple):
    target: str
    models: tuple[str, ...]  # that it answers for
    health: Health


def run(_: argparse.Namespace, settings: GatewaySettings, proxies: ProxyRules | None = None) -> int:
    """Returns the exit status: 1 if any target is bad. The settings were validated when they were read."""
    return report(asyncio.run(check(settings, proxies)))


def report(findings: list[Finding]) -> int:
    """Print the findings as a table; returns the exit status."""
    rows = [
        (target, ", ".join(models), "ok" if health.is_ok else "bad", health.detail)
        for target, models, health in findings
    ]
    Listing(COLUMNS, rows).print_table(sys.stdout)
    return 0 if all(finding.health.is_ok for finding in findings) else 1


async def check(settings: GatewaySettings, proxies: ProxyRules | None = None) -> list[Finding]:
    """Starts no worker on this machine, and sends no target a request that costs."""
    http = HttpClient(settings.timeouts, proxies, ca_file=settings.outbound.ca_file)
    try:
        targets = build_targets(settings, partial(backend_for, http=http))
        return [*await ask(targets), *await ask_for_workers(targets, http)]
    finally:
        await http.aclose()


async def ask(targets: Targets) -> list[Finding]:
    """Ask all targets concurrently, then close their backends."""
    each = distinct(targets)
    try:
        healths = await asyncio.gather(*(_health_of(target) for target in each))
    finally:
        await asyncio.gather(*(close(target) for target in each))
    return [
        Finding(target.name, _models_of(target, targets), health) for target, health in zip(each, healths, strict=True)
    ]


async def ask_for_workers(targets: Targets, http: HttpClient) -> list[Finding]:
    """Whether RunPod lists the workers of each endpoint whose costs are to be counted."""
    found: list[Finding] = []
    for target in distinct(targets):
        settings = target.settings
        if isinstance(settings, RunpodTarget) and settings.worker_price and not any(_foreign_variables(settings)):
            health = await _workers_of(settings, http)
            found.append(Finding(f"{target.name}: its workers", _models_of(target, targets), health))
    return found


async def _workers_of(settings: RunpodTarget, http: HttpClient) -> Health:
    try:
        num_workers = len(await look_for(settings, http)())
    except RequestError as error:
        return Health(False, f"cannot be counted: {error}")
    return Health(True, f"{num_workers} run now; counted at {settings.worker_price:g} a second")


def _models_of(target: Target, targets: Targets) -> tuple[str, ...]:
    return tuple(name for name, group in targets.items() if target in group)


async def _health_of(target: Target) -> Health:
    """A target whose settings name a variable in another program's way is not asked: that would send the name."""
    if field := next(_foreign_variables(target.settings), ""):
        return Health(False, f"its {field} names an environment variable as other programs do: here write ${{NAME}}")
    return await target.backend.health()


def _foreign_variables(settings: TargetSettings) -> Iterator[str]:
    """Fields, a header among them, whose whole value is such a name."""
    values = [(name, value) for name, value in settings if isinstance(value, str | SecretStr)]
    values += [(f"header {name}", value) for name, value in settings.headers.items()]
    for name, value in values:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if FOREIGN_VARIABLES.fullmatch(text.strip()):
            yield name
