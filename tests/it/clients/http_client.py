#!/usr/bin/env python3
"""The three steps of a client with Python's own `http.client`: list the tasks, download the tool, upload each report.

    http_client.py TOOL REPORT...

TOOL is where the tool is saved. The environment says where the server is (CLEANER_URL), and whom Python trusts.
"""

import http.client
import json
import os
import shutil
import ssl
import sys
import urllib.parse
import uuid


def main(tool, *reports):
    server = urllib.parse.urlsplit(os.environ["CLEANER_URL"])
    api = f"{server.path}/xyz/api/cleaner/tasks"

    context = ssl.create_default_context()
    # The strict rules of RFC 5280, which Python applies by default from 3.13 on.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # One connection serves all requests: each answer is read to its end before the next request.
    connection = http.client.HTTPSConnection(server.netloc, context=context, timeout=20)

    task = json.load(request(connection, "GET", api))["tasks"][0]

    with open(tool, "wb") as file:
        shutil.copyfileobj(request(connection, "GET", f"{api}/download?id={task['id']}"), file)

    for report in reports:
        body, content_type = multipart(report)
        answer = request(connection, "POST", f"{api}/report?id={task['id']}", body, {"Content-Type": content_type})
        result = json.load(answer)
        if result != {**task, "status": "PASSED"}:
            sys.exit(f"http_client.py: {report} has not passed: {result}")

    print("ok")


def request(connection, method, target, body=None, headers={}):
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"http_client.py: {method} {target} answers {answer.status}: {answer.read().decode()}")
    return answer


def multipart(path):
    """The file as a multipart/form-data body with one part named `file`, and the content type to send it with."""
    boundary = uuid.uuid4().hex
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{os.path.basename(path)}"\r\n'
        "Content-Type: application/zip\r\n"
        "\r\n"
    )
    with open(path, "rb") as file:
        content = file.read()
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"http_client.py: {error}")
