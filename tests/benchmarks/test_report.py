"""Rows, their table as Markdown, and what stays of an earlier run."""

import dataclasses

import pytest
import report


def a_row(case: str = "decode", *, ours: float = 2.0, peer_name: str | None = "peer", threads: int = 2) -> report.Row:
    peer = [1.0] if peer_name else None
    return report.row(case, "tokens/s", [ours], peer, peer_name=peer_name, limit=4.0, threads=threads)


def test_a_row_holds_medians_ratio_and_share_of_limit() -> None:
    row = report.row("decode", "tokens/s", [1.0, 9.0, 3.0], [2.0, 1.0, 9.0], peer_name="p", limit=6.0, threads=1)
    assert (row.ours, row.peer, row.ratio, row.share_of_limit, row.repeats) == (3.0, 2.0, 1.5, 0.5, 3)


def test_a_new_measurement_takes_the_place_of_the_old_one_and_leaves_the_others() -> None:
    old = [a_row("prefill"), a_row("decode"), a_row("decode", peer_name="another"), a_row("decode", threads=1)]
    rows = report.merged(old, [a_row("decode", ours=5.0)], order=["decode", "prefill"])
    assert [(row.case, row.threads, row.peer_name, row.ours) for row in rows] == [
        ("decode", 2, "peer", 5.0),
        ("decode", 2, "another", 2.0),
        ("prefill", 2, "peer", 2.0),
        ("decode", 1, "peer", 2.0),
    ]


def test_columns_appear_where_a_row_has_something_to_say() -> None:
    plain = report.markdown([a_row()])
    assert plain.startswith("| case | unit | ours | peer | ours / peer | limit |\n")
    assert "| decode | tokens/s | 2.00 | 1.00 (peer) | 2.00x | 4.00 |" in plain
    judged = dataclasses.replace(a_row(), read_bandwidth=40.0, target="≥ 1.9x", verdict="reached")
    table = report.markdown([judged, a_row(threads=1)])
    assert "| decode | 2 | tokens/s | 2.00 | 1.00 (peer) | 2.00x | 4.00 | 50% | 40 | ≥ 1.9x | reached |" in table


def test_the_table_goes_between_the_markers_of_a_document() -> None:
    document = "before\n<!-- engine results -->\nold\n<!-- end of engine results -->\nafter\n"
    assert report.insert(document, "engine", "new\n") == document.replace("old", "new")
    with pytest.raises(ValueError, match="engine results"):
        report.insert("nothing here", "engine", "new\n")


def test_stored_rows_are_read_back_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    rows = [a_row(), dataclasses.replace(a_row("prefill"), target="≥ 1x", verdict="not reached")]
    report.save("engine", rows)
    assert report.load("engine") == rows
    assert report.load("nothing") == []


def test_rows_of_another_machine_stay_in_a_table_of_their_own() -> None:
    there = dataclasses.replace(a_row(ours=7.0), machine="another CPU, 8 cores, Linux 6.1")
    fewer_cores = dataclasses.replace(there, machine="another CPU, 1 cores, Linux 6.1")
    assert there.host == fewer_cores.host == "another CPU, Linux 6.1"
    rows = report.merged([there], [a_row(ours=5.0)])
    assert [row.ours for row in rows] == [7.0, 5.0]
    assert [row.ours for row in report.of_this_machine(rows)] == [5.0]
    here, _, elsewhere = report.markdown(rows).partition("\n| case")
    assert "5.00" in here
    assert "7.00" not in here
    assert elsewhere.endswith("\nMeasured on another CPU, 8 cores, Linux 6.1.\n")
