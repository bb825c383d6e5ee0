"""What all command lines share: one sentence, the right exit code, whole files."""

import json

import pytest

from scripts.rl.command import (
    command_parser,
    exit_code,
    positive_int,
    progress,
    provenance,
    run,
    write_json,
)
from services.rl.errors import DataError, UsageError


def raising(error):
    def main(_argv):
        raise error

    return main


def test_an_error_of_ours_is_one_sentence_and_exit_code_2(capsys):
    assert exit_code(raising(DataError("the CSV is empty")), []) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: the CSV is empty\n"
    assert captured.out == ""


def test_an_interruption_is_130(capsys):
    assert exit_code(raising(KeyboardInterrupt()), []) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        exit_code(raising(ZeroDivisionError()), [])


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_what_main_returns_is_the_exit_code(returned, code):
    with pytest.raises(SystemExit) as left:
        run(lambda _argv: returned, [])
    assert left.value.code == code


@pytest.mark.parametrize(
    "arguments", [["--days", "0"], ["--days", "x"], ["--unknown"], ["--da", "3"]]
)
def test_wrong_arguments_are_one_sentence_and_exit_code_2(arguments, capsys):
    parser = command_parser("does things", "x.py --days 3")
    parser.add_argument("--days", type=positive_int, default=1)
    with pytest.raises(SystemExit) as left:
        parser.parse_args(arguments)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "--help" in error


def test_help_ends_with_the_examples(capsys):
    with pytest.raises(SystemExit) as left:
        command_parser("does things", "x.py --days 3\nx.py --quiet").parse_args(["--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.rstrip().endswith("examples:\n  x.py --days 3\n  x.py --quiet")


def test_no_progress_bar_where_there_is_no_terminal(capsys):
    assert list(progress(range(3), label="days", quiet=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_json_is_written_whole(tmp_path):
    path = tmp_path / "deep" / "result.json"
    write_json(path, {"schema": 1})
    assert json.loads(path.read_text()) == {"schema": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"schema": 1}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_json_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_json(tmp_path / "file" / "result.json", {})


def test_json_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write_json(tmp_path / "folder", {})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_passwords_stay_out_of_results(monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["x.py", "--database-url", "postgresql://u:s3cret@h/d", "--days", "3"]
    )
    assert provenance()["command"] == "x.py --database-url ... --days 3"
    monkeypatch.setattr("sys.argv", ["x.py", "--database-url=postgresql://u:s3cret@h/d"])
    assert "s3cret" not in json.dumps(provenance())
