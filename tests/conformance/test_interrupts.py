"""KeyboardInterrupt at random moments: nothing is left behind, and nothing else is raised.

Each program is interrupted many times, and says in the end what it still holds.
"""

import json
import subprocess
import sys

import pytest

INTERRUPTED = """
import gc, json, os, random, signal, sys, threading, time, traceback
import epolllab, numpy, pandas

n, process, number = int(sys.argv[1]), sys.argv[2] == "process", getattr(signal, sys.argv[3])
rng = random.Random(17)
errors, handles = [], []
threading.excepthook = lambda args: errors.append(f"in a thread: {args.exc_value!r}")
sys.unraisablehook = lambda args: errors.append(f"unraisable: {args.exc_value!r}")
signal.signal(number, signal.default_int_handler)

def cycle():
    server = epolllab.start_server(capacity=1000, process=process)
    handles.append(server)  # so that no destructor runs while an interrupt is due
    server.stop()

def reuse_numbers():
    # A descriptor that is closed twice is, the second time, one of these.
    while not ends:
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
        time.sleep(0.0001)
        for fd in fds:
            try:
                os.close(fd)
            except OSError as error:
                errors.append(f"closed elsewhere: {error!r}")

def held():
    gc.collect()
    fds = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # that of the listing
            pass
    return fds, sorted(thread.name for thread in threading.enumerate())

# Where an interrupt arrives before stop() holds it back, so that the server runs on.
BEFORE_STOP = [], ["stop"], ["stop", "__init__"], ["stop", "__enter__"]

def interrupt():
    for after in iter(delays.get, None):
        end = time.perf_counter() + after
        while time.perf_counter() < end:
            time.sleep(0)
        os.kill(os.getpid(), number)

import queue
cycle()
spans = []
for _ in range(20 if not process else 3):
    begin = time.perf_counter()
    cycle()
    spans.append(time.perf_counter() - begin)
span = min(spans)
handles.clear()
before, ends, delays = held(), [], queue.SimpleQueue()
threads = [threading.Thread(target=one) for one in (reuse_numbers, interrupt)]
for thread in threads:
    thread.start()
arrived = 0
for _ in range(n):
    try:
        delays.put(rng.random() * 1.2 * span)
        cycle()
        for _ in range(10_000):  # a signal just before a sleep does not end it
            time.sleep(0.001)
        errors.append("the interrupt was lost")
    except KeyboardInterrupt as error:
        arrived += 1
        if [frame.name for frame in traceback.extract_tb(error.__traceback__)][2:] in BEFORE_STOP:
            for handle in handles:
                handle.stop()
    except BaseException as error:
        errors.append(f"instead of KeyboardInterrupt: {error!r}")
    if epolllab.servers():
        errors.append("a server was left running")
    handles.clear()
ends.append(True)
delays.put(None)
for thread in threads:
    thread.join()
deadline = time.monotonic() + 10
while held() != before and time.monotonic() < deadline:
    time.sleep(0.01)
after = held()
print(json.dumps({
    "arrived": arrived,
    "errors": sorted(set(errors)),
    "left": sorted(set(after[0].items()) ^ set(before[0].items())) + after[1][len(before[1]):],
    "children": sorted(epolllab.kernel.children()),
    "handler": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
}))
"""

NOTHING = {"errors": [], "left": [], "children": [], "handler": True}


@pytest.mark.parametrize(
    ("n", "place", "signal"),
    [(1_000, "thread", "SIGINT"), (200, "thread", "SIGALRM"), (12, "process", "SIGINT")],
)
def test_interrupts_at_random_moments_of_start_and_stop(n: int, place: str, signal: str) -> None:
    """Each arrives as KeyboardInterrupt, and no descriptor is lost or closed twice."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(n), place, signal],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"arrived": n, **NOTHING}


GROUP = """
import os, signal, sys, threading, time
import epolllab
from epolllab import experiments

after, what = float(sys.argv[1]), sys.argv[2]

def interrupt():
    # Ctrl-C in a terminal sends SIGINT to the whole foreground group.
    while not epolllab.kernel.children():
        time.sleep(0.005)
    time.sleep(after)
    while what == "run_clients" and after and server.stats()["requests"] < 100:
        time.sleep(0.005)
    os.killpg(os.getpgid(0), signal.SIGINT)

server = epolllab.start_server()
try:
    threading.Thread(target=interrupt).start()
    if what == "run_clients":
        run = epolllab.run_clients(server, connections=8, processes=4, duration=60, progress=False)
        found, measured = run.interrupted, len(run.requests()) == len(run)
        notes = run.notes
    elif what == "idle":
        run = experiments.idle_connections((0, 500), rounds=500, progress=False)
        found, measured, notes = run.interrupted, True, run.notes
    else:
        start = {"herd": experiments.thundering_herd, "level": experiments.level_against_edge}
        options = {"connects": 100_000} if what == "herd" else {"rounds": 500}
        frame = start[what](progress=False, **options)
        found, measured, notes = frame.attrs["interrupted"], True, frame.attrs["notes"]
    print("returned", found, measured, any("interrupted after" in note for note in notes))
except KeyboardInterrupt:
    print("raised")
server.stop()
print(*epolllab.kernel.children())
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 0.1])
@pytest.mark.parametrize("what", ["run_clients", "herd", "idle", "level"])
def test_an_interrupt_of_the_whole_process_group(what: str, after: float) -> None:
    """Children print nothing and end; what was measured so far is returned, with a note."""
    with subprocess.Popen(
        [sys.executable, "-c", GROUP, str(after), what],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        output, errors = process.communicate(timeout=100)
    assert errors == ""
    outcome, left = output.splitlines()
    # Before the load begins there are no rows, and run_clients() raises.
    assert outcome in ("returned True True True", "raised")
    assert outcome != "raised" or (what, after) == ("run_clients", 0)
    assert left == ""


TWICE = """
import os, signal, threading, time
import epolllab

def interrupt():
    while server.stats()["requests"] < 10:
        time.sleep(0.005)
    for child in epolllab.kernel.children():  # so that it cannot end the load
        os.kill(child, signal.SIGSTOP)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)

server = epolllab.start_server()
try:
    threading.Thread(target=interrupt).start()
    epolllab.run_clients(server, duration=60, progress=False)
except KeyboardInterrupt:
    print("raised", *epolllab.kernel.children())
server.stop()
"""


def test_a_second_interrupt_of_a_run_is_raised() -> None:
    """Also if the clients do not react to the first one; they are killed."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stdout, done.stderr) == ("raised\n", "")
