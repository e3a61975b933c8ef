"""A headless Chromium over its DevTools protocol: open a page, wait for a condition, take a picture.

As a command: python -m tests.sweeps.tracking.browser URL OUT.png [WIDTHxHEIGHT] [JAVASCRIPT]
The JavaScript is run until it returns true, for at most a minute; then the picture is taken.
"""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

WAIT_SECONDS = 240.0

#: MLflow opens an assistant's panel and, on a shared view, a banner: both are closed before the picture.
CLOSE_PANELS = """
for (const name of ['mlflow.assistant.chat_panel.close', 'mlflow.experiment_page.shared_view.dismiss'])
    for (const button of document.querySelectorAll(`button[data-component-id="${name}"]`)) button.click();
"""
#: The chart view is there once a line has been drawn.
CHARTS_DRAWN = "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 0"


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def screenshot(url: str, out: Path, *, width: int = 1900, height: int = 1300, until: str = CHARTS_DRAWN) -> str:
    """Picture of `url` once `until` (JavaScript) holds; returns the page's visible text."""
    return asyncio.run(_screenshot(url, out, width, height, until))


async def _screenshot(url: str, out: Path, width: int, height: int, until: str) -> str:
    chromium = find_chromium()
    assert chromium is not None, "no Chromium on this machine"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        process = subprocess.Popen(
            [chromium, *options, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = await _read_port(Path(profile) / "DevToolsActivePort")
            return await _drive(port, url, out, until)
        finally:
            process.terminate()
            process.wait()


async def _read_port(path: Path) -> int:
    for _ in range(300):
        if path.exists() and path.read_text().count("\n"):
            return int(path.read_text().split()[0])
        await asyncio.sleep(0.1)
    raise TimeoutError("Chromium did not open its DevTools port")


async def _drive(port: int, url: str, out: Path, until: str) -> str:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
            page = next(target for target in await response.json() if target["type"] == "page")
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            number = 0

            async def call(method: str, **parameters: Any) -> dict[str, Any]:
                nonlocal number
                number += 1
                await socket.send_json({"id": number, "method": method, "params": parameters})
                while True:
                    message = await socket.receive_json()
                    if message.get("id") == number:
                        return dict(message["result"])

            async def evaluate(script: str) -> Any:
                result = await call("Runtime.evaluate", expression=script, returnByValue=True)
                return result["result"].get("value")

            await call("Page.enable")
            await call("Page.navigate", url=url)
            deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
            while not await evaluate(until):
                assert asyncio.get_running_loop().time() < deadline, f"{url} did not come to: {until}"
                await asyncio.sleep(0.5)
            await evaluate(CLOSE_PANELS)
            await asyncio.sleep(3)  # for what is drawn one chart after another, and the page's new width
            picture = await call("Page.captureScreenshot", format="png")
            out.write_bytes(base64.b64decode(picture["data"]))
            return str(await evaluate("document.body.innerText"))


if __name__ == "__main__":
    wide, high = map(int, (sys.argv[3] if len(sys.argv) > 3 else "1900x1300").split("x"))
    screenshot(
        sys.argv[1],
        Path(sys.argv[2]),
        width=wide,
        height=high,
        until=sys.argv[4] if len(sys.argv) > 4 else CHARTS_DRAWN,
    )
