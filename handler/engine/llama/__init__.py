"""All that knows llama.cpp: model, context, batches, sampling. No other package imports llama_cpp."""
