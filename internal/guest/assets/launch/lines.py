# Agent Sandbox: what a Python prints arrives line by line, as on a terminal, where
# its output is that of the run itself. Otherwise it would be lost with a process
# that is killed or crashes, and come after what its children print. The pipes that
# the agent reads are root's; others, and files, stay as they are.
def _lines():
    import os
    import sys

    try:
        status = os.fstat(1)
        if status.st_mode & 0o170000 == 0o010000 and status.st_uid != os.geteuid() and sys.stdout.fileno() == 1:
            sys.stdout.reconfigure(line_buffering=True)
    except (AttributeError, OSError, ValueError):
        pass


_lines()
del _lines
