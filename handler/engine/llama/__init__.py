"""All that knows llama.cpp: model, context, batches, sampling. No other package imports llama_cpp."""

from handler.deferred_package import defer

defer("llama_cpp")  # of which only the bindings are used: its own engine takes longer to import
