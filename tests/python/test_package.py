"""The Python package as it is installed, in whole runs of pytest; .ci/wheel starts this."""

import os

import pytest

import cleaner_test_server

pytest_plugins = "pytester"

CLIENT = """
import os, pathlib, time
import pytest, requests

API = "/xyz/api/cleaner/tasks"

def tasks():
    return requests.get(os.environ["CLEANER_URL"] + API).json()["tasks"]

def report(**parts):
    return requests.post(os.environ["CLEANER_URL"] + API + "/report", files=parts)

def careless_report():
    return report(note=(None, "no file"))
"""


@pytest.fixture
def run(pytester):
    def run(test, *arguments):
        pytester.makepyfile(CLIENT + test)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    return run


def test_a_client_without_mistakes_passes(run):
    result = run("""
def test_client(cleaner_server):
    assert tasks()
    assert report(file=("report.zip", b"a report")).json()["status"] == "PASSED"
    assert os.listdir(cleaner_server.reports) == ["report.zip"]
""")
    result.assert_outcomes(passed=1)


def test_a_mistake_fails_the_test_and_is_told_at_the_end(run):
    result = run("""
def test_client(cleaner_server):
    tasks()
    careless_report()
    requests.get(cleaner_server.url + "/elsewhere")
""")
    result.assert_outcomes(failed=1)
    end = result.outlines[-6:]
    assert any(line.startswith("report: the report has no file part (expected: ") for line in end), end
    assert any('there is nothing at "/elsewhere" (expected: GET /xyz/' in line for line in end), end
    result.stdout.fnmatch_lines(["*journal of the server*", "{*'event': 'request'*/report*", "{*'event': 'stop'*"])


def test_a_test_that_fails_by_itself_tells_the_mistake_too(run):
    result = run("""
def test_client(cleaner_server):
    careless_report().raise_for_status()
""")
    result.assert_outcomes(failed=1)
    end = result.outlines[-5:]
    assert any(line.startswith("report: the report has no file part (expected: ") for line in end), end
    result.stdout.fnmatch_lines(["E * 422 Client Error*", "{*'event': 'request'*/report*"])


def test_an_expected_mistake_passes_and_only_that(run):
    result = run("""
def test_expected(cleaner_server):
    cleaner_server.expect("no file part")
    careless_report()

def test_another(cleaner_server):
    cleaner_server.expect("no file part")
    careless_report()
    requests.get(cleaner_server.url + "/elsewhere")
""")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["other path, GET /elsewhere: there is nothing at *"])
    assert not any(line.startswith("report: ") for line in result.outlines)


def test_a_mistake_expected_in_vain_fails(run):
    result = run("""
def test_client(cleaner_server):
    cleaner_server.expect("no file part")
    tasks()
""")
    result.assert_outcomes(failed=1)
    assert "expected, but it did not happen: no file part" in result.outlines[-5:]


def test_a_condition_that_does_not_hold_is_no_mistake(run):
    result = run("""
def test_client(cleaner_server):
    download = cleaner_server.url + API + "/download?id=1"
    assert requests.get(download, headers={"Range": "bytes=99999999-"}).status_code == 416
    assert requests.get(download, headers={"If-Match": '"another"'}).status_code == 412
""")
    result.assert_outcomes(passed=1)


def test_a_marker_gives_options_to_the_server(run):
    result = run(
        """
@pytest.mark.cleaner_server("--http")
class TestClient:
    @pytest.mark.cleaner_server("--max-upload", "10")
    def test_both(self, cleaner_server):
        assert cleaner_server.url.startswith("http:") and cleaner_server.certificate is None
        cleaner_server.expect("the limit is 10 bytes")
        assert report(file=("report.zip", b"eleven bytes")).status_code == 413

@pytest.mark.cleaner_server("--timeot", "5")
def test_mistyped(cleaner_server):
    pass
""",
        "--strict-markers",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E * there is no option --timeot; did you mean --timeout*"])


def test_a_fault_is_no_mistake_of_the_client(run):
    result = run("""
@pytest.mark.cleaner_server("--fault", "cut")
def test_client(cleaner_server):
    with pytest.raises(requests.RequestException):
        tasks()
    assert tasks()
    cleaner_server.stop()
    requests_told = [event for event in cleaner_server.journal() if event["event"] == "request"]
    assert [event.get("fault") for event in requests_told] == ["cut", None]
""")
    result.assert_outcomes(passed=1)


def test_a_server_that_is_killed_fails_its_test(run):
    result = run("""
def test_client(cleaner_server):
    tasks()
    cleaner_server.process.kill()
""")
    result.assert_outcomes(failed=1)
    assert "the server was killed before the test ended" in result.outlines[-5:]


def test_an_option_that_is_not_one_is_an_error(run):
    result = run("""
@pytest.mark.cleaner_server(fault="cut")
def test_client(cleaner_server):
    pass
""")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E * unexpected keyword argument 'fault'*"])


def test_a_failure_of_the_server_is_no_mistake_of_the_client(run, pytester):
    data = pytester.mkdir("data")
    for name in ["tasks.json", "report.json"]:
        (data / name).write_text("{}")
    (data / "tool.zip").write_bytes(b"PK")
    result = run("""
@pytest.mark.cleaner_server("--data", "data")
def test_client(cleaner_server):
    pathlib.Path("data", "tasks.json").write_text("{")
    assert requests.get(cleaner_server.url + API).status_code == 500
""")
    result.assert_outcomes(passed=1)


def test_two_tests_at_a_time_have_a_server_each(run):
    result = run(
        """
@pytest.mark.parametrize("own, other", [("one", "two"), ("two", "one")])
def test_client(cleaner_server, own, other):
    pathlib.Path(own).mkdir()
    limit = time.monotonic() + 30
    while not pathlib.Path(other).exists():
        assert time.monotonic() < limit, "the other test does not run beside this one"
        time.sleep(0.01)
    assert tasks()
    cleaner_server.stop()
    assert len([event for event in cleaner_server.journal() if event["event"] == "request"]) == 1
""",
        "-n",
        "2",
    )
    result.assert_outcomes(passed=2)


def test_without_pytest_a_server_stops_with_its_block_and_can_be_read_after_it():
    with cleaner_test_server.start("--timeout", "5") as server:
        assert server.url.startswith("https:") and os.path.isfile(server.certificate)
    assert server.process.returncode == 0
    assert [event["event"] for event in server.journal()] == ["start", "verdict", "stop"]
    assert os.path.isdir(server.reports)


def test_a_server_that_does_not_start_says_why():
    with pytest.raises(RuntimeError, match="^there is no option --timeot; did you mean --timeout"):
        cleaner_test_server.start("--timeot", "5")
