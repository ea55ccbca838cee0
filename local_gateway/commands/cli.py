"""The command line: which command, with which settings. What a command does is in the module that it calls.

Each command imports what it needs when it is its turn, so that `serve` listens before `chat` would have begun.
"""

# ruff: noqa: PLC0415  # see above

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from local_gateway.errors import ConfigError, GatewayError

if TYPE_CHECKING:
    from local_gateway.config.settings import GatewaySettings

PROGRAM = "python -m local_gateway"
INTERRUPTED = 130  # the exit status that shells give to Ctrl-C
PROVIDERS = ("RUNPOD_", "OPENAI_")
CHAT_URL = "http://127.0.0.1:{port}/v1"

Environ = Mapping[str, str]


class Command(NamedTuple):
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    is_configured: bool = True  # takes --config


def main(argv: Sequence[str]) -> int:
    """The exit status. What goes wrong is said in one line; of gateway.yaml, in one for each mistake."""
    try:
        name, rest = split(argv)
        return COMMANDS[name].run(parse(name, rest))
    except GatewayError as error:
        sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def split(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command, and what belongs to it. Options alone are those of `serve`."""
    if argv and argv[0] in COMMANDS:
        return argv[0], argv[1:]
    commands = "\n".join(f"  {name:8} {command.help}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [COMMAND] [OPTION ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"commands:\n{commands}",
        epilog="Without a command: serve. Each one explains itself: COMMAND --help.",
    )
    if argv and argv[0] in ("-h", "--help"):
        parser.parse_args(argv[:1])
    if argv and not argv[0].startswith("-"):
        parser.error(f"there is no command {argv[0]!r}; commands: {', '.join(COMMANDS)}")
    return "serve", argv


def parse(name: str, argv: Sequence[str]) -> argparse.Namespace:
    """Arguments of a command. --config may stand anywhere, also behind a command's own commands."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {name}", description=command.help)
    command.add_arguments(parser)
    if not command.is_configured:
        return parser.parse_args(argv)
    anywhere = argparse.ArgumentParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    for each in (anywhere, parser):
        each.add_argument("--config", metavar="FILE", help="default: $GATEWAY_CONFIG, or ./gateway.yaml if it exists")
    found, rest = anywhere.parse_known_args(argv)
    return argparse.Namespace(**{**vars(parser.parse_args(rest)), **vars(found)})


# serve


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--demo", action="store_true", help="the demo model on this machine, whatever else is set")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=_port, help="port to listen on; 0: any free one")
    parser.add_argument(
        "--insecure", action="store_true", default=None, help="let others use this gateway although there are no keys"
    )


def _serve(args: argparse.Namespace) -> int:
    if args.demo and args.config:
        raise ConfigError("--demo needs no --config: leave one of them out")
    import uvloop

    from local_gateway.config.load import find_file, secrets_of
    from local_gateway.config.proxy import ProxyRules
    from local_gateway.config.redactor import Redactor
    from local_gateway.server.serve import serve
    from local_gateway.telemetry import logs
    from local_gateway.telemetry.tracing import tracer_from

    environ = without_providers(os.environ) if args.demo else os.environ
    source = None if args.demo else find_file(args.config, environ)
    redactor = Redactor()

    def read() -> "GatewaySettings":
        """Also later on, when the file has changed: then there are new secrets to keep out of the log."""
        settings = with_options(_read(source, environ), args)
        redactor.learn(secrets_of(settings))
        return settings

    settings = read()
    logs.setup(settings.log, redactor)
    proxies = ProxyRules.from_environ(os.environ)
    uvloop.run(serve(settings, source, read, tracer_from(os.environ), proxies=proxies, redactor=redactor))
    return 0


def without_providers(environ: Environ) -> dict[str, str]:
    """An environment in which there is nothing but this machine."""
    return {name: value for name, value in environ.items() if not name.startswith(PROVIDERS)}


def with_options(settings: "GatewaySettings", args: argparse.Namespace) -> "GatewaySettings":
    """What the command line says counts more than file and environment."""
    given = {name: getattr(args, name) for name in ("host", "port", "insecure")}
    update = {name: value for name, value in given.items() if value is not None}
    return settings.model_copy(update={"server": settings.server.model_copy(update=update)})


def _port(value: str) -> int:
    if not value.isdecimal() or int(value) > 65535:
        raise argparse.ArgumentTypeError(f"{value!r} is no port: write a number from 0 to 65535")
    return int(value)


# The others


def _check(args: argparse.Namespace) -> int:
    from local_gateway.commands import check
    from local_gateway.config.proxy import ProxyRules

    return check.run(args, _settings(args), ProxyRules.from_environ(os.environ))


def _add_keys_arguments(parser: argparse.ArgumentParser) -> None:
    from local_gateway.commands import keys

    keys.add_arguments(parser)


def _keys(args: argparse.Namespace) -> int:
    from local_gateway.commands import keys

    return keys.run(args, _settings(args))


def _add_usage_arguments(parser: argparse.ArgumentParser) -> None:
    from local_gateway.commands import usage

    usage.add_arguments(parser)


def _usage(args: argparse.Namespace) -> int:
    from local_gateway.commands import usage

    return usage.run(args, _settings(args))


def _add_chat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="its name (default: the gateway's first)")
    url = CHAT_URL.format(port=os.environ.get("GATEWAY_PORT") or 8000)
    parser.add_argument("--url", default=url, help="of the gateway (default: this machine, at $GATEWAY_PORT or 8000)")
    parser.add_argument("--system", default="", metavar="TEXT", help="instructions for the whole conversation")


def _chat(args: argparse.Namespace) -> int:
    try:
        from local_gateway.commands import chat
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("local_gateway"):
            raise
        raise ConfigError("The chat needs one more package: pip install 'gguf-on-runpod[chat]'.") from None
    return chat.run(args.url, os.environ.get("GATEWAY_API_KEY", ""), args.model, args.system)


def _schema(_args: argparse.Namespace) -> int:
    import json

    from local_gateway.config.json_schema import schema

    sys.stdout.write(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
    return 0


def _add_nothing(_parser: argparse.ArgumentParser) -> None:
    """The command has no arguments of its own."""


def _settings(args: argparse.Namespace) -> "GatewaySettings":
    from local_gateway.config.load import find_file

    return _read(find_file(args.config, os.environ), os.environ)


def _read(source: Path | None, environ: Environ) -> "GatewaySettings":
    from local_gateway.config.load import read

    return read(source, environ)


CHAT_HELP = "talk to a model; GATEWAY_API_KEY in the environment is the key, where one is needed"
COMMANDS = {
    "serve": Command("answer requests until Ctrl-C", _add_serve_arguments, _serve),
    "check": Command("read the configuration, and ask every target how it is", _add_nothing, _check),
    "keys": Command("create, list and revoke API keys", _add_keys_arguments, _keys),
    "usage": Command("show who used what, and what it cost", _add_usage_arguments, _usage),
    "chat": Command(CHAT_HELP, _add_chat_arguments, _chat, is_configured=False),
    "schema": Command("print the JSON schema of gateway.yaml", _add_nothing, _schema, is_configured=False),
}
