"""The program, as `python -m cleaner_test_server ARGUMENTS`."""

import os
import signal
import subprocess
import sys

from . import program

if os.name != "nt":
    os.execv(program(), [program(), *sys.argv[1:]])
signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl+C is the program's to answer
sys.exit(subprocess.call([program(), *sys.argv[1:]]))
