"""Every request field of the APIs that clients of this worker know, and what becomes of it.

    obeyed     a field of the request's model; what it asks is done
    harmless   passes: the answer is as right without it
    refused    400 that names it, unless its value is one of those that ask for nothing

A name in none of the lists passes with a line in the log: it may be a newer API's, or a proxy's own. The names are
those of OpenAI's API, Anthropic's Messages, llama-server, vLLM, SGLang, Ollama's and TGI's OpenAI routes. A null is an
absent field.
"""

import logging
from typing import Any, Literal, NamedTuple, get_args

from handler.api import pooled_parameters, translated_parameters
from handler.api.fields import Refused, unsupported

Route = Literal["chat", "completions", "infill", "responses", "messages", "embeddings", "rerank"]

POOLED: tuple[Route, ...] = ("embeddings", "rerank")  # whose fields are their own
TRANSLATED: tuple[Route, ...] = ("responses", "messages")  # to chats, whose fields they may have beside their own

MAX_NAME_CHARS = 60  # of an unknown field in the log
MAX_REPORTED = 200  # different unknown names are logged, each once

log = logging.getLogger(__name__)

GENERATION = (
    *("model", "n", "stream", "stream_options", "max_completion_tokens", "max_tokens", "n_predict", "min_tokens"),
    *("stop", "stop_token_ids", "ignore_eos", "seed", "temperature", "top_p", "top_k", "min_p", "typical_p", "typ_p"),
    *("xtc_probability", "xtc_threshold", "repeat_penalty", "repetition_penalty", "repeat_last_n"),
    *("frequency_penalty", "presence_penalty", "dry_multiplier", "dry_base", "dry_allowed_length"),
    *("dry_penalty_last_n", "dry_sequence_breakers", "logit_bias", "logprobs"),
    *("response_format", "json_schema", "grammar", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
    *("regex", "structured_outputs"),
)
_OBEYED: dict[Route, frozenset[str]] = {
    "chat": frozenset(
        {
            *GENERATION,
            *("messages", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
            *("chat_template_kwargs", "reasoning_effort", "add_generation_prompt", "continue_final_message"),
            *("reasoning_format", "include_reasoning", "reasoning_budget_tokens", "thinking_budget_tokens"),
            *("thinking_token_budget", "reasoning_budget_message"),
        }
    ),
    "completions": frozenset({*GENERATION, "prompt", "echo", "best_of", "suffix", "prompt_logprobs"}),
    "infill": frozenset({*GENERATION, "input_prefix", "input_suffix", "input_extra", "prompt"} - {"logprobs"}),
    "embeddings": pooled_parameters.EMBEDDINGS,
    "rerank": pooled_parameters.RERANK,
}

# Why the answer is as right without it.
HARMLESS: dict[str, str] = {
    "user": "who asks; nothing is kept",
    "safety_identifier": "who asks; nothing is kept",
    "metadata": "for stored answers",
    "store": "nothing is stored here",
    "service_tier": "there is one",
    "prediction": "a hint for speed",
    "prompt_cache_key": "prefixes are reused by themselves",
    "prompt_cache_retention": "prefixes are reused by themselves",
    "prompt_cache_options": "prefixes are reused by themselves",
    "moderation": "there is none",
    "verbosity": "a wish that this model was not trained for",
    "cache_prompt": "llama-server: prefixes are reused by themselves",
    "id_slot": "llama-server: slots are chosen here",
    "n_keep": "llama-server: contexts are not shifted here",
    "n_discard": "llama-server: contexts are not shifted here",
    "timings_per_token": "llama-server: more in the answer, not another answer",
    "return_progress": "llama-server: more in the answer, not another answer",
    "priority": "vLLM: first come, first served",
    "request_id": "vLLM: answers have their own",
    "rid": "SGLang: answers have their own",
    "cache_salt": "vLLM: one model has one cache",
    "kv_transfer_params": "vLLM: there is one process",
    "data_parallel_rank": "SGLang: there is one process",
    "guided_decoding_backend": "vLLM: there is one",
    "keep_alive": "Ollama: the model stays loaded",
    "spaces_between_special_tokens": "vLLM: special tokens are not shown",
    "early_stopping": "vLLM: of a beam search",
}


_SAMPLER = "this worker has no such sampler."
REFUSED: dict[str, Refused] = {
    # OpenAI
    "audio": Refused("this model does not speak."),
    "modalities": Refused("this model writes text only.", (["text"],)),
    "web_search_options": Refused("this worker does not search."),
    # llama-server
    "n_probs": Refused("ask for logprobs.", (0,)),
    "mirostat": Refused(_SAMPLER, (0,)),
    "dynatemp_range": Refused(_SAMPLER, (0,)),
    "top_n_sigma": Refused(_SAMPLER, (-1, 0)),
    "samplers": Refused("the order of the samplers is fixed."),
    "min_keep": Refused(_SAMPLER, (0,)),
    "t_max_predict_ms": Refused("limit tokens instead.", (0, -1)),
    "n_indent": Refused("lines are indented as the model writes them.", (0,)),
    "lora": Refused("an adapter is chosen by its name as 'model'.", ([],)),
    "grammar_lazy": Refused("a constraint holds from the first token.", (False,)),
    "grammar_triggers": Refused("a constraint holds from the first token.", ([],)),
    "response_fields": Refused("answers have OpenAI's fields.", ([],)),
    "post_sampling_probs": Refused("logprobs are the model's own.", (False,)),
    # vLLM
    "use_beam_search": Refused("answers are sampled.", (False,)),
    "length_penalty": Refused("it is of a beam search.", (1,)),
    "allowed_token_ids": Refused("use logit_bias.", ([],)),
    "bad_words": Refused("use logit_bias.", ([],)),
    "skip_special_tokens": Refused("special tokens have no text here.", (True,)),
    "include_stop_str_in_output": Refused("stop strings are left out.", (False,)),
    "truncate_prompt_tokens": Refused("a prompt that is too long is refused.", (-1,)),
    "return_tokens_as_token_ids": Refused("logprobs name tokens by their text.", (False,)),
    "return_token_ids": Refused("use /tokenize.", (False,)),
    "add_special_tokens": Refused("the model's own beginning is added, once.", (True,)),
    "chat_template": Refused("the worker's setting CHAT_TEMPLATE is the operator's."),
    "documents": Refused("put them into messages.", ([],)),
    "mm_processor_kwargs": Refused("images are prepared as the model's projector says.", ({},)),
    "logits_processors": Refused("there are none here.", ([],)),
    "guided_whitespace_pattern": Refused("whitespace in JSON is bounded here."),
    "vllm_xargs": Refused("there are no extensions here.", ({},)),
    # SGLang
    "ebnf": Refused("send it as 'grammar'."),
    "stop_regex": Refused("use 'stop'.", ([], "")),
    "no_stop_trim": Refused("stop strings are left out.", (False,)),
    "lora_path": Refused("an adapter is chosen by its name as 'model'."),
    "return_hidden_states": Refused("they are not read here.", (False,)),
    "session_params": Refused("send all messages with each request.", ({},)),
    "custom_logit_processor": Refused("there are none here."),
    # Ollama's own API
    "options": Refused("send the options as fields of the request.", ({},)),
    "format": Refused("use 'response_format'.", ("",)),
    "images": Refused("images are read in the messages of a chat, as image_url parts.", ([],)),
    "template": Refused("the worker's setting CHAT_TEMPLATE is the operator's.", ("",)),
    "system": Refused("send a message with role system.", ("",)),
    "raw": Refused("use /v1/completions.", (False,)),
    "context": Refused("send all messages with each request.", ([],)),
    "num_predict": Refused("use 'max_tokens'."),
    "num_ctx": Refused("the context is the worker's setting."),
    # TGI's own API
    "inputs": Refused("use 'messages' or 'prompt'."),
    "parameters": Refused("send the parameters as fields of the request.", ({},)),
    "adapter_id": Refused("an adapter is chosen by its name as 'model'."),
    "tool_prompt": Refused("the chat template words it."),
    "do_sample": Refused("use 'temperature'."),
    "max_new_tokens": Refused("use 'max_tokens'."),
    "return_full_text": Refused("use 'echo'.", (False,)),
    "watermark": Refused("there is none here.", (False,)),
    "truncate": Refused("a prompt that is too long is refused."),
    "top_n_tokens": Refused("ask for logprobs.", (0,)),
}

# Of the other route: asked here by mistake, they would change nothing.
MISPLACED: dict[Route, dict[str, Refused]] = {
    "chat": {
        "prompt": Refused("use 'messages', or /v1/completions."),
        "echo": Refused("it is of completions alone.", (False,)),
        "best_of": Refused("it is of completions alone.", (1,)),
        "prompt_logprobs": Refused("it is of completions alone.", (0, False)),
        "suffix": Refused("it is of completions alone.", ("",)),
    },
    "completions": {
        "messages": Refused("use 'prompt', or /v1/chat/completions."),
        "top_logprobs": Refused("completions ask by the number in 'logprobs'.", (0,)),
        "tools": Refused("they are of chats alone.", ([],)),
        "functions": Refused("they are of chats alone.", ([],)),
        "chat_template_kwargs": Refused("completions have no template.", ({},)),
        "continue_final_message": Refused("completions have no messages.", (False,)),
        "add_generation_prompt": Refused("completions have no messages.", (False, True)),
    },
    "infill": {
        "messages": Refused("use 'input_prefix' and 'input_suffix'."),
        "suffix": Refused("use 'input_suffix'.", ("",)),
        "echo": Refused("it is of completions alone.", (False,)),
        "best_of": Refused("it is of completions alone.", (1,)),
        "prompt_logprobs": Refused("it is of completions alone.", (0, False)),
        "logprobs": Refused("they are of completions and chats.", (False,)),
        "top_logprobs": Refused("they are of chats alone.", (0,)),
        "tools": Refused("they are of chats alone.", ([],)),
        "functions": Refused("they are of chats alone.", ([],)),
        "chat_template_kwargs": Refused("a gap has no template.", ({},)),
        "continue_final_message": Refused("a gap has no messages.", (False,)),
        "add_generation_prompt": Refused("a gap has no messages.", (False, True)),
    },
}
# They change an answer together with tools or a template alone.
_OF_CHATS: dict[str, str] = {
    "tool_choice": "of chats alone",
    "parallel_tool_calls": "of chats alone",
    "function_call": "of chats alone",
    "reasoning_effort": "a wish that a prompt has no place for",
    "reasoning_format": "completions have no reasoning of their own",
    "include_reasoning": "completions have no reasoning of their own",
    "reasoning_budget_tokens": "completions have no reasoning of their own",
    "thinking_budget_tokens": "completions have no reasoning of their own",
    "thinking_token_budget": "completions have no reasoning of their own",
    "reasoning_budget_message": "completions have no reasoning of their own",
}
ALSO_HARMLESS: dict[Route, dict[str, str]] = {"chat": {}, "completions": _OF_CHATS, "infill": _OF_CHATS}


class _Column(NamedTuple):
    """What one route makes of the names: obeyed, passed over for a reason, refused."""

    obeyed: frozenset[str]
    harmless: dict[str, str]
    refused: dict[str, Refused]


def _column(route: Route) -> _Column:
    if route in POOLED:
        return _Column(_OBEYED[route], pooled_parameters.HARMLESS, pooled_parameters.REFUSED[route])
    if route not in TRANSLATED:
        return _Column(_OBEYED[route], HARMLESS | ALSO_HARMLESS[route], REFUSED | MISPLACED[route])
    own = _Column(
        translated_parameters.OBEYED[route], translated_parameters.HARMLESS[route], translated_parameters.REFUSED[route]
    )
    said = {*own.obeyed, *own.harmless, *own.refused}  # counts before what is said of chats
    return _Column(
        own.obeyed | _OBEYED["chat"] - said,
        own.harmless | {name: why for name, why in HARMLESS.items() if name not in said},
        own.refused | {name: why for name, why in (REFUSED | MISPLACED["chat"]).items() if name not in said},
    )


_COLUMNS: dict[Route, _Column] = {route: _column(route) for route in get_args(Route)}
OBEYED: dict[Route, frozenset[str]] = {route: column.obeyed for route, column in _COLUMNS.items()}
_reported: set[str] = set()


def check_parameters(route: Route, body: dict[str, Any]) -> None:
    """Raises InvalidRequestError for a field whose value would have to change the answer, and cannot."""
    column = _COLUMNS[route]
    for name, value in body.items():
        if value is None or name in column.obeyed or name in column.harmless:
            continue
        refusal = column.refused.get(name)
        if refusal is None:
            _report(name)
        elif not any(_equal(value, neutral) for neutral in refusal.neutral):
            raise unsupported(name, refusal.why)


def harmless(route: Route) -> dict[str, str]:
    """Name and reason."""
    return _COLUMNS[route].harmless


def refused(route: Route) -> dict[str, Refused]:
    """Name and reason."""
    return _COLUMNS[route].refused


def _equal(value: object, neutral: object) -> bool:
    """1 is 1.0 and not true."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _report(name: str) -> None:
    if name not in _reported and len(_reported) < MAX_REPORTED:
        _reported.add(name)
        # Not named at the default level: a name is text of the client's, and that log holds none.
        log.info("a request has a field that is not known here; it is ignored (LOG_LEVEL=DEBUG names it)")
        log.debug("the field that is ignored: %r", name[:MAX_NAME_CHARS])
