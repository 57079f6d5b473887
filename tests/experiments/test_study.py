"""A reader's own study: cleaning, the target word, refusals in one sentence, verdicts, and notebook 11 itself."""

import csv
import itertools
import re
import sys
import tomllib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
import scipy
import torch
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split
from transformers import tokenization_utils_base

from helpers import block_histograms, capture_qkv, label, load_sentences, smile_index
from helpers.experiments.study import StudyError, open_model, read_sentences
from helpers.experiments.takes import takes
from helpers.experiments.target import find_word, pieces_of, readable, word_in
from helpers.experiments.verdicts import choose_layer, claim_values, conclude, export, judge
from tests.support.refusal import assert_refused
from tests.support.tiny import language_model, random_model, word_tokenizer

ROOT = Path(__file__).resolve().parents[2]
DATA = tomllib.loads(Path(__file__).with_name("refused.toml").read_text(encoding="utf-8"))
HER, CUA = load_sentences("her"), load_sentences("cua")


@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close("all")


def refused(vi, en, function, *arguments):
    """Check that a call is refused in one sentence, in the language of the reader."""
    assert "\n" not in str(assert_refused(partial(function, *arguments), StudyError, en, vi))


@pytest.fixture(scope="module")
def random_gpt2(smollm2, tmp_path_factory):
    """Folder of a small untrained GPT-2 with the tokenizer of SmolLM2."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "random-gpt2", smollm2[1]
    random_model("gpt2", "AutoModelForCausalLM", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def models(smollm2, minilm):
    return {"smollm2": smollm2, "minilm": minilm}


def test_a_notebook_says_in_one_sentence_which_models_it_takes():
    small, encoder = language_model("llama"), random_model("bert")
    headless = small.model
    small.provenance = encoder.provenance = headless.provenance = "this model"
    takes(small, causal=True, layers=3)
    takes(encoder, layers=3)
    vi, en = "mô hình có ít nhất 4 tầng, không dùng được với this", "a model of 4 layers or more"
    refused(vi, en, partial(takes, small, layers=4))
    vi, en = "ngôn ngữ nhân quả, không dùng", "a causal language model, not this"
    for model in (encoder, headless):
        refused(vi, en, partial(takes, model, causal=True))
    vi, en = r"softmax\(QKᵀ/√d\).*, không dùng", r"a causal language model whose attention is softmax\(QKᵀ/√d\).*, not"
    for name in ("gpt2", "phi3", "qwen3", "bloom", "granite"):
        model = language_model(name)
        model.provenance = "this model"
        takes(model, causal=True)
        if name in ("gpt2", "phi3"):
            takes(model, causal=True, plain=True)
        else:
            refused(vi, en, partial(takes, model, causal=True, plain=True))


def test_pasted_text_is_cleaned_and_counted_and_a_clean_one_left_alone():
    assert read_sentences(DATA["messy"]) == (DATA["clean"], DATA["notes"])
    for sentences in (HER, CUA):
        assert read_sentences(sentences) == read_sentences("\n".join(sentences)) == (sentences, [])
    assert any("only 9" in note for note in read_sentences(HER[:9])[1]) and read_sentences(HER[:10])[1] == []


SAME = ("می\u200cخواهم", "क्\u200dष", "👩\u200d🔬", "❤\ufe0f", "ก\u0e33")  # joiners and marks that the script needs
INVISIBLE = "\u200b\u200c\u200d\u200e\u202a\u2066\u2060\u00ad\ufeff\u061c\u034f\u3164\x07\ufff9\ud83d"
SPACES = "\u00a0\u2009\u202f\u3000\u205f\t"


def test_every_invisible_character_and_odd_space_is_found_and_said():
    for characters, cleaned, note in ((INVISIBLE, "nước", "removed"), (SPACES, "nư ớc", "tidied")):
        for character in characters:
            sentences, notes = read_sentences([f"nư{character}ớc", "b", "c"])
            assert sentences[0] == cleaned and note in notes[0] and len(notes) == 2, ascii(character)
    assert read_sentences(list(SAME))[0] == list(SAME) and len(read_sentences(SAME)[1]) == 1
    sentences, notes = read_sentences("\ufeff#tag a\u2028b\x85c\x0bd\x0c\ufeff# e\nf\ufffd")
    assert sentences == ["#tag a", "b", "c", "d", "f\ufffd"]
    assert [note.split()[:2] for note in notes[:3]] == [["4", "odd"], ["1", "comment"], ["1", "line(s)"]]
    assert "hashtag" in notes[2] and "invisible" in notes[3] and "�" in notes[4] and len(notes) == 6


def test_what_a_table_or_a_file_holds_is_taken_for_sentences(tmp_path):
    three, empty = ["#a b", "c d", "e\nf"], [None, float("nan"), pd.NA, pd.NaT]
    column = pd.Series([*three, *empty])
    for source in (three, column, column.to_numpy(), (text for text in column), [*three, *empty]):
        assert read_sentences(source)[0] == ["#a b", "c d", "e f"]  # in a list # is no comment, a line break none
    path = tmp_path / "câu.txt"
    path.write_text("a\nb\nc", encoding="utf-8-sig")  # a byte order mark, which is left out
    with path.open(encoding="utf-8") as file:
        for source in (file, b"a\nb\nc", path, f"{path}\n", f'"\u202a{path}"'):  # the last as Windows copies a path
            assert read_sentences(source)[0] == ["a", "b", "c"]


def test_sentences_that_will_not_do_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text, encoding in DATA["files"]:
        Path(name).write_text(text, encoding)
    for source, vi, en in DATA["sentences"]:
        refused(vi, en, read_sentences, source)
    refused(r"2 phần tử.*'5' \(int\)", r"2 member.*'5' \(int\)", read_sentences, ["a", "b", 5, b"c"])
    for source in (None, 5, {1: "a"}, {"a"}, pd.DataFrame({"a": "b"}, [0])):
        refused("Cần danh sách câu", "Expected a list", read_sentences, source)


def test_model_that_cannot_be_opened_or_is_not_known_is_a_sentence(random_gpt2, monkeypatch):
    refused("Không mở được mô hình 'no model!': hãy xem lại MODEL", "could not be opened", open_model, "no model!")
    monkeypatch.setattr("helpers.capture.ADAPTERS", {"bert": None})
    refused("không biết kiến trúc 'gpt2': cần .* bert", "architecture 'gpt2': .* bert", open_model, str(random_gpt2))


def test_layer():
    assert [choose_layer(30), choose_layer(6), choose_layer(6, "5"), choose_layer(6, 0)] == [3, 1, 5, 0]
    for wrong in (6, "-1", "two"):
        with pytest.raises(StudyError, match="is no layer: choose a number from 0 to 5"):
            choose_layer(6, wrong)
    with pytest.raises(StudyError, match="one layer only"):
        choose_layer(1)


def test_the_last_piece_is_the_end_of_that_very_word(smollm2, her_positions):
    target = find_word(*smollm2, HER, " her ")
    assert target.positions.tolist() == her_positions.tolist()
    assert target.control.tolist() == (her_positions - 1).tolist()
    assert (target.pieces, target.n_distinct) == (("“ her”",), 54)
    target, elsewhere = find_word(*smollm2, CUA, "của", "last"), 0
    assert target.pieces == ("“ c”", "<E1 BB>", "<A7>", "“a”")
    for row, end, before in zip(target.batch["input_ids"].tolist(), target.positions, target.control):
        assert smollm2[1].decode(row[end - 3 : end + 1]) == " của" and before == end - 4
        elsewhere += row[end] in row[:end]
    assert elsewhere > 3  # the id alone would have led somewhere else


@pytest.mark.parametrize("case", DATA["target"], ids=lambda case: case["word"])
def test_target_ends_the_whole_word_and_its_control_is_text(models, case):
    model, tokenizer = models[case["model"]]
    sentences = [sentence for sentence, *_ in case["sentences"]] + case.get("missing", [])
    target = find_word(model, tokenizer, sentences, case["word"], "last", drop_missing="missing" in case)
    rows = zip(case["sentences"], target.batch["input_ids"], target.positions, target.control, strict=True)
    for (sentence, beginning, control), ids, end, beside in rows:
        assert tokenizer.decode(ids[: end + 1], skip_special_tokens=True) == beginning, sentence
        assert readable(tokenizer, int(ids[beside])) == control, sentence
    assert target.causal == (case["model"] == "smollm2")
    assert target.n_distinct == case.get("n_distinct", len(case["sentences"]))


def test_a_word_ends_where_its_script_ends_it():
    letters = word_tokenizer(("<unk>", *sorted(set(str(DATA)))))
    letters.backend_tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    for word, *sentences in DATA["found"] + DATA["absent"]:
        for sentence in sentences:
            found, start = word_in(letters, sentence, word, pieces_of(letters, word)), sentence.find(word)
            wanted = [*range(start, start + len(word))] if [word, *sentences] in DATA["found"] else None
            assert (found and found[0]) == wanted, (word, sentence)


SETS = {"HER": HER, "CUA": CUA, "TWO": HER[:2], "OTHER": [*HER[:3], "Her dog barks.", "None here."]}
SETS["LONG"] = [*HER[:3], "He told her " + "again and " * 4200 + "again."]
SETS["HINDI"] = ["यह कम है 0", "यह कम है 1", "यह कमी है 2", "यह कम है 3"]


def test_words_that_will_not_do_are_refused(models, monkeypatch):
    warned = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", lambda *text: warned.append(text))
    for model, sentences, word, vi, en, *piece in DATA["words"]:
        refused(vi, en, find_word, *models[model], SETS[sentences], word, *piece)
    assert warned == []


def test_the_first_six_verdicts_are_those_of_notebook_06(smollm2, her_batch, her_positions, her_qkv):
    x, sizes = her_qkv.joined(), her_qkv.sizes
    control = capture_qkv(smollm2[0], her_batch, positions=her_positions - 1).joined()
    notebook = nbformat.read(ROOT / "notebooks" / "en" / "06_mean_offset.ipynb", as_version=4)
    printed = "\n".join(o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "text" in o)
    table = re.findall(r"^\d [^\n]{26} (holds partly|holds|fails) +(\d+)/(\d+) layers", printed, flags=re.MULTILINE)
    verdicts = judge(x, control, sizes, 3)
    assert len(table) == len(verdicts) == 7
    found = [(label(f"verdict_{v.verdict}"), str(v.held), str(v.layers)) for v in verdicts]
    assert found[:6] == table[:6]


def test_figures_follow_their_definitions():
    generator = torch.Generator().manual_seed(0)
    x, control, sizes = *(torch.randn(2, 2, 12, 9, generator=generator) + 1), (4, 3, 2)
    figures = claim_values(x, control, sizes)
    h = block_histograms(x, sizes)
    s = {block: smile_index(h["cosine"][block]) for block in ("QQ", "KK", "VV")}
    assert torch.equal(figures[0], torch.minimum(s["QQ"], s["KK"]))
    assert torch.equal(figures[1], s["VV"] - figures[0])
    halves = x[:, ::2].double().mean(1), x[:, 1::2].double().mean(1)
    alike = torch.cosine_similarity(x.double().mean(1), control.double().mean(1), dim=-1)
    assert torch.allclose(figures[6], torch.cosine_similarity(*halves, dim=-1) - alike)
    share = {block: h["cosine"][block].share_above for block in ("QQ", "KK", "QK")}
    chance = 2 * (1 - scipy.stats.beta.cdf((1 + 0.9) / 2, 11 / 2, 11 / 2))  # of two directions in 12 dimensions
    needed = ((share["QQ"] + share["KK"]) / 4).clamp(min=chance + 0.05)
    assert torch.allclose(figures[2], share["QK"] / needed, rtol=1e-3)
    shares = torch.stack([b.counts.double() / b.counts.sum(-1, keepdim=True) for _, b in h["correlation"].items()])
    apart = [(a - b).cumsum(-1).abs().sum(-1) / 50 for a, b in itertools.combinations(shares, 2)]
    assert torch.allclose(figures[5], torch.stack(apart).amax(0))


def test_q_k_is_not_high_where_nothing_but_chance_is_needed():
    q = torch.randn(2, 54, 10, generator=torch.Generator().manual_seed(0))
    x = torch.cat([q, q + 0.01 * torch.randn(q.shape, generator=torch.Generator().manual_seed(1)), q[..., :2]], dim=-1)
    share = block_histograms(x, (10, 10, 2), measures="cosine")["cosine"]["QK"].share_above
    assert torch.allclose(share, torch.tensor(0.1).double(), atol=1e-6)  # each feature with its copy
    assert torch.allclose(claim_values(x, x, (10, 10, 2))[2], share.cpu() / 0.05, rtol=1e-3)  # no QQ, no KK


@pytest.mark.filterwarnings("error")
def test_a_target_that_never_changes_is_undefined_and_said_to_be():
    x = torch.randn(3, 1, 40, generator=torch.Generator().manual_seed(0)).expand(3, 3, 40).contiguous()
    verdicts = judge(x, x.flip(0), (20, 10, 10), 1)
    assert [v.verdict for v in verdicts][3:6] == ["undefined"] * 3

    repeated = SimpleNamespace(word="her", pieces=("“ her”",), n_distinct=1)
    said = "\n".join(conclude(verdicts, x, (20, 10, 10), 1, repeated))
    assert "Undefined: (4)" in said and "only 1 of 3 beginnings" in said
    assert "Q, K and V of the target do not change from sentence to sentence there" in said


def test_undecided_claims_are_said_and_what_is_exported_can_be_read_again(smollm2, tmp_path):
    target = find_word(*smollm2, CUA, "của", "last")
    x, sizes = torch.randn(2, 54, 30, generator=torch.Generator().manual_seed(0)), (10, 10, 10)
    verdicts = judge(x, x.flip(0), sizes, 1)
    v = verdicts[0]._replace(low=-0.1, high=0.1)
    assert v.undecided and not v._replace(low=0.05).undecided
    decided = [v._replace(low=9.0, high=9.1) for v in verdicts]
    assert "reaches over" not in "\n".join(conclude(decided, x, sizes, 1, target))
    decided[2] = decided[2]._replace(low=-9.0)
    said = "\n".join(conclude(decided, x, sizes, 1, target))
    assert "the interval of (3) reaches over" in said and "the last token of “của”" in said

    names = export(plt.figure(), verdicts, target, smollm2[0].provenance, 1, tmp_path / "out")
    assert names == ("của_SmolLM2-135M-Instruct.png", "của_SmolLM2-135M-Instruct.csv")
    assert (tmp_path / "out" / names[0]).read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out" / names[1]).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["claim"][0] for row in rows] == list("1234567")
    assert {(row["word"], row["n_sentences"]) for row in rows} == {("của", "54")}
    assert [float(row["value"]) for row in rows] == pytest.approx([v.value for v in verdicts], abs=6e-4, nan_ok=True)


@pytest.mark.parametrize("case", DATA["notebook"], ids=lambda case: case["language"])
def test_notebook_takes_what_a_reader_brings(case, tmp_path, monkeypatch, capsys, random_gpt2):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    Path("cua.txt").write_text("\n".join(CUA[:24]), encoding="utf-8")
    Path("messy.txt").write_bytes(DATA["messy"].encode())
    for name, value in ({"MODEL": str(random_gpt2)} | case["settings"]).items():
        monkeypatch.setenv(f"QKV_STUDY_{name}", value)
    names = {"__name__": "__main__"}
    for cell in nbformat.read(ROOT / "notebooks" / case["language"] / "11_your_own_study.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "notebook 11", "exec"), names)  # noqa: S102
    said = capsys.readouterr().out
    assert [text for text in case["said"] if text not in said] == []
    assert said.rstrip().endswith("✓")
    assert {path.name for path in Path("my_study").iterdir()} == {
        f"{case['written']}.{kind}" for kind in ("csv", "png")
    }
