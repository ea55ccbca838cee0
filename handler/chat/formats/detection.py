"""Which family a template is written for.

The order of the search matters: `<tool_call>` stands in the templates of nine other families.
"""

from typing import NamedTuple

from handler.chat.formats import families
from handler.chat.formats.format import Format


class Family(NamedTuple):
    """Found where all of `signs` and none of `absent` stand in a template's source; without signs, by a setting."""

    format: Format
    signs: tuple[str, ...]
    absent: tuple[str, ...] = ()


FAMILIES = (
    Family(families.HARMONY, ("<|channel|>",)),
    Family(families.ATEM, ("<atem:function_calls>",)),
    Family(families.FUNCTIONARY_3_2, (">>>all",)),
    Family(families.FUNCTIONARY_3_1, ("<function=", "</function>", "<|python_tag|>"), absent=("<tool_call>",)),
    Family(families.KIMI_K2, ("<|tool_call_begin|>",)),
    Family(families.KIMI_K3, ("<|open|>", "<|end_of_msg|>")),
    Family(families.DSML, ("dsml_token",)),
    Family(families.DEEPSEEK_R1, ("<｜tool▁calls▁begin｜>", "```json")),
    Family(families.DEEPSEEK_V3_1, ("<｜tool▁calls▁begin｜>",)),
    Family(families.SOLAR, ("<|tool_call:begin|>",)),
    Family(families.HY, ("<arg_key", "<tool_sep")),
    Family(families.GLM, ("<arg_key>",)),
    Family(families.GEMMA_4, ("<|tool_call>call:",)),
    Family(families.FUNCTION_GEMMA, ("<start_function_call>",)),
    Family(families.MINIMAX_M3, ("]<]minimax[>[",)),
    Family(families.MINIMAX_M2, ("minimax:tool_call",)),
    Family(families.MINICPM_5, ('<function name="', '<param name="')),
    Family(families.SEED, ("<seed:tool_call>",)),
    Family(families.QWEN_3_CODER, ("<function=", "<parameter=")),
    Family(families.COHERE, ("<|START_ACTION|>",)),
    Family(families.MISTRAL_ARGS, ("[TOOL_CALLS]", "[ARGS]")),
    Family(families.MISTRAL_JSON, ("[TOOL_CALLS]",)),
    Family(families.LFM_2, ("<|tool_call_start|>",)),
    Family(families.LFM_2, ("List of tools: ",)),
    Family(families.PYTHONIC, ()),
    Family(families.APERTUS, ("<|tools_prefix|>",)),
    Family(families.NEMOTRON_V2, ("<TOOLCALL>",)),
    Family(families.APRIEL, ("<tool_calls>", "[BEGIN FINAL RESPONSE]")),
    Family(families.MINIMAX_M1, ("<tool_calls>",)),
    Family(families.GIGACHAT_3_1, ("<|function_call|>",)),
    Family(families.GIGACHAT_3, ("<|role_sep|>",)),
    Family(families.GRANITE_3, ("<|tool_call|>",)),
    Family(families.HERMES, ("<tool_call>",)),
    Family(families.FIREFUNCTION, ("functools[",)),
    Family(families.COMMAND_R_PLUS, ("Action:", '"tool_name": ')),
    Family(families.LLAMA_3, ('"parameters": ', "<|start_header_id|>")),
)

FORMATS = {format.name: format for format in (*(family.format for family in FAMILIES), families.GENERIC)}


def find(source: str) -> Format:
    """The format of the models that a template is written for: the first whose signs its source bears."""
    for family in FAMILIES:
        has_signs = family.signs and all(sign in source for sign in family.signs)
        if has_signs and not any(sign in source for sign in family.absent):
            return family.format
    return families.GENERIC
