"""Which models a notebook takes: one sentence where the one at hand will not do, before anything is computed."""

from helpers.capture import adapter_of, attention_modules, is_causal
from helpers.experiments.study import StudyError
from helpers.settings import say


def takes(model, *, causal=False, plain=False, layers=1):
    """Go on if the notebook takes this model; else stop.

    Args:
        model: from `load_model`.
        causal: whether a token may see only what stands before it, and the next token must be predicted.
        plain: whether Q and K may pass through a rotary step at most on their way to softmax(QKᵀ/√d).
        layers: how many the model must have.

    Raises:
        StudyError: it does not; Jupyter shows the sentence without a traceback.
    """
    unfit = len(attention_modules(model)) < layers
    unfit |= causal and not (is_causal(model) and model.get_output_embeddings() is not None)
    if unfit or (plain and adapter_of(model).between not in ("nothing", "rotary")):
        vi = f"Bài này cần một mô hình{' ngôn ngữ nhân quả' * causal}{f' có ít nhất {layers} tầng' * (layers > 1)}"
        en = f"This notebook takes a {'causal language ' * causal}model{f' of {layers} layers or more' * (layers > 1)}"
        vi += ", với softmax(QKᵀ/√d) mà trước đó cùng lắm chỉ có bước xoay" * plain
        en += " whose attention is softmax(QKᵀ/√d), with at most a rotary step before it" * plain
        vi += f", không dùng được với {model.provenance}: hãy đặt QKV_MODEL=smollm2 (mặc định) rồi chạy lại từ đầu."
        en += f", not {model.provenance}: set QKV_MODEL=smollm2 (the default) and run it again from the top."
        raise StudyError(say(vi, en))
