"""From documents to batches: sources, tokenizer, token shards, corpora, mixtures. numpy only, no torch."""
