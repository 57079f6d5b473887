"""A reader's own study: cleaning, the target word, refusals in one sentence, verdicts, and notebook 11 itself."""

import csv
import itertools
import re
import shutil
import unicodedata
from pathlib import Path

import nbformat
import pytest
import scipy
import torch
import transformers
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import tokenization_utils_base

from helpers import block_histograms, capture_qkv, load_model, load_sentences, set_language, smile_index
from helpers.experiments.study import StudyError, from_environment, open_model, read_sentences, sentence_box
from helpers.experiments.target import find_word, readable
from helpers.experiments.verdicts import CLAIMS, choose_layer, conclude, deciding_figures, export, judge

ROOT = Path(__file__).resolve().parents[2]
HER = load_sentences("her")


@pytest.fixture
def vietnamese():
    set_language("vi")
    yield
    set_language("en")


@pytest.fixture(scope="module")
def minilm():
    return load_model("minilm", device="cpu")


@pytest.fixture(scope="module")
def random_gpt2(tmp_path_factory):
    """Folder of an untrained GPT-2 whose words are those of the " her" sentences."""
    folder = tmp_path_factory.mktemp("models") / "random-gpt2"
    split = pre_tokenizers.Whitespace()
    words = sorted({word for sentence in HER for word, _ in split.pre_tokenize_str(sentence)})
    tokenizer = Tokenizer(WordLevel({"<unk>": 0, **{w: i for i, w in enumerate(words, 1)}}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(words) + 1, n_positions=32, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


# ---- sentences -----------------------------------------------------------------------------------

MESSY = (
    "\ufeffShe gave\ther bread.\r\n\r\n   \r\nWe met\u00a0her  twice.\r\nWe met her twice.\r\n"
    "I will\u200b call her later.\r\n" + unicodedata.normalize("NFD", "Má gọi her dậy.") + "\n# a comment\n"
)
CLEAN = ["She gave her bread.", "We met her twice.", "I will call her later.", "Má gọi her dậy."]


def test_pasted_text_is_cleaned_and_every_change_is_counted():
    sentences, notes = read_sentences(MESSY)
    assert sentences == CLEAN
    assert notes[:6] == [
        "6 Windows line end(s) (CRLF) changed",
        "1 comment line(s) (#) left out",
        "2 blank line(s) left out",
        "3 line(s) with tabs, repeated, odd or invisible spaces tidied",
        "1 line(s): accents joined to their letters (NFC)",
        "1 duplicate(s) left out",
    ]
    assert len(notes) == 7 and "only 4 sentences" in notes[6]


def test_the_same_is_said_in_vietnamese(vietnamese):
    notes = read_sentences(MESSY)[1]
    assert notes[2] == "2 dòng trống, đã bỏ" and "chỉ 4 câu" in notes[6]
    assert all(unicodedata.is_normalized("NFC", note) for note in notes)


def test_clean_sentences_are_left_alone():
    for source in (HER, "\n".join(HER)):
        assert read_sentences(source) == (HER, [])


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path, as_type):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "mine.txt").write_text("\n".join(load_sentences("cua")), encoding=encoding)
        assert read_sentences(as_type(tmp_path / "mine.txt")) == (load_sentences("cua"), [])


def test_the_name_of_a_file_may_end_in_a_line_break(tmp_path):
    (tmp_path / "mine.txt").write_text("\n".join(HER))
    assert read_sentences(f"{tmp_path / 'mine.txt'}\n") == (HER, [])


def test_few_sentences_are_accepted_with_a_warning_and_ten_without():
    assert any("only 9" in note for note in read_sentences(HER[:9])[1])
    assert read_sentences(HER[:10])[1] == []


def a_file(tmp_path, content):
    (tmp_path / "mine.txt").write_bytes(content)
    return tmp_path / "mine.txt"


@pytest.mark.parametrize(
    ("source", "vi", "en"),
    [
        (lambda t: "", "Chỉ có 0 câu", "only 0 different sentences"),
        (lambda t: [], "Chỉ có 0 câu", "only 0 different sentences"),
        (lambda t: "One.\nTwo.\nOne.", "Chỉ có 2 câu", "only 2 different sentences; at least 3"),
        (lambda t: "nowhere.txt", "Không đọc được tệp 'nowhere.txt'", "'nowhere.txt' cannot be read"),
        (lambda t: "word " * 3000, "Không đọc được tệp", "cannot be read"),
        (lambda t: t, "Không đọc được tệp", "cannot be read"),
        (lambda t: a_file(t, "của\nmẹ\ncha".encode("utf-16")), "không phải UTF-8", "is not UTF-8"),
        (lambda t: a_file(t, b" \n"), "'mine.txt' trống", "'mine.txt' is empty"),
    ],
)
def test_sentences_that_will_not_do_are_refused_in_the_language_of_the_reader(tmp_path, source, vi, en):
    for language, expected in (("vi", vi), ("en", en)):
        set_language(language)
        with pytest.raises(StudyError, match=expected) as refused:
            read_sentences(source(tmp_path))
        assert "\n" not in str(refused.value)
    assert language == "en"


# ---- settings and the model ----------------------------------------------------------------------


def test_environment_variables_replace_settings(monkeypatch):
    monkeypatch.setenv("QKV_STUDY_WORD", "water")
    monkeypatch.setenv("QKV_STUDY_PIECE", "")
    assert from_environment(model=None, word="her", piece="last") == [None, "water", "last"]


def test_the_text_box_is_empty_and_asks_in_the_language_of_the_reader(vietnamese):
    box = sentence_box()
    assert box.value == "" and box.placeholder.startswith("Dán câu vào đây")


def test_a_model_that_cannot_be_opened_is_a_sentence(vietnamese):
    with pytest.raises(StudyError, match="Không mở được mô hình 'no such model!': hãy xem lại MODEL"):
        open_model("no such model!")


def test_an_unknown_architecture_is_a_sentence(random_gpt2, monkeypatch):
    monkeypatch.setattr("helpers.experiments.study.ADAPTERS", {"bert": None})
    with pytest.raises(StudyError, match="architecture 'gpt2' is not known here; those known are bert"):
        open_model(str(random_gpt2))


def test_layer():
    assert [choose_layer(30), choose_layer(6), choose_layer(6, "5"), choose_layer(6, 0)] == [3, 1, 5, 0]
    for wrong in (6, "-1", "two"):
        with pytest.raises(StudyError, match="is no layer: choose a number from 0 to 5"):
            choose_layer(6, wrong)
    with pytest.raises(StudyError, match="one layer only"):
        choose_layer(1)


# ---- the target ----------------------------------------------------------------------------------


def test_a_one_token_word_is_found_where_find_token_finds_it(smollm2, her_positions):
    for word in ("her", " her", "her "):
        target = find_word(*smollm2, HER, word)
        assert target.positions.tolist() == her_positions.tolist()
        assert target.control.tolist() == (her_positions - 1).tolist()
        assert (target.pieces, target.n_distinct) == (("“ her”",), 54)


def test_the_last_piece_is_the_end_of_that_very_word(smollm2):
    _, tokenizer = smollm2
    target = find_word(*smollm2, load_sentences("cua"), "của", "last")
    assert target.pieces == ("“ c”", "<E1 BB>", "<A7>", "“a”")
    elsewhere = 0
    for row, end, before in zip(target.batch["input_ids"].tolist(), target.positions, target.control):
        assert tokenizer.decode(row[end - 3 : end + 1]) == " của"
        assert before == end - 4
        elsewhere += row[end] in row[:end]
    assert elsewhere > 3  # the id alone would have led somewhere else


def test_a_longer_word_that_begins_alike_is_not_the_word(smollm2):
    sentences = ["Anh chịu khó hỏi chị một câu.", "Nó chịu thua chị rồi.", "Ai chịu cho chị đi?"]
    target = find_word(*smollm2, sentences, "chị", "last")
    for row, end, sentence in zip(target.batch["input_ids"], target.positions, sentences):
        assert smollm2[1].decode(row[: end + 1]) == sentence[: sentence.index("chị ") + 3]


def test_the_same_last_piece_after_a_capital_is_another_word(smollm2):
    sentences = ["Của cải của ông ấy rất lớn.", "Nhà của tôi ở xa.", "Áo của bạn đẹp quá."]
    target = find_word(*smollm2, sentences, "của", "last")
    assert smollm2[1].decode(target.batch["input_ids"][0, : target.positions[0] + 1]) == "Của cải của"


def test_a_word_typed_with_loose_accents_is_the_same_word(smollm2):
    loose = find_word(*smollm2, load_sentences("cua"), unicodedata.normalize("NFD", "của"), "last")
    assert loose.positions.equal(find_word(*smollm2, load_sentences("cua"), "của", "last").positions)


def test_an_encoder_finds_its_lower_case_token_and_a_control_at_the_start(minilm):
    sentences = ["Her dog barks.", "I know her dog.", "They saw Her Majesty."]
    target = find_word(*minilm, sentences, "her")
    assert target.pieces == ("“her”",) and not target.causal
    assert target.positions.tolist() == [1, 3, 3]  # after [CLS]
    assert target.control.tolist() == [2, 2, 2]  # the token after it where the word stands first


def test_equal_beginnings_are_one_observation_for_a_causal_model_only(smollm2, minilm):
    sentences = ["I saw her today.", "I saw her yesterday.", "We met her again."]
    assert find_word(*smollm2, sentences, "her").n_distinct == 2
    assert find_word(*minilm, sentences, "her").n_distinct == 3


def test_sentences_without_the_word_can_be_left_out(smollm2):
    target = find_word(*smollm2, [*HER[:4], "No such word."], "her", drop_missing=True)
    assert list(target.batch.sentences) == HER[:4]


LONG = "He told her " + "again and " * 9000 + "again."


@pytest.mark.parametrize(
    ("sentences", "word", "vi", "en"),
    [
        (HER, " ", "Chưa có từ nào", "There is no word"),
        (HER, None, "Chưa có từ nào", "There is no word"),
        (
            [*HER[:3], "Her dog barks.", "None here."],
            "her",
            "không có trong 2 câu.*4 “Her dog",
            "2 sentence.*4 “Her dog",
        ),
        (load_sentences("cua"), "của", "gồm 4 token: “ c” .*<A7>.*PIECE", "is 4 tokens: “ c” .*<A7>.*PIECE"),
        ([*HER[:3], LONG], "her", r"Câu 4 có \d{5} token.*8192", r"Sentence 4 has \d{5} tokens.*8192"),
    ],
)
def test_a_word_that_will_not_do_is_refused_in_the_language_of_the_reader(smollm2, sentences, word, vi, en):
    for language, expected in (("vi", vi), ("en", en)):
        set_language(language)
        with pytest.raises(StudyError, match=expected):
            find_word(*smollm2, sentences, word)


def test_a_sentence_too_long_for_the_encoder_is_refused_without_a_warning_beside_it(minilm, monkeypatch):
    warned = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", lambda *text: warned.append(text))
    with pytest.raises(StudyError, match="Sentence 4 has 18.* 512 at most"):
        find_word(*minilm, [*HER[:3], LONG], "her")
    assert warned == []


def test_a_word_that_the_tokenizer_does_not_know_is_refused(random_gpt2):
    with pytest.raises(StudyError, match="does not know the word “Zanzibar”"):
        find_word(*open_model(str(random_gpt2)), HER, "Zanzibar")


def test_too_few_sentences_with_the_word_are_refused(smollm2):
    with pytest.raises(StudyError, match="Only 2 sentence"):
        find_word(*smollm2, [*HER[:2], "No.", "None."], "her", drop_missing=True)


@pytest.mark.parametrize("text", ["ủ", "ộ", "“", "é", "🙂"])
def test_bytes_of_broken_letters_are_those_of_utf8(smollm2, text):
    _, tokenizer = smollm2
    shown = [readable(tokenizer, token) for token in tokenizer(text)["input_ids"]]
    if all(piece.startswith("<") for piece in shown):
        assert bytes.fromhex(" ".join(piece[1:-1] for piece in shown)) == text.encode()
    else:
        assert shown == [f"“{text}”"]


# ---- verdicts ------------------------------------------------------------------------------------


def test_the_first_six_verdicts_are_those_of_notebook_06(smollm2, her_batch, her_positions, her_qkv):
    x, sizes = her_qkv.joined(), her_qkv.sizes
    control = capture_qkv(smollm2[0], her_batch, positions=her_positions - 1).joined()
    notebook = nbformat.read(ROOT / "notebooks" / "en" / "06_mean_offset.ipynb", as_version=4)
    printed = "\n".join(o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "text" in o)
    table = re.findall(r"^\d [^\n]{26} (holds partly|holds|fails) +(\d+)/(\d+) layers", printed, flags=re.MULTILINE)
    assert len(table) == len(CLAIMS) == 7
    short = {"holds": "holds", "partly": "holds partly", "fails": "fails"}
    found = [(short[v.verdict], str(v.held), str(v.layers)) for v in judge(x, control, sizes, 3)]
    assert found[:6] == table[:6]


def test_figures_follow_their_definitions():
    generator = torch.Generator().manual_seed(0)
    x, control, sizes = *(torch.randn(2, 2, 12, 9, generator=generator) + 1), (4, 3, 2)
    figures = deciding_figures(x, control, sizes)
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
    assert torch.allclose(deciding_figures(x, x, (10, 10, 2))[2], share.cpu() / 0.05, rtol=1e-3)  # no QQ, no KK


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.filterwarnings("error")
def test_a_target_that_never_changes_is_undefined_and_said_to_be(n):
    x = torch.randn(3, 1, 40, generator=torch.Generator().manual_seed(0)).expand(3, n, 40).contiguous()
    verdicts = judge(x, x.flip(0), (20, 10, 10), 1)
    assert [v.verdict for v in verdicts][3:6] == ["undefined"] * 3

    class Repeated:
        word, pieces, n_distinct = "her", ("“ her”",), 1

    said = "\n".join(conclude(verdicts, x, (20, 10, 10), 1, Repeated))
    assert "Undefined: (4)" in said and "the same in every sentence" in said and f"only 1 of {n} beginnings" in said


def test_an_interval_over_the_threshold_is_undecided_and_said_to_be(smollm2):
    verdicts = judge(*torch.randn(2, 2, 20, 30, generator=torch.Generator().manual_seed(0)), (10, 10, 10), 1)
    v = verdicts[0]._replace(low=-0.1, high=0.1)
    assert v.undecided and not v._replace(low=0.05).undecided
    verdicts = [v._replace(low=9.0, high=9.1) for v in verdicts]
    target = find_word(*smollm2, load_sentences("cua"), "của", "last")
    x = torch.randn(2, 54, 30, generator=torch.Generator().manual_seed(0))
    assert "reaches over" not in "\n".join(conclude(verdicts, x, (10, 10, 10), 1, target))
    verdicts[2] = verdicts[2]._replace(low=-9.0)
    said = "\n".join(conclude(verdicts, x, (10, 10, 10), 1, target))
    assert "the interval of (3) reaches over" in said and "the last token of “của”" in said


def test_what_is_exported_can_be_read_again(smollm2, tmp_path, vietnamese):
    import matplotlib.pyplot as plt

    target = find_word(*smollm2, load_sentences("cua"), "của", "last")
    qkv = capture_qkv(smollm2[0], target.batch, layers=[0, 1], positions=target.positions)
    verdicts = judge(qkv.joined(), qkv.joined().roll(1, dims=-1), qkv.sizes, 1)
    figure = plt.figure()
    names = export(figure, verdicts, target, smollm2[0].provenance, 1, tmp_path / "out")
    plt.close(figure)
    assert names == ("của_SmolLM2-135M-Instruct.png", "của_SmolLM2-135M-Instruct.csv")
    assert (tmp_path / "out" / names[0]).read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out" / names[1]).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["claim"][0] for row in rows] == list("1234567")
    assert {(row["word"], row["n_sentences"]) for row in rows} == {("của", "54")}
    assert [float(row["value"]) for row in rows] == pytest.approx([v.value for v in verdicts], abs=6e-4, nan_ok=True)


# ---- notebook 11 ---------------------------------------------------------------------------------


def run_notebook(folder, monkeypatch, language="en", **settings):
    """Execute notebook 11 in `folder` with these settings; returns it, executed up to where it stopped."""
    for name, value in settings.items():
        monkeypatch.setenv(f"QKV_STUDY_{name.upper()}", str(value))
    notebook = nbformat.read(ROOT / "notebooks" / language / "11_your_own_study.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    shutil.copytree(ROOT / "helpers", folder / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    error = None
    try:
        client.execute()
    except CellExecutionError as raised:
        error = raised
    return notebook, error


def text_of(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def exported(folder):
    return sorted(path.name for path in (folder / "my_study").iterdir())


def test_notebook_with_vietnamese_sentences(tmp_path, monkeypatch):
    (tmp_path / "cau.txt").write_text("\n".join(load_sentences("cua")[:24]), encoding="utf-8")
    notebook, error = run_notebook(
        tmp_path, monkeypatch, "vi", model="smollm2", word="của", piece="last", sentences="cau.txt"
    )
    assert error is None
    said = text_of(notebook)
    assert "“của” = “ c” + <E1 BB> + <A7> + “a”   token đích: “a”" in said
    assert "Kết quả là của token cuối “a” của “của”, không phải của cả từ." in said
    assert said.rstrip().endswith("✓")
    assert exported(tmp_path) == ["của_SmolLM2-135M-Instruct.csv", "của_SmolLM2-135M-Instruct.png"]


def test_notebook_with_a_local_untrained_gpt2(tmp_path, monkeypatch, random_gpt2):
    notebook, error = run_notebook(tmp_path, monkeypatch, model=random_gpt2)
    assert error is None
    said = text_of(notebook)
    assert "random-gpt2 (local folder), “her”, n = 54" in said
    assert "(2, 54, 144) (48, 48, 48) layer 1" in said
    assert exported(tmp_path) == ["her_random-gpt2.csv", "her_random-gpt2.png"]


def test_notebook_with_messy_pasted_sentences_on_the_encoder(tmp_path, monkeypatch):
    (tmp_path / "pasted.txt").write_bytes(MESSY.encode())
    notebook, error = run_notebook(tmp_path, monkeypatch, model="minilm", sentences="pasted.txt")
    assert error is None
    said = text_of(notebook)
    assert "4 sentences" in said and "- 2 blank line(s) left out" in said and "- 1 duplicate(s) left out" in said
    assert "so few sentences that chance smiles too" in said
    assert "SmolLM2-135M-Instruct" in said  # the second model, as the first is a BERT
    assert exported(tmp_path) == ["her_all-MiniLM-L6-v2.csv", "her_all-MiniLM-L6-v2.png"]


@pytest.mark.parametrize(
    ("language", "settings", "sentence"),
    [
        ("vi", {"sentences": "nowhere.txt"}, "✗ Không đọc được tệp 'nowhere.txt'"),
        ("en", {"model": "minilm", "word": "zebra"}, "✗ “zebra” is missing from 54 sentence(s)"),
    ],
)
def test_wrong_input_stops_the_notebook_with_one_sentence_and_no_traceback(
    tmp_path, monkeypatch, language, settings, sentence
):
    notebook, error = run_notebook(tmp_path, monkeypatch, language, **settings)
    assert error is not None  # a run without a screen fails, and is seen to fail
    (output,) = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]
    assert len(output.traceback) == 1 and output.traceback[0].startswith(sentence)
    assert "Traceback" not in output.traceback[0] and "\n" not in output.traceback[0]
    assert not (tmp_path / "my_study").exists()
