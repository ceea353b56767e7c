"""A real Jupyter server on the loopback interface, apart from the user's own Jupyter."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jupyter_client.blocking.client import BlockingKernelClient

Flavour = Literal["lab", "notebook"]

MODULES: dict[Flavour, str] = {"lab": "jupyterlab", "notebook": "notebook"}
EXPOSE_APP: dict[Flavour, str] = {"lab": "LabApp", "notebook": "JupyterNotebookApp"}
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20

SETTINGS: dict[str, dict[str, Any]] = {
    # No news and no update check: both go out to the network.
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    # Every cell in the page, so that a test may look at any of them.
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}
KERNELS = "@jupyterlab/apputils-extension/kernels-settings"


class JupyterServer:
    """One server process with every folder of its own under `home`.

    Parameters
    ----------
    home
        An empty folder for notebooks, settings, runtime files and the log.
    flavour
        Which application serves the pages.
    python
        Interpreter of the kernels; this one by default. Another one has the package installed,
        and brings the page's half of its widget libraries.
    variables
        Environment variables of the server, and so of its kernels.
    """

    def __init__(
        self,
        home: Path,
        flavour: Flavour = "lab",
        python: str = sys.executable,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.flavour = flavour
        self._variables = dict(variables or {})
        self._python = python
        self._settings = home / "settings"
        self.kernel_name = _write_kernel(home / "data", python)
        self.notebooks = home / "notebooks"
        self.numbers = itertools.count(1)  # of notebooks, whoever opens them
        self.runtime = home / "runtime"
        self.log = home / "server.log"
        self.token = secrets.token_hex(16)
        self.notebooks.mkdir(parents=True)
        for name, values in SETTINGS.items():
            self._set(name, values)
        self.process = self._start(home)
        try:
            self.base_url = self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def _start(self, home: Path) -> subprocess.Popen[bytes]:
        folders = {
            "JUPYTER_CONFIG_DIR": home / "config",
            "JUPYTER_DATA_DIR": home / "data",
            "JUPYTER_RUNTIME_DIR": self.runtime,
            "JUPYTERLAB_SETTINGS_DIR": home / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
            "IPYTHONDIR": home / "ipython",
        }
        environment = os.environ | {name: str(folder) for name, folder in folders.items()}
        environment |= {"JUPYTER_PLATFORM_DIRS": "1"} | self._variables
        for leaking in ("JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "JUPYTER_TOKEN"):
            environment.pop(leaking, None)
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", MODULES[self.flavour]),
                    "--no-browser",
                    "--allow-root",
                    "--ServerApp.ip=127.0.0.1",
                    "--ServerApp.port=0",
                    "--ServerApp.port_retries=0",
                    f"--IdentityProvider.token={self.token}",
                    f"--ServerApp.root_dir={self.notebooks}",
                    f"--{EXPOSE_APP[self.flavour]}.expose_app_in_browser=True",
                    *self._extensions_of_the_kernels(),
                ],
                cwd=self.notebooks,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _extensions_of_the_kernels(self) -> list[str]:
        """Options that serve the widget libraries which the kernels' environment installed.

        A page lists what its own application knows, and JupyterLab's serves the files of both:
        told to one alone, Notebook 7 asks for files that are not found.
        """
        if self._python == sys.executable:
            return []
        folder = Path(self._python).parent.parent / "share" / "jupyter" / "labextensions"
        return [f"--{app}.extra_labextensions_path={folder}" for app in EXPOSE_APP.values()]

    def _set(self, name: str, values: Mapping[str, Any]) -> None:
        file = self._settings / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")

    def use_subshells(self, wanted: bool) -> None:
        """Whether JupyterLab's pages opened from now on may reach a kernel while a cell runs."""
        self._set(KERNELS, {"commsOverSubshells": "perCommTarget" if wanted else "disabled"})

    def _wait_until_it_answers(self) -> str:
        info = self.runtime / f"jpserver-{self.process.pid}.json"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if info.is_file():
                try:
                    port = json.loads(info.read_text(encoding="utf-8"))["port"]
                    self.base_url = f"http://127.0.0.1:{port}"
                    self.request("GET", "/api/status")
                    return self.base_url
                except (OSError, ValueError):  # half written, or not listening yet
                    pass
            if self._ends_within(0.1):
                break
        raise RuntimeError(f"Jupyter did not start:\n{self.log.read_text(encoding='utf-8')}")

    def _ends_within(self, timeout_s: float) -> bool:
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def url(self, notebook: str) -> str:
        """Address of a notebook's page, without anything around it."""
        path = "/doc/tree/" if self.flavour == "lab" else "/notebooks/"
        return f"{self.base_url}{path}{notebook}?token={self.token}"

    def request(self, method: str, path: str) -> Any:
        """Call the server's REST interface; the decoded answer."""
        request = urllib.request.Request(
            f"{self.base_url}{path}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def session(self, notebook: str) -> dict[str, Any] | None:
        """Session of a notebook, with its kernel, once there is one."""
        sessions = self.request("GET", "/api/sessions")
        return next((session for session in sessions if session["path"] == notebook), None)

    def kernel_client(self, notebook: str, timeout_s: float) -> BlockingKernelClient:
        """Client of a notebook's kernel, beside the page's own; the caller stops its channels."""
        session = self.session(notebook)
        if session is None:
            raise LookupError(f"{notebook} has no kernel.")
        client = BlockingKernelClient()
        client.load_connection_file(str(self.runtime / f"kernel-{session['kernel']['id']}.json"))
        client.start_channels()
        client.wait_for_ready(timeout=timeout_s)
        return client

    def stop(self) -> None:
        """Ask for an orderly end, and only then end the one process that was started here."""
        if self.process.poll() is not None:
            return
        try:
            self.request("POST", "/api/shutdown")
        except (AttributeError, OSError):  # it never came to an address, or no longer answers
            self.process.terminate()
        if self._ends_within(STOP_TIMEOUT_S):
            return
        self.process.terminate()
        if not self._ends_within(STOP_TIMEOUT_S):
            self.process.kill()
            self.process.wait()


def _write_kernel(data: Path, python: str) -> str:
    """Register a kernel under a name that nothing else on the machine can have taken."""
    name = "harness-python"
    command = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    folder = data / "kernels" / name
    folder.mkdir(parents=True)
    spec = {"argv": command, "display_name": "Python 3", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return name
