"""One model, one run: LLaMA's architecture, data, trainer, checkpoints, decoding and inference cost."""
