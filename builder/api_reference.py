"""Writes docs/api.md: every request field that clients send, and what becomes of it, from the worker's own table."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from handler.api.parameters import OBEYED, Route, harmless, refused  # noqa: E402  # the path comes first

TITLES: dict[Route, str] = {
    "chat": "POST /v1/chat/completions",
    "completions": "POST /v1/completions",
    "infill": "POST /infill",
    "responses": "POST /v1/responses",
    "messages": "POST /v1/messages",
    "embeddings": "POST /v1/embeddings",
    "rerank": "POST /v1/rerank",
}

HEAD = """\
# The worker's API

The tables are written by `make docs` from `handler/api/parameters.py`; change them there.

The same routes answer over HTTP, as RunPod jobs with `openai_route` and `openai_input`, and with `route` and `body`:

| route | |
|---|---|
| `POST /v1/chat/completions` | a chat, whole or streamed |
| `POST /v1/chat/completions/input_tokens` | how many tokens a chat's prompt has; nothing is generated |
| `POST /v1/completions` | text that goes on, whole or streamed |
| `POST /v1/responses` | a chat in the form of OpenAI's Responses, without a store, whole or streamed |
| `POST /v1/responses/input_tokens` | how many tokens its prompt has; nothing is generated |
| `POST /v1/messages` | a chat in the form of Anthropic's Messages, whole or streamed |
| `POST /v1/messages/count_tokens` | how many tokens its prompt has; nothing is generated |
| `POST /infill` | what belongs between two texts, in llama-server's form, whole or streamed |
| `POST /v1/embeddings` | vectors of texts, by an embedding model |
| `POST /v1/rerank`, `POST /v1/reranking`, `POST /v2/rerank` | documents by their relevance, by a reranking model |
| `POST /tokenize`, `POST /detokenize` | llama-server's and vLLM's forms |
| `GET /v1/models`, `GET /v1/models/NAME` | the names the model is served under |

## What is not said

- A null is an absent field. 16.0 is the integer 16; 16.5 for an integer is a 400, as is a number out of its range.
- `/v1/completions` generates 16 tokens unless it is told otherwise, as OpenAI's does; chats, and jobs in the worker's
  own form (`{"prompt": ...}`), as many as the context leaves. Of `max_completion_tokens`, `max_tokens` and `n_predict`
  the first that is there counts.
- With a `seed` an answer is the same when it is asked again alone. Beside others it may part from it where two tokens
  are nearly as likely ([measured](measurements.md)), unless the worker has `SEEDED=exact`: then the text is the same,
  byte by byte, whatever else runs, on the same machine with the same settings. `seed: -1` is none.
- A limit of -1 or -2 tokens, llama-server's word, is none but the context's.
- A last message from the assistant is continued: the answer is what follows its text. `add_generation_prompt: true` or
  `continue_final_message: false` starts a new turn instead; both flags may also stand in `chat_template_kwargs`.
- `min_tokens` keeps the model's end tokens and `stop_token_ids` back until then; a stop string ends an answer at once.
- `best_of` answers are generated and the `n` with the highest mean logprob sent; all of them are counted as used.
- `echo` with `logprobs` gives the prompt's tokens their logprobs too, the first one null, and one to the token that
  ends an answer, as lm-evaluation-harness (`local-completions`) wants it; vLLM's `prompt_logprobs` gives the prompt's
  without the echo. `max_tokens: 0` generates nothing. Such a prompt is computed anew, at most 64 of its tokens a step,
  once for all of its choices.

## Adapters

LoRA adapters (`LORAS`) are models of their own name: `model` chooses one, `/v1/models` lists them with their `parent`.
What is cached is one adapter's alone. Steps serve one adapter or the model itself, in turns of 16 where several are
asked for at once, so mixed requests take about as long as if each kind ran after the other. llama.cpp's
`convert_lora_to_gguf.py` makes the file of one. Activated adapters (aLoRA) are refused at the start.

## Filling in the middle

- `suffix` of `/v1/completions`, and `/infill`, need a model with FIM tokens (Qwen2.5-Coder, CodeLlama, StarCoder,
  DeepSeek-Coder and others); where a file has none they are a 400. No control tokens are read in these texts. The
  prefix comes first, with `SPM_INFILL` the suffix.
- `/infill` takes `input_prefix`, `input_suffix`, `prompt` (how the middle begins) and `input_extra`, a list of
  `{"filename", "text"}`; its answer has llama-server's `content`, `stop_type` and counts, and OpenAI's `usage`. What is
  too long is cut away from the gap: three quarters of the room are the prefix's, one is the suffix's, and other files
  get what is left. A `suffix` that is too long is a 400.

## Constraints

One of these may constrain an answer; two are a 400. A constrained answer ends where it is complete.

| field | what it holds |
|---|---|
| `response_format` | OpenAI's `json_object` and `json_schema`; llama-server's forms with `schema` beside either type |
| `json_schema`, `guided_json`, `structured_outputs.json` | a JSON schema |
| `structured_outputs.json_object` | `true`: any JSON object |
| `regex`, `guided_regex`, `structured_outputs.regex` | a regular expression without look-around, for the whole answer |
| `guided_choice`, `structured_outputs.choice` | a list of texts, one of which is the answer |
| `grammar`, `guided_grammar`, `structured_outputs.grammar` | a grammar in llama.cpp's GBNF, or in Lark |

Of a schema, keywords that cannot be enforced (`not`, `if`, `uniqueItems`, `contains`, look-around in a `pattern`,
bounds beyond 2^53 and others) are let go, unless it has `"strict": true`: then it is a 400 that names them. What
constrains nothing is never refused. Integers beyond 2^53 in `const` and `enum` are a 400, because they would not come
out exactly. A constraint has 131,072 characters at most, and five seconds to be compiled. Where a model reasons, it
begins behind the reasoning.

## Tools

Whole answers and streams are made of the same events: what a client assembles from the deltas is the whole message.

- `tool_choice`: `none` leaves the tools in the prompt and forbids the marker of a call; `auto` constrains nothing
  unless a tool is `strict`, `parallel_tool_calls` is false, or `allowed_tools` leaves some out; `required`, a named
  tool and `allowed_tools` of mode `required` hold the whole answer to calls, by the schemas of the tools, in the form
  that the model was trained on. `functions` and `function_call` ask for the same in the older words, and are
  answered in them.
- With `response_format` and `auto`, the answer is either calls or of that form; other constraints beside tools that may
  be called are a 400.
- `finish_reason` is `tool_calls` where a call is whole and `length` where the answer ends within one. Ids are opaque;
  the template gets those that its family knows. Arguments of calls that are not held to a schema are what the model
  wrote, and may be wrong JSON.
- Arguments in tags or in code may come in any order where there are at most five, and the tool is not strict. Llama 3's
  calls, which no marker announces, are held to where an answer begins like one. From models whose template knows no
  tools, an answer `{"response": …}` is the text in it, unless a schema or a JSON object was asked for.
- Stop strings apply to content, logprobs are those of content: neither to reasoning nor to calls. A call that no marker
  announces, bare JSON, counts as content for stop strings.
- A file may have a second template for chats with tools (`tokenizer.chat_template.tool_use`): it is used where tools
  are sent. How a model writes calls is found from its chat template; `TOOL_FORMAT` overrides it.
  `python -m handler parse` shows what becomes of a model's raw text.

## Reasoning

- It comes as `reasoning_content`, with `REASONING_TWICE` as `reasoning` too; all names that clients have for it are
  understood in messages. `REASONING_FORMAT`, or a request's `reasoning_format` (`none`: keep it in the content) and
  `include_reasoning`, say otherwise. `usage.completion_tokens_details.reasoning_tokens` counts it.
- `reasoning_effort` and `chat_template_kwargs` go to the template; `none` switches thinking off where it knows how.
- `reasoning_budget_tokens` (`thinking_budget_tokens`, `thinking_token_budget`; -1: no limit) closes reasoning by force,
  behind `reasoning_budget_message`.

## OpenAI's Responses

`/v1/responses` is a chat in another form: a request is translated to a chat's, and its answer is written of the same
events. Chat's other fields may be sent beside its own. Nothing is stored: each request holds the whole conversation,
`store` is answered with `false`, and `previous_response_id`, `conversation`, `prompt`, `background` and
`item_reference` are a 400.

- Items of `input`: `message`, `function_call`, `function_call_output` and `reasoning`. Those of the assistant that
  follow each other are one turn. Other items, and files, are a 400 that names them.
- `tools` of type `function`; all others (`web_search`, `custom`, `mcp`, `namespace` and so on) are left out, because
  clients send them with every request. `strict` counts where it is said: OpenAI's default, true, would hold even
  answers without a call to a grammar.
- Reasoning is an item before the text, as `reasoning_text`; there are no summaries. With
  `include: ["reasoning.encrypted_content"]` it is given in that field too, unencrypted, so that a client which keeps no
  more sends it back. What other servers encrypted is left out.
- `text.format` is a chat's `response_format`, `reasoning.effort` its `reasoning_effort`, `max_output_tokens` its limit;
  `top_logprobs`, or `message.output_text.logprobs` in `include`, asks for logprobs.
- Events are numbered, and an item is done before the next is added. An answer that was cut ends as
  `response.incomplete`, one that failed within its stream as `response.failed`. Errors have OpenAI's form.

## Images and sounds

A model sees and hears with a projector, a second file: `MMPROJ` names it, or it lies beside the model as
`mmproj*.gguf`. What it is not made for, other models, and messages of `system` and `assistant` refuse these parts.

- A part `{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}` stands among the texts of a message
  of the user or of a tool; Responses' `input_image` and Anthropic's `image` become one. PNG, JPEG and GIF, whose first
  picture is shown; WebP is a 400 that says so. A picture has at most 50 million pixels, its
  longer side at most 200 times its shorter one, and it is shown as it is stored, without regard to EXIF.
- A part `{"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}` is a sound: a WAV of whole numbers,
  up to 20 minutes. MP3 and others are a 400, as are floating-point samples.
- `http` and `https` URLs are fetched only with `MEDIA_URLS=true`, and only from public addresses: every address of the
  name is checked, at each redirect too, and the connection goes to a checked one. Credentials, other ports, more than
  three redirects and more than 10 seconds are refused. The worker then fetches what any client names.
- At most 64 of them and `MEDIA_MAX_BYTES` a request; what comes over HTTP is bounded by `MAX_BODY_BYTES` too (4 MB
  unless it is set: 3 MB of images), and a RunPod job by the platform. `detail` is ignored.
- `usage.prompt_tokens` counts the tokens that an image takes, between 64 and some thousands by model and size;
  `IMAGE_MIN_TOKENS` and `IMAGE_MAX_TOKENS` bound them where a model takes images of any size. An image is encoded once
  while it is remembered (256 MB of embeddings), and a conversation's next turn takes it from the prefix cache. It is
  computed in one piece, which the answers beside it wait for.
- Videos and files are a 400, as are prompts that end with an image.

## Anthropic's Messages

`/v1/messages` and `/v1/messages/count_tokens` are chats in another form: a request is translated to a chat's, and its
answer is written of the same events. Chat's other fields may be sent beside Anthropic's own.

- `system`, text, `tool_use`, `tool_result`, `thinking`, images and documents of plain text are taken over; other blocks
  are a 400 that names them. `redacted_thinking` is left out. Claude Code's accounting line in `system`, which changes
  each time, is left out so that prompts are found in the cache.
- Tools without an `input_schema` of the client's (`web_search_...`, `bash_...`) are left out: Anthropic's servers run
  them, or its models know them by heart, and clients send them with every request. A `tool_choice` that names one is a
  400.
- Tools with `defer_loading` are offered once a `tool_addition` or a `tool_reference` names them, until a `tool_removal`
  does. They stand at the prompt's beginning as others do, so that prompt is computed anew then.
- `thinking` `enabled` and `disabled` set the template's switch, `adaptive` and `between_tools` leave it;
  `budget_tokens` is a budget by force. With `display: omitted` thoughts are in the signature alone, unencrypted, and
  come back in it; signatures are empty otherwise.
- `input_tokens` leaves out those found in the cache, which are `cache_read_input_tokens`; `count_tokens` counts both.
- Where the context is full before `max_tokens`, an answer ends as `model_context_window_exceeded`.
- `context_management` may ask for thoughts to be cleared, which templates do by themselves; other edits are a 400.
- Errors have Anthropic's form, whole and within streams.

## Embeddings and reranking

A worker does one thing with its model, found from the file (`TASK` and `POOLING` override it); a route of another kind
is a 400 that says so.

- `input` is a text, a list of texts, token ids, or a list of such lists; at most 2048 inputs and 300,000 tokens. Texts
  get the model's own beginning and end, and what spells a special token in them is text. Token ids are taken as they
  are, so they must be this model's: LangChain sends another tokenizer's, unless it has
  `check_embedding_ctx_length=False`.
- An input that is longer than the model takes is a 400 that names it, unless `truncate` is true (or `END`) or
  `truncate_prompt_tokens` says how many tokens are kept, -1: as many as the model takes. The end is cut.
- Vectors have length 1, unless `normalize` is false. `dimensions` cuts them before that: vectors of models that were
  trained for it (Matryoshka) stay good, and the file does not say which those are.
- `encoding_format`: `float`, or `base64` of little-endian float32, which OpenAI's clients ask for by default.
- Prefixes like `query: ` are the client's to write; `input_type`, `task` and `prompt_name` are refused.
- All requests are computed in turns, many inputs in one batch. A client that hangs up stops its request between two.
- `relevance_score` lies between 0 and 1: the logistic function of the model's number, which `raw_scores` shows as it
  is. Documents are texts or objects with a `text`; the best `top_n` are sent. BERT cross-encoders that were trained
  with a type for each segment rank a little differently, because llama.cpp has one type.
- As jobs: `{"input": ...}` and `{"query": ..., "documents": [...]}` are short for these routes.
"""


def api_reference() -> str:
    """The whole document."""
    return "\n".join([HEAD, *(_route(route, title) for route, title in TITLES.items())])


def _route(route: Route, title: str) -> str:
    obeyed = ", ".join(f"`{name}`" for name in sorted(OBEYED[route]))
    passes = (f"| `{name}` | {why} |" for name, why in sorted(harmless(route).items()))
    fails = (
        f"| `{name}` | {refusal.why} | {', '.join(f'`{_json(value)}`' for value in refusal.neutral)} |"
        for name, refusal in sorted(refused(route).items())
    )
    return "\n".join(
        [
            f"## {title}\n",
            f"Supported: {obeyed}.\n",
            "Ignored, because the answer is as right without them:\n",
            *("| field | why |", "|---|---|", *passes, ""),
            "Refused with a 400 that names the field:\n",
            *("| field | why | but passes with |", "|---|---|---|", *fails, ""),
        ]
    )


def _json(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", '"') or '""'


if __name__ == "__main__":
    (ROOT / "docs" / "api.md").write_text(api_reference())
