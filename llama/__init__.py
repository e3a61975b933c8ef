"""One model, one run: LLaMA's architecture, data, trainer, checkpoints, decoding and inference cost.

The core, some 2,000 lines, reads in under an hour in this order:

1. What a run is: `config` (all that decides its numbers), `model` (the decoder, plain), `parametrization` (each weight's
   initial deviation, rate, decay and epsilon).
2. One step: `loss` (cross-entropy without whole logits, in chunks of `loss_chunks`), `optimizer` (AdamW's groups), `schedule`
   (learning rate by step), `spikes` (updates that are skipped), `training_step` (micro-batches, clipping, the update).
3. What is put on the plain model from outside: `precision` (bfloat16 products), `activation_checkpointing` (recompute instead
   of keep), `compilation` (torch.compile, and when it pays).
4. Its tokens: `data.corpus` (shards by domain, opened and verified), `data.mixture` (batches as a function of seed and step,
   by `data.quotas` and `data.permutation`), `data.held_out` (what is scored), `data.run_data` (both, for a run).
5. The run: `log_window` (means since the last log point), `training_state` (all that a checkpoint holds), `evaluation`
   (held-out loss), `prefetch` (batches ahead of their step), `preemption` (asked to leave), `attempt` (what one is given),
   `checkpoint` and `journal` (what a run leaves, and takes up again), `trainer` (all of it, from a step to a step).

Then, as needed:

* The run's folder: `records` (the contract: files and rows), `metric_names`, `logbook` (journal points and heartbeat),
  `tensor_file` (under checkpoints), `lease` (one writer at a time), `atomic_files`, `full_disk`; `sweep_index` (which runs a
  sweep has).
* Around the loop: `step_clock`, `garbage`, `system_metrics`, `errors` (those that a person can act on).
* How text becomes a corpus: `data.sources` over `data.files`, `data.hf_datasets` and `data.stdlib_corpus`, `data.tokenizer`,
  `data.near_duplicates`, `data.shards`, `data.building`; `data.repetition` (how often a run sees it), `data.table1` (LLaMA's).
* The optimiser's numbers: `recipes`, a file for each named rule.
* What a shape costs: `released_sizes` (LLaMA's own four), `accounting` (parameters and FLOPs), `memory` (a step's bytes),
  `speed` (tokens a second; `sharing`: of several runs on one device), `device`, `processor` and `accelerators` (on what).
* After training: `hugging_face` and `hugging_face_tokenizer` (export and import), `decoding` over `kv_cache`,
  `inference_cost` (serving cost, measured).
"""
