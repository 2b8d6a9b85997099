"""Loads modules ahead of a run and hides them until the run imports them.

The launcher executes this in an interpreter that is to wait with modules in it.
Recorder imports them and notes for each what its import brings: other modules,
attributes of packages, filters of warnings, exit handlers, finders. Then all of
it is taken away again. What is left is Store, which stands in the import system
where a module that sys.modules does not have would be searched and executed,
and gives back those that are hidden, with what their import would have brought.

A module is given back only if the search would find the same file now. If not,
it is forgotten with everything that depends on it, and imported for real.

The launcher compiles this text under the name of the import system's own code,
so that Python leaves its frames out of tracebacks like the rest of that.
"""

import os
import sys

bootstrap = sys.modules["_frozen_importlib"]
external = sys.modules["_frozen_importlib_external"]
imp = sys.modules["_imp"]
missing = object()

# Variables that compiled code reads, out of the recorder's sight.
NATIVE_PREFIXES = (
    b"ARROW_", b"BLIS_", b"FREETYPE_", b"GOTO_", b"JE_ARROW_", b"KMP_", b"MATPLOTLIB",
    b"MIMALLOC_", b"MKL_", b"MPL", b"NPY_", b"NUMEXPR_", b"NUMPY_", b"OMP_", b"OPENBLAS_", b"PANDAS_", b"VECLIB_",
)
# More entries than this in a directory of sys.path are not looked through.
MOST_ENTRIES = 5000


class Record:
    """One hidden module, and what its import does."""

    def __init__(self, name):
        self.name = name
        self.module = None
        self.deps = {}  # names that its import imports, in order
        self.late = None  # package, attribute and its value before, if the import sets one afterwards
        self.filters = []
        self.finders = []
        self.handlers = []
        self.around = set()  # what was in sys.modules when its import began
        self.order = None  # all that its import brings, in the order of sys.modules

    def show(self):
        sys.modules[self.name] = self.module
        if self.late:
            package, attribute, _ = self.late
            setattr(package, attribute, self.module)

    def hide(self):
        sys.modules.pop(self.name, None)
        if self.late:
            package, attribute, before = self.late
            if before is not missing:
                setattr(package, attribute, before)
            elif attribute in vars(package):
                delattr(package, attribute)


class Recorder:
    """Imports modules, each as if it were the first, and keeps a Record of each.

    Before a module is executed, those that are loaded already are hidden, so that
    each of its imports, from compiled code too, has to ask the import system.
    """

    def __init__(self):
        self.base = dict(sys.modules)
        self.records = {}
        self.stack = [Record("")]
        self.stack[0].around = set(sys.modules)
        self.shared = {}  # names of what compiled modules find and extend without an import
        self.reads = set()  # names of variables that were read
        self.handlers = []
        self.warnings = sys.modules["_warnings"]
        self.filters = list(self.warnings.filters)
        self.base_filters = list(self.filters)
        self.recording = True
        self.find_and_load = bootstrap._find_and_load
        self.lock_unlock = bootstrap._lock_unlock_module
        self.finders = list(sys.meta_path)
        self.importers = dict(sys.path_importer_cache)
        self.environ = dict(os.environ)

    def load(self, name, import_):
        top = self.stack[-1]
        self.claim(top)
        top.deps[name] = None
        if name in self.records:
            self.bring(name)
            return sys.modules[name]
        if name in sys.modules:
            return self.find_and_load(name, import_)
        record = Record(name)
        visible = [self.records[n] for n in sys.modules if n in self.records and n not in self.shared]
        for seen in reversed(visible):
            seen.hide()
        record.around = set(sys.modules)
        self.stack.append(record)
        try:
            self.execute(record, import_)
        except BaseException:
            # What it had imported by then stays.
            top.deps.update(record.deps)
            raise
        finally:
            self.stack.pop()
            for seen in visible:
                if seen.name not in sys.modules:
                    seen.show()
        return sys.modules[name]

    def execute(self, record, import_):
        package, _, attribute = record.name.rpartition(".")
        before = missing
        if package:
            record.deps[package] = None
            if package not in sys.modules:
                import_(package)
            before = vars(sys.modules[package]).get(attribute, missing)
        if record.name in self.records:  # by its package
            self.bring(record.name)
            return
        self.find_and_load(record.name, import_)
        if package and not any(r.name == package for r in self.stack):
            record.late = sys.modules[package], attribute, before
        self.complete(record)

    def complete(self, record):
        record.module = sys.modules[record.name]
        self.claim(record)
        self.records[record.name] = record
        record.filters = [f for f in self.warnings.filters if f not in self.filters]
        self.filters += record.filters
        record.finders = [f for f in sys.meta_path if f not in self.finders]
        self.finders += record.finders

    def claim(self, record):
        """Finds the modules that the code of one has put in sys.modules itself."""
        loading = {r.name for r in self.stack}
        for name in [n for n in sys.modules if n not in record.around and n not in loading]:
            if name in self.records:
                continue
            extra = self.records[name] = Record(name)
            extra.module = sys.modules[name]
            extra.deps[record.name] = None
            record.deps[name] = None
            if name == "cython_runtime" or name.startswith("_cython_"):
                self.shared[name] = None
                extra.deps.clear()
        if "__test__" in getattr(record.module, "__dict__", ()) and isinstance(record.module.__spec__.loader, external.ExtensionFileLoader):
            record.deps.update(self.shared)

    def locked(self, name):
        """Stands for what the import of a module that is being loaded calls."""
        self.stack[-1].deps[name] = None
        return self.lock_unlock(name)

    def bring(self, name):
        # What sys.modules has, it has with all that its import brings.
        for n in order_of(self.records, name, sys.modules):
            self.records[n].show()

    def run(self, names):
        bootstrap._find_and_load = self.load
        bootstrap._lock_unlock_module = self.locked
        getitem = os._Environ.__getitem__
        out, err = sys.stdout, sys.stderr
        said = []

        def read(environ, name):
            self.reads.add(os.fsencode(name))
            return getitem(environ, name)

        class Listener:
            encoding = "utf-8"

            def write(self, text):
                said.append(text)

            def flush(self):
                pass

        try:
            import warnings

            self.warnings = warnings
            import atexit
            import gc

            self.collector = gc
            self.register = atexit.register
            atexit.register = self.at_exit
            os._Environ.__getitem__ = read
            sys.stdout = sys.stderr = Listener()
            for name in names:
                try:
                    bootstrap._gcd_import(name)
                except ModuleNotFoundError as error:
                    if error.name != name.partition(".")[0]:
                        raise
        finally:
            os._Environ.__getitem__ = getitem
            sys.stdout, sys.stderr = out, err
            bootstrap._find_and_load = self.find_and_load
            bootstrap._lock_unlock_module = self.lock_unlock
            self.recording = False
        atexit.register = self.register
        if said:
            raise RuntimeError("a module that was loaded ahead printed: " + "".join(said)[:500])
        if dict(os.environ) != self.environ:
            raise RuntimeError("a module that was loaded ahead changed the environment")

    def at_exit(self, function, *args, **kwargs):
        if not self.recording:
            return self.register(function, *args, **kwargs)
        owner = getattr(function, "__module__", None)
        known = {r.name for r in self.stack} | set(self.records)
        name = owner if owner in known else self.stack[-1].name
        self.handlers.append((name, function, args, kwargs))
        return function

    def take_away(self):
        for name, function, args, kwargs in self.handlers:
            if name in self.records:
                self.records[name].handlers.append((function, args, kwargs))
        for record in reversed(self.records.values()):
            record.hide()
        self.warnings.filters[:] = self.base_filters
        self.warnings._filters_mutated()
        sys.meta_path[:] = [f for f in sys.meta_path if not any(f in r.finders for r in self.records.values())]
        for path in set(sys.path_importer_cache) - set(self.importers):
            del sys.path_importer_cache[path]
        if list(sys.modules) != list(self.base):
            sys.modules.clear()
            sys.modules.update(self.base)


def order_of(records, name, present=()):
    """What the import of a module brings that is not present yet, each after
    what it imports itself."""
    order, seen = [], set()

    def visit(name):
        package = name.rpartition(".")[0]
        if package in records and package not in seen and package not in present:
            visit(package)
        if name in seen:
            return
        seen.add(name)
        for dep in records[name].deps:
            if dep in records and dep not in seen and dep not in present:
                visit(dep)
        order.append(name)

    if name not in present:
        visit(name)
    return order


class Store:
    """Gives hidden modules back to the code that imports them."""

    def __init__(self, recorder):
        self.hidden = recorder.records
        self.given = {}
        self.forgotten = []
        self.warnings = recorder.warnings
        self.register = recorder.register
        self.finders = set(map(id, sys.meta_path))
        self.reads = recorder.reads
        self.trusted = None
        self.search = bootstrap._find_and_load_unlocked
        self.generators = []

    def install(self, names):
        for name in names:
            if name in self.hidden:
                self.hidden[name].order = order_of(self.hidden, name)
        # Directories that the user cannot write to: nothing appears there.
        self.trusted = {p for p in sys.path if p.startswith("/") and not os.access(p, os.W_OK) and not p.startswith("/home/")}
        self.files = {}
        for name, record in self.hidden.items():
            spec = getattr(record.module, "__spec__", None)
            if spec is not None and "." not in name and spec.has_location:
                self.files[name] = spec.origin
        bootstrap._find_and_load_unlocked = self.hook()

    def hook(self):
        hidden, give, search = self.hidden, self.give, self.search

        def _find_and_load_unlocked(name, import_):
            if name in hidden:
                module = give(name)
                if module is not None:
                    return module
            return search(name, import_)

        return _find_and_load_unlocked

    def give(self, name):
        imp.acquire_lock()  # which a fork knows how to deal with
        try:
            order = self.order(name)
            replaced = self.replaced(order)
            if replaced:
                self.forget(replaced)
                if name not in self.hidden:
                    return None
                order = self.order(name)
            for n in order:
                self.release(self.hidden.pop(n))
            return sys.modules[name]
        finally:
            imp.release_lock()

    def order(self, name):
        known = self.hidden[name].order or order_of(self.hidden, name)
        return [n for n in known if n in self.hidden]

    def leave(self):
        for name, module in self.given.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def release(self, record):
        self.given[record.name] = record.module
        record.show()
        filters = self.warnings.filters
        for item in reversed(record.filters):
            if item not in filters:
                filters.insert(0, item)
        if record.filters:
            self.warnings._filters_mutated()
        sys.meta_path += record.finders
        self.finders.update(map(id, record.finders))
        for function, args, kwargs in record.handlers:
            self.register(function, *args, **kwargs)

    def replaced(self, order):
        """Which of these modules an import would take from elsewhere now."""
        wrong = {n for n in order if n in sys.modules}
        tops = {n for n in order if n in self.files}
        doubtful = tops if not self.trusted.issubset(sys.path) else set()
        for path in sys.path:
            if path not in self.trusted and not tops <= doubtful:
                doubtful |= tops & self.stems(path, tops)
        for name in doubtful:
            spec = external.PathFinder.find_spec(name)
            if spec is None or spec.origin != self.files[name]:
                wrong.add(name)
        for finder in sys.meta_path:
            if finder is external.PathFinder:
                break
            if id(finder) not in self.finders:
                wrong.update(n for n in order if self.found_by(finder, n))
        else:
            wrong.update(tops)  # files are not searched at all any more
        return wrong

    @staticmethod
    def stems(path, every):
        """Names of modules that a directory may hold; every, if it cannot be told."""
        try:
            names = os.listdir(path or ".")
        except FileNotFoundError:
            return set()
        except OSError:
            return every
        if len(names) > MOST_ENTRIES:
            return every
        return {n.partition(".")[0] for n in names}

    def found_by(self, finder, name):
        package = name.rpartition(".")[0]
        record = self.hidden.get(package)
        path = getattr(record.module if record else sys.modules.get(package), "__path__", None)
        find = getattr(finder, "find_spec", None)
        return find is not None and find(name, path, None) is not None

    def forget(self, names):
        gone = set(names)
        grown = True
        while grown:
            grown = {n for n, r in self.hidden.items() if n not in gone and not gone.isdisjoint(r.deps)}
            gone |= grown
        for name in gone:
            # They are kept: code that is in use may refer to them.
            self.forgotten.append(self.hidden.pop(name))
        for record in self.hidden.values():
            record.order = None

    def ready(self, workspace, settings):
        """Makes what is loaded the run's own, if it fits the run."""
        if not self.fits(workspace, settings):
            return False
        self.renew()
        return True

    def fits(self, workspace, settings):
        """Whether a run would have loaded the same in the same way."""
        for setting in settings:
            name, is_set, value = setting.partition(b"=")
            if name in self.reads or name.startswith(NATIVE_PREFIXES):
                if (value if is_set else None) != os.environb.get(name):
                    return False
        stems = self.stems(workspace, set(self.hidden) | {"matplotlibrc"})
        if "matplotlib" in self.hidden:
            config = os.environ.get("MPLCONFIGDIR", "")
            own = self.stems(config, {"matplotlibrc"}) if config else {"matplotlibrc"}
            if "matplotlibrc" in stems or "matplotlibrc" in own or "stylelib" in own:
                return False
        return stems.isdisjoint(self.files)

    def find_generators(self, gc):
        random = self.hidden.get("random")
        if random:
            kind, system = random.module.Random, random.module.SystemRandom
            self.generators = [o for o in gc.get_objects() if isinstance(o, kind) and not isinstance(o, system)]
        legacy = self.hidden.get("numpy.random.mtrand")
        if legacy:
            self.generators.append(legacy.module._rand)

    def renew(self):
        """Replaces what must be each run's own."""
        modules = {n: r.module for n, r in self.hidden.items()}
        for generator in self.generators:
            generator.seed()
        if "_ssl" in modules:
            modules["_ssl"].RAND_add(os.urandom(32), 32.0)
        if "tempfile" in modules:
            modules["tempfile"]._name_sequence = None
        if "uuid" in modules:
            modules["uuid"]._node = modules["uuid"]._last_timestamp = None
        if "logging" in modules:
            modules["logging"]._startTime = modules["time"].time() if "time" in modules else sys.modules["time"].time()
        if "multiprocessing.process" in modules:
            process = modules["multiprocessing.process"]
            process._current_process._config["authkey"] = process.AuthenticationString(os.urandom(32))


def preload(names, freeze):
    recorder = Recorder()
    # Or pyarrow would start a thread when it is loaded, for an allocator that is
    # not its default.
    os.putenv("JE_ARROW_MALLOC_CONF", "background_thread:false")
    recorder.run(names)
    os.unsetenv("JE_ARROW_MALLOC_CONF")
    gc = recorder.collector
    recorder.take_away()
    store = Store(recorder)
    store.install(names)

    # Threads of the numeric libraries do not outlive a fork, and begin again
    # when they are needed.
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("a module that was loaded ahead keeps a thread")

    store.find_generators(gc)
    # What was loaded is not garbage: collections need not look at it, and the
    # end of the interpreter need not take it apart. The last of the exit handlers
    # leaves the modules to the end of the process.
    store.register(store.leave)
    freeze(gc, store.hidden.copy())
    return store
