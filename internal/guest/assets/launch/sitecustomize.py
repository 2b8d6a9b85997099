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

An interpreter that is to wait with modules in it leaves them to preload.py, in
the same directory. If what it has does not fit the run, it ends instead of taking
the run over, and the agent starts another one.

Descriptor 3, in order: the agent sends the names of the modules to load ahead,
separated by NUL; we send "r" when ready; the agent sends the run; we send "g"
when we have it, and close the descriptor. An empty message instead of the run is
a rehearsal: it has the memory of a restored interpreter mapped. The run is,
separated by NUL, the directory that sys.path begins with, then NAME=value to set
and NAME to unset. Each message of the agent has its length in front, in four bytes.

The message "fork" instead of the run makes this interpreter one that never runs
anything: for each byte that comes from then on, with three descriptors, it forks
an interpreter that waits in its turn, with the first two as output and error and
the third as its descriptor 3. That is how modules are loaded once for many runs.
"""


def _wait():
    import os
    import site
    import sys

    control = 3
    here = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    sys.path_importer_cache.pop(here, None)
    del sys.modules["sitecustomize"]

    # The module that this one stands in front of, as site would import it. The
    # search also fills the import system's view of the directories of sys.path.
    failure = None
    try:
        import sitecustomize
    except Exception as error:
        failure = error
    # A sub-interpreter that the run makes begins as the first one did, after the
    # variable that led here is gone.
    if os.environ.get("PYTHONPATH", "").partition(":")[0] != here:
        if failure is not None:
            raise failure
        return
    finder = sys.modules["_frozen_importlib_external"].PathFinder
    customized = site.ENABLE_USER_SITE and finder.find_spec("usercustomize")

    def receive(count):
        data = b""
        while len(data) < count:
            part = os.read(control, count - len(data))
            if not part:
                os._exit(255)  # the agent does not need this interpreter
            data += part
        return data

    def message():
        return receive(int.from_bytes(receive(4), "big")).split(b"\0")

    def fork(store):
        # Returns in each child, and never in the parent.
        hidden = store and store.hidden.get("_socket")
        if hidden:
            _socket = hidden.module
        else:
            import _socket

            del sys.modules["_socket"]
        asked = _socket.socket(fileno=control)
        while True:
            byte, ancillary, _, _ = asked.recvmsg(1, _socket.CMSG_SPACE(3 * 4))
            if not byte:
                os._exit(255)
            rights = ancillary[0][2]
            received = [int.from_bytes(rights[i : i + 4], sys.byteorder) for i in (0, 4, 8)]
            middle = os.fork()
            if middle == 0:
                # The child's parent ends at once, so that the agent, as process 1,
                # becomes the one that waits for the child.
                if os.fork():
                    os._exit(0)
                break
            for descriptor in received:
                os.close(descriptor)
            os.waitpid(middle, 0)
        os.setsid()
        asked.detach()
        for descriptor, standard in zip(received, (1, 2, control)):
            os.dup2(descriptor, standard)
            os.close(descriptor)

    def freeze(gc, modules):
        # What an interpreter has when it begins is never garbage. Frozen, it need not
        # be looked through at the end, which is most of the end of a short run. Two
        # things keep the end what it is. The names of __main__ must not be frozen,
        # or what the script leaves there is not finalized: an empty dictionary is
        # not tracked, and one that is filled again is as good as new. And a cycle
        # that is never collected keeps the modules, so that the interpreter clears
        # them one by one as its last act, with what the script put into them.
        names = sys.modules["__main__"].__dict__
        saved = dict(names)
        names.clear()
        gc.collect()
        if not gc.is_tracked(names):
            kept = [modules]
            kept.append(kept)
            gc.freeze()
        names.update(saved)

    def freeze_bare():
        known = "gc" in sys.modules
        import gc

        gc.unfreeze()
        freeze(gc, {name: module for name, module in sys.modules.items() if name != "__main__"})
        if not known:
            del sys.modules["gc"]

    def take_over():
        ahead = [name.decode() for name in message() if name]
        store = None
        if ahead:
            namespace = {"__name__": "preload"}
            with open(os.path.join(here, "preload.py"), "rb") as file:
                exec(compile(file.read(), "<frozen importlib._bootstrap>", "exec"), namespace)
            store = namespace["preload"](ahead, freeze)
        else:
            freeze_bare()
        # The output is a run's own, and is to arrive as lines.py says. What lies in
        # front of the module that sees to it for others may hide that.
        sys.stdout.reconfigure(line_buffering=True)
        os.write(control, b"r")
        workspace, *settings = message()
        if workspace == b"fork":
            fork(store)
            os.write(control, b"r")
            workspace, *settings = message()
        while not workspace:  # a rehearsal
            with open(__file__, "rb") as file:
                compile(file.read(), "rehearsal", "exec")
            if not ahead:  # all the memory of libraries would be too much
                freeze_bare()
            workspace, *settings = message()
        if store is not None and not store.ready(os.fsdecode(workspace), settings):
            os._exit(255)  # nothing of the run has happened yet
        os.write(control, b"g")
        os.close(control)
        return workspace, settings

    # Until the run is taken over nothing of it may happen, and nothing be printed:
    # an interpreter that is interrupted meanwhile must not go on to the script.
    try:
        workspace, settings = take_over()
    except BaseException:
        os._exit(255)

    for setting in settings:
        name, is_set, value = setting.partition(b"=")
        if is_set:
            os.environb[name] = value
        else:
            os.environb.pop(name, None)
    for name in ("random", "numpy.random"):
        module = sys.modules.get(name)
        if module is not None:
            module.seed()

    # The interpreter puts the directory of its script in front of sys.path after
    # all of site's work: so does this, with the one that the agent names.
    execusercustomize = site.execusercustomize

    def finish():
        site.execusercustomize = execusercustomize
        if customized:
            execusercustomize()
        sys.path.insert(0, os.fsdecode(workspace))

    if site.ENABLE_USER_SITE:
        site.execusercustomize = finish
    else:
        finish()
    if failure is not None:
        raise failure


_wait()
