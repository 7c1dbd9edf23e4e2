"""gdb's view of a program's coroutines, in a live process or a core file.

    gdb -x rpc-core/gdb/rpc_core.py PROGRAM CORE
    (gdb) coroutines            all of them, grouped by equal stack
    (gdb) coroutines 0x7f...    one, by the address that the list shows

The program says where things lie: `rpc_core_directory`, see rpc-core/src/runtime/directory.rs.
A core file must be the kernel's: gcore leaves out stacks that lie beside light guards.
The program need not be built with types for its debugger; line tables make the stacks readable.
"""

import struct

import gdb
import gdb.unwinder

VERSION = 1
REASONS = ["io", "futex", "sleep", "lock", "channel", "join", "call", "other"]
STATES = {0: "running", 1: "ready", 2: "waiting"}
FRAMES_MAX = 128
EXAMPLES_MAX = 5


def words(address, count):
    memory = gdb.selected_inferior().read_memory(address, 8 * count)
    return struct.unpack("<%dQ" % count, bytes(memory))


def number(expression):
    """An expression in C, whatever the program is written in."""
    language = gdb.parameter("language")
    gdb.execute("set language c", to_string=True)
    try:
        return int(gdb.parse_and_eval(expression))
    finally:
        gdb.execute("set language " + language, to_string=True)


def text(address, length):
    if address == 0 or length == 0 or length > 4096:
        return ""
    return bytes(gdb.selected_inferior().read_memory(address, length)).decode("utf-8", "replace")


class Directory:
    """Where things lie in a task, as the program says."""

    def __init__(self):
        try:
            at = number("(unsigned long)&rpc_core_directory")
        except gdb.error as error:
            raise gdb.GdbError("no coroutines here: the symbol rpc_core_directory is missing"
                               " (another program, or stripped): %s" % error)
        magic, version, self.first = words(at, 3)
        if struct.pack("<Q", magic) != b"rpc-core" or version != VERSION:
            raise gdb.GdbError("the program's coroutine directory is of version %d, this script"
                               " reads version %d: use the rpc_core.py of the same release"
                               % (version, VERSION))
        (self.listing, self.live, self.state, self.suspended_at, self.reason,
         self.name, self.spawned_at, self.file, self.line) = words(at + 24, 9)


class Coroutine:
    """One task with a job on it."""

    def __init__(self, directory, task):
        inferior = gdb.selected_inferior()
        self.address = task
        _, label, self.low, self.high = words(task + directory.listing, 4)
        self.pc, self.sp, self.fp = words(task + directory.suspended_at, 3)
        raw = bytes(inferior.read_memory(task + directory.state, 4))
        self.state = STATES.get(struct.unpack("<I", raw)[0], "unknown")
        self.name = text(*words(label + directory.name, 2)) or "unnamed"
        self.place = ""
        location, = words(label + directory.spawned_at, 1)
        if location:
            file = text(*words(location + directory.file, 2))
            line, = struct.unpack("<I", bytes(inferior.read_memory(location + directory.line, 4)))
            self.place = " spawned at %s:%d" % (file, line)
        self.why = self.read_reason(task + directory.reason)

    @staticmethod
    def read_reason(at):
        memory = bytes(gdb.selected_inferior().read_memory(at, 24))
        kind, small = struct.unpack("<Ii", memory[:8])
        name = REASONS[kind] if kind < len(REASONS) else "unknown"
        if name == "io":
            return "io on descriptor %d, to %s" % (small, "write" if memory[8] else "read")
        if name == "futex":
            return "futex at %#x" % struct.unpack("<Q", memory[8:16])
        if name == "other":
            return "other: " + text(*struct.unpack("<QQ", memory[8:24]))
        return name

    def describe(self):
        line = "%#x '%s'%s" % (self.address, self.name, self.place)
        return line + (", waiting for " + self.why if self.state == "waiting" else "")


class Suspended(gdb.unwinder.Unwinder):
    """Shows gdb a suspended coroutine's frames as those below the selected thread's innermost."""

    def __init__(self):
        super().__init__("rpc-core")
        self.wanted = None

    def __call__(self, pending):
        wanted, self.wanted = self.wanted, None
        if wanted is None:
            return None

        class FrameId:
            # gdb refuses a caller that lies below its callee: pretend to be just below.
            sp = gdb.Value(wanted.sp - 16)
            pc = gdb.Value(wanted.pc)

        info = pending.create_unwind_info(FrameId())
        for register, value in (("rip", wanted.pc), ("rsp", wanted.sp), ("rbp", wanted.fp)):
            kind = pending.read_register(register).type
            info.add_saved_register(register, gdb.Value(value).cast(kind))
        return info

    def frames(self, coroutine):
        self.wanted = coroutine
        gdb.invalidate_cached_frames()
        lines = []
        try:
            frame = gdb.newest_frame().older()
            while frame is not None and len(lines) < FRAMES_MAX:
                name = frame.name() or "%#x" % frame.pc()
                if "stack_init_trampoline" in name:
                    break
                place = frame.find_sal()
                where = " at %s:%d" % (place.symtab.filename, place.line) if place.symtab else ""
                lines.append(name + where)
                frame = frame.older()
        except gdb.error as error:
            lines.append("(unwinding ended: %s)" % error)
        self.wanted = None
        gdb.invalidate_cached_frames()
        return lines


UNWINDER = Suspended()
gdb.unwinder.register_unwinder(None, UNWINDER, replace=True)


def threads_by_stack(coroutines):
    """The thread that stands on a coroutine's stack, by the coroutine's address."""
    found = {}
    selected = gdb.selected_thread()
    for thread in gdb.selected_inferior().threads():
        # libthread_db takes every coroutine for a thread; those have no registers in a core file.
        try:
            thread.switch()
            sp = number("(unsigned long)$sp")
        except gdb.error:
            continue
        for coroutine in coroutines:
            if coroutine.low <= sp < coroutine.high:
                found[coroutine.address] = thread.num
    if selected is not None:
        selected.switch()
    return found


def all_coroutines():
    directory = Directory()
    task, found = directory.first, []
    while task:
        live = bytes(gdb.selected_inferior().read_memory(task + directory.live, 1))[0]
        if live:
            found.append(Coroutine(directory, task))
        task, = words(task + directory.listing, 1)
    return found


class Coroutines(gdb.Command):
    """List the coroutines of the program, grouped by equal stack; or one, by its address."""

    def __init__(self):
        super().__init__("coroutines", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        coroutines = all_coroutines()
        if argument.strip():
            wanted = number(argument)
            coroutines = [c for c in coroutines if c.address == wanted]
            if not coroutines:
                raise gdb.GdbError("no coroutine has the address %s; `coroutines` lists them" % argument)
        threads = threads_by_stack(coroutines)
        groups = {}
        for coroutine in coroutines:
            thread = threads.get(coroutine.address)
            if thread is not None:
                key = ("running on thread %d; see `thread %d`, `bt`" % (thread, thread), ())
            else:
                key = (coroutine.state, tuple(UNWINDER.frames(coroutine)))
            groups.setdefault(key, []).append(coroutine)
        print("%d coroutines" % len(coroutines))
        for (state, frames), members in sorted(groups.items(), key=lambda g: -len(g[1])):
            print("\n%d %s" % (len(members), state))
            for coroutine in members[:EXAMPLES_MAX]:
                print("  " + coroutine.describe())
            if len(members) > EXAMPLES_MAX:
                print("  ...")
            for number, frame in enumerate(frames):
                print("    %d: %s" % (number, frame))


Coroutines()
