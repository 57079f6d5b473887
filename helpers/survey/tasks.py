"""One task of a survey (`helpers/survey/run.py` says what that is), and the folder in which finished tasks are kept."""

import hashlib
import json
import multiprocessing
import os
import threading
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save

from helpers.capture import attention_modules, capture_qkv, is_causal, layer_numbers, longest_input
from helpers.experiments.target import pieces_of, word_in
from helpers.kernels.precision import one_thread
from helpers.models import load_model
from helpers.settings import get_language, message, set_language
from helpers.survey.moments import Moments, merge, moments
from helpers.text import encode

BATCH_TOKENS = 512  # of one forward pass, padding included: every token of a batch is captured
MEASURED = ("target", "control")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Task:
    """One shard of sentences under one model and target."""

    model: str
    target: str
    sentences: tuple = field(repr=False)
    layers: tuple | None
    device: str | None
    key: str
    """SHA-256 of everything that the result depends on; names the file of its partial sums."""


@dataclass(frozen=True)
class Failure:
    """A task that cannot be done: `whole_model` where no other task of the model can be either."""

    message: str
    whole_model: bool


def add(a, b):
    """Two partial sums as one.  None is empty; rows `[sample, F]` up to F samples, `Moments` beyond.

    Up to there rows are the smaller of the two, and an exact shuffle is still possible.
    """
    parts = [part for part in (a, b) if part is not None]
    if not parts:
        return None
    if not any(isinstance(part, Moments) for part in parts) and sum(map(len, parts)) <= parts[0].shape[1]:
        return torch.cat(parts)
    return reduce(merge, [part if isinstance(part, Moments) else moments(part) for part in parts])


_turn = threading.Lock()  # threads of one worker share its model, and the hooks on it
_loaded = {}


def run_task(task, language=None):
    """The partial sums of a task as bytes of a safetensors file, or a `Failure` in this language."""
    with _turn, one_thread(CPU):  # sums in one order everywhere: the order depends on the number of threads
        set_language(language or get_language())
        key = task.model, _device(task.device)
        try:
            if key not in _loaded:
                _loaded.clear()  # one model at a time
                _loaded[key] = _load(*key)
            return _partial_sums(*_loaded[key], task)
        except Exception as error:  # noqa: BLE001  the others go on
            return Failure(f"{type(error).__name__}: {error}", whole_model=key not in _loaded)


def _load(name, device):
    """The model, its provenance in English always: it seeds the shuffles.  A failure is in the language in use."""
    language = get_language()
    try:
        set_language("en")
        return load_model(name, device=device)
    except Exception:
        set_language(language)
        if language == "en":
            raise
        return load_model(name, device=device)  # fails again, in that language
    finally:
        set_language(language)


def _device(asked):
    """The GPUs of a machine go round among its workers; on other clusters CUDA_VISIBLE_DEVICES decides."""
    if asked or not torch.cuda.is_available():
        return asked
    number = multiprocessing.current_process().name.rpartition("-")[2]  # SpawnProcess-1, -2, ... are a survey's own
    return f"cuda:{int(number) % torch.cuda.device_count() if number.isdigit() else 0}"


@torch.no_grad()
def _partial_sums(model, tokenizer, task):
    token = target_token(tokenizer, task.target)
    layers = tuple(dict.fromkeys(layer_numbers(task.layers, len(attention_modules(model)))))  # the last and -1 once
    ids, longest = tokenizer(list(task.sentences))["input_ids"], longest_input(model)
    usable = {}  # {number of the sentence: position of the target}
    for i, row in enumerate(ids):
        if token in row and len(row) <= longest:
            (at,), is_text = word_in(tokenizer, task.sentences[i], task.target, (token,)) or ((0,), ())  # no whole word
            if at and is_text[at - 1]:
                usable[i] = at
    seen = [ids[i][: at + 1] if is_causal(model) else ids[i] for i, at in usable.items()]  # by the target
    tensors = {"seen": torch.tensor([int(short_hash(text)[:15], 16) for text in seen], dtype=torch.int64)}
    info = {"key": task.key, "provenance": model.provenance, "code": code_version(), "layers": layers, "sizes": None}
    info |= {"n": len(usable), "n_skipped": len(ids) - len(usable)}
    names, sums, waiting = list(product(MEASURED, layers)), {}, []
    batches = _batches(usable, list(map(len, ids)))
    for batch in batches:
        encoded = encode(tokenizer, [task.sentences[i] for i in batch])
        at = torch.tensor([usable[i] for i in batch])  # [sentence]
        qkv = capture_qkv(model, encoded, layers=layers)
        x, row, info["sizes"] = qkv.joined(), torch.arange(len(batch)), qkv.sizes  # [layer, sentence, token, F]
        waiting.append(torch.cat([x[:, row, at], x[:, row, at - 1]]))  # [name, sentence, F]
        # few long updates: each costs F x F, however few the rows
        if batch is batches[-1] or sum(part.shape[1] for part in waiting) >= x.shape[-1]:
            for name, rows in zip(names, torch.cat(waiting, dim=1), strict=True):
                sums[name] = add(sums.get(name), rows)
            waiting = []
    for (condition, layer), part in sums.items():
        named = {"mean": part.mean, "comoment": part.comoment} if isinstance(part, Moments) else {"rows": part}
        tensors |= {f"{condition}.{layer}.{name}": value.cpu().contiguous() for name, value in named.items()}
    return save(tensors, metadata={"survey": json.dumps(info)})


def _batches(usable, lengths):
    """Lists of sentences of similar length, so that little is padding."""
    batches, left = [], sorted(usable, key=lambda i: -lengths[i])
    while left:
        n = max(1, BATCH_TOKENS // lengths[left[0]])
        batches.append(left[:n])
        left = left[n:]
    return batches


def target_token(tokenizer, word):
    """Id of the one token that `word` is inside a sentence, with its space where that is part of the token."""
    ids = pieces_of(tokenizer, word)
    if tokenizer.unk_token_id in ids:
        raise ValueError(message("unknown_target", word=word))
    if len(ids) != 1:
        raise ValueError(message("several_tokens", text=word, n=len(ids), pieces=[tokenizer.decode([i]) for i in ids]))
    return ids[0]


def code_version():
    """Hash of what a task's numbers depend on besides its inputs: the rooms of `helpers` that this file imports."""
    helpers = Path(__file__).resolve().parents[1]
    rooms = "", "running", "wheels", "kernels", "experiments", "survey"
    files = [path for room in rooms for path in sorted((helpers / room).glob("*.py"))]
    files += [helpers / "data" / name for name in ("architectures.toml", "wheels.toml")]
    return short_hash(torch.__version__, transformers.__version__, *(path.read_text("utf-8") for path in files))


def short_hash(*parts):
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Store:
    """A folder with one file a finished task, `<task key>-<hash of the content>.safetensors`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files = {}

    def find(self, keys):
        """Look for finished tasks; a file that does not hold what its name says is thrown away: returns how many."""
        n_damaged = 0
        for path in sorted(self.folder.glob("*.safetensors")):
            key = path.stem.partition("-")[0]
            if key not in keys:
                continue
            self.files[key] = path
            if path != self._path(key, path.read_bytes()) or self.info(key).get("key") != key:
                self.files.pop(key).unlink()
                n_damaged += 1
        for leftover in self.folder.glob("*.tmp"):  # of a program that was killed
            leftover.unlink()
        return n_damaged

    def put(self, key, content):
        path = self._path(key, content)
        path.with_suffix(".tmp").write_bytes(content)
        os.replace(path.with_suffix(".tmp"), path)
        self.files[key] = path

    def info(self, key):
        with safe_open(self.files[key], framework="pt") as file:
            return json.loads(file.metadata()["survey"])

    def n_distinct(self, keys):
        """How many different texts the targets of some tasks have seen."""
        return len(torch.cat([self._tensor(key, "seen") for key in keys]).unique())

    def partial(self, key, condition, layer):
        """Partial sums of one condition and layer, None where the task met no target."""
        rows, mean, comoment = (
            self._tensor(key, f"{condition}.{layer}.{name}") for name in ("rows", "mean", "comoment")
        )
        return rows if mean is None else Moments(self.info(key)["n"], mean, comoment)

    def _path(self, key, content):
        return self.folder / f"{key}-{hashlib.sha256(content).hexdigest()[:32]}.safetensors"

    def _tensor(self, key, name):
        with safe_open(self.files[key], framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118  it is no dict
