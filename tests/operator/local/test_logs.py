"""Log files that programs go on writing to."""

from __future__ import annotations

from pathlib import Path

from flash_operator.local.logs import end_of_log, forget, last_line, read_new, rotate, tail


def test_the_last_line_is_of_this_run_only(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("first run failed\n")
    start = end_of_log(log)
    assert last_line(log, start) == ""
    with log.open("a") as file:
        file.write("second run\n\n  \n")
    assert last_line(log, start) == "second run"


def test_a_log_that_does_not_exist_has_no_lines(tmp_path: Path) -> None:
    assert (tail(tmp_path / "none.log", 5), end_of_log(tmp_path / "none.log")) == ([], 0)


def test_a_log_that_grew_too_large_starts_anew_and_the_program_writes_on(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as program:
        program.write(b"old\n" * 10)
        assert rotate(log, largest_bytes=10)
        program.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"old\n" * 10
    assert not rotate(log, largest_bytes=10)


def test_following_gives_whole_lines_once_and_survives_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("one\ntwo\nhal")
    lines, offset = read_new(log, 0)
    assert lines == ["one", "two"]
    log.write_text("one\ntwo\nhalf\n")
    lines, offset = read_new(log, offset)
    assert lines == ["half"]
    log.write_text("anew\n")
    assert read_new(log, offset)[0] == ["anew"]


def test_only_the_youngest_logs_of_a_deployment_are_kept(tmp_path: Path) -> None:
    for name in ("chat-a-0.engine.log", "chat-b-0.engine.log", "other-a-0.engine.log"):
        (tmp_path / name).write_text(name)
    forget(tmp_path, "chat-", keep=0)
    assert [path.name for path in tmp_path.iterdir()] == ["other-a-0.engine.log"]
