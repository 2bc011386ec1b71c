"""The fixture `cleaner_server`: a strict server for each test, which fails where its client made a mistake."""

from typing import Any, Iterator

import pytest

from . import Server


def pytest_configure(config: Any) -> None:
    config.addinivalue_line("markers", "cleaner_server(*options): more options for the server of cleaner_server")


@pytest.fixture
def cleaner_server(request: Any, monkeypatch: Any) -> Iterator[Server]:
    """A strict server; clients find it, and whom to trust, in the environment."""
    __tracebackhide__ = True  # why it does not start is enough
    marks = list(request.node.iter_markers("cleaner_server"))[::-1]
    wrong = {name: value for mark in marks for name, value in mark.kwargs.items()}  # a TypeError that names it
    with Server("--strict", *[option for mark in marks for option in mark.args], **wrong) as server:
        request.node.cleaner_server = server
        monkeypatch.setenv("CLEANER_URL", server.url)
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,::1", prepend=",")
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"] if server.certificate else []:
            monkeypatch.setenv(name, server.certificate)
        yield server


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    """Here a test can still fail; the end of the fixture would add an error to one that has passed."""
    server = getattr(item, "cleaner_server", None)
    mistakes = "\n".join(server.mistakes()) if server and (call.when == "call" or call.excinfo) else ""
    if mistakes and not call.excinfo:
        call.excinfo = call.from_call(lambda: pytest.fail(mistakes, pytrace=False), "call").excinfo
    report = (yield).get_result()
    if server and report.failed:
        journal = "\n".join(map(str, server.journal()))
        report.sections += [("journal of the server", journal), ("mistakes of the client", mistakes or "none")]
