"""Which models a notebook takes: one sentence where the one at hand will not do, before anything is computed."""

from helpers.capture import adapter_of, attention_modules
from helpers.experiments.study import StudyError
from helpers.settings import say


def takes(model, *, causal=False, layers=1):
    """Go on if the notebook takes this model; else stop.

    Args:
        model: from `load_model`.
        causal: whether a token may see only what stands before it, and the next token must be predicted.
        layers: how many the model must have.

    Raises:
        StudyError: it does not; Jupyter shows the sentence without a traceback.
    """
    too_few = len(attention_modules(model)) < layers
    if too_few or (causal and not (adapter_of(model).causal and model.get_output_embeddings() is not None)):
        vi = f"Bài này cần một mô hình{' ngôn ngữ nhân quả' * causal}{f' có ít nhất {layers} tầng' * (layers > 1)}"
        en = f"This notebook takes a {'causal language ' * causal}model{f' of {layers} layers or more' * (layers > 1)}"
        vi += f", không dùng được với {model.provenance}: hãy đặt QKV_MODEL=smollm2 (mặc định) rồi chạy lại từ đầu."
        en += f", not {model.provenance}: set QKV_MODEL=smollm2 (the default) and run it again from the top."
        raise StudyError(say(vi, en))
