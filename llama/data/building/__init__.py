"""Building a corpus: text in, token shards out, in parts that go on where a killed build was."""
