"""Result files that the report refuses, and what stays as it is then."""

import copy
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from manifold_core.experiments import report
from manifold_core.experiments.report import write_report
from result_files import file, fit

from manifold_core import InputError, cli


def broken(**at: Any) -> dict[str, Any]:
    """A file with ``key=value`` put into its first run; a key without a value is taken out."""
    content = copy.deepcopy(file())
    for key, value in at.items():
        if value is ...:
            del content["runs"][0][key]
        else:
            content["runs"][0][key] = value
    return content


# What is in bad.json, then what the message must name besides the file.
BAD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "half": ('{"table": "table1", "ru', ("JSON",)),
    "empty": ("", ("JSON",)),
    "not text": (b"\xff\xfe\x00", ("JSON",)),
    "deep": ("[" * 100_000, ("JSON",)),
    "a list": ([], ("'runs' or 'fits'",)),
    "metrics of a run": ({"data": "synthetic", "active_dimensions": 6}, ("'runs' or 'fits'",)),
    "older results": ({"what": "Table 1", "runs": []}, ("'table' is missing",)),
    "table": (file() | {"table": 1}, ("'table' is 1", "a name")),
    "title": (file() | {"title": None}, ("'title' is None", "a text")),
    "runs": (file() | {"runs": {}}, ("'runs' is {}", "a list of objects")),
    "run": (file() | {"runs": [3]}, ("runs[0] is 3", "an object")),
    "fits": (file() | {"fits": "x"}, ("'fits' is 'x'", "a list of objects")),
    "provenance": (file() | {"provenance": "me"}, ("'provenance' is 'me'", "an object")),
    "cell": (broken(cell=...), ("runs[0]", "'cell' is missing")),
    "cell of lists": (broken(cell={"d": [20]}), ("runs[0]", "'cell' is {'d': [20]}", "plain values")),
    "seed": (broken(seed="first"), ("runs[0]", "'seed' is 'first'", "an integer")),
    "count": (broken(active_dimensions=3.5), ("'active_dimensions' is 3.5", "an integer or null")),
    "true for one": (broken(true_active=True), ("'true_active' is True", "an integer or null")),
    "loss": (broken(neg_elbo="-50"), ("'neg_elbo' is '-50'", "a number or null")),
    "huge": (broken(kl=10**400), ("'kl' is", "a number or null")),
    "variance": (broken(variance=[0.1, "x"]), ("'variance' is [0.1, 'x']", "a list of numbers")),
    "shares": (
        broken(local={"count": 3, "gap": 9.0, "shares": {"three": 1.0}}),
        ("runs[0]: local", "'shares' is {'three': 1.0}"),
    ),
    "paper": (file() | {"paper": [{"cell": {}, "AD": "6"}]}, ("paper[0]", "'AD' is '6'")),
    "points": (file() | {"fits": [fit(points=[[1, 2, 3]])]}, ("fits[0]", "'points' is", "[log γ, y]")),
    "lengths": (file() | {"fits": [fit(recon=[0.1])]}, ("fits[0]", "'recon' is [0.1]", "a list of 3")),
}


class TestBadInput:
    @pytest.mark.parametrize("kind", BAD)
    def test_is_named_and_nothing_is_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
    ) -> None:
        content, parts = BAD[kind]
        (tmp_path / "table1.json").write_text(json.dumps(file()))
        if isinstance(content, bytes):
            (tmp_path / "bad.json").write_bytes(content)
        else:
            (tmp_path / "bad.json").write_text(content if isinstance(content, str) else json.dumps(content))
        assert cli.main(["report", str(tmp_path)]) == 2
        printed = capsys.readouterr()
        (line,) = printed.err.splitlines()
        assert line.startswith(f"manifold-core: {tmp_path / 'bad.json'}: ")
        assert all(part in line for part in (*parts, "expected"))
        assert len(line) < len(str(tmp_path)) + 250
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "table1.json"]

    def test_no_folder_and_no_files(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder"):
            write_report(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"no \.json file"):
            write_report(tmp_path)
        (tmp_path / "bad.json").mkdir()
        with pytest.raises(InputError, match=r"bad\.json: cannot be read"):
            write_report(tmp_path)

    def test_a_copy_would_be_counted_twice(self, tmp_path: Path) -> None:
        for name in ("table1", "table1 of before"):
            (tmp_path / f"{name}.json").write_text(json.dumps(file()))
        with pytest.raises(InputError, match="'table' is 'table1', expected 'table1 of before', the name of the file"):
            write_report(tmp_path)

    def test_an_out_that_cannot_be_written_to(self, tmp_path: Path) -> None:
        (tmp_path / "table1.json").write_text(json.dumps(file()))
        (tmp_path / "out").write_text("somebody's work")
        with pytest.raises(InputError, match="out must be a folder"):
            write_report(tmp_path, tmp_path / "out")
        (tmp_path / "report.md").mkdir()
        with pytest.raises(InputError, match=r"folder must be a folder for report\.md.*it is a folder"):
            write_report(tmp_path)
        assert not (tmp_path / "report.html").exists()

    def test_an_older_page_stays_where_a_new_one_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "table1.json").write_text(json.dumps(file()))
        before = [page.read_bytes() for page in write_report(tmp_path)]

        def full(text: str, path: Path) -> None:
            path.write_text(text[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(report, "_write", full)
        with pytest.raises(OSError, match="No space left"):
            write_report(tmp_path)
        assert [(tmp_path / f"report.{kind}").read_bytes() for kind in ("html", "md")] == before


class TestCommandLine:
    def test_prints_where_the_pages_are(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "table1.json").write_text(json.dumps(file()))
        (tmp_path / ".table1.json").write_text("not ours")
        assert cli.main(["report", str(tmp_path)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"report: {tmp_path / 'report.html'}",
            f"report: {tmp_path / 'report.md'}",
        ]
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "new" / "folder")]) == 0
        assert {path: path.read_bytes() for path in before} == before
        assert (tmp_path / "new" / "folder" / "report.html").read_bytes() == before[tmp_path / "report.html"]
