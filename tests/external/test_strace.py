"""read_strace(): every generation of the text, and what it must not guess."""

# ruff: noqa: E501 - lines of strace

import errno
import itertools
import subprocess
import sys

import pytest

from epolllab import analysis
from epolllab.external import read_strace, strace
from epolllab.external.calls import split

OLD = """\
epoll_ctl(4, EPOLL_CTL_ADD, 7, {EPOLLIN|EPOLLRDHUP, {u32=7, u64=7}}) = 0
epoll_wait(4, {{EPOLLIN, {u32=7, u64=7}}}, 64, 2500) = 1
recvfrom(7, "", 4096, 0, NULL, NULL) = 60
sendto(7, "", 114, 0, NULL, 0) = 114
epoll_wait(4, {}, 64, 4294967295) = 0
"""
MIDDLE = OLD.replace("{{EPOLLIN, {u32=7, u64=7}}}", "[{EPOLLIN, {u32=7, u64=7}}]").replace(
    "{}", "[]"
)
NEW = MIDDLE.replace("{EPOLLIN|EPOLLRDHUP, {u32", "{events=EPOLLIN|EPOLLRDHUP, data={u32").replace(
    "[{EPOLLIN, {u32", "[{events=EPOLLIN, data={u32"
)
POINTER = NEW.replace("{u32=7, u64=7}", "0x7")
NUMBERS = NEW.replace("EPOLLIN|EPOLLRDHUP", "0x2001").replace("EPOLL_CTL_ADD", "0x1")
COMMENT = NEW.replace("EPOLL_CTL_ADD", "0x1 /* EPOLL_CTL_??? */").replace(
    "EPOLLRDHUP", "0x2000 /* EPOLL??? */"
)
SHIFT = NEW.replace("EPOLLIN|EPOLLRDHUP", "EPOLLIN|1<<13")
DECORATED = (
    NEW.replace("(4,", "(4<anon_inode:[eventpoll]>,")
    .replace("(7,", "(7<TCP:[127.0.0.1:80->127.0.0.1:50186]>,")
    .replace(" 7,", " 7<TCP:[127.0.0.1:80->127.0.0.1:50186]>,")
)
PWAIT = NEW.replace("epoll_wait", "epoll_pwait").replace("2500)", "2500, NULL, 8)")
PWAIT2 = (
    NEW.replace("epoll_wait", "epoll_pwait2")
    .replace("2500)", "{tv_sec=2, tv_nsec=500000000}, NULL, 8)")
    .replace("4294967295)", "NULL, NULL, 8)")
)
TEXTS = {
    name: text
    for name, text in globals().items()
    if name.isupper() and isinstance(text, str) and "epoll" in text
}


def prefixed(text: str, prefixes: object) -> str:
    return "".join(p + line for p, line in zip(prefixes, text.splitlines(True), strict=False))


def took(text: str) -> str:
    """With -T."""
    return text.replace("\n", " <0.000250>\n")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_generation_says_the_same(text):
    """One request of a level-triggered loop, in each form that strace has printed."""
    [recording] = read_strace(text)
    frame = recording.events()
    assert frame["op"].tolist() == ["register", "wait", "ready", "recv", "send", "wait"]
    assert frame["fd"].tolist() == [7, 4, 7, 7, 7, 4]
    assert frame["mask_names"].tolist()[:3] == ["IN|RDHUP", "", "IN"]
    assert frame["n_bytes"].tolist() == [0, 0, 0, 60, 114, 0]
    assert frame["conn"].tolist() == [1, 0, 1, 1, 1, 0]
    assert frame["wake"].tolist() == [0, 1, 1, 1, 1, 2]
    assert frame["tid"].tolist() == [0] * 6
    wakeups = recording.wakeups()
    assert wakeups["timeout_ms"].fillna(-1).tolist() == [2500.0, -1.0]
    assert wakeups["n_returned"].tolist() == [1, 0]
    counts = [recording.metadata[f"n_{what}"] for what in ("strange", "cut", "unmapped", "assumed")]
    assert counts == [0, 0, 0, 0], recording.metadata["strange"]


CLOCKS = {
    "-ttt": [f"1700000000.{n:06d} " for n in range(100, 600, 100)],
    "-tt": [f"23:59:59.{n:06d} " for n in range(100, 600, 100)],
    "-r": ["     0.000000 ", *["     0.000100 "] * 4],
    "-f -ttt": [f"[pid  12] 1700000000.{n:06d} " for n in range(100, 600, 100)],
    "-f -o": [f"12  1700000000.{n:06d} " for n in range(100, 600, 100)],
    "-f -o -tt": [f"12    09:59:59.{n:06d} " for n in range(100, 600, 100)],
}


@pytest.mark.parametrize("prefixes", CLOCKS.values(), ids=CLOCKS)
def test_clocks_and_process_ids(prefixes):
    """The lines are 100 µs apart and each call takes 250 µs."""
    [recording] = read_strace(prefixed(took(NEW), prefixes))
    starts = recording.events()["t_ns"][recording.events()["op"] != "ready"]
    assert (starts - starts.iloc[0]).tolist() == [0, 100_000, 200_000, 300_000, 400_000]
    assert recording.wakeups()["waited_ns"].tolist() == [250_000, 250_000]
    assert recording.metadata["pid"] == (12 if "12" in prefixes[0][:8] else None)


def test_whole_seconds_and_no_clock_at_all():
    """-t has whole seconds; without a clock the order is kept, and said to be all there is."""
    [timed] = read_strace(prefixed(NEW, itertools.repeat("10:00:00 ")))
    assert timed.events()["t_ns"].nunique() == 1
    [bare] = read_strace(NEW)
    assert bare.events()["t_ns"].is_monotonic_increasing
    assert bare.metadata["clock"] == "none: order only"


def test_midnight():
    [recording] = read_strace(prefixed(NEW, ["23:59:59 ", "23:59:59 ", *["00:00:01 "] * 3]))
    assert recording.wakeups()["t_ns"].diff().iloc[1] == 2_000_000_000


THREADS = """\
100 1.000000 epoll_wait(4,  <unfinished ...>
101 1.100000 epoll_wait(4,  <unfinished ...>
100 1.200000 <... epoll_wait resumed>[{events=EPOLLIN, data={u32=7, u64=7}}], 64, -1) = 1
101 1.300000 <... epoll_wait resumed> [{events=EPOLLIN, data={u32=8, u64=8}}], 64, -1) = 1
101 1.400000 recvfrom(8, "", 10, 0, NULL, NULL) = 3
100 1.500000 recvfrom(7, "", 10, 0, NULL, NULL) = 5
100 1.600000 epoll_wait(4,  <detached ...>
""".replace(" 1.", " 1700000001.")


def test_threads_that_wait_at_the_same_time():
    """A call that was interrupted by others is one call; wakes are each thread's own."""
    [recording] = read_strace(THREADS)
    frame = recording.events()
    wake = dict(zip(frame["tid"], frame["wake"], strict=False))
    assert sorted(wake) == [100, 101]
    assert wake[100] != wake[101]
    assert frame[["tid", "wake"]].drop_duplicates().shape == (2, 2)
    recv = frame[frame["op"] == "recv"].set_index("tid")
    assert recv["n_bytes"].to_dict() == {101: 3, 100: 5}
    assert recording.wakeups().set_index("tid")["waited_ns"].to_dict() == {
        100: 200_000_000, 101: 200_000_000,
    }  # fmt: skip
    assert recording.wakeups()["n_calls"].tolist() == [1, 1]
    assert recording.metadata["n_unfinished"] == 1


FORK = """\
10 epoll_ctl(4, EPOLL_CTL_ADD, 7, {events=EPOLLIN, data={u32=99, u64=99}}) = 0
10 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f) = 11
10 clone3({flags=CLONE_VM|CLONE_THREAD, stack=0x7f}, 88) = 12
11 close(7)                          = 0
11 epoll_wait(4, [{events=EPOLLHUP, data={u32=99, u64=99}}], 64, -1) = 1
12 epoll_wait(4, [{events=EPOLLIN, data={u32=99, u64=99}}], 64, -1) = 1
10 epoll_wait(4, [], 64, 0)          = 0
"""


def test_a_forked_child_is_another_recording_and_a_thread_is_not():
    """The child has the parent's registrations; what it closes does not close the parent's."""
    first, second = read_strace(FORK)
    assert first.metadata["tids"] == [10, 12]
    assert second.metadata["tids"] == [11]
    assert second.events()["op"].tolist() == ["close", "wait", "ready"]
    assert first.events().query("op == 'ready'")["fd"].tolist() == [7]
    assert first.events()["tid"].tolist() == [10, 12, 12, 10]
    assert second.events()["tid"].tolist() == [0, 0, 0]


POLLS = """\
poll([{fd=3, events=POLLIN}, {fd=5, events=POLLIN|POLLOUT}], 2, 1000) = 1 ([{fd=5, revents=POLLOUT}])
ppoll([{fd=3, events=POLLIN}], 1, {tv_sec=1, tv_nsec=500000000}, NULL, 8) = 1 ([{fd=3, revents=POLLIN|POLLHUP}], left {tv_sec=1, tv_nsec=0})
poll([{fd=3, events=POLLIN}], 1, -1) = -1 EINTR (Interrupted system call)
poll([{fd=3, events=POLLIN}], 1, 0)  = 0 (Timeout)
select(8, [3 7], [7], NULL, {tv_sec=2, tv_usec=5}) = 2 (in [3], out [7], left {tv_sec=1, tv_usec=0})
pselect6(8, [3], NULL, NULL, NULL, NULL) = 1 (in [3])
io_uring_enter(9, 1, 1, IORING_ENTER_GETEVENTS, NULL, 8) = 1
restart_syscall(<... resuming interrupted read ...>) = 2
"""


def test_other_ways_to_wait():
    """All but io_uring and a poll that is restarted name what is ready."""
    [recording] = read_strace(POLLS)
    frame = recording.events()
    ready = frame[frame["op"] == "ready"]
    assert list(zip(ready["fd"], ready["mask_names"], strict=True)) == [
        (5, "OUT"), (3, "IN|HUP"), (3, "IN"), (7, "OUT"), (3, "IN"),
    ]  # fmt: skip
    wakeups = recording.wakeups()
    assert wakeups["timeout_ms"].fillna(-1).tolist() == [1000, 1500, -1, 0, 2000.005, -1, -1]
    assert wakeups["n_returned"].tolist() == [1, 1, 0, 0, 2, 1, 0]
    assert wakeups["error"].astype(object).fillna("").tolist()[2] == "EINTR"
    assert [recording.metadata[name] for name in ("n_strange", "n_other")] == [0, 1]


def test_pointers_are_mapped_by_the_registrations_seen():
    """Also after MOD gave the descriptor another pointer."""
    text = """\
epoll_ctl(8, EPOLL_CTL_ADD, 5, {events=EPOLLIN|EPOLLET, data={u32=2857279504, u64=94532}}) = 0
epoll_wait(8, [{events=EPOLLIN, data={u32=2857279504, u64=94532}}], 512, -1) = 1
epoll_ctl(8, EPOLL_CTL_MOD, 5, {events=EPOLLOUT, data={u32=1, u64=94533}}) = 0
epoll_wait(8, [{events=EPOLLOUT, data={u32=1, u64=94533}}], 512, -1) = 1
epoll_wait(8, [{events=EPOLLIN, data={u32=2857279600, u64=140737}}], 512, -1) = 1
"""
    [recording] = read_strace(text)
    ready = recording.events().query("op == 'ready'")
    assert ready["fd"].tolist() == [5, 5, -1]
    assert recording.metadata["n_unmapped"] == 1


def test_data_that_cannot_be_a_descriptor_by_other_evidence_is_not_guessed():
    """A small number is taken for a descriptor only if the program's data are descriptors."""
    token = "epoll_wait(3, [{events=EPOLLIN, data={u32=1, u64=1}}], 8, -1) = 1\n"
    [unknown] = read_strace(token * 3)
    assert unknown.events().query("op == 'ready'")["fd"].tolist() == [-1, -1, -1]
    assert unknown.metadata["n_unmapped"] == 3
    [used] = read_strace(token + 'recvfrom(1, "", 9, 0, NULL, NULL) = 9\n' + token)
    assert used.events().query("op == 'ready'")["fd"].tolist() == [1, 1]
    assert (used.metadata["n_unmapped"], used.metadata["n_assumed"]) == (0, 2)
    other = "epoll_ctl(3, EPOLL_CTL_ADD, 9, {events=EPOLLIN, data={u32=4, u64=4}}) = 0\n"
    [tokens] = read_strace(other + token + 'recvfrom(1, "", 9, 0, NULL, NULL) = 9\n')
    assert tokens.metadata["n_unmapped"] == 1


def test_garbage_in_the_high_half():
    """CPython's data: the registration says what it stands for."""
    text = """\
epoll_ctl(3, EPOLL_CTL_ADD, 6, {events=EPOLLIN, data={u32=6, u64=94240815316998}}) = 0
epoll_wait(3, [{events=EPOLLIN, data={u32=6, u64=94240815316998}}], 2, -1) = 1
"""
    [recording] = read_strace(text)
    assert recording.events()["fd"].tolist() == [6, 3, 6]


def test_arrays_that_strace_cut_are_counted():
    text = "epoll_wait(4, [{events=EPOLLIN, data={u32=7, u64=7}}, ...], 64, -1) = 33\n"
    [recording] = read_strace(text + 'recvfrom(7, "", 9, 0, NULL, NULL) = 9\n')
    assert recording.metadata["n_cut"] == 32
    assert recording.wakeups()["n_returned"].tolist() == [33]


def test_lines_that_are_not_understood_are_listed():
    """Complete calls with arguments of unknown form, and lines that are no calls."""
    strange = [
        "epoll_wait(4, [{events=EPOLLNEW, data={u32=7, u64=7}}], 64, -1) = 1",
        "epoll_wait(4, 64, -1) = 1",
        "hello, world",
        "epoll_ctl(4, EPOLL_CTL_NEW, 7, NULL) = 0",
        'recvfrom(7, "", 9, 0) = -1 ENOTHING (No idea)',
    ]
    [recording] = read_strace(NEW + "\n".join(strange))
    assert recording.metadata["n_strange"] == len(strange)
    for line in strange:
        words = line.partition(" =")[0]
        assert any(words in kept for kept in recording.metadata["strange"]), line


def test_lines_of_strace_itself_are_not_strange():
    own = """\
strace: Process 12 attached
--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---
[pid    12] +++ exited with 0 +++
epoll_wait(4, strace: Process 12 detached
 <detached ...>
exit_group(0) = ?
futex(0x7f, FUTEX_WAIT, 2, NULL) = 0
"""
    [recording] = read_strace(NEW + own)
    assert recording.metadata["n_strange"] == 0, recording.metadata["strange"]
    assert recording.metadata["n_other"] == 1
    assert recording.metadata["n_unfinished"] == 1


def test_a_number_that_is_used_again_is_another_connection():
    text = """\
accept4(3, {sa_family=AF_INET, sin_port=htons(50186), sin_addr=inet_addr("127.0.0.1")}, [16], SOCK_CLOEXEC) = 7
read(7, "", 100) = 5
write(7, "", 9) = 9
close(7) = 0
accept4(3, {sa_family=AF_INET6, sin6_port=htons(50187), sin6_flowinfo=0}, [28], 0) = 7
read(7, "", 100) = -1 ECONNRESET (Connection reset by peer)
accept4(3, NULL, NULL, 0) = -1 EAGAIN (Resource temporarily unavailable)
read(5, "", 8) = 8
epoll_wait(4, [], 64, -1) = -1 EINTR (Interrupted system call)
"""
    [recording] = read_strace(text)
    frame = recording.events()
    assert frame["op"].tolist() == [
        "accept", "recv", "send", "close", "accept", "recv", "accept", "read", "wait",
    ]  # fmt: skip
    assert frame["conn"].tolist() == [1, 1, 1, 1, 2, 2, 0, 0, 0]
    connections = recording.connections()
    assert connections["peer_port"].tolist() == [50186, 50187]
    assert connections["n_bytes_out"].tolist() == [9, 0]
    assert recording.errors() == {"recv ECONNRESET": 1, "accept EAGAIN": 1, "wait EINTR": 1}


def test_interrupted_by_a_signal_that_restarts():
    text = "epoll_wait(4, 0x7ffe, 64, -1) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)\n"
    [recording] = read_strace(text)
    assert recording.array()["result"].tolist() == [-errno.EINTR]


WAYS = {
    "quoted in mail": "> ", "quoted twice": ">> ", "quoted with spaces": "> > ", "indented": "    ",
    "tabs": "\t", "-i": "[00007f1c2d3e4f56] ", "-i unknown": "[????????????????] ",
    "-n": "[ 232] ", "-n -i": "[ 232] [00007f1c2d3e4f56] ",
}  # fmt: skip


@pytest.mark.parametrize("prefix", WAYS.values(), ids=WAYS)
def test_what_stands_before_a_call(prefix):
    """Quotes, indentation, and the columns of -i and -n."""
    [recording] = read_strace(prefixed(NEW, itertools.repeat(prefix)))
    assert recording.rows == read_strace(NEW)[0].rows
    assert recording.metadata["n_strange"] == 0, recording.metadata["strange"]


CHANGES = {
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "colours": lambda text: text.replace("(", "\x1b[0m(").replace("epoll", "\x1b[1;34mepoll"),
    "byte order mark": lambda text: "\ufeff" + text,
    "cat -n": lambda text: prefixed(text, (f"{n:6}\t" for n in itertools.count(1))),
    "-k": lambda text: text.replace("\n", "\n > /lib/libc.so.6(epoll_wait+0x56) [0x1234]\n"),
    "-k, quoted": lambda text: text.replace("\n", "\n> > /bin/a(main) [0x1]\n"),
    "-X raw": lambda text: text.replace("u64=7", "u64=0x7").replace("u32=7", "u32=0x7"),
    "-C": lambda text: text + SUMMARY,
    "injected": lambda text: text.replace("= 60", "= 60 (INJECTED)"),
    "Ctrl-C": lambda text: text + "^Cstrace: Process 12 detached\n",
    "old": lambda text: "Process 12 attached\n" + text + "Process 12 detached\n",
}  # fmt: skip
SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 98.20    0.001200          12       100           epoll_wait
  1.80    0.000022           1        20         2 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.001222                   120         2 total
"""


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("is_file", [False, True])
def test_other_shapes_of_a_log(change, is_file, tmp_path):
    """Pasted or copied, with stacks or a summary: the same calls, and nothing strange."""
    text = change(NEW + 'read(9,  <unfinished ...>\n<... read resumed>"", 9) = 3\n')
    path = tmp_path / "a.log"
    path.write_text(text, newline="")
    [recording] = read_strace(path if is_file else text)
    frame = recording.events()
    assert frame["op"].tolist() == ["register", "wait", "ready", "recv", "send", "wait", "read"]
    assert frame["n_bytes"].tolist() == [0, 0, 0, 60, 114, 0, 3]
    assert recording.metadata["n_strange"] == 0, recording.metadata["strange"]
    assert recording.metadata["clock"] == "none: order only"


@pytest.mark.parametrize(
    ("prefix", "pid"),
    [
        ("12<nginx> ", 12),
        ("[pid 12<nginx: worker>] ", 12),
        ("12 1700000000.000100 [ 232] [00007f1c2d3e4f56] ", 12),
        ("[pid   12] 1700000000 ", 12),
        ("1700000000 ", None),
        ("(+     0.000100) ", None),
        ("[pid 12] 1700000000.000100 (+     0.000100) ", 12),
    ],
)
def test_process_names_and_clocks_beside_each_other(prefix, pid):
    """With -Y, and with -r beside -ttt: ten digits are a time and no process."""
    [recording] = read_strace(prefixed(NEW, itertools.repeat(prefix)))
    assert recording.counts() == read_strace(NEW)[0].counts()
    assert recording.metadata["pid"] == pid
    assert recording.metadata["clock"] == ("of the log" if "000" in prefix[7:] else
                                           "none: order only")  # fmt: skip


CUT = NEW.rpartition("epoll_wait")[0]


@pytest.mark.parametrize("end", ["epoll_wait(4, [{events=EPOL", "epoll_wait(4, ", "recvfrom(7) ="])
def test_a_last_line_that_is_cut_is_strange(end):
    [recording] = read_strace(CUT + end)
    assert recording.counts() == read_strace(CUT)[0].counts()
    assert recording.metadata["n_strange"] == 1


def test_a_result_that_may_be_cut_is_strange():
    """With -T each whole line ends with a time; without a line feed nothing else tells."""
    [recording] = read_strace(took(CUT) + 'recvfrom(7, "", 4096, 0, NULL, NULL) = 6')
    assert recording.counts()["recv"] == 1
    assert recording.metadata["n_strange"] == 1
    [whole] = read_strace(took(CUT) + 'recvfrom(7, "", 4096, 0, NULL, NULL) = 6 <0.000010>')
    assert whole.counts()["recv"] == 2


def test_lines_that_mail_has_wrapped_are_strange():
    """Neither half is taken for a call."""
    [recording] = read_strace(NEW.replace("u64=7}}], 64", "u64=7}}],\n64"))
    assert "ready" not in recording.counts()
    assert recording.metadata["n_strange"] == 2


def test_an_error_without_a_name_is_not_straces():
    """As ltrace prints it: -1 is not EPERM."""
    [recording] = read_strace(NEW + "recv(7, 0x55, 4096, 0) = -1\n")
    assert recording.errors() == {}
    assert recording.metadata["n_strange"] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line of strace"),
        ("\n\n", "no line of strace"),
        (SUMMARY, "is a summary.*without -c"),
        ('malloc(10) = 0x55\nstrlen("abc") = 3\n', "no wait of epoll.*malloc"),
        ("main(1, 0x7ffd <unfinished ...>\nlibc.so.6->close(3) = 0\n", "no line of strace"),
        ("hello (world) = yes\n", "no line of strace"),
    ],
    ids=["empty", "blank", "strace -c", "ltrace", "ltrace -S", "prose"],
)
def test_what_is_no_log_of_a_loop(text, words):
    with pytest.raises(ValueError, match=rf"^source.*{words}"):
        read_strace(text)


def test_a_file_whose_name_looks_like_a_call():
    with pytest.raises(FileNotFoundError):
        read_strace("nginx (copy 1).log")


ATTACHED = """\
epoll_ctl(4, EPOLL_CTL_ADD, 7, {events=EPOLLIN, data={u32=99, u64=99}}) = 0
clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLDstrace: Process 11 attached
, child_tidptr=0x7f) = 11
[pid    11] epoll_wait(4, [], 64, 0) = 0
[pid    11] close(7) = 0
[pid    10] epoll_wait(4,  <unfinished ...>
[pid    11] +++ exited with 0 +++
<... epoll_wait resumed>[{events=EPOLLIN, data={u32=99, u64=99}}], 64, -1) = 1
"""
LATER = ATTACHED.replace("attached\n,", "attached\n <unfinished ...>\n[pid 11] getpid() = 11\n"
                         "[pid 10] <... clone resumed>,")  # fmt: skip


@pytest.mark.parametrize("text", [ATTACHED, LATER], ids=["at once", "later"])
def test_numbers_of_processes_that_come_and_go(text):
    """They are left out while there is one thread, and a new one is announced in mid-line."""
    parent, child = read_strace(text)
    assert parent.metadata["tids"] == [0, 10]
    assert parent.events()["op"].tolist() == ["register", "wait", "ready"]
    assert parent.events()["fd"].tolist() == [7, 4, 7]
    assert parent.events()["tid"].tolist() == [0, 10, 10]
    assert child.metadata["tids"] == [11]
    assert child.events()["op"].tolist() == ["wait", "close"]
    assert parent.metadata["n_strange"] == parent.metadata["n_unfinished"] == 0


WORKERS = """\
10 accept4(6, NULL, NULL, 0) = 9
10 close(9) = 0
11 accept4(6, NULL, NULL, 0) = 9
10 accept4(6, NULL, NULL, 0) = 9
10 epoll_wait(4, [], 64, 100) = 0
11 epoll_wait(4, [], 64, 100) = 0
11 recvfrom(9, "", 10, 0, NULL, NULL) = 5
"""


def test_a_number_that_two_threads_open_at_once_shows_two_processes():
    """As in a log of two workers, attached to with -p each; a thread shares its numbers."""
    first, second = read_strace(WORKERS)
    assert [first.metadata["tids"], second.metadata["tids"]] == [[10], [11]]
    assert second.events()["op"].tolist() == ["accept", "wait", "recv"]
    [threads] = read_strace(WORKERS.replace("11 accept4(6, NULL, NULL, 0) = 9",
                                            "11 accept4(6, NULL, NULL, 0) = 8"))  # fmt: skip
    assert threads.metadata["tids"] == [10, 11]


def test_memory_is_bounded(monkeypatch, tmp_path):
    """The oldest records are dropped and counted; a very long line is read in pieces."""
    monkeypatch.setattr(strace, "MOST_ROWS", 400)
    monkeypatch.setattr(strace, "_LONGEST_LINE", 200)
    path = tmp_path / "long.log"
    path.write_text(NEW * 100 + "x" * 1000 + "\n" + NEW)
    [recording] = read_strace(path)
    assert len(recording) + recording.overwritten == 606
    assert recording.overwritten in (200, 300)
    assert recording.events()["op"].tolist()[-6:] == [
        "register", "wait", "ready", "recv", "send", "wait",
    ]  # fmt: skip
    assert recording.metadata["n_strange"] == 5


@pytest.mark.parametrize("text", [NEW, POINTER, POINTER.replace("0x7}", "0x55f07}")])
def test_records_beyond_memory_are_in_a_file(text, monkeypatch, tmp_path):
    """The same records, connections and guesses as if all were in memory."""
    text = text * 100 + NEW.replace("7", "9")
    [whole] = read_strace(text)
    monkeypatch.setattr(strace, "MOST_ROWS", 100)
    monkeypatch.setattr(strace, "_PIECE_ROWS", 70)
    with (tmp_path / "rows").open("w+b") as file:
        reader = strace.Reader(file=file)
        reader.read(text.splitlines(keepends=True))
        [(pieces, facts)] = reader.finished()
        assert b"".join(piece.tobytes() for piece in pieces()) == whole.rows
        assert {name: whole.metadata[name] for name in facts} == facts
        [newest] = strace.recordings(reader, {"log": "x"})
        assert 100 <= len(newest) < 170 + 70
        assert newest.rows == whole.rows[-len(newest.rows) :]
        assert len(newest) + newest.overwritten == len(whole)
        del pieces


@pytest.mark.slow
@pytest.mark.processes
def test_a_log_of_100_megabytes(tmp_path):
    """Read in a process of its own, whose memory stays far below the file's size times ten."""
    path = tmp_path / "large.log"
    text = prefixed(NEW * 1000, itertools.repeat("12 1700000000.000100 ")).encode()
    with path.open("wb") as file:
        for _ in range(100_000_000 // len(text)):
            file.write(text)
    code = (
        "import sys, epolllab\n"
        "[one] = epolllab.read_strace(sys.argv[1])\n"
        "from pathlib import Path\n"
        "print(len(one) + one.overwritten, one.metadata['n_strange'])\n"
        # Not ru_maxrss: it keeps the size of the parent that the process was made by.
        "status = Path('/proc/self/status').read_text()\n"
        "print(status.partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    n = 100_000_000 // len(text) * 6000
    counts, peak = done.stdout.splitlines()
    assert counts == f"{n} 0"
    assert int(peak) < 900_000  # kB
    assert "reading strace" in done.stderr


def test_split():
    """Commas in strings, brackets and structures do not split."""
    assert split('7, "a, b\\", (c", [{events=IN, data={u32=1, u64=2}}], 64') == [
        "7", '"a, b\\", (c"', "[{events=IN, data={u32=1, u64=2}}]", "64",
    ]  # fmt: skip


def repeated(event: str, calls: str = "", n: int = 300) -> str:
    """A loop that is woken again and again."""
    seen = f"{{events={event}, data={{u32=7, u64=7}}}}"
    add = f"epoll_ctl(4, EPOLL_CTL_ADD, 7, {seen}) = 0\n"
    wait = f"epoll_wait(4, [{seen}], 64, -1) = 1\n"
    talk = 'recvfrom(7, "", 9, 0, NULL, NULL) = 9\n'
    return add + talk + (wait + calls) * n


READD = (
    "epoll_ctl(4, EPOLL_CTL_DEL, 7, NULL) = 0\n"
    "epoll_ctl(4, EPOLL_CTL_ADD, 7, {events=EPOLLIN, data={u32=7, u64=7}}) = 0\n"
)
SPINS = {
    "out": ("writable interest left on", repeated("EPOLLOUT")),
    "eof": ("ignored end of file", repeated("EPOLLIN", 'recvfrom(7, "", 9, 0, NULL, NULL) = 0\n')),
    "hup": ("hang-up that cannot be masked", repeated("EPOLLIN|EPOLLOUT|EPOLLERR|EPOLLHUP")),
    "rdhup": ("half-closed connection left registered", repeated("EPOLLRDHUP")),
    "unread": ("input never read", repeated("EPOLLIN")),
    "re-added": ("input never read", repeated("EPOLLIN", READD)),
    "zero": ("timeout of zero", "epoll_wait(4, [], 64, 0) = 0\n" * 300),
}


@pytest.mark.parametrize(("kind", "text"), SPINS.values(), ids=SPINS)
@pytest.mark.parametrize("generation", ["new", "old"])
def test_spins_in_a_log_are_diagnosed(kind, text, generation):
    """Each kind of spin by its name, in the newest and the oldest format."""
    if generation == "old":
        for new, old in (("events=", ""), ("data=", ""), ("[{", "{{"), ("}]", "}}")):
            text = text.replace(new, old)
    [recording] = read_strace(text)
    assert analysis.diagnose(recording).kinds == [kind]


def test_a_busy_log_without_waste_is_healthy():
    calls = 'recvfrom(7, "", 9, 0, NULL, NULL) = 9\nsendto(7, "", 9, 0, NULL, 0) = 9\n'
    [recording] = read_strace(repeated("EPOLLIN", calls))
    assert analysis.diagnose(recording).healthy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line of strace"),
        ("\n\n", "no line of strace"),
        ("Dear list,\nmy server hangs.\n", "2 lines are not understood"),
        ('futex(0x1, 2) = 0\nwrite(1, "", 3) = 3\n', "no wait .* futex, write|write, futex"),
    ],
)
def test_no_log_of_a_loop(text, message, tmp_path):
    """The error says what was found instead."""
    file = tmp_path / "log"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^source .*{message}"):
        read_strace(file)


def test_binary_missing_and_wrong(tmp_path):
    binary = tmp_path / "core"
    binary.write_bytes(b"\x7fELF\0\0")
    with pytest.raises(ValueError, match=r"^source .*core is a binary file"):
        read_strace(binary)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_strace(tmp_path / "nowhere")
    with pytest.raises(TypeError, match=r"^source"):
        read_strace(7)


def test_a_text_and_a_file_are_the_same(tmp_path):
    """Bytes that are no UTF-8 do not matter."""
    file = tmp_path / "log"
    file.write_bytes(NEW.encode().replace(b'7, ""', b'7, "\xff\xfe"'))
    assert read_strace(file)[0].rows == read_strace(NEW)[0].rows
    assert read_strace(str(file))[0].rows == read_strace(NEW)[0].rows
