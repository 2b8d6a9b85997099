"""Lets a Python interpreter wait, fully started, for the script it is to run.

The guest agent starts an interpreter as "python3 -P SCRIPT" before there is a
script, with this directory in PYTHONPATH. The import of site finds this module,
which waits on descriptor 3 until the agent has written the script, and then
takes away every trace of itself. The interpreter goes on and runs the script as
it runs any other: argv, __main__, tracebacks, the exit status, threads and
multiprocessing are the interpreter's own work.

It must import nothing that the interpreter has not loaded by itself. Above all
not random: an interpreter may wait in a snapshot, and every sandbox of that
snapshot would draw the same numbers. What something else has loaded by then is
seeded anew. The hash secret stays the one of the snapshot.

Descriptor 3, in order: we send "r" when ready; the agent sends a length of four
bytes and so many bytes; we send "g" when we have them, and close it. The bytes
are separated by NUL: the directory that sys.path begins with, then NAME=value
to set and NAME to unset.
"""


def _wait():
    import os
    import sys

    control = 3
    here = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    sys.path_importer_cache.pop(here, None)
    del sys.modules["sitecustomize"]

    # Looking for the module that this one stands in front of also fills the
    # import system's view of every directory of sys.path, before the run.
    finder = sys.modules["_frozen_importlib_external"].PathFinder
    chained = finder.find_spec("sitecustomize")

    def receive(count):
        data = b""
        while len(data) < count:
            part = os.read(control, count - len(data))
            if not part:
                os._exit(255)  # the agent does not need this interpreter
            data += part
        return data

    os.write(control, b"r")
    message = receive(int.from_bytes(receive(4), "big")).split(b"\0")
    os.write(control, b"g")
    os.close(control)

    for setting in message[1:]:
        name, is_set, value = setting.partition(b"=")
        if is_set:
            os.environb[name] = value
        else:
            os.environb.pop(name, None)
    for name in ("random", "numpy.random"):
        module = sys.modules.get(name)
        if module is not None:
            module.seed()
    sys.path.insert(0, os.fsdecode(message[0]))
    return chained


if _wait() is not None:
    import sitecustomize
else:
    raise ImportError("there is no sitecustomize", name="sitecustomize")
