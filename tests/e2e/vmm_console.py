"""The console of minivmm with bare-metal guests: terminals, pipes, files, the ways out.

usage: vmm_console.py MINIVMM GUESTS TEST      (TEST: a function below without "test_")
Exits 0 when the test holds; says on standard output what did not.
"""

import array
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time

MINIVMM, GUESTS = sys.argv[1], sys.argv[2]
# Seconds for anything that must happen; an emulated host is slow.
LIMIT = 300 if os.environ.get("EMULATED") else 100


def command(guest, append="", *options):
    return [MINIVMM, "--kernel", os.path.join(GUESTS, guest), "--memory", "32M", "--debug-exit",
            "--append", append, *options]


def expect(condition, *what):
    if not condition:
        sys.exit("expected: " + " ".join(str(w) for w in what))


def pattern(length):
    return bytes(10 if i % 64 == 63 else 65 + i % 26 for i in range(length))


class Terminal:
    """A machine whose standard descriptors are a terminal, in a session of its own."""

    def __init__(self, arguments):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(arguments, stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, preexec_fn=self.take_terminal)

    def take_terminal(self):
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def modes(self):
        return termios.tcgetattr(self.slave)

    def type(self, data):
        os.write(self.master, data)

    def read_until(self, wanted):
        deadline = time.monotonic() + LIMIT
        while wanted not in self.output:
            left = deadline - time.monotonic()
            expect(left > 0, wanted, "in", self.output)
            ready, _, _ = select.select([self.master], [], [], min(left, 0.1))
            if ready:
                self.output += os.read(self.master, 65536)
            elif self.process.poll() is not None:
                expect(wanted in self.output, wanted, "in", self.output)

    def wait_until_raw(self):
        deadline = time.monotonic() + LIMIT
        while not is_raw(self.modes()):
            expect(time.monotonic() < deadline, "raw mode")
            expect(self.process.poll() is None, "a machine that runs", self.output)
            time.sleep(0.01)

    def wait(self):
        # The slave stays open here, so what was written last is still to be read.
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None:
            expect(time.monotonic() < deadline, "the machine to end")
            ready, _, _ = select.select([self.master], [], [], 0.02)
            if ready:
                self.output += os.read(self.master, 65536)
        return self.process.returncode

    def ends(self, status):
        got = self.wait()
        expect(got == status, "status", status, "and not", got, self.output)
        expect(self.modes() == self.before, "the terminal's modes restored")


def is_raw(modes):
    return not modes[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


def run(arguments, **keywords):
    keywords.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=LIMIT, check=False, **keywords)


# ---- the terminal ----

def test_ctrl_a_x_ends_the_machine():
    terminal = Terminal(command("hang"))
    terminal.read_until(b"ready")
    expect(is_raw(terminal.modes()), "raw mode while the machine runs")
    terminal.type(b"x\x01")
    terminal.type(b"x")
    terminal.ends(130)


def test_ctrl_a_x_ends_a_machine_that_does_not_listen():
    terminal = Terminal(command("hang", "halt"))
    terminal.read_until(b"ready")
    terminal.type(b"y" * 8000)
    terminal.type(b"\x01x")
    terminal.ends(130)


def test_terminal_is_restored_on_every_end():
    for guest, append, options, status in [
            ("acpi_poweroff", "", (), 0), ("reset_cf9", "", (), 10), ("reset_i8042", "", (), 10),
            ("panic", "", (), 11), ("triple_fault", "", (), 12), ("hello", "status=7", (), 7),
            ("hang", "", ("--timeout", "1"), 124), ("hang", "ports", ("--timeout", "1"), 124),
            ("no-such-kernel", "", (), 1), ("hello", "", ("--console", "null"), 42)]:
        Terminal(command(guest, append, *options)).ends(status)


def test_terminal_is_restored_on_signals():
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        for append in ("", "halt", "ports"):
            terminal = Terminal(command("hang", append))
            terminal.read_until(b"ready")
            terminal.process.send_signal(sig)
            terminal.ends(128 + sig)


def test_terminal_is_restored_when_the_process_dies():
    for sig in (signal.SIGABRT, signal.SIGILL, signal.SIGSYS):
        terminal = Terminal(command("hang"))
        terminal.read_until(b"ready")
        terminal.process.send_signal(sig)
        terminal.ends(-sig)


def test_terminal_is_restored_when_a_restarting_machine_is_killed():
    terminal = Terminal(command("hang", "", "--on-reboot", "restart"))
    terminal.read_until(b"ready")
    expect(is_raw(terminal.modes()), "raw mode")
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(terminal.process.pid)],
                              stdout=subprocess.PIPE, check=True).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    terminal.ends(2)


def test_typed_control_keys_go_to_the_guest():
    terminal = Terminal(command("serial_stream", "echo=8"))
    terminal.wait_until_raw()
    terminal.type(b"\x03\x1a\x1c\x11\x01a\x01\x01\x7f.")
    terminal.wait()
    expect(b"\x03\x1a\x1c\x11\x01\x01\x7f." in terminal.output, "control keys in", terminal.output)


def test_escape_keys_can_be_switched_off():
    terminal = Terminal(command("serial_stream", "echo=4", "--console-escape", "off"))
    terminal.wait_until_raw()
    terminal.type(b"\x01x\x01h")
    expect(terminal.wait() == 42, "the guest to end by itself")
    expect(b"\x01x\x01h" in terminal.output, "the keys in", terminal.output)
    expect(b"Ctrl-A" not in terminal.output, "no word of keys in", terminal.output)


def test_ctrl_a_h_lists_the_keys():
    terminal = Terminal(command("hang"))
    terminal.read_until(b"Ctrl-A x ends the machine")
    terminal.read_until(b"ready")
    terminal.type(b"\x01h")
    terminal.read_until(b"send Ctrl-A")
    terminal.type(b"\x01q\x01x")
    terminal.ends(130)


def test_background_job_takes_the_terminal_when_it_comes_to_the_foreground():
    with tempfile.TemporaryDirectory() as folder:
        fifo = os.path.join(folder, "go")
        os.mkfifo(fifo)
        job = command("serial_stream", "send=64 echo=2", "--quiet")
        terminal = Terminal(["bash", "-mc", '"${@:2}" & read -r <"$1"; fg >/dev/null', "bash",
                             fifo, *job])
        terminal.read_until(pattern(63))
        expect(terminal.modes() == terminal.before, "a terminal that was not touched")
        with open(fifo, "w", encoding="ascii") as go:
            go.write("now\n")
        terminal.wait_until_raw()
        terminal.type(b"\x03.")
        terminal.ends(42)


# ---- pipes and files ----

def test_piped_input_arrives_whole():
    data = bytes(range(256)) * 12
    for append in ("", "early"):
        result = run(command("serial_stream", f"echo={len(data)} {append}"), stdin=None,
                     input=data)
        expect(result.returncode == 42, "status 42 and not", result.returncode, result.stderr)
        expect(result.stdout == data, "the same bytes back", append)


def test_file_input_arrives_whole():
    data = os.urandom(3000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        result = run(command("serial_stream", f"echo={len(data)}"), stdin=file)
    expect(result.stdout == data, "the same bytes back")


def test_end_of_input_is_fine():
    for stdin in (subprocess.DEVNULL, subprocess.PIPE):
        process = subprocess.Popen(command("hello"), stdin=stdin, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)
        if process.stdin:
            process.stdin.close()
        expect(b"hello from a bare-metal guest" in process.stdout.read(), "output")
        expect(process.wait(LIMIT) == 42, "status 42")


def test_closed_descriptors_are_fine():
    shell = '"$@" <&- >&- 2>&-'
    result = subprocess.run(["sh", "-c", shell, "sh", *command("hello")], timeout=LIMIT,
                            check=False)
    expect(result.returncode == 42, "status 42 and not", result.returncode)


def small_pipe():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    return reader, writer


def test_slow_reader_loses_nothing():
    length = 40000  # more than the ring and the pipe hold
    reader, writer = small_pipe()
    process = subprocess.Popen(command("serial_stream", f"send={length}"), stdout=writer,
                               stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(writer)
    got = b""
    while piece := os.read(reader, 700):
        got += piece
    expect(process.wait(LIMIT) == 42, "status 42")
    expect(got == pattern(length), "every byte once and in order")


def wait_until_full(reader):
    """Both pages of the pipe are in use: it takes no more, whether or not the last one is full."""
    count = array.array("i", [0])
    deadline = time.monotonic() + LIMIT
    while count[0] <= 4096:
        expect(time.monotonic() < deadline, "a full pipe")
        fcntl.ioctl(reader, termios.FIONREAD, count)


def test_blocked_reader_does_not_hang_the_end():
    # A machine that is slow has to fill the pipe within the timeout.
    for options, status in (((), 143), (("--timeout", "6"), 124)):
        reader, writer = small_pipe()
        process = subprocess.Popen(command("serial_stream", "send=1000000000", *options),
                                   stdout=writer, stdin=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        os.close(writer)
        wait_until_full(reader)
        if status == 143:
            process.terminate()
            process.terminate()
        expect(process.wait(LIMIT) == status, "status", status, "and not", process.returncode)
        os.close(reader)


def test_reader_that_goes_away_does_not_stop_the_guest():
    reader, writer = small_pipe()
    process = subprocess.Popen(command("serial_stream", "send=40000"), stdout=writer,
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.close(writer)
    wait_until_full(reader)
    os.close(reader)
    _, errors = process.communicate(timeout=LIMIT)
    expect(process.returncode == 42, "status 42 and not", process.returncode)
    expect(errors.count(b"console: output is lost") == 1, "one warning in", errors)


def test_output_flags_of_others_stay():
    """The pipe's description is shared with other processes: no O_NONBLOCK appears on it."""
    reader, writer = os.pipe()
    process = subprocess.Popen(command("serial_stream", "send=1 echo=1"), stdout=writer,
                               stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    expect(os.read(reader, 1) == b"A", "output")
    expect(os.get_blocking(writer), "a pipe that still blocks")
    expect(os.get_blocking(process.stdin.fileno()), "a pipe that still blocks")
    process.communicate(b"x", timeout=LIMIT)
    expect(process.returncode == 42, "status 42")


def test_console_file():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "log,with=signs")
        with open(path, "w", encoding="ascii") as file:
            file.write("old contents")
        result = run(command("serial_stream", "send=3000", "--console", "file:" + path))
        expect(result.returncode == 42 and result.stdout == b"", "status 42, no output")
        with open(path, "rb") as file:
            expect(file.read() == pattern(3000), "the output in the file")
        result = run(command("hello", "", "--console", "file:/dev/full"))
        expect(result.returncode == 42, "a full disk not to stop the guest")
        expect(b"output is lost" in result.stderr, "a warning in", result.stderr)
        result = run(command("hello", "", "--console", "file:" + folder))
        expect(result.returncode == 1, "a folder to be refused")


def test_console_null():
    result = run(command("hello", "", "--console", "null"))
    expect(result.returncode == 42 and result.stdout == b"", "status 42, no output")


def open_pty(process):
    line = process.stderr.readline()
    while b"the console is" not in line:
        expect(line, "the path of the pty")
        line = process.stderr.readline()
    path = re.search(rb"the console is (/dev/pts/\d+)\n", line).group(1)
    return os.open(path, os.O_RDWR | os.O_NOCTTY)


def read_exactly(fd, length):
    got = b""
    while len(got) < length:
        ready, _, _ = select.select([fd], [], [], LIMIT)
        expect(ready, "more than", len(got), "bytes")
        got += os.read(fd, 65536)
    return got


def test_console_pty():
    process = subprocess.Popen(command("serial_stream", "send=1000 echo=6", "--console", "pty"),
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    fd = open_pty(process)
    expect(read_exactly(fd, 1000) == pattern(1000), "the output from before")
    os.write(fd, b"a\x01x\r\n.")
    expect(read_exactly(fd, 6) == b"a\x01x\r\n.", "the input back, as it was")
    expect(process.wait(LIMIT) == 42, "status 42")


# ---- restart ----

def test_restart_starts_the_guest_again():
    process = subprocess.Popen(command("reset_cf9", "", "--on-reboot", "restart"),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    for _ in range(3):
        expect(b"rebooting" in process.stdout.readline(), "another life")
    process.terminate()
    process.communicate(timeout=LIMIT)
    expect(process.returncode == 143, "status 143 and not", process.returncode)


def test_a_signal_at_any_moment_ends_a_restarting_machine():
    for lives in range(1, 7):
        process = subprocess.Popen(command("reset_cf9", "", "--on-reboot", "restart"),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)
        for _ in range(lives):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
        expect(process.returncode == 130, "status 130 and not", process.returncode)


def test_restart_ends_with_the_last_life():
    for guest, append, status in (("acpi_poweroff", "", 0), ("panic", "", 11),
                                  ("triple_fault", "", 12), ("hello", "status=10", 10)):
        result = run(command(guest, append, "--on-reboot", "restart"))
        expect(result.returncode == status, status, "and not", result.returncode)


def test_timeout_counts_all_lives():
    result = run(command("reset_cf9", "", "--on-reboot", "restart", "--timeout", "2"))
    expect(result.returncode == 124, "status 124 and not", result.returncode)
    expect(result.stdout.count(b"rebooting") > 1, "several lives")


globals()["test_" + sys.argv[3]]()
