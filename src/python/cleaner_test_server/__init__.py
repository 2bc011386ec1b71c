"""Starts the program that comes with this package: `with start("--strict") as server:`. pytest_plugin has a fixture."""

import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any, ContextManager, Dict, List, Optional


def program() -> str:
    """Where it is: beside this Python, in the user's own folder, or else on the PATH."""
    folders = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", os.name + "_user"), os.getenv("PATH", "")]
    return shutil.which("cleaner-test-server", path=os.pathsep.join(folders)) or "cleaner-test-server"


class Server(ContextManager["Server"]):
    """A running server, on a free port unless the options name one. Its record goes with this object, not before."""

    def __init__(self, *options: str) -> None:
        folder = Path(tempfile.mkdtemp(prefix="cleaner-test-server-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        command = [program(), "--port", "0", *map(str, options), "--record", str(folder), "--exit-on-stdin-close"]
        with (folder / "console.txt").open("wb") as console:  # a pipe would have no reader
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=console, stderr=subprocess.STDOUT)
        while not (folder / "ready.json").exists():
            if self.process.poll() is not None:
                self.stop()
                raise RuntimeError((folder / "console.txt").read_text(encoding="utf-8").strip())
            time.sleep(0.01)
        ready = json.loads((folder / "ready.json").read_text(encoding="utf-8"))
        self.url: str = ready["url"]
        self.certificate: Optional[str] = ready["certificate"]
        self.reports, self._journal = str(folder / "reports"), folder / "journal.jsonl"
        self._expected: List[str] = []

    def stop(self, *_: object) -> None:
        """Ends the server. The journal is complete then."""
        try:
            self.process.communicate(timeout=5)
        except subprocess.TimeoutExpired:  # a forked process may hold its standard input open
            self.process.terminate()
            self.process.wait()

    __exit__ = stop

    def journal(self) -> List[Dict[str, Any]]:
        return [json.loads(line) for line in self._journal.read_bytes().split(b"\n")[:-1]]

    def expect(self, words: str) -> None:
        """The test passes with mistakes that are told in these words, and fails without."""
        self._expected.append(words)

    def mistakes(self) -> List[str]:
        """Stops the server. What the client did wrong and nobody expected, and what was expected in vain."""
        self.stop()
        verdict = [event for event in self.journal() if event["event"] == "verdict"]
        told: List[str] = verdict[0]["mistakes"] if verdict else ["the server was killed before the test ended"]
        others = [sentence for sentence in told if not any(words in sentence for words in self._expected)]
        missed = [words for words in self._expected if not any(words in sentence for sentence in told)]
        return others + ["expected, but it did not happen: " + words for words in missed]

start = Server
