"""One model, one run: LLaMA's architecture, data, trainer, checkpoints, decoding and inference cost.

The core, some 2,000 lines, reads in half an hour in this order:

1. What a run is: `config` (all that decides its numbers), `model` (the decoder, plain), `parametrization` (each weight's
   initial deviation, rate, decay and epsilon).
2. One step: `loss` (cross-entropy without whole logits), `optimizer` (AdamW's groups), `schedule` (learning rate by step),
   `training_step` (micro-batches, clipping, the update).
3. What is put on the plain model from outside: `precision` (bfloat16 products), `activation_checkpointing` (recompute instead
   of keep), `compilation` (torch.compile, and when it pays).
4. Its tokens: `data.corpus` (shards by domain, opened and verified), `data.mixture` (batches as a function of seed and step).
5. The run: `spikes` (updates that are skipped), `log_window` (means since the last log point), `training_state` (all that a
   checkpoint holds), `evaluation` (held-out loss), `prefetch` (batches ahead of their step), `preemption` (asked to leave),
   `attempt` (what one attempt is given), `trainer` (all of it, from a step to a step).

Then, as needed:

* The run's folder: `records` (the contract: files and rows), `metric_names`, `journal` and `logbook` (what is written while it
  trains), `checkpoint` over `tensor_file`, `lease` (one writer at a time), `atomic_files`, `full_disk`; `sweep_index` (which
  runs a sweep has).
* How text becomes a corpus: `data.sources`, `data.files`, `data.tokenizer`, `data.shards`, `data.building`.
* The optimiser's numbers: `recipes`, a file for each named rule.
* What a shape costs: `released_sizes` (LLaMA's own four), `accounting` (parameters and FLOPs), `memory` (a step's bytes),
  `speed` (tokens a second), `device` and `processor` (on what).
* After training: `hugging_face` and `hugging_face_tokenizer` (export and import), `decoding` (prefill and decode with a cache),
  `inference_cost` (serving cost, measured).
"""
