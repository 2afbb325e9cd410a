"""Streams that nobody reads, or that are closed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ENVIRONMENT, RESULTS, SMALL
from runs import contents

pytestmark = pytest.mark.usefixtures("one_thread")


class TestPipes:
    @staticmethod
    def closed(command: list[str], inputs: Path, *, errors_as_well: bool) -> "subprocess.CompletedProcess[str]":
        """What the command does where nobody reads what it prints, as after `| head`, which has ended."""
        read, write = os.pipe()
        os.close(read)
        try:
            return subprocess.run(
                [sys.executable, "-m", "manifold_core.cli", *command],
                cwd=inputs,
                env={name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"},
                stdout=write,
                stderr=write if errors_as_well else subprocess.PIPE,
                text=True,
            )
        finally:
            os.close(write)

    def test_nobody_reads_on(self, inputs: Path) -> None:
        done = self.closed(["train", "--help"], inputs, errors_as_well=False)
        assert (done.returncode, done.stderr) == (141, "")

    def test_letters_that_a_terminal_lacks_are_written_out(self) -> None:
        command = [sys.executable, "-m", "manifold_core.cli", "train", "--help"]
        done = subprocess.run(command, env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert r"\u03b3" in done.stdout  # γ

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full, as Linux has one")
    def test_a_full_disk_below_standard_output_is_one_line(self) -> None:
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "manifold_core.cli", "train", "--help"]
            environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
            done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "manifold-core: [Errno 28] No space left on device\n")

    def test_nobody_reads_the_table(self, inputs: Path, tmp_path: Path) -> None:
        command = ["train", "--data", "good.npy", "--out", str(tmp_path), *SMALL]
        done = self.closed(command, inputs, errors_as_well=False)
        assert (done.returncode, done.stderr) == (141, "")
        assert contents(tmp_path).keys() >= RESULTS

    def test_nobody_reads_the_progress_bar(self, inputs: Path, tmp_path: Path) -> None:
        command = ["train", "--data", "good.npy", "--out", str(tmp_path), *SMALL[:-1]]
        assert self.closed(command, inputs, errors_as_well=True).returncode == 141

    @pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
    def test_closed_streams(self, inputs: Path, tmp_path: Path, closing: str) -> None:
        """What would be said there goes nowhere, and not to the other stream."""
        train = shlex.join(["train", "--data", "good.npy", "--out", str(tmp_path), *SMALL[:-1]])
        shell = f"{shlex.quote(sys.executable)} -m manifold_core.cli {train} {closing}"
        done = subprocess.run(shell, shell=True, cwd=inputs, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "neg_elbo=" not in done.stdout  # of the bar
        assert contents(tmp_path).keys() >= RESULTS
