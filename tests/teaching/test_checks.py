"""Feedback on exercises: right answers pass, typical mistakes get their own hint, nothing raises."""

import re
from pathlib import Path

import pytest
import torch

from helpers import block_histograms, shuffle_entries, shuffle_within_features
from helpers.teaching.checks import EXERCISES, check, grade

ROOT = Path(__file__).resolve().parents[2]


BATCH = {"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])}
X = torch.tensor(
    [[3.0, -3.1, 1.0], [3.1, -3.1, -1.0], [3.2, -3.0, -1.0], [3.1, -2.9, 1.0], [3.1, -3.0, 0.0]]
)  # [sample, feature]


def peaked(at):
    """Histograms `{"cosine": ...}` of 3 layers whose QQ smile is largest at layer `at`."""
    x = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(1))
    x[at] += 5
    return block_histograms(x, (2, 2, 2))


def forgets_the_hook(module, x):
    caught = []
    module.register_forward_hook(lambda module, inputs, output: caught.append(output.clone()))
    module(x)
    return caught[0]


def keeps_a_view(module, x):
    caught = []
    handle = module.register_forward_hook(lambda module, inputs, output: caught.append(output))
    try:
        module(x)
    finally:
        handle.remove()
    return caught[0]


def swallows_the_error(module, x):
    try:
        return module(x).clone()
    except RuntimeError:
        return None


def flat_cut(fused, n_head):
    return fused.chunk(3, dim=-1)[0]


def of_words(x, word):
    """The word's own part and the context, by one product: `[sample, feature]` each."""
    same = (word[:, None] == word).to(x)  # [token, token]
    mean = same @ x / same.sum(1, keepdim=True)
    return mean - x.mean(0), x - mean


def words_once(x, word):
    return torch.stack([x[word == w].mean(0) for w in word.unique()]).mean(0)


MISTAKES = [
    ("1.1", (forgets_the_hook,), "hook"),
    ("1.1", (keeps_a_view,), "clone"),
    ("1.1", (swallows_the_error,), "lỗi|error"),
    ("1.1", (lambda module, x: x,), "đầu ra|output"),
    ("1.2", (torch.tensor([3, 2, 4]), BATCH), "đếm từ 0|counted from 0"),
    ("1.2", (torch.tensor([2, 1]), BATCH), r"\(2,\).*\(3,\)"),
    ("1.2", (torch.tensor([2, 1, 0]), BATCH), "1 câu|in 1 sentences"),
    ("1.3", (flat_cut,), "cắt liền thành ba|flat cut"),
    ("1.3", (lambda fused, n_head: fused,), r"\(5, 12\)"),
    ("1.3", (lambda fused, n_head: fused.unflatten(-1, (n_head, 3, -1))[:, :, 1].flatten(-2),), "trục nào|which axis"),
    ("2.1", (lambda x: torch.corrcoef(x.T),), "tương quan|correlation"),
    ("2.1", (lambda x: x @ x.T,), r"\(6, 6\)"),
    ("2.1", (lambda x: x.T @ x,), "đường chéo|diagonal"),
    ("2.1", (lambda x: (x / x.norm(dim=0)).T @ (x / x.norm(dim=0)) ** 3 + torch.eye(4) * 0,), "đường chéo|diagonal"),
    ("2.2", (9.0,), "0.988"),
    ("2.2", (-3.0,), "số dương|positive"),
    ("2.3", ((0, 0), X), "khác nhau|different"),
    ("2.3", ((0, 2), X), "cos = "),
    ("3.1", ([1, 2, 3, 4],), r"\[4\]"),
    ("3.1", ([1, 2, 3],), "bốn|four"),
    ("3.2", (2048 * 512 // 2, 0), "QV"),
    ("3.2", (2048 * 512, ...), "n_kk"),
    ("3.2", (2048 * 512, 512 * 512), "đường chéo|diagonal"),
    ("3.2", (2048 * 512, 1), "bao nhiêu chiều|how many features"),
    ("3.3", (lambda similarity, mask, code: (similarity > 0).double().mean(),), "0.75"),
    ("4.1", (lambda counts, edges: counts.sum(-1),), r"\[-1, 1\]"),
    ("4.1", (lambda counts, edges: counts,), r"\(3, 100\)"),
    ("4.1", (lambda counts, edges: counts.sum(-1) * 0.0,), "hai đầu|both ends"),
    ("4.3", (1, peaked(2), peaked(0)), "lệch một|off by one"),
    ("4.3", (0, peaked(2), peaked(0)), "lớn nhất|largest"),
    ("5.1", (lambda x, generator: x,), "không có gì|nothing was"),
    ("5.1", (lambda x, generator: x[torch.randperm(len(x), generator=generator)],), "một hoán vị|one permutation"),
    ("5.1", (lambda x, generator: shuffle_entries(x, generator),), "giữ các giá trị|keep its own"),
    ("5.1", (lambda x, generator: x.mul_(2),), "sửa chính x|changed x"),
    ("5.2", (400,), "1/sqrt"),
    ("5.2", (54,), "0.137"),
    ("5.3", (lambda x, generator: x * torch.randn(len(x), 1, generator=generator),), "đổi dấu|change its sign"),
    (
        "5.3",
        (lambda x, generator: x * (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1),),
        "cả hàng|whole row",
    ),
    ("5.3", (lambda x, generator: -x,), "cùng một dấu|same sign"),
    ("6.1", (lambda x, a: x - a * x.mean(dim=-1, keepdim=True),), "trục token|token axis"),
    ("6.1", (lambda x, a: x - x.mean(dim=-2, keepdim=True),), "a = 0.0"),
    ("6.2", (lambda x, word: (x.mean(0), x - x.mean(0)),), "ba tensor|three tensors"),
    ("6.2", (lambda x, word: (x.mean(0), ..., ...),), "thiếu own|own is still missing"),
    ("6.2", (lambda x, word: (x.mean(1), *of_words(x, word)),), r"\(7,\).*\(3,\)"),
    ("6.2", (lambda x, word: (words_once(x, word), *of_words(x, word)),), "mỗi từ một lần|not every word once"),
    ("6.2", (lambda x, word: (0 * x[0], *of_words(x, word)),), "mọi token|all tokens"),
    (
        "6.2",
        (lambda x, word: (x.mean(0), of_words(x, word)[0] + x.mean(0), of_words(x, word)[1]),),
        "từ nào|every word",
    ),
    ("6.2", (lambda x, word: (x.mean(0), x - x.mean(0), 0 * x),), "mọi lần xuất hiện|every occurrence"),
    ("6.2", (lambda x, word: (x.mean(0), of_words(x, word)[0], x - x.mean(0)),), "cộng lại|add up"),
    ("6.3", (lambda x: (x @ x.T).trace() ** 2 / (x @ x.T).square().sum(),), "độ dài|length"),
    ("6.3", (lambda x: 1.0,), "ví dụ nhỏ|small example"),
]


@pytest.mark.parametrize(("number", "answers", "hint"), MISTAKES, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISTAKES)])
def test_a_typical_mistake_gets_its_own_hint(language, number, answers, hint):
    right, said = grade(number, *answers)
    assert not right and re.search(hint, said), said


RIGHT = [
    ("1.2", (torch.tensor([2, 1, 3]), BATCH)),
    ("2.1", (lambda x: torch.nn.functional.cosine_similarity(x.T[:, None], x.T[None], dim=-1),)),
    ("2.2", (3.0,)),
    ("2.3", ((0, 1), torch.stack([3 + X[:, 2] * 0.1, -3 + torch.tensor([0.1, 0.1, -0.1, -0.1, 0.0])], dim=1))),
    ("3.1", ([2, 3, 5, 7],)),
    ("3.2", (1_048_576, 130_816)),
    ("4.3", (2, peaked(2), peaked(0))),
    ("5.1", (shuffle_within_features,)),
    ("5.2", (401,)),
    ("5.3", (lambda x, generator: torch.where(torch.rand(len(x), 1, generator=generator) > 0.5, x, -x),)),
    ("6.1", (lambda x, a: torch.lerp(x, x - x.mean(dim=-2, keepdim=True), torch.tensor(a, dtype=x.dtype)),)),
    ("6.2", (lambda x, word: [x.mean(0).numpy(), *of_words(x, word)],)),
    (
        "6.3",
        (
            lambda x: (
                1
                / (torch.nn.functional.normalize(x, dim=0).T @ torch.nn.functional.normalize(x, dim=0)).square().mean()
            ),
        ),
    ),
]


@pytest.mark.parametrize(("number", "answers"), RIGHT, ids=[case[0] for case in RIGHT])
def test_a_right_answer_passes_whatever_way_it_was_found(number, answers):
    assert grade(number, *answers) == (True, None)


@pytest.mark.parametrize("number", EXERCISES)
@pytest.mark.parametrize("answer", [..., None])
def test_an_open_exercise_is_said_to_be_open(language, number, answer):
    right, said = grade(number, answer)
    assert not right and re.search("chưa làm|not done", said)


@pytest.mark.parametrize("number", ["1.1", "1.3", "2.1", "3.3", "4.1", "5.1", "5.3", "6.1", "6.2", "6.3"])
def test_a_function_that_still_returns_the_dots_is_open(language, number):
    right, said = grade(number, lambda *arguments: ...)
    assert not right and re.search("chưa làm|not done", said)


def test_an_error_in_the_readers_code_becomes_one_line(language, capsys):
    check("2.1", lambda x: 1 / 0)
    assert re.fullmatch(r"○ 2\.1 .*ZeroDivisionError: division by zero · .*\n", capsys.readouterr().out)


def test_a_right_answer_prints_one_line(capsys):
    check("2.2", 3)
    assert re.fullmatch(r"✓ 2\.2 · exercises: \d/3\n", capsys.readouterr().out)


def test_an_unknown_exercise_names_the_known_ones():
    with pytest.raises(ValueError, match=r"no exercise '9\.9'.*1\.1"):
        check("9.9", 1)


def test_every_exercise_stands_in_a_notebook_and_every_notebook_exercise_is_known():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "notebooks" / "source").glob("*.py"))
    assert set(re.findall(r'check\("([\d.]+)"', sources)) == set(EXERCISES)


def test_the_second_word_is_judged_by_recomputing_it(smollm2):
    from helpers import capture_qkv, encode, find_token, load_sentences, token_id_of

    model, tokenizer = smollm2
    answers = {}
    for word in ("water", "her"):
        batch = encode(tokenizer, load_sentences(word))
        qkv = capture_qkv(model, batch, positions=find_token(batch, token_id_of(tokenizer, f" {word}")))
        answers[word] = block_histograms(qkv.joined(), qkv.sizes)
    assert grade("4.2", answers["water"], model, tokenizer) == (True, None)
    right, said = grade("4.2", answers["her"], model, tokenizer)
    assert not right and "token" in said
