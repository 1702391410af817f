"""The suite around the measuring: its options, its cases, its chart, its weights."""

from pathlib import Path

import chart
import generation
import gguf
import gguf_export
import install_vllm
import instruction_sets
import numpy as np
import pytest
import report
import run
import shape
import targets
import whole
from tiny_checkpoints import write_checkpoint
from workers.protocol import Generation

from flash_runtime.kernels import _native
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.pack import pack

TINY = shape.Shape(2, 64, 2, 1, 32, 32, 512, experts=4, top_k=2)


def test_options_come_from_the_environment() -> None:
    options = run.Options.read({"CASES": "decode-1, first-16", "PEERS": "none", "THREADS": "1"}, cores=2)
    assert (options.cases, options.families, options.threads) == (("decode-1", "first-16"), {"none"}, (1,))
    assert run.Options.read({}, cores=2).threads == (2, 1)
    assert run.Options.read({}, cores=1).threads == (1,)
    assert "vllm" not in run.Options.read({"QUICK": "1"}, cores=2).families


def test_an_unknown_case_is_refused_with_the_known_ones() -> None:
    with pytest.raises(run.BadOption, match=r"CASES \(decode-3\) must be of: .*decode-4"):
        run.Options.read({"CASES": "decode-3"}, cores=2)


def test_every_target_names_a_case_that_exists() -> None:
    titles = {*whole.TITLES, *(case.title for case in generation.CASES.values())}
    assert [target.case for target in targets.TARGETS if target.case not in titles] == []


def test_figures_follow_from_a_generation() -> None:
    went = Generation(first_seconds=0.1, rest_seconds=2.0, rest_tokens=48)
    assert generation.CASES["decode-16"].value(went) == 24
    assert generation.CASES["prefill-512"].value(went) == pytest.approx(5120)
    assert generation.CASES["first-16"].value(went) == pytest.approx(100)


def test_repeats_have_prompts_of_their_own_and_all_sides_the_same() -> None:
    case = generation.CASES["decode-4"]
    assert [len(prompt) for prompt in case.prompts(0)] == [16] * 4
    assert case.prompts(0) == case.prompts(0) != case.prompts(1)


def test_the_chart_collects_tokens_per_second_by_side_and_batch() -> None:
    rows = [
        report.row(f"decode, batch {batch}, W8A8", "tokens/s", [batch * 9.0], [1.0], peer_name="peer", threads=threads)
        for batch in (1, 16)
        for threads in (1, 2)
    ]
    assert chart.series(rows, 2) == {"Flashplane Lite": {1: 9.0, 16: 144.0}, "peer": {1: 1.0, 16: 1.0}}


def test_vllm_is_installed_without_the_torch_it_asks_for() -> None:
    asked = [
        "torch==2.13.0+cpu",
        "regex",
        'einops>=0.8; python_version > "3"',
        'pandas; extra == "bench"',
        "torchaudio",
    ]
    assert install_vllm.wanted(asked) == ["regex", "einops>=0.8"]


def test_bfloat16_is_rounded_to_nearest_and_ties_to_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-12, -2.5], dtype=np.float32)
    assert shape.to_bf16(values).tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xC020]


def test_the_weights_are_the_same_whenever_they_are_written(tmp_path: Path) -> None:
    for name in ("one", "two"):
        shape.write_checkpoint(tmp_path / name, TINY, lambda done, total: None)
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


@pytest.mark.parametrize(("kind", "error"), [("Q8_0", 0.01), ("Q4_0", 0.12)])
def test_the_gguf_holds_the_weights_of_the_checkpoint(tmp_path: Path, kind: str, error: float) -> None:
    shape.write_checkpoint(tmp_path / "hf", TINY, lambda done, total: None)
    checkpoint = open_checkpoint(tmp_path / "hf")
    types = gguf.GGMLQuantizationType
    heard: list[tuple[int, int]] = []
    gguf_export.export(checkpoint, tmp_path / "x.gguf", types[kind], lambda *step: heard.append(step), head=types.Q8_0)
    exported = open_checkpoint(tmp_path / "x.gguf")
    assert heard == [(1, 2), (2, 2)]
    assert exported.config.experts == checkpoint.config.experts
    for name in (
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.1.mlp.gate.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.mlp.experts.3.down_proj.weight",
    ):
        expected, found = checkpoint.tensor(name), exported.tensor(name)
        assert np.sqrt(np.mean((expected - found) ** 2)) <= error * expected.std(), name
    routers = [c.tensor("model.layers.0.mlp.gate.weight") for c in (checkpoint, exported)]
    assert np.array_equal(*routers)


def test_every_instruction_set_takes_every_step_that_fits_into_the_context(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", "llama"))
    pack(checkpoint, tmp_path / "m.flash", variant="Lite", progress=lambda done, total: None)
    samples = instruction_sets.measure(tmp_path / "m.flash", threads=1, repeats=range(2))
    steps = ["decode, batch 1", "decode, batch 16", "prefill 512"]
    assert list(samples) == [(step, isa) for step in steps for isa in _native.supported_isas()]
    assert all(len(rates) == 2 and min(rates) > 0 for rates in samples.values())
    assert {instruction_sets.title(*key) for key in samples} <= set(whole.TITLES)
