"""
Kill attribution runs at random moments, fill their disk, and compare what comes out with an uninterrupted run's store.

    python tests/store/faults.py [--kills 20] [--traces 300] [--seed 0]

Runs are forked from this process, so that the libraries are loaded once. A round has one or two processes that write
into one store, as the ranks of a launcher do; one of them is killed at a random moment and the other right after it,
which is how a launcher ends a run that has lost a rank. SIGKILL is also what a process gets that runs out of memory.
Every run goes on to move its rows into the final files, and some rounds do nothing else, so that kills hit that too.

`redone` counts the traces whose attribution had begun more than once; `lost` those that were stored at any time and
were not there later, or not in the end.
"""

import argparse
import errno
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment.attribution import AttributionConfig, attribute_traces, attribution_settings
from trl_segment.store import AttributionStore, exclusive_run
from trl_segment.traces import build_trace


CONFIG = AttributionConfig(attribution_rule="midpoint", attribution_evaluations=1)


class Workload:
    """A tiny model, traces, and a run over them that takes its time."""

    def __init__(self, count: int, log: Path):
        self.tokenizer = tiny_tokenizer()
        self.model = tiny_model(self.tokenizer)
        self.settings = attribution_settings(self.model, self.tokenizer, CONFIG)
        self.traces = [(f"row {i}", build_trace(row)) for i, row in enumerate(make_rows(count))]
        self.log = log
        self._begun = set()
        self.model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs):
        """Write down every sequence when a process looks at it for the first time."""
        ids = kwargs["input_ids"][0]
        # In any order: the first sequence of a run is passed once more with its IDs moved by one place
        digest = hashlib.sha256(ids.sort().values.numpy().tobytes()).digest()
        if digest not in self._begun and (ids != ids[0]).any():  # the baseline is one token over and over
            self._begun.add(digest)
            with open(self.log, "ab", buffering=0) as file:
                file.write(b".")
        time.sleep(0.002)

    def begun(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def attribute(self, folder: Path, rank: int = 0, ranks: int = 1) -> None:
        with exclusive_run(folder, None if ranks == 1 else (rank + 1, ranks)):
            store = AttributionStore(folder, self.settings)
            attribute_traces(self.traces[rank::ranks], self.model, self.tokenizer, CONFIG, store, progress=False)

    def run(self, folder: Path, rank: int = 0, ranks: int = 1) -> None:
        self.attribute(folder, rank, ranks)
        AttributionStore(folder, self.settings).compact()


def start(function, *args) -> int:
    """Run a function in a forked process; the process ID."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function(*args)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended(child: int) -> bool:
    """Wait for a process; whether it ended by itself, and well."""
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("A run ended with an error of its own, see above.")
    return os.WIFEXITED(status)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def kill_runs(work: Workload, folder: Path, kills: int, generator: random.Random) -> None:
    """Kill `kills` runs on one store, let a last one finish, and print what it cost."""
    stored, lost, most_in_hand = set(), 0, 0
    signals = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    while sum(signals.values()) < kills:
        ranks, begun, before = generator.choice([1, 1, 2]), work.begun(), len(stored)
        children = [start(work.run, folder, rank, ranks) for rank in range(ranks)]
        time.sleep(generator.uniform(0, 0.4))
        killer = generator.choice(list(signals))
        for child in generator.sample(children, ranks):
            os.kill(child, killer)
        signals[killer] += sum(not ended(child) for child in children) > 0
        if (folder / "settings.json").exists():
            keys = set(AttributionStore(folder))
            lost += len(stored - keys)
            stored |= keys
        most_in_hand = max(most_in_hand, (work.begun() - begun - (len(stored) - before)) / ranks)
    ended(start(work.run, folder))
    final = AttributionStore(folder)
    lost += len({trace.key for _, trace in work.traces} - set(final))
    print(
        f"killed {sum(signals.values())} runs ({signals[signal.SIGKILL]} SIGKILL, {signals[signal.SIGTERM]} SIGTERM): "
        f"lost {lost}, redone {work.begun() - len(work.traces)} of {len(work.traces)} traces, at most "
        f"{most_in_hand:.0f} per process and kill"
    )


def kill_moves(work: Workload, reference: Path, folder: Path, kills: int, generator: random.Random) -> None:
    """Kill runs that have nothing left to do but to move rows into the final files."""
    store = AttributionStore(folder, work.settings)
    for row in AttributionStore(reference).values():
        store.add(row)
        if generator.random() < 0.05:
            store.flush()
    store.flush()
    keys, killed, span = set(store), 0, 0.02
    while killed < kills:
        child = start(store.compact)
        time.sleep(generator.uniform(0, span))
        os.kill(child, signal.SIGKILL)
        if ended(child):
            store.add(next(iter(store.values())))  # something to do again
            span *= 0.8
        else:
            killed += 1
            span *= 1.1
        store = AttributionStore(folder, work.settings)
        assert set(store) == keys
    store.compact()
    print(f"killed {killed} moves into the final files: lost {len(keys) - len(AttributionStore(folder))}")


def fill_disk(work: Workload, folder: Path, sizes: list[int], resize) -> int:
    """A run for each size of the disk; how many of them ran out of space and said so."""
    full = 0
    for size in sizes:
        resize(size)
        try:
            work.run(folder)
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EFBIG), error
            full += 1
            stored = len(AttributionStore(folder))
            print(f"  {size // 1024} KiB: {stored} of {len(work.traces)} traces stored, then: {error.strerror}")
    return full


def fill_mounted_disk(work: Workload, folder: Path, sizes: list[int]) -> int:
    """In a process that may mount: on file systems of the given sizes."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], check=True)

    def resize(size):
        subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)

    return fill_disk(work, folder / "store", sizes, resize)


def fill_limited_files(work: Workload, folder: Path, sizes: list[int]) -> None:
    """Where nothing can be mounted: no file may grow over the given sizes."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    full = fill_disk(work, folder, sizes, lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard)))
    if full != 1:
        raise RuntimeError(f"Of 1 full disk {full} were noticed.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--traces", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--mount", type=Path, help="for this script itself: mount disks of these sizes here, fill them"
    )
    parser.add_argument("--sizes", type=int, nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        work = Workload(args.traces, scratch / "begun")
        if args.mount:
            full = fill_mounted_disk(work, args.mount, args.sizes)
            shutil.copytree(args.mount / "store", args.mount.with_name("filled"))
            sys.exit(0 if full == 2 else f"of 2 full disks {full} were noticed")
        ended(start(work.attribute, scratch / "reference"))
        journal = sum(path.stat().st_size for path in (scratch / "reference").glob("journal-*"))
        ended(start(AttributionStore(scratch / "reference").compact))
        work.log.unlink()
        reference = files_of(scratch / "reference")

        kill_runs(work, scratch / "killed", args.kills, generator)
        kill_moves(work, scratch / "reference", scratch / "moved", args.kills, generator)
        # In a namespace of one's own everyone may mount, where the system lets everyone have one
        alone = ["unshare", "--user", "--map-root-user", "--mount"]
        attempt = [*alone, "mount", "-t", "tmpfs", "tmpfs", scratch]
        if shutil.which("unshare") and subprocess.run(attempt, capture_output=True).returncode == 0:
            print("full disk, mounted with a size of", flush=True)
            # Full within the attribution; then full when the rows move to the final files; then large enough
            sizes = map(str, (journal * 2 // 5, journal + 2**14, journal + 2**24))
            command = [*alone, sys.executable, __file__, "--mount", scratch / "mount", "--traces", str(args.traces)]
            subprocess.run([*command, "--sizes", *sizes], check=True)
        else:
            print("full disk (nothing can be mounted here, so by a limit on the size of a file), at", flush=True)
            sizes = [journal * 2 // 5, journal + 2**24]
            ended(start(fill_limited_files, work, scratch / "filled", sizes))
        same = [files_of(scratch / name) == reference for name in ("killed", "moved", "filled")]
        print(f"final stores equal to that of an uninterrupted run: {sum(same)} of {len(same)}")
        sys.exit(not all(same))


if __name__ == "__main__":
    main()
