"""The types of responses come without openai's client, and are openai's own all the same."""

import subprocess
import sys


def in_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_client_is_not_imported() -> None:
    """It would be a third of a start."""
    code = """
import sys
import handler.api.chat, handler.api.completions
print([name for name in ("openai._client", "openai.types.responses", "aiohttp") if name in sys.modules])
"""
    assert in_new_process(code) == "[]\n"


def test_openai_can_be_imported_before_or_after() -> None:
    """In either order its types are the same objects, and its client works."""
    check = (
        "assert handler.api.openai_types.ChatCompletion is openai.types.chat.ChatCompletion; openai.OpenAI(api_key='k')"
    )
    for imports in ("import handler.api.openai_types, openai", "import openai, handler.api.openai_types"):
        in_new_process(f"{imports}; {check}")
