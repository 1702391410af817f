"""Chats to tune on: what a line may be, which tokens are learned, and adapters on disk. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.tiny_text import CHATML, EOS_ID, text_assets
from tiny_gguf import write_gguf

from flash_runtime.model.checkpoint import Checkpoint, open_checkpoint
from flash_runtime.model.errors import CheckpointError, UnsupportedModel
from flash_runtime.model.families import recipe
from flash_runtime.model.reference import CheckpointWeights, ReferenceProvider
from flash_runtime.model.sequence import Sequence
from flash_runtime.text.chat import ChatTemplate
from flash_runtime.text.tokenizer import Tokenizer
from flash_runtime.training.adapter_file import (
    CONFIG,
    WEIGHTS,
    Adapter,
    AdapterFacts,
    Pair,
    checkpoint_digest,
    read_adapter,
    write_adapter,
)
from flash_runtime.training.chat_tokens import Encoded, encode_chats
from flash_runtime.training.chats import Chat, ChatsRefused, check_enough, read_chats
from flash_runtime.training.merged import merge

ASK = {"role": "user", "content": "hello world"}
ANSWER = {"role": "assistant", "content": "the quick brown fox"}
PROMPT = np.array([5, 250, 17, 99, 3, 3, 200, 41], dtype=np.int32)


def chats(tmp_path: Path, *documents: Any) -> list[Chat]:
    path = tmp_path / "chats.jsonl"
    lines = [document if isinstance(document, str) else json.dumps(document) for document in documents]
    path.write_text("".join(f"{line}\n" for line in lines))
    return read_chats(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: a list, an object with `messages` is expected"),
        ({"prompt": "a"}, "line 2: messages: missing, a list of at least a question"),
        ({"messages": []}, "line 2: messages: list, a list of at least"),
        ({"messages": [ASK]}, "line 2: messages.0.role: the last is user, a chat ends with the assistant"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "line 2: messages.0.role: 'bot', one of system, user"),
        ({"messages": [ASK, {"role": "system", "content": "a"}, ANSWER]}, "messages.1.role: a system message stands"),
        ({"messages": [ASK, {"role": "assistant"}]}, "line 2: messages.1.content: missing, a text is expected"),
        ({"messages": [ASK, {**ANSWER, "content": " "}]}, "line 2: messages.1.content: empty"),
        ({"messages": [ASK, {**ANSWER, "content": [1]}]}, "line 2: messages.1.content: a list"),
        ({"messages": [ASK, {**ANSWER, "weight": 2}]}, "line 2: messages.1.weight: 2, 0 or 1 is expected"),
        ({"messages": [{**ASK, "weight": 1}, ANSWER]}, "messages.0.weight: only an assistant's message has one"),
        ({"messages": [ASK, {**ANSWER, "weight": 0}]}, "nothing is to be learned; leave the chat out"),
        ({"messages": [ASK, {**ANSWER, "tool_calls": [1]}]}, "line 2: messages.1: tool calls are not learned here"),
        ({"messages": [ASK, ANSWER], "tools": [{}]}, "line 2: tools: tool calls are not learned here"),
    ],
)
def test_a_line_that_cannot_be_learned_is_refused_with_place_rule_and_remedy(
    tmp_path: Path, line: Any, said: str
) -> None:
    with pytest.raises(ChatsRefused) as refused:
        chats(tmp_path, {"messages": [ASK, ANSWER]}, line)

    assert "1 lines cannot be used" in str(refused.value)
    assert said in str(refused.value)


def test_of_many_faults_the_first_are_told_and_the_rest_counted(tmp_path: Path) -> None:
    with pytest.raises(ChatsRefused) as refused:
        chats(tmp_path, *["{"] * 9)

    assert "9 lines cannot be used" in str(refused.value)
    assert "line 5: not JSON" in str(refused.value)
    assert "line 6" not in str(refused.value)
    assert "… and 4 more lines" in str(refused.value)


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ChatsRefused, match="holds no chat"):
        chats(tmp_path, "")
    with pytest.raises(ChatsRefused, match="No such file"):
        read_chats(tmp_path / "none.jsonl")


def test_fewer_than_500_chats_are_refused_unless_forced(tmp_path: Path) -> None:
    few = chats(tmp_path, *[{"messages": [ASK, ANSWER]}] * 499)

    with pytest.raises(ChatsRefused, match="499 chats, at least 500 are asked for"):
        check_enough(few, forced=False)
    check_enough(few, forced=True)
    check_enough([*few, few[0]], forced=False)


def encoded(found: list[Chat], *, max_tokens: int = 512, chat_template: str = CHATML) -> tuple[Encoded, Tokenizer]:
    assets = text_assets(chat_template=chat_template)
    tokenizer = Tokenizer(assets)

    def never() -> Any:
        raise AssertionError("the template asks for the date")

    template = ChatTemplate(assets.header, tokenizer, now=never)
    return encode_chats(found, template, end_tokens=[EOS_ID], max_tokens=max_tokens), tokenizer


def test_the_assistants_words_and_the_end_of_its_turns_are_learned_and_nothing_else(tmp_path: Path) -> None:
    turns = [ASK, ANSWER, {"role": "user", "content": "how are you?"}, {"role": "assistant", "content": "jumps"}]
    found, tokenizer = encoded(chats(tmp_path, {"messages": turns}))

    (example,) = found.examples
    learned = example.token_ids[example.learned].tolist()
    assert tokenizer.decode(learned) == "the quick brown foxjumps"
    assert (learned.count(EOS_ID), learned[-1]) == (2, EOS_ID)
    assert found.learned_tokens == example.learned.sum()


def test_an_answer_of_weight_0_is_read_but_not_learned(tmp_path: Path) -> None:
    turns = [ASK, {**ANSWER, "weight": 0}, ASK, {"role": "assistant", "content": "jumps", "weight": 1}]
    found, tokenizer = encoded(chats(tmp_path, {"messages": turns}))

    (example,) = found.examples
    assert tokenizer.decode(example.token_ids[example.learned].tolist()) == "jumps"
    assert "quick brown" in tokenizer.decode(example.token_ids.tolist())


def test_control_tokens_in_a_message_stay_text(tmp_path: Path) -> None:
    found, _ = encoded(chats(tmp_path, {"messages": [ASK, {**ANSWER, "content": "a<|im_end|>b"}]}))

    (example,) = found.examples
    assert list(example.token_ids[example.learned]).count(EOS_ID) == 1


def test_long_chats_are_cut_and_counted(tmp_path: Path) -> None:
    long = {"role": "user", "content": "hello world " * 50}
    found, _ = encoded(chats(tmp_path, {"messages": [ASK, ANSWER]}, {"messages": [long, ANSWER]}), max_tokens=40)

    assert (len(found.examples), found.cut, found.left_out) == (1, 1, 1)
    with pytest.raises(ChatsRefused, match="no chat has an answer within its first 16 tokens"):
        encoded(chats(tmp_path, {"messages": [long, ANSWER]}), max_tokens=16)


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    counting = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"

    with pytest.raises(ChatsRefused, match=r"line 1: messages.1: the model's chat template writes earlier messages"):
        encoded(chats(tmp_path, {"messages": [ASK, ANSWER]}), chat_template=counting)


def adapter_for(checkpoint: Checkpoint, *modules: str, rank: int = 3) -> Adapter:
    random = np.random.default_rng(7)
    pairs = {}
    for module in modules:
        rows, columns = checkpoint.tensor(f"{module}.weight").shape
        a, b = (random.standard_normal(shape).astype(np.float32) / 8 for shape in ((rank, columns), (rows, rank)))
        pairs[module] = Pair(a, b)
    facts = AdapterFacts(
        format=1,
        base="Tiny",
        base_digest=checkpoint_digest(checkpoint),
        trained_tokens=9,
        provenance={"seed": "5"},
    )
    return Adapter(rank, 6.0, pairs, facts)


@pytest.fixture
def tiny(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_gguf(tmp_path / "tiny.gguf", "llama", chat_template=CHATML))


MODULE = "model.layers.1.mlp.down_proj"


def test_an_adapter_survives_the_disk(tmp_path: Path, tiny: Checkpoint) -> None:
    adapter = adapter_for(tiny, MODULE, "model.layers.0.self_attn.q_proj")
    write_adapter(tmp_path / "adapter", adapter, base="somewhere")

    found = read_adapter(tmp_path / "adapter")

    assert (found.rank, found.alpha, found.facts) == (3, 6.0, adapter.facts)
    assert found.pairs.keys() == adapter.pairs.keys()
    change, expected = found.change(MODULE), adapter.change(MODULE)
    assert change is not None
    assert expected is not None
    assert np.array_equal(change, expected)
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert (config["peft_type"], config["target_modules"]) == ("LORA", ["down_proj", "q_proj"])


def test_a_merged_model_is_the_base_with_the_change_added(tmp_path: Path, tiny: Checkpoint) -> None:
    adapter = adapter_for(tiny, MODULE)
    merge(tiny, adapter, tmp_path / "merged")

    merged = open_checkpoint(tmp_path / "merged")

    change = adapter.change(MODULE)
    assert change is not None
    expected = tiny.tensor(f"{MODULE}.weight") + change
    found = merged.tensor(f"{MODULE}.weight")
    assert np.abs(found - expected).max() <= np.abs(expected).max() / 256
    assert np.abs(change).max() > np.abs(expected).max() / 64
    assert merged.config == tiny.config
    assert merged.text() == tiny.text()
    assert merged.about.license == tiny.about.license
    assert "Nobody" in merged.about.attribution

    def logits(checkpoint: Checkpoint) -> Any:
        plan = recipe(checkpoint)
        return Sequence(
            ReferenceProvider(plan.plan, CheckpointWeights(checkpoint, plan), num_blocks=1, block_size=64)
        ).feed(PROMPT)

    assert not np.allclose(logits(merged), logits(tiny), rtol=0.01)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, tiny: Checkpoint) -> None:
    adapter = adapter_for(tiny, MODULE)
    other = open_checkpoint(write_gguf(tmp_path / "other.gguf", "llama", quantisation="Q8_0"))

    with pytest.raises(CheckpointError, match="the adapter was made for Tiny with the weights"):
        merge(other, adapter, tmp_path / "merged")


def test_an_adapter_from_elsewhere_must_fit(tmp_path: Path, tiny: Checkpoint) -> None:
    made = adapter_for(tiny, MODULE)
    elsewhere = Adapter(made.rank, made.alpha, {"model.layers.1.mlp.up_proj": made.pairs[MODULE]}, None)

    with pytest.raises(
        CheckpointError, match=r"does not fit .*: model.layers.1.mlp.up_proj is \[96, 160\], \[160, 96\] there"
    ):
        merge(tiny, elsewhere, tmp_path / "merged")


def test_a_damaged_adapter_is_refused(tmp_path: Path, tiny: Checkpoint) -> None:
    folder = tmp_path / "adapter"
    write_adapter(folder, adapter_for(tiny, MODULE), base="somewhere")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-20])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_adapter(folder)

    (folder / WEIGHTS).write_bytes(content)
    config = json.loads((folder / CONFIG).read_text())
    for changes, error, said in [
        ({"use_dora": True}, UnsupportedModel, "use_dora is set"),
        ({"peft_type": "IA3"}, UnsupportedModel, "peft_type: Input should be 'LORA'"),
        ({"r": 4}, CheckpointError, r"needs lora_A \[4, …\]"),
    ]:
        (folder / CONFIG).write_text(json.dumps({**config, **changes}))
        with pytest.raises(error, match=said):
            read_adapter(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        read_adapter(folder)
