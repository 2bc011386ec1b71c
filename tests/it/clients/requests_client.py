#!/usr/bin/env python3
"""The three steps of a client with `requests`: list the tasks, download the tool, upload each report.

    requests_client.py TOOL REPORT...

TOOL is where the tool is saved. The environment says where the server is (CLEANER_URL), and whom `requests` trusts.
"""

import os
import sys

import requests


def main(tool, *reports):
    api = os.environ["CLEANER_URL"] + "/xyz/api/cleaner/tasks"
    options = {"timeout": 20}

    with requests.Session() as session:
        tasks = checked(session.get(api, **options)).json()["tasks"]
        task = tasks[0]

        with session.get(f"{api}/download", params={"id": task["id"]}, stream=True, **options) as answer:
            checked(answer)
            with open(tool, "wb") as file:
                for chunk in answer.iter_content(64 * 1024):
                    file.write(chunk)

        for report in reports:
            with open(report, "rb") as file:
                answer = session.post(f"{api}/report", params={"id": task["id"]}, files={"file": file}, **options)
            result = checked(answer).json()
            if result != {**task, "status": "PASSED"}:
                sys.exit(f"requests_client.py: {report} has not passed: {result}")

    print("ok")


def checked(answer):
    """Unlike `raise_for_status`, shows the body of an error: it says what was wrong."""
    if not answer.ok:
        sys.exit(f"requests_client.py: {answer.url} answers {answer.status_code}: {answer.text}")
    return answer


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"requests_client.py: {error}")
