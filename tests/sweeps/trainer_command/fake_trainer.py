"""A trainer without a model, for tests: it writes what the file `script.json` in its working folder says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

script = json.loads(Path("script.json").read_text())
config = json.loads(Path(os.environ["ISOLOSS_CONFIG"]).read_text())
folder = Path(os.environ["ISOLOSS_FOLDER"])
batch_tokens = config["recipe"]["batch_sequences"] * config["model"]["context_length"]
steps = config["tokens"] // batch_tokens
(folder / "pid").write_text(str(os.getpid()))
leaving = []
signal.signal(signal.SIGTERM, lambda *_: leaving.append(1))

if script.get("grandchild"):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "grandchild").write_text(str(sleeper.pid))
checkpoint = folder / "checkpoint"
done_steps = int(checkpoint.read_text()) if checkpoint.exists() else 0
with open(folder / "metrics.jsonl", "r+" if done_steps else "w") as journal:
    journal.seek(0, 2)
    for step in range(done_steps + 1, steps + 1):
        metrics = {"train/loss": 6.0 - step / steps}
        point = {"step": step, "tokens": step * batch_tokens, "unix_ms": int(time.time() * 1000), "metrics": metrics}
        journal.write(json.dumps(point) + "\n")
        journal.flush()
        checkpoint.write_text(str(step))
        if step == script.get("stop_at_step") and done_steps == 0:
            (folder / "waiting").touch()
            while not leaving:
                time.sleep(0.02)
            sys.exit("asked to leave")
if "say" in script:
    print(script["say"], file=sys.stderr)
if "journal" in script:
    (folder / "metrics.jsonl").write_text(script["journal"])
    checkpoint.unlink()
done = {"outcome": "finished", "step": steps, "tokens": config["tokens"], "training_seconds": 1.5}
done |= {"metrics": {"val/loss": 4.25}} | script.get("done", {})
if script.get("write_done", True):
    (folder / "DONE").write_text(script.get("done_text", json.dumps(done)))
sys.exit(script.get("code", 0))
