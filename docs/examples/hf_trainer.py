"""A trainer for isoloss's `trainer: command`: a Hugging Face LlamaForCausalLM. docs/trainer-command.md has the contract."""

import json
import os
import signal
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama.config import RunConfig
from llama.data.run_data import open_run_data
from llama.hugging_face import to_config
from llama.schedule import learning_rate

config = RunConfig.model_validate_json(Path(os.environ["ISOLOSS_CONFIG"]).read_text())
data = open_run_data(config, os.environ["ISOLOSS_CORPUS"])
folder, recipe = Path(os.environ["ISOLOSS_FOLDER"]), config.recipe
device = "cuda" if torch.cuda.is_available() else "cpu"
leaving: list[int] = []
signal.signal(signal.SIGTERM, lambda number, _: leaving.append(number))

torch.manual_seed(config.seed)
shape = to_config(config.model, dtype="float32", bos_id=1, eos_id=2)
model = LlamaForCausalLM(LlamaConfig(**shape)).to(device)
betas, eps, decay = (recipe.beta1, recipe.beta2), recipe.eps, recipe.weight_decay
optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.peak_lr, betas=betas, eps=eps, weight_decay=decay)
state = {"step": 0, "seconds": 0.0, "losses": [], "journal": []}  # of one step, since all are saved together


def write(name, text):  # whole or not at all
    (folder / f".{name}").write_text(text)
    (folder / f".{name}").replace(folder / name)


def loss_of(tokens_BS, reduction="mean"):
    tokens_BS = torch.as_tensor(tokens_BS, device=device)
    logits_BTV = model(tokens_BS[:, :-1]).logits.float()
    return torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BS[:, 1:].flatten(), reduction=reduction)


def save():
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}, folder / ".last.pt")
    (folder / ".last.pt").replace(folder / "last.pt")


def note(**metrics):
    metrics["train_loss"] = sum(state["losses"]) / len(state["losses"])  # since the last point
    state["losses"] = []
    point = {"step": state["step"], "tokens": state["step"] * config.batch_tokens, "unix_ms": int(time.time() * 1000)}
    state["journal"].append(point | {"metrics": {name.replace("_", "/"): value for name, value in metrics.items()}})
    write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in state["journal"]))


if (folder / "last.pt").exists():
    saved = torch.load(folder / "last.pt", map_location=device, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    state = saved["state"]
saved_at = time.monotonic()
while state["step"] < config.steps:
    started = time.monotonic()
    optimizer.param_groups[0]["lr"] = learning_rate(config, state["step"])
    loss = loss_of(data.batch(state["step"]))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    state["losses"].append(loss.item())
    optimizer.zero_grad()
    state["step"] += 1
    state["seconds"] += time.monotonic() - started
    if state["step"] % config.log_every_steps == 0 and state["step"] < config.steps:
        note()
    if leaving or time.monotonic() - saved_at > 30:
        save()
        saved_at = time.monotonic()
    if leaving:
        raise SystemExit(f"asked to leave; saved at step {state['step']}")
with torch.no_grad():
    sums = [(w, [loss_of(batch, "sum").item() for batch in part], part.tokens) for w, part in data.held_out()]
val_loss = sum(weight * sum(nats) / tokens for weight, nats, tokens in sums)
note(val_loss=val_loss)
done = {"outcome": "finished", "step": config.steps, "tokens": config.tokens, "training_seconds": state["seconds"]}
write("DONE", json.dumps(done | {"metrics": {"val/loss": val_loss} | data.drawn()}))
